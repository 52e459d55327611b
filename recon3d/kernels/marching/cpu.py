"""Ray marching in numba: empty cells are skipped exactly; see ``reference.py`` for the conventions.

A ray in an empty cell jumps to its first sample at or behind the point where it leaves the cell. Empty blocks of
``BLOCK``^3 cells are left in one jump. Each ray is walked twice, to count its samples and to write them.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recon3d.kernels.threads import run_parallel, spans

BLOCK = 8
CHUNKS_PER_THREAD = 4


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
def _exit(o, d, t, low, high):
    """Distance at which a ray leaves the slab low..high of one axis."""
    if d > 0:
        return (high - o) / d
    if d < 0:
        return (low - o) / d
    return np.inf


@njit(nogil=True, cache=True, error_model="numpy")
def _walk(
    first,
    last,
    origins,
    directions,
    near,
    far,
    occupancy,
    blocks,
    jitter,
    step,
    cone,
    offsets,
    write,
    ray_index,
    t_out,
    dt_out,
):
    """Count (write False: offsets[ray + 1] is set) or write the samples of rays first..last."""
    resolution = occupancy.shape[0]
    scale = 0.5 * resolution
    top = resolution - 1
    for ray in range(first, last):
        count = 0
        start_at = offsets[ray]
        if far[ray] > near[ray]:
            # The grid's cells are unit cubes in these coordinates.
            ox = (origins[ray, 0] + 1) * scale
            oy = (origins[ray, 1] + 1) * scale
            oz = (origins[ray, 2] + 1) * scale
            dx = directions[ray, 0] * scale
            dy = directions[ray, 1] * scale
            dz = directions[ray, 2] * scale
            end = far[ray]
            start = _stretch(near[ray], step, cone) + jitter[ray]
            k = 0
            t = _unstretch(start, step, cone)
            while t < end:
                ix = min(max(int(np.floor(ox + t * dx)), 0), top)
                iy = min(max(int(np.floor(oy + t * dy)), 0), top)
                iz = min(max(int(np.floor(oz + t * dz)), 0), top)
                if occupancy[ix, iy, iz]:
                    if write:
                        ray_index[start_at + count] = ray
                        t_out[start_at + count] = t
                        dt_out[start_at + count] = max(step, cone * t)
                    count += 1
                    k += 1
                else:
                    size = 1
                    if not blocks[ix // BLOCK, iy // BLOCK, iz // BLOCK]:
                        size = BLOCK
                        ix -= ix % BLOCK
                        iy -= iy % BLOCK
                        iz -= iz % BLOCK
                    leave = min(
                        _exit(ox, dx, t, ix, ix + size),
                        min(_exit(oy, dy, t, iy, iy + size), _exit(oz, dz, t, iz, iz + size)),
                    )
                    # One short of the rounded count: rounding must not jump over a sample behind the border.
                    jump = int(np.ceil(_stretch(min(leave, end), step, cone) - start - 1e-4))
                    k = max(k + 1, jump)
                t = _unstretch(start + k, step, cone)
        if not write:
            offsets[ray + 1] = count


def march(
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    occupancy: Tensor,
    jitter: Tensor,
    step: float,
    cone: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rays = near.shape[0]
    resolution = occupancy.shape[0]
    padded = torch.nn.functional.pad(occupancy.to(torch.uint8), (0, -resolution % BLOCK) * 3)
    n = padded.shape[0] // BLOCK
    blocks = padded.view(n, BLOCK, n, BLOCK, n, BLOCK).amax(dim=(1, 3, 5)).numpy()
    offsets = torch.zeros(rays + 1, dtype=torch.int64)
    inputs = [v.contiguous().numpy() for v in (origins, directions, near, far, occupancy)]
    inputs += [blocks, jitter.contiguous().numpy()]
    step, cone = near.numpy().dtype.type(step), near.numpy().dtype.type(cone)
    parts = spans(rays, CHUNKS_PER_THREAD * torch.get_num_threads())

    def walk(write: bool, *out: Tensor) -> None:
        arrays = [v.numpy() for v in out]
        run_parallel(_walk, [(a, b, *inputs, step, cone, offsets.numpy(), write, *arrays) for a, b in parts])

    nothing = near.new_empty(0)
    walk(False, torch.empty(0, dtype=torch.int32), nothing, nothing)
    offsets = offsets.cumsum(0)
    samples = int(offsets[-1])
    out = torch.empty(samples, dtype=torch.int32), near.new_empty(samples), near.new_empty(samples)
    walk(True, *out)
    return offsets, *out
