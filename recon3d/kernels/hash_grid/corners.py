"""The corners of a hash grid's cells in numba: ``LANES`` points at a time, and rows of two float32 at a time."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from recon3d.kernels.hash_grid.reference import PRIMES
from recon3d.kernels.vectors import (
    DOUBLE,
    FLOAT,
    INT,
    LONG,
    array,
    intrinsic,
    lanes,
    long,
    multiply_add,
    place,
    spread,
)

LANES = 16

_INTS, _PAIR = ir.VectorType(INT, LANES), ir.VectorType(FLOAT, 2)
_ROW = 8  # bytes


@intrinsic(prefer_literal=True)
def locate(
    typingctx: Any,
    x: Any,
    begin: Any,
    scale: Any,
    resolution: Any,
    size: Any,
    dense: Any,
    at: Any,
    rows: Any,
    weights: Any,
    parts: Any,
) -> Any:
    """What a level's cells around ``LANES`` points are made of, into the columns from ``at`` on.

    ``x``: an array of coordinates for every axis, of which those from ``begin`` on are taken; ``scale``, ``resolution``
    and ``size`` of the level; ``dense``, a constant: whether it is, or hashed. ``rows`` (uint32) and ``weights``
    (2^d, n): of all corners; bit a of a corner is its side on axis a. ``parts`` (d, n): the position between the sides.
    """
    if not isinstance(dense, types.BooleanLiteral):
        return None
    word = FLOAT if x.dtype.dtype == types.float32 else DOUBLE
    kind, bytes_ = ir.VectorType(word, LANES), 4 if word == FLOAT else 8

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zero, half, one = (lanes(kind, value) for value in (0.0, 0.5, 1.0))
        factor, stretch = spread(builder, args[2], kind), ir.Constant(INT, 1)
        width, length = builder.trunc(args[3], INT), builder.trunc(args[4], INT)
        (to_rows, row_strides), (to_weights, weight_strides), (to_parts, part_strides) = (
            array(context, builder, given, value)
            for given, value in ((rows, args[7]), (weights, args[8]), (parts, args[9]))
        )
        column = builder.mul(args[6], long(bytes_))
        found: list[Any] = []
        shares: list[Any] = []
        for axis in range(x.count):
            start, _ = array(context, builder, x.dtype, builder.extract_value(args[0], axis))
            inside = builder.load(place(builder, start, builder.mul(args[1], long(bytes_))), typ=kind, align=bytes_)
            inside = builder.select(builder.fcmp_ordered(">", inside, zero), inside, zero)  # 0 for what is no number
            inside = builder.select(builder.fcmp_ordered("<", inside, one), inside, one)
            position = multiply_add(builder, inside, factor, half)
            cell = builder.fptosi(position, _INTS)
            part = builder.fsub(position, builder.sitofp(cell, kind))
            target = place(builder, to_parts, builder.mul(part_strides[0], long(axis)), column)
            builder.store(part, target, align=bytes_)
            stride = stretch if dense.literal_value else ir.Constant(INT, PRIMES[axis])
            stretch = builder.mul(stretch, width)
            low = builder.mul(cell, spread(builder, stride, _INTS))
            sides = low, builder.add(low, spread(builder, stride, _INTS))
            if axis == 0:
                found, shares = list(sides), [builder.fsub(one, part), part]
                continue
            join = builder.add if dense.literal_value else builder.xor
            found = [join(row, side) for side in sides for row in found]
            upper = [builder.fmul(share, part) for share in shares]
            shares = [builder.fsub(share, above) for share, above in zip(shares, upper, strict=True)] + upper
        bound = spread(builder, length, _INTS)
        mask = builder.sub(bound, lanes(_INTS, 1))
        for corner, (row, share) in enumerate(zip(found, shares, strict=True)):
            if dense.literal_value:
                row = builder.select(builder.icmp_unsigned("<", row, bound), row, builder.sub(row, bound))
            else:
                row = builder.and_(row, mask)
            target = place(builder, to_rows, builder.mul(row_strides[0], long(corner)), builder.mul(args[6], long(4)))
            builder.store(row, target, align=4)
            target = place(builder, to_weights, builder.mul(weight_strides[0], long(corner)), column)
            builder.store(share, target, align=bytes_)
        return context.get_dummy_value()

    size_ = types.intp
    return types.void(x, size_, scale, size_, size_, dense, size_, rows, weights, parts), generate


def _corner(builder: ir.IRBuilder, rows: Any, weights: Any, corner: int, column: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Bytes to the row of a point's corner, and its weight for both features."""
    numbers = []
    for (start, strides), kind in ((rows, INT), (weights, FLOAT)):
        where = place(builder, start, builder.mul(strides[0], long(corner)), builder.mul(column, long(4)))
        numbers.append(builder.load(where, typ=kind, align=4))
    return builder.mul(builder.zext(numbers[0], LONG), long(_ROW)), spread(builder, numbers[1], _PAIR)


@intrinsic
def sum_rows(
    typingctx: Any, x: Any, values: Any, rows: Any, weights: Any, column: Any, out: Any, point: Any, level: Any
) -> Any:
    """out[point, 2 level : 2 level + 2] = sum_k weights[k, column] times row rows[k, column] of ``values`` (float32,
    flat), for all corners of a cell in as many dimensions as ``x`` has axes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        table, of_rows, of_weights, (to, strides) = (
            array(context, builder, kind, value)
            for kind, value in ((values, args[1]), (rows, args[2]), (weights, args[3]), (out, args[5]))
        )
        sums = [lanes(_PAIR, 0.0)] * 2  # two, so that an addition need not wait for the one before
        for corner in range(2**x.count):
            row, weight = _corner(builder, of_rows, of_weights, corner, args[4])
            pair = builder.load(place(builder, table[0], row), typ=_PAIR, align=4)
            sums[corner % 2] = multiply_add(builder, weight, pair, sums[corner % 2])
        target = place(builder, to, builder.mul(args[6], strides[0]), builder.mul(args[7], long(_ROW)))
        builder.store(builder.fadd(*sums), target, align=4)
        return context.get_dummy_value()

    size = types.intp
    return types.void(x, values, rows, weights, size, out, size, size), generate


@intrinsic
def add_to_rows(
    typingctx: Any, x: Any, values: Any, rows: Any, weights: Any, column: Any, grad: Any, point: Any, level: Any
) -> Any:
    """Add weights[k, column] times grad[point, 2 level : 2 level + 2] to row rows[k, column] of ``values``, corner by
    corner; arguments as :func:`sum_rows` has them."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        table, of_rows, of_weights, (given, strides) = (
            array(context, builder, kind, value)
            for kind, value in ((values, args[1]), (rows, args[2]), (weights, args[3]), (grad, args[5]))
        )
        source = place(builder, given, builder.mul(args[6], strides[0]), builder.mul(args[7], long(_ROW)))
        pair = builder.load(source, typ=_PAIR, align=4)
        for corner in range(2**x.count):
            row, weight = _corner(builder, of_rows, of_weights, corner, args[4])
            target = place(builder, table[0], row)
            before = builder.load(target, typ=_PAIR, align=4)
            builder.store(multiply_add(builder, weight, pair, before), target, align=4)
        return context.get_dummy_value()

    size = types.intp
    return types.void(x, values, rows, weights, size, grad, size, size), generate
