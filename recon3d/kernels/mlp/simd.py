"""The small ReLU network in vectors (``strips.py``), for CPUs without matrix tiles and for float32 on all.

A strip of rows goes through all layers before the next one starts, and back: what is between the layers stays in the
first-level cache. Gradients of weights are sums over rows: their two factors are kept for a block of ``STRIPS`` strips,
in the second-level cache. All widths are padded with zeros to a multiple of ``UNITS``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from torch import Tensor

from recon3d.kernels.mlp.strips import (
    LANES,
    LEFT,
    PAIRS,
    RIGHT,
    ROWS,
    UNITS,
    blank,
    keep,
    outer,
    product,
    turn,
    turn_back,
)
from recon3d.kernels.vectors import aligned

STRIPS = 16
BLOCK = STRIPS * ROWS
PAD, ROOM = UNITS, LANES


@njit(nogil=True, cache=True, inline="always")
def rounded(value):
    """The bits of a float32 as the nearest bfloat16, ties to even. NaN stays NaN where its upper bits say so."""
    bits = np.float32(value).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


def factor(kept: Any, pairs: Any) -> Any:
    """In numba: of what :func:`strips.keep` has stored, what :func:`strips.product` takes."""


@overload(factor, inline="always")
def _factor(kept, pairs):
    if isinstance(kept.dtype, types.Float):
        return lambda kept, pairs: kept
    return lambda kept, pairs: pairs


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _fill(source, begin, count, width, values):
    """A strip of ``count`` rows from ``begin`` on; what is behind them, and behind ``width``, is 0."""
    for at in range(0, ROWS, LANES):
        for column in range(0, width, LANES):
            turn(source, begin + at, column, count - at, width - column, values, at)


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _write(values, count, width, target, begin):
    for at in range(0, ROWS, LANES):
        for column in range(0, width, LANES):
            turn_back(values, at, column, target, begin + at, count - at, width - column)


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _layer(packed, source, inner, units, sums):
    for first in range(0, units, UNITS):
        product(packed, first, source, inner, sums)


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _hidden(sums, weights, padded, numbers, strip, inputs, pairs):
    """Keep the inputs of all layers of a strip, the first in ``sums``."""
    layers = len(padded) - 1
    keep(sums, padded[0], -np.inf, inputs[0, strip], pairs)
    for layer in range(layers - 1):
        _layer(weights[layer], factor(inputs[layer, strip], pairs), padded[layer] // numbers, padded[layer + 1], sums)
        keep(sums, padded[layer + 1], 0.0, inputs[layer + 1, strip], pairs)


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _sizes(weights):
    """Units that there is room for, and how many numbers a word of packed weights has."""
    room = weights.shape[1] * UNITS
    return room, room // weights.shape[2]


@njit(nogil=True, cache=True, error_model="numpy")
def _rooms(layers, strips, units, bits):
    """For what is kept of all layers, for sums, and for pairs. Strips lie a row further apart than they must, so that
    they do not share places in the cache."""
    kept = aligned(layers * strips * (units + 1) * ROWS, bits).reshape(layers, strips, units + 1, ROWS)
    sums = aligned(units * ROWS, np.float32).reshape(units, ROWS)
    return kept, sums, aligned(units * ROWS, np.uint32).reshape(units, ROWS)


@njit(nogil=True, cache=True, error_model="numpy")
def forward(first, last, x, weights, back, widths, padded, bits, out):
    """Outputs of the rows from ``first`` to ``last`` into ``out``."""
    last_layer, (room, numbers) = len(widths) - 2, _sizes(weights)
    inputs, sums, pairs = _rooms(last_layer + 1, 1, room, bits)
    for begin in range(first, last, ROWS):
        count = min(ROWS, last - begin)
        _fill(x, begin, count, widths[0], sums)
        _hidden(sums, weights, padded, numbers, 0, inputs, pairs)
        source = factor(inputs[last_layer, 0], pairs)
        _layer(weights[last_layer], source, padded[last_layer] // numbers, padded[last_layer + 1], sums)
        _write(sums, count, widths[last_layer + 1], out, begin)


@njit(nogil=True, cache=True, error_model="numpy")
def backward(first, last, grad, x, weights, back, widths, padded, bits, need_x, grad_x):
    """Gradients of the weights, (layers, tiles, LEFT, RIGHT); those of x into ``grad_x``."""
    layers, (room, numbers) = len(widths) - 1, _sizes(weights)
    across = room // RIGHT
    inputs, sums, pairs = _rooms(layers, STRIPS, room, bits)
    grads, _, _ = _rooms(layers, STRIPS, room, bits)
    totals = np.zeros((layers, room // LEFT * across, LEFT, RIGHT), np.float32)
    for block in range(first, last, BLOCK):
        strips = min(STRIPS, (last - block + ROWS - 1) // ROWS)
        for strip in range(strips):
            begin = block + strip * ROWS
            count = min(ROWS, last - begin)
            _fill(x, begin, count, widths[0], sums)
            _hidden(sums, weights, padded, numbers, strip, inputs, pairs)
            _fill(grad, begin, count, widths[layers], sums)
            for layer in range(layers - 1, -1, -1):
                keep(sums, padded[layer + 1], -np.inf, grads[layer, strip], pairs)
                if layer > 0 or need_x:
                    source = factor(grads[layer, strip], pairs)
                    _layer(back[layer], source, padded[layer + 1] // numbers, padded[layer], sums)
                if layer > 0:
                    blank(sums, padded[layer], inputs[layer, strip])
            if need_x:
                _write(sums, count, widths[0], grad_x, begin)
        for layer in range(layers):
            left, right, total = grads[layer], inputs[layer], totals[layer]
            for i in range(0, padded[layer + 1], LEFT):
                for j in range(0, padded[layer], RIGHT):
                    outer(left, i, right, j, strips, total, i // LEFT * across + j // RIGHT)
    return totals


def set_factor(packed: Any, unit: Any, k: Any, value: Any) -> None:
    """In numba: set what is multiplied by the k-th number of an inner dimension, for one unit, in what
    :func:`strips.product` takes (and has zeros there)."""


@overload(set_factor, inline="always")
def _set_factor(packed, unit, k, value):
    if isinstance(packed.dtype, types.Float):

        def single(packed, unit, k, value):
            packed[unit // UNITS, k, unit % UNITS] = value

        return single

    def half(packed, unit, k, value):
        packed[unit // UNITS, k // 2, unit % UNITS] |= np.uint32(rounded(value)) << np.uint32(16 * (k % 2))

    return half


@njit(nogil=True, cache=True, error_model="numpy")
def _pack(weight, forth, back):
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            set_factor(forth, i, j, weight[i, j])
            set_factor(back, j, i, weight[i, j])


def pack(
    weights: list[Tensor], room: int, widths: np.ndarray, padded: np.ndarray, compute: torch.dtype
) -> tuple[Any, ...]:
    """What kernels must know of weights (out, in): as products take them, forward and back (layers, groups, inner,
    UNITS), with zeros up to ``room`` units; widths, padded widths, and the type of what is kept."""
    half = compute == torch.bfloat16 and PAIRS
    shape = len(weights), room // UNITS, room // (2 if half else 1), UNITS
    forth, back = (np.zeros(shape, np.uint32 if half else np.float32) for _ in range(2))
    for layer, weight in enumerate(weights):
        _pack(weight.float().contiguous().numpy(), forth[layer], back[layer])
    return forth, back, widths, padded, np.dtype(np.uint16 if half else np.float32)


def unpack(totals: np.ndarray) -> Tensor:
    """(layers, out, in) of the sums of tiles."""
    room = int((totals.shape[1] * LEFT * RIGHT) ** 0.5)
    tiled = torch.from_numpy(totals).view(len(totals), room // LEFT, room // RIGHT, LEFT, RIGHT)
    return tiled.transpose(2, 3).reshape(len(totals), room, room)
