"""Ray marching in numba: empty cells are skipped exactly; see ``reference.py`` for the conventions.

A ray in an empty cell jumps to its first sample at or behind the point where it leaves the cell. Empty blocks of
``BLOCK``^3 cells are left in one jump. Each task writes the samples of its rays into buffers of its own, which grow as
they fill; they are joined at the end, so that rays are walked once.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recon3d.kernels.marching.reference import within
from recon3d.kernels.threads import kernel_threads, run_parallel, spans

BLOCK = 8
CHUNKS_PER_THREAD = 4
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
def _exit(o, inverse, low, high):
    """Distance at which a ray leaves the slab low..high of an axis; ``inverse`` is 1 / direction, 0 where that is 0."""
    if inverse > 0:
        return (high - o) * inverse
    if inverse < 0:
        return (low - o) * inverse
    return np.inf


@njit(nogil=True, cache=True)
def _fill_blocks(first, last, words, blocks):
    """Whether any cell of each block is occupied; ``words`` holds BLOCK cells along z in a 64-bit integer."""
    blocks[first:last] = 0
    for x in range(first * BLOCK, min(last * BLOCK, words.shape[0])):
        for y in range(words.shape[1]):
            row, cells = blocks[x // BLOCK, y // BLOCK], words[x, y]
            for z in range(len(cells)):
                row[z] |= cells[z]


@njit(nogil=True, cache=True)
def _grown(array, size):
    larger = np.empty(size, array.dtype)
    larger[: len(array)] = array
    return larger


@njit(nogil=True, cache=True, error_model="numpy")
def _walk_ray(origin, direction, near, end, occupancy, blocks, jitter, step, cone, t_out, dt_out, total):
    """Write the samples of a ray behind the ``total`` that there are; returns how many there are then."""
    resolution = occupancy.shape[0]
    scale = 0.5 * resolution
    top = resolution - 1
    # The grid's cells are unit cubes in these coordinates.
    ox, oy, oz = (origin[0] + 1) * scale, (origin[1] + 1) * scale, (origin[2] + 1) * scale
    dx, dy, dz = direction[0] * scale, direction[1] * scale, direction[2] * scale
    inverse_x = 1 / dx if dx != 0 else dx
    inverse_y = 1 / dy if dy != 0 else dy
    inverse_z = 1 / dz if dz != 0 else dz
    start = _stretch(near, step, cone) + jitter
    k = 0
    t = _unstretch(start, step, cone)
    while t < end:
        # Cut off towards zero, which the limits make the same as rounding down.
        ix = min(max(int(ox + t * dx), 0), top)
        iy = min(max(int(oy + t * dy), 0), top)
        iz = min(max(int(oz + t * dz), 0), top)
        if occupancy[ix, iy, iz]:
            t_out[total] = t
            dt_out[total] = max(step, cone * t)
            total += 1
            k += 1
        else:
            size = 1
            if not blocks[ix // BLOCK, iy // BLOCK, iz // BLOCK]:
                size = BLOCK
                ix -= ix % BLOCK
                iy -= iy % BLOCK
                iz -= iz % BLOCK
            leave = min(
                _exit(ox, inverse_x, ix, ix + size),
                min(_exit(oy, inverse_y, iy, iy + size), _exit(oz, inverse_z, iz, iz + size)),
            )
            # A little short: rounding must not jump over a sample behind the border.
            jump = int(np.ceil(_stretch(min(leave, end), step, cone) - start - SHORT))
            k = max(k + 1, jump)
        t = _unstretch(start + k, step, cone)
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _walk(first, last, origins, directions, near, far, occupancy, blocks, jitter, step, cone, counts):
    """Samples of rays first..last: ray indices, distances, lengths; and into ``counts`` how many each ray has."""
    t_out = np.empty(64 * (last - first), near.dtype)
    dt_out = np.empty(len(t_out), near.dtype)
    total = 0
    for ray in range(first, last):
        begin = total
        if far[ray] > near[ray]:
            most = total + int(_stretch(far[ray], step, cone) - _stretch(near[ray], step, cone)) + 2
            if most > len(t_out):
                t_out, dt_out = _grown(t_out, 2 * most), _grown(dt_out, 2 * most)
            total = _walk_ray(
                origins[ray],
                directions[ray],
                near[ray],
                far[ray],
                occupancy,
                blocks,
                jitter[ray],
                step,
                cone,
                t_out,
                dt_out,
                total,
            )
        counts[ray] = total - begin
    rays = np.empty(total, np.int32)
    at = 0
    for ray in range(first, last):
        rays[at : at + counts[ray]] = ray
        at += counts[ray]
    return rays, t_out[:total], dt_out[:total]


def _blocks(occupancy: Tensor) -> np.ndarray:
    resolution = occupancy.shape[0]
    cells = torch.nn.functional.pad(occupancy, (0, -resolution % BLOCK)) if resolution % BLOCK else occupancy
    words = cells.contiguous().numpy().view(np.uint64)
    n = -(-resolution // BLOCK)
    blocks = np.empty((n, n, n), np.uint64)
    run_parallel(_fill_blocks, [(a, b, words, blocks) for a, b in spans(n, kernel_threads())])
    return blocks


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
    rays = near.shape[0]
    occupancy = occupancy if occupancy.dtype == torch.bool else occupancy != 0
    offsets = torch.zeros(rays + 1, dtype=torch.int64)
    if rays == 0:
        return within(offsets, torch.empty(0, dtype=torch.int32), near.new_empty(0), near.new_empty(0), capacity)
    inputs = [v.contiguous().numpy() for v in (origins, directions, near, far, occupancy)]
    inputs += [_blocks(occupancy), jitter.contiguous().numpy()]
    kind = near.numpy().dtype.type
    counts = offsets.numpy()[1:]
    parts = spans(rays, CHUNKS_PER_THREAD * kernel_threads())
    pieces = run_parallel(_walk, [(a, b, *inputs, kind(step), kind(cone), counts) for a, b in parts])
    ray_index, t, dt = (torch.from_numpy(np.concatenate(piece)) for piece in zip(*pieces, strict=True))
    return within(offsets.cumsum(0), ray_index, t, dt, capacity)
