"""Ray marching through an occupancy grid, in one go or part by part, as torch ops; see ``reference.py``."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon3d.kernels.marching import cpu, reference
from recon3d.kernels.marching.reference import first_samples, occupied_blocks
from recon3d.kernels.ops import op

__all__ = ["first_samples", "march_ahead", "march_rays", "occupied_blocks"]


@op("recon3d::march_rays")
def _march(
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    occupancy: Tensor,
    jitter: Tensor,
    step: float,
    cone: float,
    capacity: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return reference.march(origins, directions, near, far, occupancy, jitter, step, cone, capacity)


@_march.register_fake
def _(origins, directions, near, far, occupancy, jitter, step, cone, capacity=None):
    samples = torch.library.get_ctx().new_dynamic_size() if capacity is None else capacity
    return (
        near.new_empty(near.shape[0] + 1, dtype=torch.int64),
        near.new_empty(samples, dtype=torch.int32),
        near.new_empty(samples),
        near.new_empty(samples),
    )


@op("recon3d::march_ahead")
def _march_ahead(
    origins: Tensor,
    directions: Tensor,
    start: Tensor,
    far: Tensor,
    occupancy: Tensor,
    blocks: Tensor,
    density: Tensor,
    wanted: Tensor,
    least: int,
    most: int,
    step: float,
    cone: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return reference.march_ahead(
        origins, directions, start, far, occupancy, blocks, density, wanted, least, most, step, cone
    )


@_march_ahead.register_fake
def _(origins, directions, start, far, occupancy, blocks, density, wanted, least, most, step, cone):
    samples = torch.library.get_ctx().new_dynamic_size()
    return (
        start.new_empty(start.shape[0], dtype=torch.int64),
        torch.empty_like(start, memory_format=torch.contiguous_format),
        origins.new_empty(samples, 3),
        far.new_empty(samples),
        far.new_empty(samples),
    )


_march.register_kernel("cpu", cpu.march)
_march_ahead.register_kernel("cpu", cpu.march_ahead)
if torch.cuda.is_available():
    from recon3d.kernels.marching import cuda

    _march.register_kernel("cuda", cuda.march)
    _march_ahead.register_kernel("cuda", cuda.march_ahead)


def march_rays(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    near: Float[Tensor, "n"],
    far: Float[Tensor, "n"],
    occupancy: Bool[Tensor, "r r r"],
    jitter: Float[Tensor, "n"],
    step: float,
    cone: float = 0.0,
    capacity: int | None = None,
) -> tuple[Int[Tensor, "n+1"], Int[Tensor, "m"], Float[Tensor, "m"], Float[Tensor, "m"]]:
    """Samples of N rays in the occupied cells of a grid over [-1, 1]^3, packed ray after ray.

    Args:
        origins, directions: rays in field coordinates, directions of unit length.
        near, far: distances (N,) between which to sample; a ray with near >= far gets nothing.
        occupancy: (R, R, R) cells, indexed [ix, iy, iz].
        jitter: shift (N,) of each ray's samples in units of their spacing, in [0, 1).
        step: smallest spacing, in field units; spacing is ``max(step, cone * t)``.
        capacity: the samples to make room for, so that on a GPU no host waits for their number; None: as many as there
            are. Samples that do not fit are left out, though ``offsets`` counts them; entries behind the last are 0.

    Returns:
        ``offsets`` (N + 1,) int64: ray r owns samples offsets[r] to offsets[r + 1]; ``ray_index`` (M,) int32; the
        distances ``t`` (M,) of the samples and the lengths ``dt`` (M,) that they stand for. None is differentiable.
    """
    return _march(origins, directions, near, far, occupancy, jitter, step, cone, capacity)


def march_ahead(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    start: Float[Tensor, "n"],
    far: Float[Tensor, "n"],
    occupancy: Bool[Tensor, "r r r"],
    blocks: Bool[Tensor, "b b b"],
    density: Float[Tensor, "r r r"],
    wanted: Float[Tensor, "n"],
    least: int,
    most: int,
    step: float,
    cone: float = 0.0,
) -> tuple[Int[Tensor, "n"], Float[Tensor, "n"], Float[Tensor, "m 3"], Float[Tensor, "m"], Float[Tensor, "m"]]:
    """The next samples of N rays, packed ray after ray: of each ray as many as its light should need.

    Args:
        origins, directions, far, occupancy, step, cone: as :func:`march_rays` has them.
        start: where to begin (N,), in units of the local spacing: :func:`first_samples`, later what this returned;
            infinity for a ray of which no more is wanted.
        blocks: :func:`occupied_blocks` of ``occupancy``.
        density: what the cells should hold, per field unit.
        wanted: each ray's samples end when these densities have added up to this optical depth (N,),
        least, most: but there are so many at least, and at most, of those there are.

    Returns:
        ``counts`` (N,) int64, how many each ray has; where to go on (N,), infinity where nothing is left; the
        ``points`` (M, 3), the distances ``t`` (M,) and the lengths ``dt`` (M,) of the samples. Together, the samples
        of all parts are those of :func:`march_rays`. None is differentiable.
    """
    return _march_ahead(origins, directions, start, far, occupancy, blocks, density, wanted, least, most, step, cone)
