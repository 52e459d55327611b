"""The cosine series in plain torch, a block of rows at a time: for float64, and for devices without an implementation.

It never holds more than ``FEATURES_AT_ONCE`` features. See ``reference.py`` for the conventions.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from recon3d.kernels.cosine_series.reference import features

FEATURES_AT_ONCE = 2**22


def joined(coefficients: Tensor) -> Tensor:
    """(d, width, K) as the matrix (width, d * K)."""
    return coefficients.permute(1, 0, 2).reshape(coefficients.shape[1], -1)


def parted(matrix: Tensor, dim: int) -> Tensor:
    """(width, d * K) as (d, width, K)."""
    return matrix.view(len(matrix), dim, -1).permute(1, 0, 2).contiguous()


def _blocks(theta: Tensor, terms: int) -> Iterator[slice]:
    size = max(64, FEATURES_AT_ONCE // max(1, theta.shape[1] * terms))
    return (slice(begin, begin + size) for begin in range(0, len(theta), size))


def series(theta: Tensor, weight: Tensor | None, coefficients: Tensor, order: int) -> Tensor:
    matrix, terms = joined(coefficients), coefficients.shape[2]
    out = theta.new_empty(len(theta), len(matrix))
    for rows in _blocks(theta, terms):
        part = features(theta[rows], None if weight is None else weight[rows], terms, order)
        out[rows] = part.flatten(1) @ matrix.t()
    return out


def coefficients(theta: Tensor, weight: Tensor | None, grad: Tensor, terms: int, order: int) -> Tensor:
    total = theta.new_zeros(grad.shape[1], theta.shape[1] * terms)
    for rows in _blocks(theta, terms):
        part = features(theta[rows], None if weight is None else weight[rows], terms, order)
        total.addmm_(grad[rows].t(), part.flatten(1))
    return parted(total, theta.shape[1])


def angles(theta: Tensor, coefficients: Tensor, grad: Tensor, order: int) -> Tensor:
    matrix, terms = joined(coefficients), coefficients.shape[2]
    out = torch.empty_like(theta, memory_format=torch.contiguous_format)
    for rows in _blocks(theta, terms):
        part = features(theta[rows], None, terms, order)
        out[rows] = (part * (grad[rows] @ matrix).view(part.shape)).sum(-1)
    return out
