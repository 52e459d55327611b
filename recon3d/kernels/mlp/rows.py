"""Parts of rows in numba: up to ``WIDTH`` numbers go from one array to another, float32 or the bits of bfloat16.

For CPUs that round 32 float32 to bfloat16 at once (AVX512-BF16). ``copy(source, i, j, target, k, m, columns)`` makes
target[k, m : m + columns] of source[i, j : j + columns]; of more than ``WIDTH`` columns only so many.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from recon3d.kernels.vectors import (
    FLOAT,
    INT,
    LONG,
    SHORT,
    BFloats,
    array,
    call,
    intrinsic,
    lanes,
    long,
    place,
    shuffle,
    spread,
)

WIDTH = 32
_FLOATS, _BITS = ir.VectorType(FLOAT, WIDTH), ir.VectorType(SHORT, WIDTH)
_SIZE = types.intp


def _among(builder: ir.IRBuilder, columns: ir.Value) -> ir.Value:
    """Which lanes are among so many columns."""
    kind = ir.VectorType(LONG, WIDTH)
    return builder.icmp_signed("<", lanes(kind, list(range(WIDTH))), spread(builder, columns, kind))


def _kind(numbers: Any) -> tuple[ir.VectorType, str, int]:
    """Of an array's numbers: a vector of them, its name, and the bytes of each."""
    return (_FLOATS, f"v{WIDTH}f32", 4) if isinstance(numbers.dtype, types.Float) else (_BITS, f"v{WIDTH}i16", 2)


def _start(context: Any, builder: ir.IRBuilder, numbers: Any, at: list[ir.Value]) -> ir.Value:
    """Where the element of an array, its row and its column lies."""
    start, (stride, _) = array(context, builder, numbers, at[0])
    return place(builder, start, builder.mul(at[1], stride), builder.mul(at[2], long(_kind(numbers)[2])))


def _load(context: Any, builder: ir.IRBuilder, numbers: Any, at: list[ir.Value], among: ir.Value) -> ir.Value:
    """Numbers of an array from a row and column on, 0 where they are not among those asked for."""
    kind, name, size = _kind(numbers)
    nothing = lanes(kind, 0.0 if kind == _FLOATS else 0)
    given = [_start(context, builder, numbers, at), ir.Constant(INT, size), among, nothing]
    return call(builder, f"llvm.masked.load.{name}.p0", kind, given)


def _store(
    context: Any, builder: ir.IRBuilder, numbers: Any, at: list[ir.Value], among: ir.Value, values: ir.Value
) -> None:
    """Write what is among those asked for, rounded if the array holds bfloat16."""
    kind, name, size = _kind(numbers)
    if values.type == _FLOATS and kind == _BITS:
        low, high = (shuffle(builder, values, values, list(range(half, half + WIDTH // 2))) for half in (0, WIDTH // 2))
        rounded = call(builder, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", BFloats(WIDTH), [high, low])
        values = builder.bitcast(rounded, _BITS)
    given = [values, _start(context, builder, numbers, at), ir.Constant(INT, size), among]
    call(builder, f"llvm.masked.store.{name}.p0", ir.VoidType(), given)


@intrinsic
def copy(typingctx: Any, source: Any, i: Any, j: Any, target: Any, k: Any, m: Any, columns: Any) -> Any:
    """Part of a row, as it is; bfloat16 does not become float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        among = _among(builder, args[6])
        values = _load(context, builder, source, args[:3], among)
        _store(context, builder, target, args[3:6], among, values)
        return context.get_dummy_value()

    return types.void(source, _SIZE, _SIZE, target, _SIZE, _SIZE, _SIZE), generate


@intrinsic
def copy_positive(typingctx: Any, source: Any, i: Any, j: Any, target: Any, k: Any, m: Any, columns: Any) -> Any:
    """Part of a row of float32, with 0 for what is less; what is not a number stays so."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        among, zeros = _among(builder, args[6]), lanes(_FLOATS, 0.0)
        values = _load(context, builder, source, args[:3], among)
        values = builder.select(builder.fcmp_ordered("<", values, zeros), zeros, values)
        _store(context, builder, target, args[3:6], among, values)
        return context.get_dummy_value()

    return types.void(source, _SIZE, _SIZE, target, _SIZE, _SIZE, _SIZE), generate


@intrinsic
def copy_where(
    typingctx: Any, source: Any, i: Any, j: Any, target: Any, k: Any, m: Any, columns: Any, seen: Any
) -> Any:
    """Part of a row of float32, with 0 where ``seen``, bits of bfloat16, is 0 at the target's place."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        among = _among(builder, args[6])
        values = _load(context, builder, source, args[:3], among)
        lit = builder.icmp_unsigned("!=", _load(context, builder, seen, [args[7], *args[4:6]], among), lanes(_BITS, 0))
        values = builder.select(lit, values, lanes(_FLOATS, 0.0))
        _store(context, builder, target, args[3:6], among, values)
        return context.get_dummy_value()

    return types.void(source, _SIZE, _SIZE, target, _SIZE, _SIZE, _SIZE, seen), generate
