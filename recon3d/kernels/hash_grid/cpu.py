"""Multiresolution hash grid in numba; see ``reference.py`` for the conventions.

A task goes through its points level by level, so that a level's table stays in cache, and through a level in blocks:
each stage is a plain loop over the block that the compiler turns into vector instructions, but for the reading and the
writing of rows of two float32, which are spelt out (``kernels.vectors``). The table's gradient is made one level per
task: levels own disjoint rows, so no two threads write to the same place.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recon3d.kernels.hash_grid.reference import PRIMES
from recon3d.kernels.threads import run_parallel, spans
from recon3d.kernels.vectors import LANES, add_to_rows, weighted_rows

BLOCK = 128
CHUNKS_PER_THREAD = 2
_PRIMES = np.array(PRIMES, dtype=np.uint32)
_FAST = {"contract", "arcp", "nsz", "reassoc"}


@njit(nogil=True, cache=True, inline="always")
def _is_dense(resolution, dim, size):
    rows = 1
    for _ in range(dim):
        rows *= resolution
    return rows <= size


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _locate(x, begin, n, scale, resolution, dense, low, high, fraction):
    """Per axis: the row terms of a block's lower and upper corners (d, n), and the position between them (d, n).

    What is behind ``n`` points is that of the origin."""
    zero, half, one = x.dtype.type(0), x.dtype.type(0.5), x.dtype.type(1)
    stride = np.uint32(1)
    for axis in range(x.shape[1]):
        factor = stride if dense else _PRIMES[axis]
        for i in range(n):
            position = min(max(x[begin + i, axis], zero), one) * scale + half
            cell = np.int32(position)
            fraction[axis, i] = position - x.dtype.type(cell)
            low[axis, i] = np.uint32(np.uint32(cell) * factor)
            high[axis, i] = np.uint32(low[axis, i] + factor)
        low[axis, n:], high[axis, n:], fraction[axis, n:] = 0, 0, 0
        stride = np.uint32(stride * np.uint32(resolution))


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _corners(size, dense, low, high, fraction, rows, weights):
    """Rows and weights (2^d, BLOCK) of all corners of a block's cells; bit a of a corner is its side on axis a."""
    one = fraction.dtype.type(1)
    for i in range(BLOCK):
        rows[0, i], rows[1, i] = low[0, i], high[0, i]
        weights[0, i], weights[1, i] = one - fraction[0, i], fraction[0, i]
    for axis in range(1, low.shape[0]):
        half = 1 << axis
        for corner in range(half):
            lower, upper, part = rows[corner], rows[corner + half], weights[corner]
            if dense:
                for i in range(BLOCK):
                    upper[i] = np.uint32(lower[i] + high[axis, i])
                    lower[i] = np.uint32(lower[i] + low[axis, i])
            else:
                for i in range(BLOCK):
                    upper[i] = lower[i] ^ high[axis, i]
                    lower[i] = lower[i] ^ low[axis, i]
            for i in range(BLOCK):
                weights[corner + half, i] = part[i] * fraction[axis, i]
                part[i] = part[i] - weights[corner + half, i]
    bound, mask = np.uint32(size), np.uint32(size - 1)
    for corner in range(len(rows)):
        for i in range(BLOCK):
            row = rows[corner, i]
            if dense:
                rows[corner, i] = row if row < bound else np.uint32(row - bound)
            else:
                rows[corner, i] = row & mask


