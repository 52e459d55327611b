"""Ray marching through an occupancy grid in plain torch: the truth that the fast implementations are tested against.

Conventions. Rays are in field coordinates with unit directions; the occupancy grid is (R, R, R) over [-1, 1]^3,
indexed [ix, iy, iz]. Samples are spaced by ``max(step, cone * t)``: evenly near the origin, in proportion to the
distance t beyond ``step / cone`` (cone 0: evenly everywhere). With the stretched distance

    s(t) = t / step                                  for t <= c = step / cone
    s(t) = c / step + ln(t / c) / cone               beyond,

sample k of a ray sits where s = s(near) + k + jitter, k = 0, 1, ..., while t < far. A sample exists if its cell is
occupied. The spacing is independent of the grid, so skipping empty cells changes speed and nothing else.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def stretch(t: Tensor, step: float, cone: float) -> Tensor:
    """s(t), the distance in units of the local spacing."""
    if cone == 0:
        return t / step
    switch = step / cone
    return torch.where(t <= switch, t / step, 1 / cone + torch.log(t.clamp_min(switch) / switch) / cone)


def unstretch(s: Tensor, step: float, cone: float) -> Tensor:
    """t(s), the inverse of :func:`stretch`."""
    if cone == 0:
        return s * step
    switch = step / cone
    return torch.where(s <= 1 / cone, s * step, switch * torch.exp((s * cone - 1).clamp_min(0)))


def march(
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
    """See :func:`recon3d.kernels.march_rays`. Tests every sample of every ray against the grid."""
    resolution = occupancy.shape[0]
    n = origins.shape[0]
    start = stretch(near, step, cone) + jitter
    hit = far > near
    span = float((stretch(far, step, cone) - start)[hit].amax()) if bool(hit.any()) else 0.0
    k = torch.arange(max(math.ceil(span), 0) + 1, device=origins.device)
    t = unstretch(start[:, None] + k, step, cone)
    points = origins[:, None] + t[..., None] * directions[:, None]
    cell = ((points + 1) * (0.5 * resolution)).floor().long().clamp(0, resolution - 1)
    keep = occupancy[cell[..., 0], cell[..., 1], cell[..., 2]].bool() & (t < far[:, None]) & hit[:, None]
    ray, sample = keep.nonzero(as_tuple=True)
    t = t[ray, sample]
    offsets = torch.zeros(n + 1, dtype=torch.int64, device=origins.device)
    offsets[1:] = keep.sum(dim=1).cumsum(0)
    return within(offsets, ray.to(torch.int32), t, torch.clamp(cone * t, min=step), capacity)


def within(
    offsets: Tensor, ray_index: Tensor, t: Tensor, dt: Tensor, capacity: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Samples in buffers of ``capacity``, where one is given: what does not fit is left out, what is left is 0."""
    if capacity is None:
        return offsets, ray_index, t, dt

    def fitted(values: Tensor) -> Tensor:
        out = values.new_zeros(capacity)
        out[: len(values)] = values[:capacity]
        return out

    return offsets, fitted(ray_index), fitted(t), fitted(dt)
