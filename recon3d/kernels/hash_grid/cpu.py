"""Multiresolution hash grid in numba; see ``reference.py`` for the conventions.

Points are handled in blocks, level by level within a block, so that a level's table, the block's coordinates and its
features stay in cache; each stage is a plain loop over the block that the compiler turns into vector instructions.
The table's gradient is made one level per task: levels own disjoint rows, so no two threads write to the same place.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recon3d.kernels.hash_grid.reference import PRIMES
from recon3d.kernels.threads import run_parallel, spans

BLOCK = 512
CHUNKS_PER_THREAD = 4
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
    """Per axis: the row terms of a block's lower and upper corners (d, n), and the position between them (d, n)."""
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
        stride = np.uint32(stride * np.uint32(resolution))


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _corner(corner, n, size, dense, low, high, fraction, rows, weights):
    """Rows (n,) of one corner of a block's cells, and its weights (n,); bit a of ``corner`` is its side on axis a."""
    one = fraction.dtype.type(1)
    for axis in range(low.shape[0]):
        upper = (corner >> axis) & 1
        terms = high[axis] if upper else low[axis]
        for i in range(n):
            weight = fraction[axis, i] if upper else one - fraction[axis, i]
            if axis == 0:
                rows[i] = terms[i]
                weights[i] = weight
            elif dense:
                rows[i] = np.uint32(rows[i] + terms[i])
                weights[i] *= weight
            else:
                rows[i] = rows[i] ^ terms[i]
                weights[i] *= weight
    bound = np.uint32(size)
    if dense:
        for i in range(n):
            if rows[i] >= bound:
                rows[i] = np.uint32(rows[i] - bound)
    else:
        mask = np.uint32(size - 1)
        for i in range(n):
            rows[i] = rows[i] & mask


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _encode(first, last, x, table, scales, resolutions, offsets, out):
    dim, features = x.shape[1], table.shape[1]
    low, high = np.empty((dim, BLOCK), np.uint32), np.empty((dim, BLOCK), np.uint32)
    fraction, weights = np.empty((dim, BLOCK), x.dtype), np.empty(BLOCK, x.dtype)
    rows = np.empty(BLOCK, np.uint32)
    total = np.empty((features, BLOCK), x.dtype)
    flat = table.reshape(-1)
    for begin in range(first, last, BLOCK):
        n = min(BLOCK, last - begin)
        for level in range(len(scales)):
            size = offsets[level + 1] - offsets[level]
            dense = _is_dense(resolutions[level], dim, size)
            values = flat[offsets[level] * features : offsets[level + 1] * features]
            _locate(x, begin, n, scales[level], resolutions[level], dense, low, high, fraction)
            total[:, :n] = 0
            for corner in range(1 << dim):
                _corner(corner, n, size, dense, low, high, fraction, rows, weights)
                if features == 2:
                    total0, total1 = total[0], total[1]
                    for i in range(n):
                        j = np.int64(rows[i]) * 2
                        total0[i] += weights[i] * values[j]
                        total1[i] += weights[i] * values[j + 1]
                else:
                    for f in range(features):
                        for i in range(n):
                            total[f, i] += weights[i] * values[np.int64(rows[i]) * features + f]
            for f in range(features):
                for i in range(n):
                    out[begin + i, level * features + f] = total[f, i]


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _table_gradient(level, x, grad, scales, resolutions, offsets, grad_table):
    """Scatter the gradient (N, L * F) of one level's features into its rows of ``grad_table``."""
    points, dim = x.shape
    features = grad_table.shape[1]
    low, high = np.empty((dim, BLOCK), np.uint32), np.empty((dim, BLOCK), np.uint32)
    fraction, weights = np.empty((dim, BLOCK), x.dtype), np.empty(BLOCK, x.dtype)
    rows = np.empty(BLOCK, np.uint32)
    incoming = np.empty((features, BLOCK), x.dtype)
    size = offsets[level + 1] - offsets[level]
    dense = _is_dense(resolutions[level], dim, size)
    values = grad_table.reshape(-1)[offsets[level] * features : offsets[level + 1] * features]
    values[:] = 0
    for begin in range(0, points, BLOCK):
        n = min(BLOCK, points - begin)
        _locate(x, begin, n, scales[level], resolutions[level], dense, low, high, fraction)
        for f in range(features):
            for i in range(n):
                incoming[f, i] = grad[begin + i, level * features + f]
        for corner in range(1 << dim):
            _corner(corner, n, size, dense, low, high, fraction, rows, weights)
            if features == 2:
                for i in range(n):
                    j = np.int64(rows[i]) * 2
                    values[j] += weights[i] * incoming[0, i]
                    values[j + 1] += weights[i] * incoming[1, i]
            else:
                for i in range(n):
                    for f in range(features):
                        values[np.int64(rows[i]) * features + f] += weights[i] * incoming[f, i]


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _point_gradient(first, last, x, table, grad, scales, resolutions, offsets, grad_x):
    dim, features = x.shape[1], table.shape[1]
    zero, one = x.dtype.type(0), x.dtype.type(1)
    low, high = np.empty((dim, BLOCK), np.uint32), np.empty((dim, BLOCK), np.uint32)
    fraction, weights = np.empty((dim, BLOCK), x.dtype), np.empty(BLOCK, x.dtype)
    rows = np.empty(BLOCK, np.uint32)
    flat = table.reshape(-1)
    grad_x[first:last] = 0
    for begin in range(first, last, BLOCK):
        n = min(BLOCK, last - begin)
        for level in range(len(scales)):
            size = offsets[level + 1] - offsets[level]
            dense = _is_dense(resolutions[level], dim, size)
            values = flat[offsets[level] * features : offsets[level + 1] * features]
            _locate(x, begin, n, scales[level], resolutions[level], dense, low, high, fraction)
            for corner in range(1 << dim):
                _corner(corner, n, size, dense, low, high, fraction, rows, weights)
                for i in range(n):
                    value = zero
                    for f in range(features):
                        value += grad[begin + i, level * features + f] * values[np.int64(rows[i]) * features + f]
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
