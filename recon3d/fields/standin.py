"""Cosine series in plain torch, until their kernel is here."""

from __future__ import annotations

import torch
from torch import Tensor


def chebyshev_angle(x: Tensor) -> Tensor:
    """arccos(tanh x)."""
    return 2 * torch.atan(torch.exp(-x.clamp_min(-80)))


def cosine_series(theta: Tensor, coefficients: Tensor) -> Tensor:
    """The sum over inputs i and k of coefficients[i, o, k] cos(k theta_i): (N, o) of angles (N, i)."""
    order = torch.arange(coefficients.shape[2], dtype=theta.dtype, device=theta.device)
    basis = torch.cos(theta.unsqueeze(-1) * order)
    return basis.flatten(1) @ coefficients.transpose(1, 2).flatten(0, 1)
