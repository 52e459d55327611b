"""Multiresolution hash grid in numba; see ``reference.py`` for the conventions.

A task goes through its points level by level, so that a level's table stays in cache, and through a level in blocks:
where its cells lie, ``LANES`` points at a time, then the rows of their corners, point by point; both are spelt out in
``corners.py``. The table's gradient is made one level per task: levels own disjoint rows, so no two threads write to
the same place.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recon3d.kernels.arrays import numbers
from recon3d.kernels.hash_grid.corners import LANES, add_to_rows, locate, sum_rows
from recon3d.kernels.threads import kernel_threads, run_parallel, spans

BLOCK = 128
CHUNKS_PER_THREAD = 2
_FAST = {"contract", "arcp", "nsz", "reassoc"}


@njit(nogil=True, cache=True, inline="always")
def _is_dense(resolution, dim, size):
    rows = 1
    for _ in range(dim):
        rows *= resolution
    return rows <= size


@njit(nogil=True, cache=True, error_model="numpy")
def _corners(x, begin, scale, resolution, size, rows, weights, parts):
    """Rows and weights of the corners of a block's cells; see :func:`locate`."""
    if _is_dense(resolution, len(x), size):
        for at in range(0, BLOCK, LANES):
            locate(x, begin + at, scale, resolution, size, True, at, rows, weights, parts)
    else:
        for at in range(0, BLOCK, LANES):
            locate(x, begin + at, scale, resolution, size, False, at, rows, weights, parts)


@njit(nogil=True, cache=True, error_model="numpy")
def _rooms(x):
    corners, kind = 1 << len(x), x[0].dtype
    return np.empty((corners, BLOCK), np.uint32), np.empty((corners, BLOCK), kind), np.empty((len(x), BLOCK), kind)


@njit(nogil=True, cache=True, error_model="numpy")
def _encode(first, last, x, columns, table, scales, resolutions, offsets, out):
    rows, weights, parts = _rooms(x)
    for level in range(len(scales)):
        start, end = offsets[level], offsets[level + 1]
        values = table[start * len(columns) : end * len(columns)]
        for begin in range(first, last, BLOCK):
            _corners(x, begin, scales[level], resolutions[level], end - start, rows, weights, parts)
            for i in range(min(BLOCK, last - begin)):
                sum_rows(x, columns, values, rows, weights, i, out, begin + i, level)


@njit(nogil=True, cache=True, error_model="numpy")
def _table_gradient(level, points, x, columns, grad, scales, resolutions, offsets, grad_table):
    """Scatter the gradient (N, L * F) of one level's features into its rows of ``grad_table``.

    Corner by corner of one point after the other: points that are neighbours share rows, corners of a point do not, so
    that an addition need not wait for the one before."""
    rows, weights, parts = _rooms(x)
    start, end = offsets[level], offsets[level + 1]
    values = grad_table[start * len(columns) : end * len(columns)]
    values[:] = 0
    for begin in range(0, points, BLOCK):
        _corners(x, begin, scales[level], resolutions[level], end - start, rows, weights, parts)
        for i in range(min(BLOCK, points - begin)):
            add_to_rows(x, columns, values, rows, weights, i, grad, begin + i, level)


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _point_gradient(first, last, x, columns, table, grad, scales, resolutions, offsets, grad_x):
    dim, features = len(x), len(columns)
    zero, one = grad_x.dtype.type(0), grad_x.dtype.type(1)
    rows, weights, parts = _rooms(x)
    grad_x[first:last] = 0
    for begin in range(first, last, BLOCK):
        n = min(BLOCK, last - begin)
        for level in range(len(scales)):
            start, end = offsets[level], offsets[level + 1]
            values = table[start * features : end * features]
            _corners(x, begin, scales[level], resolutions[level], end - start, rows, weights, parts)
            for corner in range(1 << dim):
                for i in range(n):
                    value = zero
                    for f in range(features):
                        value += (
                            grad[begin + i, level * features + f] * values[np.int64(rows[corner, i]) * features + f]
                        )
                    for axis in range(dim):
                        # The weight's derivative on this axis: the other axes' weights, with the side's sign.
                        slope = scales[level] if (corner >> axis) & 1 else -scales[level]
                        for other in range(dim):
                            if other != axis:
                                near = parts[other, i]
                                slope *= near if (corner >> other) & 1 else one - near
                        grad_x[begin + i, axis] += slope * value
        for i in range(n):
            for axis in range(dim):
                if x[axis][begin + i] < zero or x[axis][begin + i] > one:
                    grad_x[begin + i, axis] = zero


def _axes(x: Tensor) -> tuple[np.ndarray, ...]:
    """The coordinates (N, d), axis by axis, with room behind them for a whole block."""
    coordinates = x.new_zeros(x.shape[1], -(-len(x) // BLOCK) * BLOCK)
    coordinates[:, : len(x)] = x.detach().t()
    return tuple(coordinates.numpy())


def _spans(points: int) -> list[tuple[int, int]]:
    """The points of each task, in whole blocks: there is room for no more."""
    return spans(points, CHUNKS_PER_THREAD * kernel_threads(), BLOCK)


def _layout(
    kind: torch.dtype, scales: list[float], resolutions: list[int], offsets: list[int]
) -> tuple[np.ndarray, ...]:
    return torch.tensor(scales, dtype=kind).numpy(), np.array(resolutions, np.int64), np.array(offsets, np.int64)


def encode(
    x: Tensor, table: Tensor, shadow: Tensor | None, scales: list[float], resolutions: list[int], offsets: list[int]
) -> Tensor:
    source = table if shadow is None else shadow
    columns = tuple(range(table.shape[1]))
    kind = torch.bfloat16 if source.dtype == torch.bfloat16 else x.dtype
    out = torch.empty(len(x), len(scales) * len(columns), dtype=kind)
    given = _axes(x), columns, numbers(source, kind).reshape(-1), *_layout(x.dtype, scales, resolutions, offsets)
    run_parallel(_encode, [(a, b, *given, numbers(out, kind)) for a, b in _spans(len(x))])
    return out.to(source.dtype)


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
    points, columns = _axes(x), tuple(range(table.shape[1]))
    layout = _layout(x.dtype, scales, resolutions, offsets)
    grad_table, grad_x = table.new_empty(0), x.new_empty(0)
    if need_table:
        total = x.new_empty(table.shape)
        given = points, columns, numbers(grad, x.dtype), *layout, total.view(-1).numpy()
        # Fine levels take longest (their rows lie apart in memory), so they go first.
        run_parallel(_table_gradient, [(level, len(x), *given) for level in reversed(range(len(scales)))])
        grad_table = total.to(table.dtype)
    if need_x:
        values = (table if shadow is None else shadow).detach().to(x.dtype).contiguous().view(-1).numpy()
        grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        given = points, columns, values, grad.detach().to(x.dtype).contiguous().numpy(), *layout, grad_x.numpy()
        run_parallel(_point_gradient, [(a, b, *given) for a, b in _spans(len(x))])
    return grad_table, grad_x
