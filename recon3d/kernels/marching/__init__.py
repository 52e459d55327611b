"""Ray marching through an occupancy grid as one torch op; see ``reference.py`` for the conventions."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon3d.kernels.marching import cpu, reference


@torch.library.custom_op("recon3d::march_rays", mutates_args=())
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


_march.register_kernel("cpu")(cpu.march)
if torch.cuda.is_available():
    from recon3d.kernels.marching import cuda

    _march.register_kernel("cuda")(cuda.march)


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
