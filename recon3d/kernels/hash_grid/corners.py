"""The corners of a hash grid's cells in numba: ``LANES`` points at a time, and all features of a row at a time."""

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
    SHORT,
    array,
    from_bfloat16,
    intrinsic,
    lanes,
    long,
    multiply_add,
    place,
    spread,
    to_bfloat16,
)

LANES = 16

_INTS = ir.VectorType(INT, LANES)


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


def _corner(
    builder: ir.IRBuilder, rows: Any, weights: Any, corner: int, column: ir.Value, kind: ir.VectorType, size: int
) -> tuple[ir.Value, ir.Value]:
    """Bytes to the row, of so many bytes, of a point's corner, and its weight for all features."""
    numbers = []
    for (start, strides), word, bytes_ in ((rows, INT, 4), (weights, kind.element, _bytes(kind))):
        where = place(builder, start, builder.mul(strides[0], long(corner)), builder.mul(column, long(bytes_)))
        numbers.append(builder.load(where, typ=word, align=bytes_))
    return builder.mul(builder.zext(numbers[0], LONG), long(size)), spread(builder, numbers[1], kind)


def _bytes(kind: ir.VectorType) -> int:
    return 4 if kind.element == FLOAT else 8


def _kind(weights: Any, columns: Any) -> ir.VectorType:
    """What a row's features are multiplied as."""
    return ir.VectorType(FLOAT if weights.dtype == types.float32 else DOUBLE, columns.count)


def _load(builder: ir.IRBuilder, start: ir.Value, number: Any, kind: ir.VectorType) -> ir.Value:
    """A row of numbers of a type of numba's: float32, float64, or uint16 for the bits of bfloat16."""
    if isinstance(number, types.Float):
        return builder.load(start, typ=kind, align=number.bitwidth // 8)
    bits = builder.load(start, typ=ir.VectorType(SHORT, kind.count), align=2)
    values = builder.bitcast(from_bfloat16(builder, bits), ir.VectorType(FLOAT, kind.count))
    return values if kind.element == FLOAT else builder.fpext(values, kind)


def _store(builder: ir.IRBuilder, values: ir.Value, start: ir.Value, number: Any) -> None:
    """The reverse of :func:`_load`."""
    if not isinstance(number, types.Float):
        single, words = (ir.VectorType(element, values.type.count) for element in (FLOAT, INT))
        values = values if values.type.element == FLOAT else builder.fptrunc(values, single)
        values = to_bfloat16(builder, builder.bitcast(values, words))
        values = builder.trunc(values, ir.VectorType(SHORT, values.type.count))
    builder.store(values, start, align=number.bitwidth // 8)


def _opened(
    context: Any, builder: ir.IRBuilder, kinds: tuple[Any, ...], args: Any, size: int
) -> tuple[ir.Value, Any, Any, ir.Value]:
    """Of the arguments that :func:`sum_rows` and :func:`add_to_rows` share: where ``values`` begin, rows and weights,
    and where the point's features of the level lie, so many bytes of them."""
    values, rows, weights, (start, strides) = (
        array(context, builder, kind, args[at]) for kind, at in zip(kinds, (2, 3, 4, 6), strict=True)
    )
    features = place(builder, start, builder.mul(args[7], strides[0]), builder.mul(args[8], long(size)))
    return values[0], rows, weights, features


@intrinsic
def sum_rows(
    typingctx: Any,
    x: Any,
    columns: Any,
    values: Any,
    rows: Any,
    weights: Any,
    column: Any,
    out: Any,
    point: Any,
    level: Any,
) -> Any:
    """out[point, F level : F (level + 1)] = sum_k weights[k, column] times row rows[k, column] of ``values`` (flat),
    for all corners of a cell in as many dimensions as ``x`` has axes, and as many features F as ``columns``.

    ``values`` and ``out`` are as ``weights``, float32 or float64, or uint16: the bits of bfloat16.
    """
    kind, size = _kind(weights, columns), columns.count * values.dtype.bitwidth // 8
    size_out = columns.count * out.dtype.bitwidth // 8

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        table, of_rows, of_weights, target = _opened(context, builder, (values, rows, weights, out), args, size_out)
        sums = [lanes(kind, 0.0)] * 2  # two, so that an addition need not wait for the one before
        for corner in range(2**x.count):
            row, weight = _corner(builder, of_rows, of_weights, corner, args[5], kind, size)
            features = _load(builder, place(builder, table, row), values.dtype, kind)
            sums[corner % 2] = multiply_add(builder, weight, features, sums[corner % 2])
        _store(builder, builder.fadd(*sums), target, out.dtype)
        return context.get_dummy_value()

    number = types.intp
    return types.void(x, columns, values, rows, weights, number, out, number, number), generate


@intrinsic
def add_to_rows(
    typingctx: Any,
    x: Any,
    columns: Any,
    values: Any,
    rows: Any,
    weights: Any,
    column: Any,
    grad: Any,
    point: Any,
    level: Any,
) -> Any:
    """Add weights[k, column] times grad[point, F level : F (level + 1)] to row rows[k, column] of ``values``, corner by
    corner; arguments as :func:`sum_rows` has them, but that ``values`` are as ``weights``."""
    kind, size = _kind(weights, columns), columns.count * values.dtype.bitwidth // 8
    size_in = columns.count * grad.dtype.bitwidth // 8

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        table, of_rows, of_weights, source = _opened(context, builder, (values, rows, weights, grad), args, size_in)
        features = _load(builder, source, grad.dtype, kind)
        for corner in range(2**x.count):
            row, weight = _corner(builder, of_rows, of_weights, corner, args[5], kind, size)
            target = place(builder, table, row)
            before = builder.load(target, typ=kind, align=_bytes(kind))
            builder.store(multiply_add(builder, weight, features, before), target, align=_bytes(kind))
        return context.get_dummy_value()

    number = types.intp
    return types.void(x, columns, values, rows, weights, number, grad, number, number), generate
