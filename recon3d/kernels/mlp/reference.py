"""The small ReLU network without biases in plain torch: the truth that the fast implementations are tested against.

y = W_n relu(W_{n-1} ... relu(W_1 x)); weights are (out, in), products are made in ``compute``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def forward(x: Tensor, weights: list[Tensor], compute: torch.dtype) -> Tensor:
    """Outputs (N, out) of inputs ``x`` (N, in), in the type ``compute``."""
    h = x.to(compute)
    for weight in weights[:-1]:
        h = torch.relu(h @ weight.to(compute).t())
    return h @ weights[-1].to(compute).t()
