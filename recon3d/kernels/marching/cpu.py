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
from recon3d.kernels.threads import run_parallel, spans

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
def _filled_blocks(first, last, words, blocks):
    """Whether any cell of each block is occupied; ``words`` holds BLOCK cells along z in a 64-bit integer."""
    for bx in range(first, last):
        for by in range(blocks.shape[1]):
            for bz in range(blocks.shape[2]):
                found = False
                for x in range(bx * BLOCK, min((bx + 1) * BLOCK, words.shape[0])):
                    for y in range(by * BLOCK, min((by + 1) * BLOCK, words.shape[1])):
                        found |= words[x, y, bz] != 0
                blocks[bx, by, bz] = found


@njit(nogil=True, cache=True)
def _grown(array):
    larger = np.empty(2 * len(array), array.dtype)
    larger[: len(array)] = array
    return larger


@njit(nogil=True, cache=True, error_model="numpy")
def _walk(first, last, origins, directions, near, far, occupancy, blocks, jitter, step, cone, counts):
    """Samples of rays first..last: ray indices, distances, lengths; and into ``counts`` how many each ray has."""
    resolution = occupancy.shape[0]
    scale = 0.5 * resolution
    top = resolution - 1
    ray_index = np.empty(64 * (last - first), np.int32)
    t_out = np.empty(len(ray_index), near.dtype)
    dt_out = np.empty(len(ray_index), near.dtype)
    total = 0
    for ray in range(first, last):
        begin = total
        if far[ray] > near[ray]:
            # The grid's cells are unit cubes in these coordinates.
            ox = (origins[ray, 0] + 1) * scale
            oy = (origins[ray, 1] + 1) * scale
            oz = (origins[ray, 2] + 1) * scale
            dx = directions[ray, 0] * scale
            dy = directions[ray, 1] * scale
            dz = directions[ray, 2] * scale
            inverse_x = 1 / dx if dx != 0 else dx
            inverse_y = 1 / dy if dy != 0 else dy
            inverse_z = 1 / dz if dz != 0 else dz
            end = far[ray]
            start = _stretch(near[ray], step, cone) + jitter[ray]
            k = 0
            t = _unstretch(start, step, cone)
            while t < end:
                # Cut off towards zero, which the limits make the same as rounding down.
                ix = min(max(int(ox + t * dx), 0), top)
                iy = min(max(int(oy + t * dy), 0), top)
                iz = min(max(int(oz + t * dz), 0), top)
                if occupancy[ix, iy, iz]:
                    if total == len(ray_index):
                        ray_index, t_out, dt_out = _grown(ray_index), _grown(t_out), _grown(dt_out)
                    ray_index[total] = ray
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
        counts[ray] = total - begin
    return ray_index[:total], t_out[:total], dt_out[:total]


def _blocks(occupancy: Tensor) -> np.ndarray:
    resolution = occupancy.shape[0]
    cells = torch.nn.functional.pad(occupancy, (0, -resolution % BLOCK)) if resolution % BLOCK else occupancy
    words = cells.contiguous().numpy().view(np.uint64)
    n = -(-resolution // BLOCK)
    blocks = np.empty((n, n, n), np.bool_)
    run_parallel(_filled_blocks, [(a, b, words, blocks) for a, b in spans(n, torch.get_num_threads())])
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
    parts = spans(rays, CHUNKS_PER_THREAD * torch.get_num_threads())
    pieces = run_parallel(_walk, [(a, b, *inputs, kind(step), kind(cone), counts) for a, b in parts])
    ray_index, t, dt = (torch.from_numpy(np.concatenate(piece)) for piece in zip(*pieces, strict=True))
    return within(offsets.cumsum(0), ray_index, t, dt, capacity)
