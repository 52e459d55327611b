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


def encode_backward(
    grad: Tensor,
    x: Tensor,
    table: Tensor,
    scales: list[float],
    resolutions: list[int],
    offsets: list[int],
    need_table: bool,
    need_x: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of the table and of x for the features' gradient (N, L * F); the one not needed comes back empty."""
    grad_table = torch.zeros_like(table) if need_table else table.new_empty(0)
    grad_x = torch.zeros_like(x) if need_x else x.new_empty(0)
    dim, features = x.shape[1], table.shape[1]
    inside = (x >= 0) & (x <= 1)
    for level, (scale, resolution) in enumerate(zip(scales, resolutions, strict=True)):
        start, end = offsets[level], offsets[level + 1]
        position = x.clamp(0, 1) * scale + 0.5
        fraction = position - position.floor()
        g = grad[:, level * features : (level + 1) * features]
        for bits in itertools.product((0, 1), repeat=dim):
            rows = start + corner_rows(position.long() + torch.tensor(bits, device=x.device), resolution, end - start)
            sides = [fraction[:, i] if b else 1 - fraction[:, i] for i, b in enumerate(bits)]
            if need_table:
                grad_table.index_add_(0, rows, (torch.stack(sides).prod(dim=0)[:, None] * g).to(table.dtype))
            if need_x:
                value = (table[rows].to(x.dtype) * g).sum(dim=-1) * scale
                for i, b in enumerate(bits):
                    others = [side for j, side in enumerate(sides) if j != i]
                    weight = torch.stack(others).prod(dim=0) if others else 1.0
                    grad_x[:, i] += (value if b else -value) * weight * inside[:, i]
    return grad_table, grad_x


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
