"""Matrix tiles in numba: the AMX instructions of recent CPUs, which multiply 16 x 32 by 32 x 16 bfloat16 at once.

A thread has eight tiles of 16 rows of 64 bytes. ``dot(c, a, b)`` adds to tile c, 16 x 16 float32, the product of tile
a, 16 rows of 32 bfloat16, and tile b, whose row k holds rows 2 k and 2 k + 1 of the right factor with their columns
interleaved: b[k, 2 n + i] = right[2 k + i, n]. Addresses and strides are in bytes; tiles are named by constants.

bfloat16 numbers travel as their bits, in uint16 arrays.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types

from recon3d.kernels.vectors import INT, LONG, POINTER, SHORT, call, intrinsic, turned

_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18

CONFIGURATION = np.zeros(64, np.uint8)
"""Eight tiles of 16 rows of 64 bytes, in the form that :func:`configure` loads."""
CONFIGURATION[0] = 1
CONFIGURATION[16:32].view(np.uint16)[:] = 64
CONFIGURATION[48:56] = 16


@functools.cache
def available() -> bool:
    """Whether this CPU has matrix tiles for bfloat16, vectors that round to it, and the system lets this process use
    them."""
    if not sys.platform.startswith("linux"):
        return False
    features = binding.get_host_cpu_features()
    if not all(features.get(name) for name in ("amx-tile", "amx-bf16", "avx512bf16", "avx512bw")):
        return False
    try:
        return ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0
    except (OSError, AttributeError):
        return False


def _instruction(builder: ir.IRBuilder, name: str, *args: ir.Value) -> None:
    call(builder, f"llvm.x86.{name}", ir.VoidType(), list(args))


def _pointer(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return builder.inttoptr(address, POINTER)


@intrinsic
def configure(typingctx: Any, address: Any) -> Any:
    """Make the tiles of this thread usable; ``address`` is :data:`CONFIGURATION`'s."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _instruction(builder, "ldtilecfg", _pointer(builder, args[0]))
        return context.get_dummy_value()

    return types.void(types.intp), generate


@intrinsic
def release(typingctx: Any) -> Any:
    """Give the tiles of this thread back."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _instruction(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), generate


def _on_tiles(name: str, operands: int, with_memory: bool) -> Callable[..., None]:
    """An instruction on so many tiles, given as constants, and, ``with_memory``, an address and a stride."""

    def build(given: tuple[Any, ...]) -> Any:
        tiles = given[:operands]
        if not all(isinstance(tile, types.IntegerLiteral) for tile in tiles):
            return None
        numbers = [ir.Constant(ir.IntType(8), tile.literal_value) for tile in tiles]

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            memory = [_pointer(builder, args[operands]), args[operands + 1]] if with_memory else []
            _instruction(builder, name, *numbers, *memory)
            return context.get_dummy_value()

        return types.void(*tiles, *((types.intp, types.intp) if with_memory else ())), generate

    if with_memory:

        @intrinsic(prefer_literal=True)
        def on_memory(typingctx: Any, tile: Any, address: Any, stride: Any) -> Any:
            return build((tile,))

        return on_memory
    if operands == 1:

        @intrinsic(prefer_literal=True)
        def on_one(typingctx: Any, tile: Any) -> Any:
            return build((tile,))

        return on_one

    @intrinsic(prefer_literal=True)
    def on_three(typingctx: Any, c: Any, a: Any, b: Any) -> Any:
        return build((c, a, b))

    return on_three


load = _on_tiles("tileloadd64", 1, with_memory=True)
store = _on_tiles("tilestored64", 1, with_memory=True)
zero = _on_tiles("tilezero", 1, with_memory=False)
dot = _on_tiles("tdpbf16ps", 3, with_memory=False)


@intrinsic
def transpose(typingctx: Any, source: Any, source_stride: Any, target: Any, target_stride: Any) -> Any:
    """Write the transpose (16 rows of 32 numbers) of 32 rows of 16 numbers of 16 bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, stride, target, target_stride = args
        row_type, pairs_type = ir.VectorType(SHORT, 16), ir.VectorType(INT, 16)
        high = ir.Constant(pairs_type, [16] * 16)

        def row(index: int) -> ir.Value:
            place = builder.add(address, builder.mul(stride, ir.Constant(LONG, index)))
            return builder.zext(builder.load(_pointer(builder, place), typ=row_type, align=2), pairs_type)

        # Two rows become one of pairs; then pairs are transposed.
        pairs = [builder.or_(row(2 * i), builder.shl(row(2 * i + 1), high)) for i in range(16)]
        for index, value in enumerate(turned(builder, pairs)):
            place = builder.add(target, builder.mul(target_stride, ir.Constant(LONG, index)))
            builder.store(value, _pointer(builder, place), align=2)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp), generate
