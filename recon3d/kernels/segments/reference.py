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


def lay(target: Tensor, source: Tensor, starts: Tensor, counts: Tensor) -> None:
    """Copy the rows of ``source``, counts[i] after counts[i], to rows starts[i] and following of ``target``."""
    target.index_copy_(0, expand(starts, counts)[0], source)
