"""Multiresolution hash grid in Triton; see ``reference.py`` for the conventions.

One lane per point. Programs are laid out over (blocks of points, levels) with the level outermost, so that a level's
rows stay in the GPU's cache while they are read. The table's gradient is scattered with atomic additions in float32 (in
float64 for a float64 table); the points' gradient sums over the levels in one program, without atomics.

The kernels are written for four axes; those that a grid does not have are constants that the compiler folds away.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from recon3d.kernels.hash_grid.reference import PRIMES

BLOCK = 128
_FIELDS = tl.constexpr(3 + len(PRIMES))  # integers that describe a level: see _describe


@triton.jit
def _axis(x_ptr, point, inside, level_ptr, scale, axis: tl.constexpr, DIM: tl.constexpr):
    """On one axis: the lower corner's term of the row, what the upper one's has more, and the position in between."""
    if axis < DIM:
        x = tl.load(x_ptr + point * DIM + axis, mask=inside, other=0.0).to(scale.dtype)
        position = tl.minimum(tl.maximum(x, 0.0), 1.0) * scale + 0.5
        cell = tl.floor(position)
        fraction = position - cell
        factor = tl.load(level_ptr + 3 + axis).to(tl.uint32)
        low = cell.to(tl.int32).to(tl.uint32) * factor
    else:
        fraction = tl.zeros(point.shape, scale.dtype)
        factor = tl.full((), 0, tl.uint32)
        low = tl.zeros(point.shape, tl.uint32)
    return low, factor, fraction


@triton.jit
def _term(low, factor, upper: tl.constexpr):
    return low + factor if upper else low


@triton.jit
def _weight(fraction, upper: tl.constexpr):
    return fraction if upper else 1.0 - fraction


@triton.jit
def _element(row0, row1, row2, row3, level_ptr, FEATURES: tl.constexpr):
    """Offsets (BLOCK, F) into the table of the corner whose terms of the row are given."""
    start = tl.load(level_ptr)
    size = tl.load(level_ptr + 1).to(tl.uint32)
    dense = tl.load(level_ptr + 2) != 0
    lattice = row0 + row1 + row2 + row3
    lattice = tl.where(lattice >= size, lattice - size, lattice)
    hashed = (row0 ^ row1 ^ row2 ^ row3) & (size - 1)
    row = start + tl.where(dense, lattice, hashed).to(tl.int64)
    return row[:, None] * FEATURES + tl.arange(0, FEATURES)[None, :]


@triton.jit(do_not_specialize=["points"])
def _encode(
    x_ptr,
    table_ptr,
    scales_ptr,
    levels_ptr,
    out_ptr,
    points,
    DIM: tl.constexpr,
    FEATURES: tl.constexpr,
    N: tl.constexpr,
):
    level = tl.program_id(1)
    levels = tl.num_programs(1)
    point = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    inside = point < points
    scale = tl.load(scales_ptr + level)
    level_ptr = levels_ptr + level * _FIELDS
    low0, step0, f0 = _axis(x_ptr, point, inside, level_ptr, scale, 0, DIM)
    low1, step1, f1 = _axis(x_ptr, point, inside, level_ptr, scale, 1, DIM)
    low2, step2, f2 = _axis(x_ptr, point, inside, level_ptr, scale, 2, DIM)
    low3, step3, f3 = _axis(x_ptr, point, inside, level_ptr, scale, 3, DIM)
    total = tl.zeros((N, FEATURES), scale.dtype)
    for corner in tl.static_range(2**DIM):
        element = _element(
            _term(low0, step0, corner & 1),
            _term(low1, step1, corner >> 1 & 1),
            _term(low2, step2, corner >> 2 & 1),
            _term(low3, step3, corner >> 3 & 1),
            level_ptr,
            FEATURES,
        )
        weight = _weight(f0, corner & 1) * _weight(f1, corner >> 1 & 1)
        weight = weight * _weight(f2, corner >> 2 & 1) * _weight(f3, corner >> 3 & 1)
        total += weight[:, None] * tl.load(table_ptr + element).to(scale.dtype)
    out = (point * levels + level)[:, None] * FEATURES + tl.arange(0, FEATURES)[None, :]
    tl.store(out_ptr + out, total.to(out_ptr.dtype.element_ty), mask=inside[:, None])


@triton.jit(do_not_specialize=["points"])
def _table_gradient(
    grad_ptr,
    x_ptr,
    scales_ptr,
    levels_ptr,
    grad_table_ptr,
    points,
    DIM: tl.constexpr,
    FEATURES: tl.constexpr,
    N: tl.constexpr,
):
    level = tl.program_id(1)
    levels = tl.num_programs(1)
    point = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    inside = point < points
    scale = tl.load(scales_ptr + level)
    level_ptr = levels_ptr + level * _FIELDS
    low0, step0, f0 = _axis(x_ptr, point, inside, level_ptr, scale, 0, DIM)
    low1, step1, f1 = _axis(x_ptr, point, inside, level_ptr, scale, 1, DIM)
    low2, step2, f2 = _axis(x_ptr, point, inside, level_ptr, scale, 2, DIM)
    low3, step3, f3 = _axis(x_ptr, point, inside, level_ptr, scale, 3, DIM)
    out = (point * levels + level)[:, None] * FEATURES + tl.arange(0, FEATURES)[None, :]
    grad = tl.load(grad_ptr + out, mask=inside[:, None], other=0.0).to(scale.dtype)
    # Points in the dark, and those that fill up a buffer, add nothing, and would all queue for the same rows.
    felt = inside & (tl.max((grad != 0).to(tl.int32), axis=1) > 0)
    for corner in tl.static_range(2**DIM):
        element = _element(
            _term(low0, step0, corner & 1),
            _term(low1, step1, corner >> 1 & 1),
            _term(low2, step2, corner >> 2 & 1),
            _term(low3, step3, corner >> 3 & 1),
            level_ptr,
            FEATURES,
        )
        weight = _weight(f0, corner & 1) * _weight(f1, corner >> 1 & 1)
        weight = weight * _weight(f2, corner >> 2 & 1) * _weight(f3, corner >> 3 & 1)
        share = (weight[:, None] * grad).to(grad_table_ptr.dtype.element_ty)
        tl.atomic_add(grad_table_ptr + element, share, mask=felt[:, None], sem="relaxed")


@triton.jit
def _store_point_gradient(grad_x_ptr, x_ptr, value, point, inside, axis: tl.constexpr, DIM: tl.constexpr):
    """A coordinate that was moved to the border of [0, 1] does not feel the table."""
    x = tl.load(x_ptr + point * DIM + axis, mask=inside, other=0.0)
    value = tl.where((x < 0.0) | (x > 1.0), 0.0, value)
    tl.store(grad_x_ptr + point * DIM + axis, value.to(grad_x_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["points"])
def _point_gradient(
    grad_ptr,
    x_ptr,
    table_ptr,
    scales_ptr,
    levels_ptr,
    grad_x_ptr,
    points,
    LEVELS: tl.constexpr,
    DIM: tl.constexpr,
    FEATURES: tl.constexpr,
    N: tl.constexpr,
):
    point = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    inside = point < points
    gradient0 = tl.zeros((N,), scales_ptr.dtype.element_ty)
    gradient1 = tl.zeros((N,), scales_ptr.dtype.element_ty)
    gradient2 = tl.zeros((N,), scales_ptr.dtype.element_ty)
    gradient3 = tl.zeros((N,), scales_ptr.dtype.element_ty)
    for level in range(LEVELS):
        scale = tl.load(scales_ptr + level)
        level_ptr = levels_ptr + level * _FIELDS
        low0, step0, f0 = _axis(x_ptr, point, inside, level_ptr, scale, 0, DIM)
        low1, step1, f1 = _axis(x_ptr, point, inside, level_ptr, scale, 1, DIM)
        low2, step2, f2 = _axis(x_ptr, point, inside, level_ptr, scale, 2, DIM)
        low3, step3, f3 = _axis(x_ptr, point, inside, level_ptr, scale, 3, DIM)
        out = (point * LEVELS + level)[:, None] * FEATURES + tl.arange(0, FEATURES)[None, :]
        grad = tl.load(grad_ptr + out, mask=inside[:, None], other=0.0).to(scale.dtype)
        for corner in tl.static_range(2**DIM):
            element = _element(
                _term(low0, step0, corner & 1),
                _term(low1, step1, corner >> 1 & 1),
                _term(low2, step2, corner >> 2 & 1),
                _term(low3, step3, corner >> 3 & 1),
                level_ptr,
                FEATURES,
            )
            value = scale * tl.sum(grad * tl.load(table_ptr + element).to(scale.dtype), axis=1)
            w0 = _weight(f0, corner & 1)
            w1 = _weight(f1, corner >> 1 & 1)
            w2 = _weight(f2, corner >> 2 & 1)
            w3 = _weight(f3, corner >> 3 & 1)
            # A corner's weight rises with the coordinate on an axis if it is the upper one there, and falls if not.
            gradient0 += value * w1 * w2 * w3 * (2 * (corner & 1) - 1)
            gradient1 += value * w0 * w2 * w3 * (2 * (corner >> 1 & 1) - 1)
            gradient2 += value * w0 * w1 * w3 * (2 * (corner >> 2 & 1) - 1)
            gradient3 += value * w0 * w1 * w2 * (2 * (corner >> 3 & 1) - 1)
    _store_point_gradient(grad_x_ptr, x_ptr, gradient0, point, inside, 0, DIM)
    if DIM > 1:
        _store_point_gradient(grad_x_ptr, x_ptr, gradient1, point, inside, 1, DIM)
    if DIM > 2:
        _store_point_gradient(grad_x_ptr, x_ptr, gradient2, point, inside, 2, DIM)
    if DIM > 3:
        _store_point_gradient(grad_x_ptr, x_ptr, gradient3, point, inside, 3, DIM)


@functools.lru_cache(maxsize=64)
def _describe(
    dim: int,
    scales: tuple[float, ...],
    resolutions: tuple[int, ...],
    offsets: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Scales (L,), and per level: first row, number of rows, whether dense, and the factor of each axis in the row."""
    levels = []
    for resolution, start, end in zip(resolutions, offsets[:-1], offsets[1:], strict=True):
        size, dense = end - start, resolution**dim <= end - start
        if not dense and size & (size - 1):
            raise ValueError(f"a hashed level needs a power of two of rows, not {size}")
        factors = [resolution**axis if dense and axis < dim else prime for axis, prime in enumerate(PRIMES)]
        levels.append([start, size, int(dense), *factors])
    return torch.tensor(scales, dtype=dtype, device=device), torch.tensor(levels, dtype=torch.int64, device=device)


