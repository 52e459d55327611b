"""Segments of packed samples in plain torch: the truth that the fast implementations are tested against.

Samples lie packed ray after ray; a segment is those of one ray.
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
