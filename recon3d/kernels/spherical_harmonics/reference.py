"""Real spherical harmonics in plain torch: the truth for other implementations.

Of a unit direction (x, y, z), the polynomials of bands 0 to 3 in the usual order, band l from -l to l, with Condon
and Shortley's signs, as Müller et al., "Instant Neural Graphics Primitives" (2022), and its public implementation have
them. They are orthonormal over the sphere. Slopes are those of the polynomials as they are written
here, in all of space.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T", float, Tensor)
HIGHEST_DEGREE = 4
# What makes the square of each polynomial of the bands s, p, d and f integrate to 1.
S0 = math.sqrt(1 / (4 * math.pi))
P0 = math.sqrt(3 / (4 * math.pi))
D0, D1, D2 = math.sqrt(5 / (16 * math.pi)), math.sqrt(15 / (4 * math.pi)), math.sqrt(15 / (16 * math.pi))
F0, F1, F2 = math.sqrt(7 / (16 * math.pi)), math.sqrt(21 / (32 * math.pi)), math.sqrt(105 / (16 * math.pi))
F3, F4 = math.sqrt(35 / (32 * math.pi)), math.sqrt(105 / (4 * math.pi))


def _wide(directions: Tensor) -> tuple[Tensor, ...]:
    return directions.to(torch.promote_types(directions.dtype, torch.float32)).unbind(-1)


def polynomials(x: T, y: T, z: T) -> tuple[T, ...]:
    """All 16 of them, of anything that can be added and multiplied."""
    return (
        S0 + 0 * x,
        -P0 * y,
        P0 * z,
        -P0 * x,
        D1 * x * y,
        -D1 * y * z,
        D0 * (3 * z * z - 1),
        -D1 * x * z,
        D2 * (x * x - y * y),
        F3 * y * (y * y - 3 * x * x),
        F4 * x * y * z,
        F1 * y * (1 - 5 * z * z),
        F0 * z * (5 * z * z - 3),
        F1 * x * (1 - 5 * z * z),
        F2 * z * (x * x - y * y),
        F3 * x * (3 * y * y - x * x),
    )


def values(directions: Tensor, degree: int) -> Tensor:
    """The bands below ``degree`` (1 to 4) of directions (N, 3): (N, degree^2). Differentiable, twice, by autograd.

    Half-precision directions are computed in float32.
    """
    return torch.stack(polynomials(*_wide(directions))[: degree**2], dim=-1).to(directions.dtype)


def backward(grad: Tensor, directions: Tensor, degree: int) -> Tensor:
    """The gradient (N, 3) of the directions where ``grad`` (N, degree^2) is that of :func:`values`."""
    x, y, z = _wide(directions)
    g = grad.to(x.dtype).unbind(-1)
    dx, dy, dz = 0 * x, 0 * y, 0 * z
    if degree > 1:
        dx, dy, dz = dx - P0 * g[3], dy - P0 * g[1], dz + P0 * g[2]
    if degree > 2:
        dx = dx + D1 * (y * g[4] - z * g[7]) + 2 * D2 * x * g[8]
        dy = dy + D1 * (x * g[4] - z * g[5]) - 2 * D2 * y * g[8]
        dz = dz - D1 * (y * g[5] + x * g[7]) + 6 * D0 * z * g[6]
    if degree > 3:
        ring, slope, twist = 3 * F3 * (y * y - x * x), F1 * (1 - 5 * z * z), 6 * F3 * x * y
        dx = dx - twist * g[9] + F4 * y * z * g[10] + slope * g[13] + 2 * F2 * x * z * g[14] + ring * g[15]
        dy = dy + ring * g[9] + F4 * x * z * g[10] + slope * g[11] - 2 * F2 * y * z * g[14] + twist * g[15]
        dz = dz + F4 * x * y * g[10] - 10 * F1 * z * (y * g[11] + x * g[13])
        dz = dz + F0 * (15 * z * z - 3) * g[12] + F2 * (x * x - y * y) * g[14]
    return torch.stack([dx, dy, dz], dim=-1).to(directions.dtype)
