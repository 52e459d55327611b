"""Ray marching in numba: empty cells are skipped exactly; see ``reference.py`` for the conventions.

A ray in an empty cell jumps to its first sample at or behind the point where it leaves the cell. Empty blocks of
``BLOCK``^3 cells are left in one jump. Each task writes the samples of its rays into buffers of its own, which grow as
they fill; they are joined at the end, so that rays are walked once. Whether all samples are wanted or only the next
ones is known when the kernel is compiled.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recon3d.kernels.marching.reference import BLOCK, first_samples, occupied_blocks, within
from recon3d.kernels.threads import kernel_threads, run_parallel, spans

SHIFT = BLOCK.bit_length() - 1
TINY = 1e-30
CHUNKS_PER_THREAD = 4
GRAIN = 128
"""Rays that are worth waking a worker for."""
SHORT = 0.01
"""How far a jump stays behind its aim, in units of the sample spacing."""


@njit(nogil=True, cache=True, inline="always")
def _stretch(t, step, cone):
    if cone * t <= step:
        return t / step
    return (1 + np.log(cone * t / step)) / cone


@njit(nogil=True, cache=True, inline="always")
def _unstretch(s, step, cone):
    if cone * s <= 1:
        return s * step
    return step / cone * np.exp(cone * s - 1)


@njit(nogil=True, cache=True, inline="always")
def _inverse(x):
    """1 / x, where that is not too large to be multiplied with."""
    return 1 / x if abs(x) > TINY else 1 / TINY


@njit(nogil=True, cache=True)
def _grown(array, size):
    larger = np.empty(size, array.dtype)
    larger[: len(array)] = array
    return larger


@njit(nogil=True, cache=True, error_model="numpy")
def _walk_ray(
    origin, direction, start, end, occupancy, blocks, step, cone, density, wanted, least, most, t_out, dt_out, total
):
    """Write the samples of a ray behind the ``total`` that there are: all, or, where cells have a ``density``, as many
    as are wanted. Returns how many there are then, and where the first one lies that was not wanted."""
    resolution = occupancy.shape[0]
    scale = 0.5 * resolution
    top = resolution - 1
    # The grid's cells are unit cubes in these coordinates.
    ox, oy, oz = (origin[0] + 1) * scale, (origin[1] + 1) * scale, (origin[2] + 1) * scale
    dx, dy, dz = direction[0] * scale, direction[1] * scale, direction[2] * scale
    inverse_x, inverse_y, inverse_z = _inverse(dx), _inverse(dy), _inverse(dz)
    far_x, far_y, far_z = int(dx >= 0), int(dy >= 0), int(dz >= 0)  # the side that a ray leaves a cell on
    begin, depth = total, 0.0
    k = 0
    t = _unstretch(start, step, cone)
    while t < end:
        # Cut off towards zero, which the limits make the same as rounding down.
        ix = min(max(int(ox + t * dx), 0), top)
        iy = min(max(int(oy + t * dy), 0), top)
        iz = min(max(int(oz + t * dz), 0), top)
        bx, by, bz = ix >> SHIFT, iy >> SHIFT, iz >> SHIFT
        filled = blocks[bx, by, bz]
        if filled and occupancy[ix, iy, iz]:
            length = max(step, cone * t)
            if density is not None:
                taken = total - begin
                if taken >= most or (taken >= least and depth >= wanted):
                    return total, start + k
                depth += density[ix, iy, iz] * length
            t_out[total] = t
            dt_out[total] = length
            total += 1
            k += 1
        else:
            if filled:
                x, y, z = ix + far_x, iy + far_y, iz + far_z
            else:
                x, y, z = (bx + far_x) << SHIFT, (by + far_y) << SHIFT, (bz + far_z) << SHIFT
            leave = min((x - ox) * inverse_x, min((y - oy) * inverse_y, (z - oz) * inverse_z))
            # A little short: rounding must not jump over a sample behind the border.
            jump = int(np.ceil(_stretch(min(leave, end), step, cone) - start - SHORT))
            k = max(k + 1, jump)
        t = _unstretch(start + k, step, cone)
    return total, np.inf


@njit(nogil=True, cache=True, error_model="numpy")
def _walk(
    first,
    last,
    origins,
    directions,
    start,
    end,
    occupancy,
    blocks,
    step,
    cone,
    density,
    wanted,
    least,
    most,
    counts,
    rest,
):
    """Samples of rays first..last: points, distances, lengths; into ``counts`` how many each ray has, into ``rest``
    where the first one lies that was not wanted."""
    t_out = np.empty(64 * (last - first), end.dtype)
    dt_out = np.empty(len(t_out), end.dtype)
    total = 0
    for ray in range(first, last):
        begin = total
        rest[ray] = np.inf
        if start[ray] < np.inf:
            room = total + int(min(_stretch(end[ray], step, cone) - start[ray], np.float64(most))) + 2
            if room > len(t_out):
                t_out, dt_out = _grown(t_out, 2 * room), _grown(dt_out, 2 * room)
            total, rest[ray] = _walk_ray(
                origins[ray],
                directions[ray],
                start[ray],
                end[ray],
                occupancy,
                blocks,
                step,
                cone,
                density,
                wanted[ray],
                least,
                most,
                t_out,
                dt_out,
                total,
            )
        counts[ray] = total - begin
    points = np.empty((total, 3), end.dtype)
    i = 0
    for ray in range(first, last):
        x, y, z = origins[ray]
        u, v, w = directions[ray]
        for _ in range(counts[ray]):
            points[i, 0], points[i, 1], points[i, 2] = x + u * t_out[i], y + v * t_out[i], z + w * t_out[i]
            i += 1
    return points, t_out[:total], dt_out[:total]


def _parts(start: Tensor) -> list[tuple[int, int]]:
    """Spans of the rays, as many as are worth a task."""
    alive = int((start < torch.inf).sum())
    return spans(len(start), min(CHUNKS_PER_THREAD * kernel_threads(), 1 + alive // GRAIN))


def _samples(
    origins: Tensor,
    directions: Tensor,
    start: Tensor,
    far: Tensor,
    occupancy: Tensor,
    blocks: Tensor,
    step: float,
    cone: float,
    density: Tensor | None,
    wanted: Tensor,
    least: int,
    most: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Samples of each ray, where the next one lies, points, distances and lengths."""
    counts, rest = torch.empty(len(far), dtype=torch.int64), torch.empty_like(start)
    if len(far) == 0:
        return counts, rest, far.new_empty(0, 3), far.new_empty(0), far.new_empty(0)
    kind = far.numpy().dtype.type
    lines = [v.contiguous().numpy() for v in (origins, directions, start, far, occupancy, blocks)]
    limits = density if density is None else density.contiguous().numpy(), wanted.contiguous().numpy(), least, most
    inputs = *lines, kind(step), kind(cone), *limits, counts.numpy(), rest.numpy()
    pieces = run_parallel(_walk, [(a, b, *inputs) for a, b in _parts(start)])
    points, t, dt = (torch.from_numpy(np.concatenate(piece)) for piece in zip(*pieces, strict=True))
    return counts, rest, points, t, dt


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
    start = first_samples(near, far, jitter, step, cone)
    lines = origins, directions, start, far, occupancy, occupied_blocks(occupancy)
    endless = np.iinfo(np.int64).max
    counts, _, _, t, dt = _samples(*lines, step, cone, None, start, endless, endless)
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    rays = torch.arange(len(near), dtype=torch.int32).repeat_interleave(counts, output_size=len(t))
    return within(offsets, rays, t, dt, capacity)


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
    lines = origins, directions, start, far, occupancy, blocks
    return _samples(*lines, step, cone, density, wanted, least, most)
