"""Volume rendering in buffers of a fixed size: for devices that would otherwise wait for the host to learn sizes.

The samples of all rays are found and looked at in one go, and those that light reaches are moved to the front of a
buffer; both numbers stay on the device. Rays of which some samples do not fit are told, and left out of the loss. On a
GPU every step is then the same sequence of operations, which can be recorded once and repeated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from recon3d.geometry.boxes import intersect_unit_cube
from recon3d.geometry.cameras import Rays
from recon3d.heads.volume import GeometryLike, RadianceLike, Rendering, Seen, VolumeRenderer
from recon3d.kernels import march_rays

MARGIN = 1e-3
"""Optical depth by which more is kept than compositing counts: it sums in another order, and has the last word."""


@dataclass(frozen=True)
class Capacity:
    """Samples that there is room for: in the occupied cells along all rays, and of those that light reaches."""

    marched: int
    lit: int


@dataclass(frozen=True)
class FixedRendering:
    """What N rays show, as far as there is room; ``whole`` tells those of which nothing is missing. ``marched`` and
    ``lit`` are the samples there were, fitting or not."""

    rendering: Rendering
    whole: Bool[Tensor, "n"]
    marched: Int[Tensor, ""]
    lit: Int[Tensor, ""]


def render_within(
    head: VolumeRenderer,
    field: RadianceLike,
    rays: Rays,
    wanted: Bool[Tensor, "n"],
    jitter: Float[Tensor, "n"],
    capacity: Capacity,
) -> FixedRendering:
    """Render the ``wanted`` ones of N rays, with gradients; no host waits for anything. The others show nothing."""
    near, far = intersect_unit_cube(rays)
    far = torch.where(wanted, far, near)
    grid = head.grid
    offsets, ray, t, dt = march_rays(
        rays.origins, rays.directions, near, far, grid.occupied, jitter, grid.step, head.config.cone, capacity.marched
    )
    seen, ends = _lit(head, field, rays, offsets, ray.long(), t, dt, capacity)
    whole = wanted & (offsets[1:] <= capacity.marched) & (ends[1:] <= capacity.lit)
    return FixedRendering(head.colors(field, rays, seen), whole, offsets[-1], ends[-1])


@torch.no_grad()
def _lit(
    head: VolumeRenderer,
    field: GeometryLike,
    rays: Rays,
    offsets: Int[Tensor, "starts"],
    ray: Int[Tensor, "m"],
    t: Float[Tensor, "m"],
    dt: Float[Tensor, "m"],
    capacity: Capacity,
) -> tuple[Seen, Int[Tensor, "starts"]]:
    """Those of M samples that light reaches, in a buffer, and where each ray's would begin if all of them fitted."""
    places = torch.arange(capacity.marched, device=t.device)
    points = torch.addcmul(rays.origins[ray], rays.directions[ray], t.unsqueeze(1))
    encoded = field.encode(points)
    values, features = field.geometry(points, encoded)
    starts = offsets.clamp_max(capacity.marched)
    darkness = -math.log(head.config.early_stop) + MARGIN
    # More than dark is as good as dark, and keeps other rays' sums exact. What is not a number is left to the loss.
    tau = (values * dt).double().nan_to_num(nan=0.0).clamp(max=2 * darkness)
    total = F.pad(tau.cumsum(0), (1, 0))
    in_front = total[:-1] - total[starts[:-1]][ray]
    lit = (places < starts[-1]) & (in_front <= darkness)
    before = F.pad(lit.cumsum(0), (1, 0))
    # What does not fit goes behind the end; where fewer are lit, entries point to sample 0, which no ray counts there.
    slot = torch.where(lit, before[:-1], capacity.lit).clamp_max(capacity.lit)
    index = places.new_zeros(capacity.lit + 1).scatter_(0, slot, places)[:-1]
    ends = before[starts]
    kept = (v[index] for v in (encoded, values, features))
    return Seen(ray[index], points[index], t[index], dt[index], ends.clamp_max(capacity.lit), *kept), ends
