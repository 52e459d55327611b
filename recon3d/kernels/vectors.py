"""Vectors in numba: what the kernels' own instructions are built of, for what its compiler does not find by itself.

The code is LLVM's for vectors of any machine: where there are instructions for it, it becomes those. Functions here are
called while code is made (``generate`` of an intrinsic); arrays keep numba's checks away, so callers stay within them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, njit
from numba.core import cgutils

intrinsic: Any = extending.intrinsic  # the first parameter of what it decorates is numba's own

FLOAT, DOUBLE = ir.FloatType(), ir.DoubleType()
SHORT, INT, LONG, BIT = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.IntType(1)
POINTER = ir.PointerType()


class BFloats(ir.Type):
    """A vector of bfloat16, a type that llvmlite does not know."""

    def __init__(self, count: int) -> None:
        self.count = count

    def _to_string(self) -> str:
        return f"<{self.count} x bfloat>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloats) and other.count == self.count

    def __hash__(self) -> int:
        return hash((BFloats, self.count))


def long(value: int) -> ir.Constant:
    return ir.Constant(LONG, value)


def place(builder: ir.IRBuilder, start: ir.Value, *offsets: ir.Value) -> ir.Value:
    """So many bytes behind a pointer."""
    address = builder.ptrtoint(start, LONG)
    for offset in offsets:
        address = builder.add(address, offset)
    return builder.inttoptr(address, POINTER)


def array(context: Any, builder: ir.IRBuilder, kind: Any, value: ir.Value) -> tuple[ir.Value, list[ir.Value]]:
    """Where a numba array begins, and its strides in bytes."""
    made = context.make_array(kind)(context, builder, value)
    return made.data, [builder.extract_value(made.strides, axis) for axis in range(kind.ndim)]


def call(builder: ir.IRBuilder, name: str, result: ir.Type, args: list[ir.Value]) -> ir.Value:
    """One of LLVM's own functions."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def lanes(kind: ir.VectorType, values: list[Any] | int | float) -> ir.Constant:
    """A constant vector, or the same number in all its lanes."""
    return ir.Constant(kind, values if isinstance(values, list) else [values] * kind.count)


def shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, order: list[int]) -> ir.Value:
    """The lanes of two vectors, one after the other, in an order."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT, len(order)), order))


def spread(builder: ir.IRBuilder, value: ir.Value, kind: ir.VectorType) -> ir.Value:
    """A number in all lanes."""
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(INT, 0))
    return shuffle(builder, first, first, [0] * kind.count)


def turned(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """The transpose of as many vectors as they have lanes: at distance d, half of each changes places."""
    rows, count = list(rows), len(rows)
    distance = count // 2
    while distance:
        low = [lane - distance + count if lane & distance else lane for lane in range(count)]
        high = [lane + count if lane & distance else lane + distance for lane in range(count)]
        for row in range(count):
            if not row & distance:
                a, b = rows[row], rows[row + distance]
                rows[row], rows[row + distance] = shuffle(builder, a, b, low), shuffle(builder, a, b, high)
        distance //= 2
    return rows


def from_bfloat16(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """The bits of bfloat16 numbers, in words, as those of float32."""
    kind = ir.VectorType(INT, bits.type.count)
    return builder.shl(builder.zext(bits, kind), lanes(kind, 16))


def to_bfloat16(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """The bits of float32 numbers as those of the nearest bfloat16, ties to even, in words."""
    half = lanes(bits.type, 16)
    odd = builder.and_(builder.lshr(bits, half), lanes(bits.type, 1))
    return builder.lshr(builder.add(builder.add(bits, lanes(bits.type, 0x7FFF)), odd), half)


def multiply_add(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """a b + c of floating point vectors."""
    name = f"v{a.type.count}f{32 if a.type.element == FLOAT else 64}"
    return call(builder, f"llvm.fmuladd.{name}", a.type, [a, b, c])


@njit(nogil=True, cache=True)
def aligned(count, dtype):
    """``count`` zeros that start at a line of the cache."""
    raw = np.zeros(count + 64, dtype)
    shift = (-raw.ctypes.data % 64) // raw.itemsize
    return raw[shift : shift + count]
