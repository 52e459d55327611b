"""Adam over the rows of a table in plain torch: the truth that the fast implementations are tested against.

Source: Kingma and Ba, "Adam" (2015), algorithm 1, with a step count of its own for every row: a row whose gradient is
all 0 is left as it is, and so are its moments and its count. A step of a hash grid touches a small share of its rows;
to move all of them is most of the bytes of a step.

With g = grad / scale, t = steps + 1 and, of a touched row, m and v the moments after the step:
table -= rate * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon). Nothing waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
    """Change ``table``, ``mean``, ``square`` (R, F) and ``steps`` (R,) in place; ``found_inf`` above 0: nothing."""
    touched = (grad != 0).any(dim=1) & (found_inf == 0)
    g = grad / scale
    step = (steps + 1).to(table.dtype).unsqueeze(1)
    m = beta1 * mean + (1 - beta1) * g
    v = beta2 * square + (1 - beta2) * g * g
    change = rate * m / (1 - beta1**step) / ((v / (1 - beta2**step)).sqrt() + epsilon)
    row = touched.unsqueeze(1)
    table.copy_(torch.where(row, table - change, table))
    mean.copy_(torch.where(row, m, mean))
    square.copy_(torch.where(row, v, square))
    steps += touched
