"""Segments of packed samples, taken out and put in their place, as torch ops; see ``reference.py``."""

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


@torch.library.custom_op("recon3d::lay_segments", mutates_args=("target",))
def _lay(target: Tensor, source: Tensor, starts: Tensor, counts: Tensor) -> None:
    reference.lay(target, source, starts, counts)


@_lay.register_fake
def _(target, source, starts, counts):
    return None


_take.register_kernel("cpu")(cpu.take)
_lay.register_kernel("cpu")(cpu.lay)


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
    target: Shaped[Tensor, "m *row"],
    source: Shaped[Tensor, "k *row"],
    starts: Int[Tensor, "n"],
    counts: Int[Tensor, "n"],
) -> None:
    """Copy the rows of ``source``, counts[i] after counts[i], to rows starts[i] and following of ``target``, in place;
    ``target`` is contiguous. Not differentiable.
    """
    _lay(target, source, starts, counts)
