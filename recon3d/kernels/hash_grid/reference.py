"""Multiresolution hash grid in plain torch: the truth that the fast implementations are tested against.

Source: Müller et al., "Instant Neural Graphics Primitives with a Multiresolution Hash Encoding" (2022), section 3, in
the exact layout of its public implementation, so that tables can be interchanged.

Symbols: a point x in [0, 1]^d is scaled on level l to p = x * scale_l + 1/2; the cell is floor(p), the weights of its
2^d corners are the d-linear ones of p - floor(p). A corner's row of the table is, modulo the level's size,

- dense levels (resolution_l^d rows fit): sum_i corner_i * resolution_l^i
- hashed levels: xor_i corner_i * prime_i in 32-bit arithmetic.

Everything here is differentiable, twice, by autograd.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

PRIMES = (1, 2654435761, 805459861, 3674653429)


def corner_rows(corner: Tensor, resolution: int, size: int) -> Tensor:
    """Rows (N,) within a level of ``size`` rows, of integer corners (N, d)."""
    dim = corner.shape[1]
    if resolution**dim <= size:
        rows = sum(corner[:, i] * resolution**i for i in range(dim))
    else:
        rows = torch.zeros_like(corner[:, 0])
        for i in range(dim):
            rows = rows ^ ((corner[:, i] * PRIMES[i]) & 0xFFFFFFFF)
    return rows % size


def encode(x: Tensor, table: Tensor, scales: list[float], resolutions: list[int], offsets: list[int]) -> Tensor:
    """Features (N, L * F) of points ``x`` (N, d); points outside [0, 1]^d are moved to its border.

    ``table`` is (rows, F); level l owns rows offsets[l] to offsets[l + 1].
    """
    x = x.clamp(0, 1)
    dim = x.shape[1]
    levels = []
    for scale, resolution, start, end in zip(scales, resolutions, offsets[:-1], offsets[1:], strict=True):
        position = x * scale + 0.5
        cell = position.detach().floor()
        fraction = position - cell
        total = x.new_zeros(())
        for bits in itertools.product((0, 1), repeat=dim):
            corner = cell.long() + torch.tensor(bits, device=x.device)
            weight = torch.stack([fraction[:, i] if b else 1 - fraction[:, i] for i, b in enumerate(bits)]).prod(dim=0)
            total = total + weight.unsqueeze(-1) * table[start + corner_rows(corner, resolution, end - start)]
        levels.append(total)
    return torch.cat(levels, dim=-1)
