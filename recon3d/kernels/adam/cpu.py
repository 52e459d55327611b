"""Adam over the touched rows of a table in numba, a span of rows a task; see ``reference.py`` for the conventions.

In blocks: touched rows are found, copied to where they are neighbours, moved in plain loops that the compiler turns
into vector instructions, and copied back. Of other rows nothing but the gradient is read.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from torch import Tensor

from recon3d.kernels.threads import kernel_threads, run_parallel, spans

BLOCK = 256
CHUNKS_PER_THREAD = 4


@functools.lru_cache(maxsize=16)
def _corrections(beta: float, number: Any) -> np.ndarray:
    """1 / (1 - beta^k) for k = 0, 1, ... as far as it differs from 1; for k = 0, which no row that moves has, 1."""
    smallest = float(np.finfo(number).eps) / 4
    count = 2 if beta == 0 else 2 + math.ceil(math.log(smallest) / math.log(beta))
    values = 1 - beta ** np.arange(count, dtype=np.float64)
    values[0], values[-1] = 1, 1
    return (1 / values).astype(number)


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _move(table, grad, mean, square, size, spread, share1, share2, epsilon, unscale, least):
    """Adam's step for every number of flat arrays. Each loop writes to one array: the compiler has to check that those
    it reads are others, and gives up where there are many."""
    for i in range(len(table)):
        mean[i] += share1 * (grad[i] * unscale - mean[i])
    for i in range(len(table)):
        g = grad[i] * unscale
        square[i] += share2 * (g * g - square[i])
    for i in range(len(table)):
        table[i] -= size[i] * mean[i] / max(np.sqrt(square[i] * spread[i]) + epsilon, least)


@functools.cache
def _kernel(features: int) -> Callable[..., None]:
    """The step for tables of so many features a row: loops over them are spelt out by the compiler."""

    @njit(nogil=True, cache=True, error_model="numpy")
    def _adam_rows(
        first,
        last,
        table,
        grad,
        mean,
        square,
        steps,
        rate,
        beta1,
        beta2,
        epsilon,
        scale,
        correction1,
        correction2,
        least,
    ):
        zero, one = table.dtype.type(0), table.dtype.type(1)
        top1, top2 = np.uint32(len(correction1) - 1), np.uint32(len(correction2) - 1)
        index = np.empty(BLOCK + 1, np.uint32)
        t, g, m = (
            np.empty((BLOCK, features), table.dtype),
            np.empty((BLOCK, features), table.dtype),
            np.empty((BLOCK, features), table.dtype),
        )
        v, size, spread = (
            np.empty((BLOCK, features), table.dtype),
            np.empty((BLOCK, features), table.dtype),
            np.empty((BLOCK, features), table.dtype),
        )
        for begin in range(first, last, BLOCK):
            count = 0
            for row in range(begin, min(begin + BLOCK, last)):
                index[count] = row
                found = False
                for f in range(features):
                    found |= grad[row, f] != zero
                count += found
            if count == 0:
                continue
            for i in range(count):
                row = index[i]
                steps[row] += one
                k = np.uint32(steps[row])
                for f in range(features):
                    t[i, f], g[i, f], m[i, f], v[i, f] = table[row, f], grad[row, f], mean[row, f], square[row, f]
                    size[i, f], spread[i, f] = rate * correction1[min(k, top1)], correction2[min(k, top2)]
            n = count * features
            _move(
                t.reshape(-1)[:n],
                g.reshape(-1)[:n],
                m.reshape(-1)[:n],
                v.reshape(-1)[:n],
                size.reshape(-1)[:n],
                spread.reshape(-1)[:n],
                one - beta1,
                one - beta2,
                epsilon,
                one / scale,
                least,
            )
            for i in range(count):
                row = index[i]
                for f in range(features):
                    table[row, f], mean[row, f], square[row, f] = t[i, f], m[i, f], v[i, f]

    return _adam_rows


def adam_rows(
    table: Tensor,
    grad: Tensor,
    mean: Tensor,
    square: Tensor,
    steps: Tensor,
    rate: Tensor,
    beta1: float,
    beta2: float,
    epsilon: float,
    scale: Tensor,
    found_inf: Tensor,
) -> None:
    if float(found_inf) > 0:
        return
    arrays = [v.detach().numpy() for v in (table, grad.contiguous(), mean, square, steps)]
    number: Any = arrays[0].dtype.type
    settings = [number(v) for v in (float(rate), beta1, beta2, epsilon, float(scale))]
    settings += [_corrections(beta1, number), _corrections(beta2, number), np.finfo(number).tiny]
    parts = spans(len(table), CHUNKS_PER_THREAD * kernel_threads())
    run_parallel(_kernel(table.shape[1]), [(a, b, *arrays, *settings) for a, b in parts])