def _layout(x: Tensor, scales: list[float], resolutions: list[int], offsets: list[int]) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(x.dtype, torch.float32)
    return _describe(x.shape[1], tuple(scales), tuple(resolutions), tuple(offsets), dtype, x.device)


def _constants(x: Tensor, table: Tensor) -> dict[str, object]:
    return {
        "DIM": x.shape[1],
        "FEATURES": table.shape[1],
        "N": BLOCK,
        "num_warps": BLOCK // 32,
        "enable_fp_fusion": True,
    }


def encode(
    x: Tensor, table: Tensor, shadow: Tensor | None, scales: list[float], resolutions: list[int], offsets: list[int]
) -> Tensor:
    source = (table if shadow is None else shadow).contiguous()
    points, levels, features = x.shape[0], len(scales), table.shape[1]
    out = source.new_empty(points, levels * features)
    if out.numel():
        with torch.cuda.device_of(x):
            _encode[triton.cdiv(points, BLOCK), levels](
                x.contiguous(),
                source,
                *_layout(x, scales, resolutions, offsets),
                out,
                points,
                **_constants(x, table),
            )
    return out


def encode_backward(
    grad: Tensor,
    x: Tensor,
    table: Tensor,
    shadow: Tensor | None,
    scales: list[float],
    resolutions: list[int],
    offsets: list[int],
    need_table: bool,
    need_x: bool,
) -> tuple[Tensor, Tensor]:
    points, levels = x.shape[0], len(scales)
    blocks = triton.cdiv(points, BLOCK)
    grad_table, grad_x = table.new_empty(0), x.new_empty(0)
    grad, x = grad.contiguous(), x.contiguous()
    layout = _layout(x, scales, resolutions, offsets)
    constants = _constants(x, table)
    if need_table:
        total = table.new_zeros(table.shape, dtype=torch.promote_types(table.dtype, torch.float32))
        if points:
            with torch.cuda.device_of(x):
                _table_gradient[blocks, levels](grad, x, *layout, total, points, **constants)
        grad_table = total.to(table.dtype)
    if need_x:
        source = (table if shadow is None else shadow).contiguous()
        grad_x = torch.empty_like(x)
        if points:
            with torch.cuda.device_of(x):
                _point_gradient[(blocks,)](grad, x, source, *layout, grad_x, points, LEVELS=levels, **constants)
    return grad_table, grad_x
