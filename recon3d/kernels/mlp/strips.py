"""Strips in numba: small matrix products whose rows lie in the lanes of vectors, on any CPU.

A strip is ``ROWS`` rows of a batch, turned: array (units, ROWS), so that one unit's numbers are neighbours. A product
then needs the other factor one number at a time, spread over the lanes, and widths need no padding to vectors. What a
tile of the result sums up stays in registers.

In float32 a strip is float32. In bfloat16, on CPUs that multiply pairs of them (AVX512-BF16), a strip is (units / 2,
ROWS) uint32, two units in each word, and for :func:`outer` (units, ROWS) uint16; sums are float32 in both cases.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils

from recon3d.kernels.vectors import (
    BIT,
    FLOAT,
    INT,
    LONG,
    SHORT,
    BFloats,
    array,
    call,
    from_bfloat16,
    intrinsic,
    lanes,
    long,
    multiply_add,
    place,
    shuffle,
    spread,
    to_bfloat16,
    turned,
)

_FEATURES = binding.get_host_cpu_features()
WIDE = bool(_FEATURES.get("avx512f"))
"""Whether there are 32 registers of 16 float32; else code is made for 16 of 8."""
PAIRS = WIDE and bool(_FEATURES.get("avx512bf16"))
"""Whether products of pairs of bfloat16 are an instruction."""

LANES = 16 if WIDE else 8
ROWS = 2 * LANES
"""Rows of a strip: two vectors."""
UNITS = 8 if WIDE else 4
"""Units that :func:`product` makes at once."""
LEFT, RIGHT = (4, 4) if WIDE else (2, 4)
"""Units of a tile of :func:`outer`: as many pairs as there are lanes."""

_FLOATS, _INTS, _SHORTS = (ir.VectorType(kind, LANES) for kind in (FLOAT, INT, SHORT))
_ZEROS = lanes(_FLOATS, 0.0)


def _add_product(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, total: ir.Value) -> None:
    """To the sums in ``total`` add the products of two vectors: of float32, or of pairs of bfloat16."""
    before = builder.load(total, typ=_FLOATS)
    if a.type == _FLOATS:
        after = multiply_add(builder, a, b, before)
    else:
        pairs = [builder.bitcast(value, BFloats(2 * LANES)) for value in (a, b)]
        after = call(builder, f"llvm.x86.avx512bf16.dpbf16ps.{32 * LANES}", _FLOATS, [before, *pairs])
    builder.store(after, total)


def _sums(builder: ir.IRBuilder, count: int) -> list[ir.Value]:
    """Room for sums, 0 at first; once the code is optimised, in registers."""
    rooms = [cgutils.alloca_once(builder, _FLOATS) for _ in range(count)]
    for room in rooms:
        builder.store(_ZEROS, room)
    return rooms


def _vectors(builder: ir.IRBuilder, start: ir.Value, kind: ir.VectorType, count: int, step: int) -> list[ir.Value]:
    """``count`` vectors in memory, ``step`` bytes apart."""
    size = LANES * kind.element.width // 8 if isinstance(kind.element, ir.IntType) else 4 * LANES
    return [builder.load(place(builder, start, long(step * k)), typ=kind, align=size) for k in range(count)]


@intrinsic
def product(typingctx: Any, packed: Any, first: Any, source: Any, inner: Any, sums: Any) -> Any:
    """``UNITS`` units of a product: sums[first + j] = sum_k packed[first / UNITS, k, j] source[k], k below ``inner``.

    ``source`` is a strip of float32 or of pairs, ``packed`` (groups, inner or more, UNITS) has the same type, ``sums``
    (units, ROWS) is float32.
    """
    word, kind = (FLOAT, _FLOATS) if isinstance(source.dtype, types.Float) else (INT, _INTS)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (factors, strides), (strip, _), (out, _) = (
            array(context, builder, kind, value)
            for kind, value in ((packed, args[0]), (source, args[2]), (sums, args[4]))
        )
        group = place(builder, factors, builder.mul(builder.udiv(args[1], long(UNITS)), strides[0]))
        rooms = _sums(builder, 2 * UNITS)
        with cgutils.for_range(builder, args[3]) as loop:
            start = place(builder, strip, builder.mul(loop.index, long(4 * ROWS)))
            rows = _vectors(builder, start, kind, 2, 4 * LANES)
            near = place(builder, group, builder.mul(loop.index, long(4 * UNITS)))
            for j in range(UNITS):
                weight = builder.load(place(builder, near, long(4 * j)), typ=word, align=4)
                for v in range(2):
                    _add_product(builder, spread(builder, weight, kind), rows[v], rooms[2 * j + v])
        target = place(builder, out, builder.mul(args[1], long(4 * ROWS)))
        for index, room in enumerate(rooms):
            total = builder.load(room, typ=_FLOATS)
            builder.store(total, place(builder, target, long(4 * LANES * index)), align=4 * LANES)
        return context.get_dummy_value()

    return types.void(packed, types.intp, source, types.intp, sums), generate


def _sums_of_lanes(builder: ir.IRBuilder, vectors: list[ir.Value]) -> ir.Value:
    """The sum over the lanes of each of ``LANES`` vectors, in their order: halves are added, two vectors at a time."""
    width = LANES
    while len(vectors) > 1:
        width //= 2
        low = [lane for begin in range(0, 2 * LANES, 2 * width) for lane in range(begin, begin + width)]
        high = [lane + width for lane in low]
        vectors = [
            builder.fadd(shuffle(builder, a, b, low), shuffle(builder, a, b, high))
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return vectors[0]


@intrinsic
def outer(typingctx: Any, left: Any, i: Any, right: Any, j: Any, strips: Any, total: Any, tile: Any) -> Any:
    """A tile of a product over rows: total[tile, a, b] += sum left[s, i + a, r] right[s, j + b, r] over all rows r of
    so many strips s, for a below ``LEFT`` and b below ``RIGHT``.

    ``left`` and ``right`` (strips, units, ROWS) are float32 or the bits of bfloat16, ``total`` (tiles, LEFT, RIGHT) is
    float32.
    """
    single = isinstance(left.dtype, types.Float)
    kind, row = (_FLOATS, 4 * ROWS) if single else (_INTS, 2 * ROWS)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sides = []
        for given, value, unit in ((left, args[0], args[1]), (right, args[2], args[3])):
            start, strides = array(context, builder, given, value)
            sides.append((place(builder, start, builder.mul(unit, strides[1])), strides[0]))
        out, out_strides = array(context, builder, total, args[5])
        rooms = _sums(builder, LEFT * RIGHT)
        with cgutils.for_range(builder, args[4]) as loop:
            for part in range(2 if single else 1):
                a, b = (
                    _vectors(
                        builder,
                        place(builder, start, builder.mul(loop.index, stride), long(4 * LANES * part)),
                        kind,
                        count,
                        row,
                    )
                    for (start, stride), count in zip(sides, (LEFT, RIGHT), strict=True)
                )
                for index, room in enumerate(rooms):
                    _add_product(builder, a[index // RIGHT], b[index % RIGHT], room)
        sums = _sums_of_lanes(builder, [builder.load(room, typ=_FLOATS) for room in rooms])
        target = place(builder, out, builder.mul(args[6], out_strides[0]))
        builder.store(builder.fadd(builder.load(target, typ=_FLOATS, align=4), sums), target, align=4)
        return context.get_dummy_value()

    return types.void(left, types.intp, right, types.intp, types.intp, total, types.intp), generate


def _there(builder: ir.IRBuilder, rows: ir.Value, columns: ir.Value) -> list[ir.Value]:
    """Of each of ``LANES`` rows, which columns are among so many rows and columns."""
    kind = ir.VectorType(LONG, LANES)
    some = builder.icmp_signed("<", lanes(kind, list(range(LANES))), spread(builder, columns, kind))
    none = lanes(ir.VectorType(BIT, LANES), 0)
    return [builder.select(builder.icmp_signed(">", rows, long(row)), some, none) for row in range(LANES)]


@intrinsic
def turn(typingctx: Any, source: Any, row: Any, column: Any, rows: Any, columns: Any, strip: Any, at: Any) -> Any:
    """strip[column + j, at + i] = source[row + i, column + j] for ``LANES`` rows and columns, 0 where i is not below
    ``rows`` or j not below ``columns``.

    ``source`` (n, units) is float32 or the bits of bfloat16, ``strip`` (units, ROWS) float32 with room for all columns.
    """
    single = isinstance(source.dtype, types.Float)
    kind, name, size = (_INTS, f"v{LANES}i32", 4) if single else (_SHORTS, f"v{LANES}i16", 2)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (given, strides), (out, _) = array(context, builder, source, args[0]), array(context, builder, strip, args[5])
        corner = place(builder, given, builder.mul(args[1], strides[0]), builder.mul(args[2], long(size)))
        loaded = []
        for i, mask in enumerate(_there(builder, args[3], args[4])):
            start = place(builder, corner, builder.mul(strides[0], long(i)))
            asked = [start, ir.Constant(INT, size), mask, lanes(kind, 0)]
            numbers = call(builder, f"llvm.masked.load.{name}.p0", kind, asked)
            if not single:
                numbers = from_bfloat16(builder, numbers)
            loaded.append(numbers)
        target = place(builder, out, builder.mul(args[2], long(4 * ROWS)), builder.mul(args[6], long(4)))
        for j, numbers in enumerate(turned(builder, loaded)):
            builder.store(numbers, place(builder, target, long(4 * ROWS * j)), align=4 * LANES)
        return context.get_dummy_value()

    size_ = types.intp
    return types.void(source, size_, size_, size_, size_, strip, size_), generate


@intrinsic
def turn_back(typingctx: Any, strip: Any, at: Any, column: Any, target: Any, row: Any, rows: Any, columns: Any) -> Any:
    """target[row + i, column + j] = strip[column + j, at + i] for ``LANES`` rows and columns, of which only ``rows``
    and ``columns`` are written; types as :func:`turn` has them, rounded."""
    single = isinstance(target.dtype, types.Float)
    name, size = (f"v{LANES}i32", 4) if single else (f"v{LANES}i16", 2)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (given, _), (out, strides) = array(context, builder, strip, args[0]), array(context, builder, target, args[3])
        start = place(builder, given, builder.mul(args[2], long(4 * ROWS)), builder.mul(args[1], long(4)))
        rows_ = turned(builder, _vectors(builder, start, _INTS, LANES, 4 * ROWS))
        corner = place(builder, out, builder.mul(args[4], strides[0]), builder.mul(args[2], long(size)))
        for i, (numbers, mask) in enumerate(zip(rows_, _there(builder, args[5], args[6]), strict=True)):
            values = numbers if single else builder.trunc(to_bfloat16(builder, numbers), _SHORTS)
            to = place(builder, corner, builder.mul(strides[0], long(i)))
            call(builder, f"llvm.masked.store.{name}.p0", ir.VoidType(), [values, to, ir.Constant(INT, size), mask])
        return context.get_dummy_value()

    size_ = types.intp
    return types.void(strip, size_, size_, target, size_, size_, size_), generate


@intrinsic
def keep(typingctx: Any, sums: Any, units: Any, least: Any, kept: Any, pairs: Any) -> Any:
    """Store a strip of sums, or ``least`` where that is more: in ``kept`` as :func:`outer` takes it and, where that is
    bfloat16, in ``pairs`` as :func:`product` does. ``units`` is even; what is not a number stays so."""
    single = isinstance(kept.dtype, types.Float)
    size = 4 if single else 2

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (given, _), (out, _), (words, _) = (
            array(context, builder, kind, value) for kind, value in ((sums, args[0]), (kept, args[3]), (pairs, args[4]))
        )
        lowest = spread(builder, args[2], _FLOATS)
        with cgutils.for_range(builder, builder.udiv(args[1], long(2))) as loop:
            for v in range(2):
                start = place(builder, given, builder.mul(loop.index, long(8 * ROWS)), long(4 * LANES * v))
                target = place(builder, out, builder.mul(loop.index, long(2 * size * ROWS)), long(size * LANES * v))
                stored = []
                for unit, values in enumerate(_vectors(builder, start, _FLOATS, 2, 4 * ROWS)):
                    values = builder.select(builder.fcmp_ordered("<", values, lowest), lowest, values)
                    stored.append(values if single else to_bfloat16(builder, builder.bitcast(values, _INTS)))
                    numbers = stored[-1] if single else builder.trunc(stored[-1], _SHORTS)
                    builder.store(numbers, place(builder, target, long(size * ROWS * unit)), align=size * LANES)
                if not single:
                    word = builder.or_(stored[0], builder.shl(stored[1], lanes(_INTS, 16)))
                    to = place(builder, words, builder.mul(loop.index, long(4 * ROWS)), long(4 * LANES * v))
                    builder.store(word, to, align=4 * LANES)
        return context.get_dummy_value()

    return types.void(sums, types.intp, types.float32, kept, pairs), generate


@intrinsic
def blank(typingctx: Any, sums: Any, units: Any, seen: Any) -> Any:
    """Set a strip of sums to 0 where ``seen``, as :func:`keep` has kept it, is 0."""
    kind, size = (_INTS, 4) if isinstance(seen.dtype, types.Float) else (_SHORTS, 2)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (given, _), (mask, _) = array(context, builder, sums, args[0]), array(context, builder, seen, args[2])
        with cgutils.for_range(builder, builder.mul(args[1], long(2))) as loop:
            at = place(builder, given, builder.mul(loop.index, long(4 * LANES)))
            near = place(builder, mask, builder.mul(loop.index, long(size * LANES)))
            lit = builder.icmp_unsigned("!=", builder.load(near, typ=kind, align=size * LANES), lanes(kind, 0))
            values = builder.load(at, typ=_FLOATS, align=4 * LANES)
            builder.store(builder.select(lit, values, _ZEROS), at, align=4 * LANES)
        return context.get_dummy_value()

    return types.void(sums, types.intp, seen), generate
