"""Adam over the touched rows of a table in numba, a span of rows a task; see ``reference.py`` for the conventions."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recon3d.kernels.threads import run_parallel, spans

CHUNKS_PER_THREAD = 4


@njit(nogil=True, cache=True, error_model="numpy")
def _adam_rows(first, last, table, grad, mean, square, steps, rate, beta1, beta2, epsilon, scale):
    one = table.dtype.type(1)
    for row in range(first, last):
        touched = False
        for f in range(table.shape[1]):
            if grad[row, f] != 0:
                touched = True
        if touched:
            steps[row] += one
            left1, left2 = one - beta1 ** steps[row], one - beta2 ** steps[row]
            for f in range(table.shape[1]):
                g = grad[row, f] / scale
                m = beta1 * mean[row, f] + (one - beta1) * g
                v = beta2 * square[row, f] + (one - beta2) * g * g
                mean[row, f], square[row, f] = m, v
                table[row, f] -= rate * m / left1 / (np.sqrt(v / left2) + epsilon)


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
    number = arrays[0].dtype.type
    settings = [number(v) for v in (float(rate), beta1, beta2, epsilon, float(scale))]
    parts = spans(len(table), CHUNKS_PER_THREAD * torch.get_num_threads())
    run_parallel(_adam_rows, [(a, b, *arrays, *settings) for a, b in parts])
