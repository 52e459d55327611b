"""Regular grids of samples on [-1, 1]^d.

Sample i of n along an axis stands for the middle of the i-th of n equal parts: its coordinate is (2 i + 1) / n - 1.
So samples of one signal at two rates lie where they should. Axis j of the grid is coordinate j of the field.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def grid_points(
    grid: tuple[int, ...], index: Int[Tensor, " n"] | None = None, device: torch.device | str = "cpu"
) -> Float[Tensor, "n d"]:
    """Coordinates (N, d) of the samples ``index`` of a ``grid``, counted row by row; of all where it is None."""
    if index is None:
        index = torch.arange(math.prod(grid), device=device)
    axes = []
    for size in reversed(grid):
        # In float64: beyond 2^24 samples float32 cannot tell neighbours apart.
        axes.append(((2 * (index % size) + 1).double() / size - 1).float())
        index = index // size
    return torch.stack(axes[::-1], dim=-1)


def tile_points(
    grid: tuple[int, ...], side: int, count: int, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Int[Tensor, " n"]:
    """Indices of the samples of ``count`` random tiles, ``side`` samples along every axis that has so many."""
    flat = torch.zeros(count, 1, dtype=torch.int64, device=device)
    for size in grid:
        length = min(side, size)
        begin = torch.randint(size - length + 1, (count, 1), generator=generator, device=device)
        along = begin + torch.arange(length, device=device)
        flat = (flat.unsqueeze(-1) * size + along.unsqueeze(1)).flatten(1)
    return flat.flatten()
