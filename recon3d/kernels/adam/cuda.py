"""Adam over the touched rows of a table in Triton; see ``reference.py`` for the conventions.

One lane per row. Of a row that is not touched nothing but the gradient is read, and nothing is written.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 256


@triton.jit(do_not_specialize=["rows"])
def _adam_rows(
    table_ptr,
    grad_ptr,
    mean_ptr,
    square_ptr,
    steps_ptr,
    rate_ptr,
    scale_ptr,
    found_inf_ptr,
    rows,
    BETA1: tl.constexpr,
    BETA2: tl.constexpr,
    LOG2_BETA1: tl.constexpr,
    LOG2_BETA2: tl.constexpr,
    EPSILON: tl.constexpr,
    FEATURES: tl.constexpr,
    N: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    at = row[:, None] * FEATURES + tl.arange(0, FEATURES)[None, :]
    grad = tl.load(grad_ptr + at, mask=(row < rows)[:, None], other=0.0)
    finite = tl.where(tl.load(found_inf_ptr) > 0, 0, 1)
    touched = tl.max((grad != 0).to(tl.int32), axis=1) * finite > 0
    moved = touched[:, None]
    rate = tl.load(rate_ptr)
    grad = grad / tl.load(scale_ptr)
    step = tl.load(steps_ptr + row, mask=touched, other=0.0) + 1
    mean = tl.load(mean_ptr + at, mask=moved, other=0.0)
    square = tl.load(square_ptr + at, mask=moved, other=0.0)
    value = tl.load(table_ptr + at, mask=moved, other=0.0)
    mean = BETA1 * mean + (1 - BETA1) * grad
    square = BETA2 * square + (1 - BETA2) * grad * grad
    left1 = 1 - tl.exp2(step * LOG2_BETA1)
    left2 = 1 - tl.exp2(step * LOG2_BETA2)
    change = rate * mean / left1[:, None] / (tl.sqrt(square / left2[:, None]) + EPSILON)
    tl.store(table_ptr + at, value - change, mask=moved)
    tl.store(mean_ptr + at, mean, mask=moved)
    tl.store(square_ptr + at, square, mask=moved)
    tl.store(steps_ptr + row, step, mask=touched)


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
    rows, features = table.shape
    with torch.cuda.device_of(table):
        _adam_rows[(triton.cdiv(rows, BLOCK),)](
            table,
            grad.contiguous(),
            mean,
            square,
            steps,
            rate,
            scale,
            found_inf,
            rows,
            BETA1=beta1,
            BETA2=beta2,
            LOG2_BETA1=math.log2(beta1) if beta1 else -math.inf,
            LOG2_BETA2=math.log2(beta2) if beta2 else -math.inf,
            EPSILON=epsilon,
            FEATURES=features,
            N=BLOCK,
            num_warps=BLOCK // 64,
        )
