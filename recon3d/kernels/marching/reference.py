"""Ray marching through an occupancy grid in plain torch: the truth that the fast implementations are tested against.

Conventions. Rays are in field coordinates with unit directions; the occupancy grid is (R, R, R) over [-1, 1]^3,
indexed [ix, iy, iz]. Samples are spaced by ``max(step, cone * t)``: evenly near the origin, in proportion to the
distance t beyond ``step / cone`` (cone 0: evenly everywhere). With the stretched distance

    s(t) = t / step                                  for t <= c = step / cone
    s(t) = c / step + ln(t / c) / cone               beyond,

sample k of a ray sits where s = s(near) + k + jitter, k = 0, 1, ..., while t < far. A sample exists if its cell is
occupied. The spacing is independent of the grid, so skipping empty cells changes speed and nothing else. Where a ray is
marched part by part, it goes on from the stretched distance of its next sample, infinity where there is none.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLOCK = 8
"""Cells a side of a block that is skipped in one jump if it is empty; as many as there are bytes in a word."""


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


def occupied_blocks(occupancy: Tensor) -> Tensor:
    """Which blocks of ``BLOCK``^3 cells hold an occupied one, (B, B, B)."""
    cells = -occupancy.shape[0] % BLOCK
    padded = torch.nn.functional.pad(occupancy, (0, cells) * 3) if cells else occupancy.contiguous()
    n = padded.shape[0] // BLOCK
    # BLOCK cells along z are one word: as there are few of them, sums of words do not carry from cell to cell.
    words = padded.view(torch.int64).view(n, BLOCK, n, BLOCK, n)
    return words.sum(1).sum(2) != 0


def first_samples(near: Tensor, far: Tensor, jitter: Tensor, step: float, cone: float) -> Tensor:
    """The stretched distance of each ray's first sample; infinity for a ray that has none."""
    return torch.where(near < far, stretch(near, step, cone) + jitter, torch.inf)


def _tested(
    origins: Tensor, directions: Tensor, start: Tensor, far: Tensor, occupancy: Tensor, step: float, cone: float
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Every position of every ray, (N, K): its distance, the cell that it lies in, and whether it is a sample."""
    resolution = occupancy.shape[0]
    span = (stretch(far, step, cone) - start)[start < torch.inf]
    k = torch.arange(max(math.ceil(float(span.amax())), 0) + 1 if len(span) else 1, device=start.device)
    t = unstretch(start[:, None] + k, step, cone)
    points = origins[:, None] + t[..., None] * directions[:, None]
    cell = ((points + 1) * (0.5 * resolution)).floor().nan_to_num(0).clamp(0, resolution - 1).long().unbind(-1)
    return t, cell, occupancy[cell].bool() & (t < far[:, None])


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
    start = first_samples(near, far, jitter, step, cone)
    t, _, keep = _tested(origins, directions, start, far, occupancy, step, cone)
    offsets = torch.nn.functional.pad(keep.sum(dim=1).cumsum(0), (1, 0))
    ray = keep.nonzero()[:, 0].to(torch.int32)
    t = t[keep]
    return within(offsets, ray, t, torch.clamp(cone * t, min=step), capacity)


def march_ahead(
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
    """See :func:`recon3d.kernels.march_ahead`. Tests every sample of every ray against the grid."""
    t, cell, keep = _tested(origins, directions, start, far, occupancy, step, cone)
    dt = torch.clamp(cone * t, min=step)
    loss = torch.where(keep, density[cell] * dt, 0.0).double()
    in_front, before = loss.cumsum(1) - loss, keep.cumsum(1) - keep.long()
    taken = keep & (before < most) & ((before < least) | (in_front < wanted[:, None]))
    left = keep & ~taken
    rest = torch.where(left.any(dim=1), start + left.long().argmax(dim=1), torch.inf)
    ray = taken.nonzero()[:, 0]
    points = torch.addcmul(origins[ray], directions[ray], t[taken].unsqueeze(1))
    return taken.sum(dim=1), rest, points, t[taken], dt[taken]


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
