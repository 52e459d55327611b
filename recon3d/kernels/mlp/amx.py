"""The small ReLU network in bfloat16 on CPUs with matrix tiles (``kernels.tiles``), block by block in cache.

A block of ``ROWS`` rows goes through all layers, and back, before the next one starts: what is between the layers never
leaves the cache, and nothing is kept for the backward pass. All widths are padded with zeros to a multiple of 32.
Products are summed in float32, those of the weights' gradients over all rows of a task.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recon3d.kernels import tiles
from recon3d.kernels.mlp.rows import WIDTH, copy, copy_positive, copy_where
from recon3d.kernels.mlp.simd import rounded
from recon3d.kernels.vectors import aligned

ROWS = BLOCK = 256
SIDE = PAD = ROOM = 32
"""Rows and columns of what four tiles sum up."""


@njit(nogil=True, cache=True, inline="always", error_model="numpy")
def _sum_up(left, step, right, wide, inner, to, stride):
    """Add products of bfloat16 to the four tiles 0 to 3, a square of SIDE, and store them: of SIDE rows at ``left`` and
    SIDE columns of a factor packed as tiles want it at ``right``, ``inner`` of each. Addresses, and bytes between rows.
    """
    for k in range(0, inner, 32):
        at = left + 2 * k
        tiles.load(4, at, step)
        tiles.load(5, at + 16 * step, step)
        at = right + (k // 2) * wide
        tiles.load(6, at, wide)
        tiles.load(7, at + 64, wide)
        tiles.dot(0, 4, 6)
        tiles.dot(1, 4, 7)
        tiles.dot(2, 5, 6)
        tiles.dot(3, 5, 7)
    tiles.store(0, to, stride)
    tiles.store(1, to + 64, stride)
    tiles.store(2, to + 16 * stride, stride)
    tiles.store(3, to + 16 * stride + 64, stride)


@njit(nogil=True, cache=True, error_model="numpy")
def _multiply(left, packed, inner, i, j, block):
    """The product of left (ROWS, inner) and a factor packed as tiles want it, (inner / 2, 2 * outer): those rows from i
    and columns from j on that ``block`` (SIDE, SIDE) float32 has room for."""
    step, wide, to, stride = left.strides[0], packed.strides[0], block.ctypes.data, block.strides[0]
    from_left, from_packed = left.ctypes.data + i * step, packed.ctypes.data + 4 * j
    tiles.zero(0)
    tiles.zero(1)
    tiles.zero(2)
    tiles.zero(3)
    _sum_up(from_left, step, from_packed, wide, inner, to, stride)


@njit(nogil=True, cache=True, error_model="numpy")
def _add_outer(left, right, turned, paired, total):
    """total (m, n) float32 += the transpose of left (ROWS, m) times right (ROWS, n), both bfloat16.

    ``turned`` (m or more, ROWS) and ``paired`` (ROWS / 2, 2 n or more) are room for the two as tiles want them."""
    m, n = total.shape
    for i in range(0, ROWS, 32):
        for j in range(0, m, 16):
            at = turned.ctypes.data + j * turned.strides[0] + 2 * i
            tiles.transpose(left.ctypes.data + i * left.strides[0] + 2 * j, left.strides[0], at, turned.strides[0])
    words = paired.view(np.uint32)
    for i in range(ROWS // 2):
        for j in range(n):
            words[i, j] = np.uint32(right[2 * i, j]) | (np.uint32(right[2 * i + 1, j]) << np.uint32(16))
    stride, wide, long = total.strides[0], paired.strides[0], turned.strides[0]
    for i in range(0, m, 32):
        for j in range(0, n, 32):
            to = total.ctypes.data + i * stride + 4 * j
            tiles.load(0, to, stride)
            tiles.load(1, to + 64, stride)
            tiles.load(2, to + 16 * stride, stride)
            tiles.load(3, to + 16 * stride + 64, stride)
            from_left, from_right = turned.ctypes.data + i * long, paired.ctypes.data + 4 * j
            _sum_up(from_left, long, from_right, wide, ROWS, to, stride)


@njit(nogil=True, cache=True, error_model="numpy")
def _fill(source, begin, count, width, target):
    """``count`` rows from ``begin`` on into ``target``, then rows of 0; columns behind ``width`` are 0 already."""
    for i in range(count):
        for j in range(0, width, WIDTH):
            copy(source, begin + i, j, target, i, j, width - j)
    target[count:, :width] = 0


@njit(nogil=True, cache=True, error_model="numpy")
def _write(left, packed, inner, width, target, begin, count, block):
    """Of the product of left and a packed factor, ``count`` rows and ``width`` columns into ``target``."""
    for i in range(0, count, SIDE):
        for j in range(0, width, SIDE):
            _multiply(left, packed, inner, i, j, block)
            for row in range(min(SIDE, count - i)):
                copy(block, row, 0, target, begin + i + row, j, width - j)


@njit(nogil=True, cache=True, error_model="numpy")
def _hidden(inputs, forward, padded, layers, block):
    """The inputs of all layers but the first, from those of the first."""
    for layer in range(layers):
        for i in range(0, ROWS, SIDE):
            for j in range(0, padded[layer + 1], SIDE):
                _multiply(inputs[layer], forward[layer], padded[layer], i, j, block)
                for row in range(SIDE):
                    copy_positive(block, row, 0, inputs[layer + 1], i + row, j, SIDE)


@njit(nogil=True, cache=True, error_model="numpy")
def forward(first, last, x, weights, back, widths, padded, configuration, out):
    """Outputs of the rows from ``first`` to ``last`` into ``out``."""
    layers, widest = len(widths) - 1, weights.shape[2] // 2
    inputs = aligned(layers * ROWS * widest, np.uint16).reshape(layers, ROWS, widest)
    block = aligned(SIDE * SIDE, np.float32).reshape(SIDE, SIDE)
    tiles.configure(configuration.ctypes.data)
    for begin in range(first, last, ROWS):
        count = min(ROWS, last - begin)
        _fill(x, begin, count, widths[0], inputs[0])
        _hidden(inputs, weights, padded, layers - 1, block)
        _write(inputs[-1], weights[-1], padded[layers - 1], widths[layers], out, begin, count, block)
    tiles.release()


@njit(nogil=True, cache=True, error_model="numpy")
def backward(first, last, grad, x, weights, back, widths, padded, configuration, need_x, grad_x):
    """Gradients of the weights, (layers, widest, widest) with zeros around; those of x into ``grad_x``."""
    layers, widest = len(widths) - 1, weights.shape[2] // 2
    inputs = aligned(layers * ROWS * widest, np.uint16).reshape(layers, ROWS, widest)
    grads = aligned((layers + 1) * ROWS * widest, np.uint16).reshape(layers + 1, ROWS, widest)
    block = aligned(SIDE * SIDE, np.float32).reshape(SIDE, SIDE)
    turned, paired = aligned(widest * ROWS, np.uint16), aligned(widest * ROWS, np.uint16)
    turned, paired = turned.reshape(widest, ROWS), paired.reshape(ROWS // 2, 2 * widest)
    totals = aligned(layers * widest * widest, np.float32).reshape(layers, widest, widest)
    tiles.configure(configuration.ctypes.data)
    for begin in range(first, last, ROWS):
        count = min(ROWS, last - begin)
        _fill(x, begin, count, widths[0], inputs[0])
        _fill(grad, begin, count, widths[layers], grads[layers])
        _hidden(inputs, weights, padded, layers - 1, block)
        for layer in range(layers - 1, -1, -1):
            outgoing, incoming = padded[layer + 1], padded[layer]
            _add_outer(grads[layer + 1], inputs[layer], turned, paired, totals[layer, :outgoing, :incoming])
            if layer > 0:
                for i in range(0, ROWS, SIDE):
                    for j in range(0, incoming, SIDE):
                        _multiply(grads[layer + 1], back[layer], outgoing, i, j, block)
                        for row in range(SIDE):
                            copy_where(block, row, 0, grads[layer], i + row, j, SIDE, inputs[layer])
            elif need_x:
                _write(grads[1], back[0], outgoing, widths[0], grad_x, begin, count, block)
    tiles.release()
    return totals


@njit(nogil=True, cache=True)
def _pack(weight, forth, back):
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            value = rounded(weight[i, j])
            forth[j // 2, 2 * i + j % 2] = value
            back[i // 2, 2 * j + i % 2] = value


def pack(
    weights: list[Tensor], room: int, widths: np.ndarray, padded: np.ndarray, compute: torch.dtype
) -> tuple[np.ndarray, ...]:
    """What kernels must know of weights (out, in), each in a square of ``room`` with zeros around: right factors of the
    products forward and back, (layers, room / 2, 2 * room), widths, padded widths, and how tiles are laid out."""
    forth, back = (np.zeros((len(weights), room // 2, 2 * room), np.uint16) for _ in range(2))
    for layer, weight in enumerate(weights):
        _pack(weight.float().contiguous().numpy(), forth[layer], back[layer])
    return forth, back, widths, padded, tiles.CONFIGURATION


def unpack(totals: np.ndarray) -> Tensor:
    """(layers, out, in) of the kernel's sums."""
    return torch.from_numpy(totals)
