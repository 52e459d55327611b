"""Learnable cosine series in plain torch: the truth that the fast implementations are tested against.

y_o = sum_i sum_k a[i, o, k] cos(k theta_i), i over the d inputs and k from 0 to K - 1. With theta = arccos(u) it is the
series of Chebyshev polynomials T_k(u) = cos(k arccos u), the learnable activation of SL2A (Heidari et al., "SL2A-INR:
Single-Layer Learnable Activation for Implicit Neural Representation", 2024).

All derivatives are sums over the same kind of feature, phi_p(k, theta) = k^p cos(k theta + p pi / 2), which is the p-th
derivative of cos(k theta). Three sums are closed under differentiation, so that no derivative needs a graph over
(N, d, K) features:

- ``series``:       y[n, o]    = sum_ik w[n, i] a[i, o, k] phi_p(k, theta[n, i])
- ``coefficients``: r[i, o, k] = sum_n  w[n, i] g[n, o]    phi_p(k, theta[n, i])
- ``angles``:       r[n, i]    = sum_ok a[i, o, k] g[n, o] phi_p(k, theta[n, i])

with optional weights w of the angles. Angles are multiplied by k in float64: in float32, k theta would be wrong by 4e-4
at k = 2048.
"""

from __future__ import annotations

import torch
from torch import Tensor


def features(theta: Tensor, weight: Tensor | None, terms: int, order: int) -> Tensor:
    """w phi_order(k, theta), shape (N, d, K), in the type of ``theta``."""
    k = torch.arange(terms, dtype=torch.float64, device=theta.device)
    angle = theta.double()[..., None] * k + order * (torch.pi / 2)
    phi = (k**order * angle.cos()).to(theta.dtype)
    return phi if weight is None else phi * weight[..., None]


def series(theta: Tensor, weight: Tensor | None, coefficients: Tensor, order: int) -> Tensor:
    """(N, width) from ``theta`` (N, d), weights (N, d) or None, and ``coefficients`` (d, width, K)."""
    return torch.einsum("nik,iok->no", features(theta, weight, coefficients.shape[2], order), coefficients)


def coefficients(theta: Tensor, weight: Tensor | None, grad: Tensor, terms: int, order: int) -> Tensor:
    """(d, width, K) from ``theta`` (N, d), weights (N, d) or None, and ``grad`` (N, width)."""
    return torch.einsum("nik,no->iok", features(theta, weight, terms, order), grad)


def angles(theta: Tensor, coefficients: Tensor, grad: Tensor, order: int) -> Tensor:
    """(N, d) from ``theta`` (N, d), ``coefficients`` (d, width, K) and ``grad`` (N, width)."""
    return torch.einsum("nik,iok,no->ni", features(theta, None, coefficients.shape[2], order), coefficients, grad)
