"""Sixteen numbers at a time in numba, for what its compiler does not find by itself: pairs of float32 by their rows.

Tables with two float32 features a row are read and written a row, 8 bytes, at a time. Addresses are in bytes. The code
is LLVM's for vectors of any machine; where there are instructions for it (AVX-512), it becomes those.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils

intrinsic: Any = extending.intrinsic  # the first parameter of what it decorates is numba's own

LANES = 16
ROW = 8  # bytes

_FLOAT, _INT, _LONG, _BIT = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.IntType(1)
_POINTER = ir.PointerType()
_HALF = LANES // 2
_FLOATS, _INTS, _PAIR = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT, LANES), ir.VectorType(_FLOAT, 2)
_LONGS, _MASK = ir.VectorType(_LONG, _HALF), ir.VectorType(_BIT, _HALF)


class _Pointers(ir.Type):
    """A vector of pointers, which llvmlite does not know."""

    def _to_string(self) -> str:
        return f"<{_HALF} x ptr>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Pointers)

    def __hash__(self) -> int:
        return hash(_Pointers)


def _constant(kind: ir.Type, values: list[int]) -> ir.Constant:
    return ir.Constant(kind, values)


def _at(builder: ir.IRBuilder, address: ir.Value, offset: int = 0) -> ir.Value:
    return builder.inttoptr(builder.add(address, ir.Constant(_LONG, offset)), _POINTER)


def _multiply_add(builder: ir.IRBuilder, kind: ir.VectorType, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    declared = ir.FunctionType(kind, [kind] * 3)
    function = cgutils.get_or_insert_function(builder.module, declared, f"llvm.fmuladd.v{kind.count}f32")
    return builder.call(function, [a, b, c])


def _spread(builder: ir.IRBuilder, value: ir.Value, count: int) -> ir.Value:
    """``count`` times the same value."""
    undefined = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, undefined, _constant(ir.VectorType(_INT, count), [0] * count))


def _gather(builder: ir.IRBuilder, table: ir.Value, rows: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Both features (16,) of the ``rows`` (16,) of a table."""
    loaded = []
    for half in range(2):
        lanes = _constant(ir.VectorType(_INT, _HALF), list(range(half * _HALF, (half + 1) * _HALF)))
        offsets = builder.zext(builder.shuffle_vector(rows, rows, lanes), _LONGS)
        offsets = builder.mul(offsets, _constant(_LONGS, [ROW] * _HALF))
        pointers = builder.inttoptr(builder.add(_spread(builder, table, _HALF), offsets), _Pointers())
        kind = ir.FunctionType(_LONGS, [_Pointers(), _INT, _MASK, _LONGS])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.gather.v{_HALF}i64.v{_HALF}p0")
        given = [pointers, ir.Constant(_INT, 4), _constant(_MASK, [1] * _HALF), ir.Constant(_LONGS, ir.Undefined)]
        loaded.append(builder.bitcast(builder.call(function, given), _FLOATS))
    even, odd = (_constant(_INTS, list(range(start, 2 * LANES, 2))) for start in range(2))
    return builder.shuffle_vector(*loaded, even), builder.shuffle_vector(*loaded, odd)


@intrinsic(prefer_literal=True)
def weighted_rows(
    typingctx: Any, count: Any, table: Any, rows: Any, weights: Any, stride: Any, first: Any, second: Any
) -> Any:
    """Write sum_k weights[k] * table[rows[k]], 16 numbers of each feature, to ``first`` and ``second``.

    ``rows`` (uint32) and ``weights`` (float32) are addresses of ``count`` (a constant) times 16 numbers, ``stride``
    bytes apart.
    """
    if not isinstance(count, types.IntegerLiteral):
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, table, rows, weights, stride, *targets = args
        sums = [ir.Constant(_FLOATS, [0.0] * LANES)] * 2
        for k in range(count.literal_value):
            shift = builder.mul(stride, ir.Constant(_LONG, k))
            row = builder.load(_at(builder, builder.add(rows, shift)), typ=_INTS, align=4)
            weight = builder.load(_at(builder, builder.add(weights, shift)), typ=_FLOATS, align=4)
            features = _gather(builder, table, row)
            sums = [_multiply_add(builder, _FLOATS, weight, f, s) for f, s in zip(features, sums, strict=True)]
        for target, value in zip(targets, sums, strict=True):
            builder.store(value, _at(builder, target), align=4)
        return context.get_dummy_value()

    return types.void(count, *[types.intp] * 6), generate


@intrinsic(prefer_literal=True)
def add_to_rows(typingctx: Any, count: Any, table: Any, rows: Any, weights: Any, stride: Any, pair: Any) -> Any:
    """table[rows[k]] += weights[k] * pair for ``count`` (a constant) rows, one after the other.

    ``rows`` (uint32) and ``weights`` (float32) are addresses of numbers ``stride`` bytes apart, ``pair`` is that of the
    two features.
    """
    if not isinstance(count, types.IntegerLiteral):
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, table, rows, weights, stride, pair = args
        value = builder.load(_at(builder, pair), typ=_PAIR, align=4)
        for k in range(count.literal_value):
            shift = builder.mul(stride, ir.Constant(_LONG, k))
            row = builder.zext(builder.load(_at(builder, builder.add(rows, shift)), typ=_INT, align=4), _LONG)
            weight = builder.load(_at(builder, builder.add(weights, shift)), typ=_FLOAT, align=4)
            place = _at(builder, builder.add(table, builder.mul(row, ir.Constant(_LONG, ROW))))
            before = builder.load(place, typ=_PAIR, align=4)
            after = _multiply_add(builder, _PAIR, _spread(builder, weight, 2), value, before)
            builder.store(after, place, align=4)
        return context.get_dummy_value()

    return types.void(count, *[types.intp] * 5), generate