@njit(nogil=True, cache=True, error_model="numpy")
def _sum_pairs(values, rows, weights, total):
    """:func:`_sum` for three dimensions and rows of two float32."""
    stride, half = rows.strides[0], total.strides[0]
    for i in range(0, BLOCK, LANES):
        at = total.ctypes.data + 4 * i
        weighted_rows(
            8, values.ctypes.data, rows.ctypes.data + 4 * i, weights.ctypes.data + 4 * i, stride, at, at + half
        )


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _sum(values, rows, weights, total):
    """total (F, BLOCK) = the features of a level's cells, ``values`` being its part of the table, flat."""
    features = len(total)
    total[:] = 0
    for corner in range(len(rows)):
        for f in range(features):
            for i in range(BLOCK):
                total[f, i] += weights[corner, i] * values[np.int64(rows[corner, i]) * features + f]


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _encode(first, last, x, table, scales, resolutions, offsets, out):
    dim, features = x.shape[1], table.shape[1]
    low, high = np.empty((dim, BLOCK), np.uint32), np.empty((dim, BLOCK), np.uint32)
    rows, weights = np.empty((1 << dim, BLOCK), np.uint32), np.empty((1 << dim, BLOCK), x.dtype)
    fraction, total = np.empty((dim, BLOCK), x.dtype), np.empty((features, BLOCK), x.dtype)
    flat = table.reshape(-1)
    for level in range(len(scales)):
        size = offsets[level + 1] - offsets[level]
        dense = _is_dense(resolutions[level], dim, size)
        values = flat[offsets[level] * features : offsets[level + 1] * features]
        for begin in range(first, last, BLOCK):
            n = min(BLOCK, last - begin)
            _locate(x, begin, n, scales[level], resolutions[level], dense, low, high, fraction)
            _corners(size, dense, low, high, fraction, rows, weights)
            if dim == 3 and features == 2 and flat.itemsize == 4:
                _sum_pairs(values, rows, weights, total)
            else:
                _sum(values, rows, weights, total)
            for i in range(n):
                for f in range(features):
                    out[begin + i, level * features + f] = total[f, i]


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _table_gradient(level, x, grad, scales, resolutions, offsets, grad_table):
    """Scatter the gradient (N, L * F) of one level's features into its rows of ``grad_table``.

    Corner by corner of one point after the other: points that are neighbours share rows, corners of a point do not, so
    that an addition need not wait for the one before."""
    points, dim = x.shape
    features = grad_table.shape[1]
    low, high = np.empty((dim, BLOCK), np.uint32), np.empty((dim, BLOCK), np.uint32)
    rows, weights = np.empty((1 << dim, BLOCK), np.uint32), np.empty((1 << dim, BLOCK), x.dtype)
    fraction = np.empty((dim, BLOCK), x.dtype)
    size = offsets[level + 1] - offsets[level]
    dense = _is_dense(resolutions[level], dim, size)
    values = grad_table.reshape(-1)[offsets[level] * features : offsets[level + 1] * features]
    values[:] = 0
    for begin in range(0, points, BLOCK):
        n = min(BLOCK, points - begin)
        _locate(x, begin, n, scales[level], resolutions[level], dense, low, high, fraction)
        _corners(size, dense, low, high, fraction, rows, weights)
        if dim == 3 and features == 2 and values.itemsize == 4:
            of_rows, of_weights, stride = rows.ctypes.data, weights.ctypes.data, rows.strides[0]
            incoming = grad.ctypes.data + begin * grad.strides[0] + 8 * level
            for i in range(n):
                at = incoming + i * grad.strides[0]
                add_to_rows(8, values.ctypes.data, of_rows + 4 * i, of_weights + 4 * i, stride, at)
        else:
            for i in range(n):
                for corner in range(len(rows)):
                    for f in range(features):
                        value = weights[corner, i] * grad[begin + i, level * features + f]
                        values[np.int64(rows[corner, i]) * features + f] += value


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _point_gradient(first, last, x, table, grad, scales, resolutions, offsets, grad_x):
    dim, features = x.shape[1], table.shape[1]
    zero, one = x.dtype.type(0), x.dtype.type(1)
    low, high = np.empty((dim, BLOCK), np.uint32), np.empty((dim, BLOCK), np.uint32)
    rows, weights = np.empty((1 << dim, BLOCK), np.uint32), np.empty((1 << dim, BLOCK), x.dtype)
    fraction = np.empty((dim, BLOCK), x.dtype)
    flat = table.reshape(-1)
    grad_x[first:last] = 0
    for begin in range(first, last, BLOCK):
        n = min(BLOCK, last - begin)
        for level in range(len(scales)):
            size = offsets[level + 1] - offsets[level]
            dense = _is_dense(resolutions[level], dim, size)
            values = flat[offsets[level] * features : offsets[level + 1] * features]
            _locate(x, begin, n, scales[level], resolutions[level], dense, low, high, fraction)
            _corners(size, dense, low, high, fraction, rows, weights)
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
                                near = fraction[other, i]
                                slope *= near if (corner >> other) & 1 else one - near
                        grad_x[begin + i, axis] += slope * value
        for i in range(n):
            for axis in range(dim):
                if x[begin + i, axis] < zero or x[begin + i, axis] > one:
                    grad_x[begin + i, axis] = zero


def _spans(points: int) -> list[tuple[int, int]]:
    return spans(points, CHUNKS_PER_THREAD * torch.get_num_threads())


def _layout(x: np.ndarray, scales: list[float], resolutions: list[int], offsets: list[int]) -> tuple[np.ndarray, ...]:
    return np.array(scales, x.dtype), np.array(resolutions, np.int64), np.array(offsets, np.int64)


def encode(
    x: Tensor, table: Tensor, shadow: Tensor | None, scales: list[float], resolutions: list[int], offsets: list[int]
) -> Tensor:
    points = x.detach().contiguous().numpy()
    source = (table if shadow is None else shadow).detach()
    values = source.to(x.dtype).contiguous().numpy()
    out = x.new_empty(x.shape[0], len(scales) * table.shape[1])
    layout = _layout(points, scales, resolutions, offsets)
    run_parallel(_encode, [(a, b, points, values, *layout, out.numpy()) for a, b in _spans(len(points))])
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
    points = x.detach().contiguous().numpy()
    incoming = grad.detach().to(x.dtype).contiguous().numpy()
    layout = _layout(points, scales, resolutions, offsets)
    grad_table, grad_x = table.new_empty(0), x.new_empty(0)
    if need_table:
        total = x.new_empty(table.shape)
        # Fine levels take longest (their rows lie apart in memory), so they go first.
        levels = reversed(range(len(scales)))
        run_parallel(_table_gradient, [(level, points, incoming, *layout, total.numpy()) for level in levels])
        grad_table = total.to(table.dtype)
    if need_x:
        values = (table if shadow is None else shadow).detach().to(x.dtype).contiguous().numpy()
        grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        tasks = [(a, b, points, values, incoming, *layout, grad_x.numpy()) for a, b in _spans(len(points))]
        run_parallel(_point_gradient, tasks)
    return grad_table, grad_x
