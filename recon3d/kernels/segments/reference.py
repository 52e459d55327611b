"""Segments of packed samples in plain torch: the truth that the fast implementations are tested against.

Samples lie packed ray after ray; a segment is ``count[r]`` of ray r's samples, from its ``first[r]``-th on.
"""

from __future__ import annotations

import torch
from torch import Tensor


def expand(starts: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The integers starts[i], starts[i] + 1, ... (counts[i] of them) for i after i, and the i of each."""
    ends = counts.cumsum(0)
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    shift = (starts - ends + counts).index_select(0, owner)
    return torch.arange(len(owner), device=counts.device) + shift, owner


def take(
    offsets: Tensor, first: Tensor, count: Tensor, origins: Tensor, directions: Tensor, t: Tensor, dt: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ray, point, distance and length of the samples of a segment of each ray, packed."""
    index, ray = expand(offsets[:-1] + first, count)
    t = t.index_select(0, index)
    points = torch.addcmul(origins.index_select(0, ray), directions.index_select(0, ray), t.unsqueeze(1))
    return ray, points, t, dt.index_select(0, index)


def lay(targets: list[Tensor], sources: list[Tensor], starts: Tensor, counts: Tensor, sizes: Tensor) -> None:
    """Copy the first counts[i] of the sizes[i] rows of a segment of each of ``sources`` to rows starts[i] and following
    of the one of ``targets``."""
    rows, places = expand(sizes.cumsum(0) - sizes, counts)[0], expand(starts, counts)[0]
    for target, source in zip(targets, sources, strict=True):
        target.index_copy_(0, places, source.index_select(0, rows))


def darken(optical_depth: Tensor, losses: Tensor, counts: Tensor, darkness: float) -> Tensor:
    """Add each segment's ``losses`` to its ray's ``optical_depth``, in place, until that is ``darkness``; returns how
    many of them were added."""
    _, ray = expand(torch.zeros_like(counts), counts)
    # More than dark is as good as dark, and keeps other rays' sums exact. What is not a number is dark.
    losses = losses.double().nan_to_num(nan=torch.inf).clamp_max(2 * darkness)
    total = torch.nn.functional.pad(losses.cumsum(0), (1, 0))
    starts = counts.cumsum(0) - counts
    before = (optical_depth.double() - total[starts]).index_select(0, ray) + total[:-1]
    lit = before < darkness
    optical_depth.index_add_(0, ray, torch.where(lit, losses, 0.0).to(optical_depth.dtype))
    return torch.zeros_like(counts).index_add_(0, ray, lit.to(counts.dtype))


def foresee(
    offsets: Tensor,
    first: Tensor,
    origins: Tensor,
    directions: Tensor,
    t: Tensor,
    dt: Tensor,
    density: Tensor,
    wanted: Tensor,
) -> Tensor:
    """How many of each ray's samples, from its first-th on, it takes until the ``density`` of the cells that they lie
    in adds up to the optical depth ``wanted``; all of them where it never does."""
    count = offsets[1:] - offsets[:-1] - first
    ray, points, _, dt = take(offsets, first, count, origins, directions, t, dt)
    cells = density.shape[0]
    x, y, z = ((points + 1) * (0.5 * cells)).long().clamp(0, cells - 1).unbind(-1)
    total = torch.nn.functional.pad((density[x, y, z] * dt).double().cumsum(0), (1, 0))
    starts = count.cumsum(0) - count
    short = total[:-1] - total[starts].index_select(0, ray) < wanted.index_select(0, ray)
    return torch.zeros_like(count).index_add_(0, ray, short.to(count.dtype))
