"""Segments of packed samples, used up and put in their place, as torch ops; see ``reference.py``."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from recon3d.kernels.ops import op
from recon3d.kernels.segments import cpu, reference


@op("recon3d::lay_segments", mutates_args=("targets",))
def _lay(targets: list[Tensor], sources: list[Tensor], starts: Tensor, counts: Tensor, sizes: Tensor) -> None:
    reference.lay(targets, sources, starts, counts, sizes)


@_lay.register_fake
def _(targets, sources, starts, counts, sizes):
    return None


@op("recon3d::darken_segments", mutates_args=("optical_depth",))
def _darken(optical_depth: Tensor, losses: Tensor, counts: Tensor, darkness: float) -> Tensor:
    return reference.darken(optical_depth, losses, counts, darkness)


@_darken.register_fake
def _(optical_depth, losses, counts, darkness):
    return torch.empty_like(counts, memory_format=torch.contiguous_format)


_lay.register_kernel("cpu", cpu.lay)
_darken.register_kernel("cpu", cpu.darken)


def lay_segments(
    targets: list[Shaped[Tensor, "m *_"]],
    sources: list[Shaped[Tensor, "k *_"]],
    starts: Int[Tensor, "n"],
    counts: Int[Tensor, "n"],
    sizes: Int[Tensor, "n"],
) -> None:
    """Copy rows of each of ``sources`` into the one of ``targets``, in place: segment i has the next sizes[i] of its
    rows, the first counts[i] of which go to rows starts[i] and following. Targets are contiguous. Not differentiable.
    """
    _lay(targets, sources, starts, counts, sizes)


def darken_segments(
    optical_depth: Float[Tensor, "n"], losses: Float[Tensor, "k"], counts: Int[Tensor, "n"], darkness: float
) -> Int[Tensor, "n"]:
    """Add to each ray's ``optical_depth``, in place, the ``losses`` of its samples, packed counts[i] after counts[i],
    until that is ``darkness`` or no number; returns how many samples of each ray that took. Not differentiable.
    """
    return _darken(optical_depth, losses, counts, darkness)
