"""Segments of packed samples, taken out, used up and put in their place, as torch ops; see ``reference.py``."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from recon3d.kernels.segments import cpu, reference


@torch.library.custom_op("recon3d::take_segments", mutates_args=())
def _take(
    offsets: Tensor, first: Tensor, count: Tensor, origins: Tensor, directions: Tensor, t: Tensor, dt: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return reference.take(offsets, first, count, origins, directions, t, dt)


@_take.register_fake
def _(offsets, first, count, origins, directions, t, dt):
    size = torch.library.get_ctx().new_dynamic_size()
    return (
        offsets.new_empty(size, dtype=torch.int64),
        origins.new_empty(size, 3),
        t.new_empty(size),
        dt.new_empty(size),
    )


@torch.library.custom_op("recon3d::lay_segments", mutates_args=("targets",))
def _lay(targets: list[Tensor], sources: list[Tensor], starts: Tensor, counts: Tensor, sizes: Tensor) -> None:
    reference.lay(targets, sources, starts, counts, sizes)


@_lay.register_fake
def _(targets, sources, starts, counts, sizes):
    return None


@torch.library.custom_op("recon3d::darken_segments", mutates_args=("optical_depth",))
def _darken(optical_depth: Tensor, losses: Tensor, counts: Tensor, darkness: float) -> Tensor:
    return reference.darken(optical_depth, losses, counts, darkness)


@_darken.register_fake
def _(optical_depth, losses, counts, darkness):
    return torch.empty_like(counts, memory_format=torch.contiguous_format)


@torch.library.custom_op("recon3d::foresee_segments", mutates_args=())
def _foresee(
    offsets: Tensor,
    first: Tensor,
    origins: Tensor,
    directions: Tensor,
    t: Tensor,
    dt: Tensor,
    density: Tensor,
    wanted: Tensor,
) -> Tensor:
    return reference.foresee(offsets, first, origins, directions, t, dt, density, wanted)


@_foresee.register_fake
def _(offsets, first, origins, directions, t, dt, density, wanted):
    return torch.empty_like(first, memory_format=torch.contiguous_format)


_take.register_kernel("cpu")(cpu.take)
_lay.register_kernel("cpu")(cpu.lay)
_darken.register_kernel("cpu")(cpu.darken)
_foresee.register_kernel("cpu")(cpu.foresee)


def take_segments(
    offsets: Int[Tensor, "starts"],
    first: Int[Tensor, "n"],
    count: Int[Tensor, "n"],
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    t: Float[Tensor, "m"],
    dt: Float[Tensor, "m"],
) -> tuple[Int[Tensor, "k"], Float[Tensor, "k 3"], Float[Tensor, "k"], Float[Tensor, "k"]]:
    """Of each of N rays ``count`` of its packed samples from the ``first``-th on, ray after ray: the ray (int64), the
    point, ``t`` and ``dt``. Ray r owns samples offsets[r] to offsets[r + 1]. None is differentiable."""
    return _take(offsets, first, count, origins, directions, t, dt)


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


def foresee_segments(
    offsets: Int[Tensor, "starts"],
    first: Int[Tensor, "n"],
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    t: Float[Tensor, "m"],
    dt: Float[Tensor, "m"],
    density: Float[Tensor, "r r r"],
    wanted: Float[Tensor, "n"],
) -> Int[Tensor, "n"]:
    """How many of each of N rays' packed samples, from its ``first``-th on, it takes until their optical depth is
    ``wanted``, if every cell of [-1, 1]^3 has its ``density`` throughout; all that are left where it never is. Not
    differentiable."""
    return _foresee(offsets, first, origins, directions, t, dt, density, wanted)
