"""Ray marching in Triton; see ``reference.py`` for the conventions.

One lane per ray, one warp per program, two walks: the first counts the samples of each ray, the second writes them to
their place. A ray in an empty cell, or in an empty block of ``BLOCK``^3 cells, jumps to its first sample that may lie
outside. It is then tested like any other, so jumping short costs a test and jumping far would cost a sample: all
rounding is towards short.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from recon3d.kernels.marching.reference import stretch

BLOCK = 8
LANES = 32
_SHORT = tl.constexpr(0.01)  # How far a jump stays behind its aim, in units of the sample spacing.


@triton.jit
def _distance(s, STEP: tl.constexpr, CONE: tl.constexpr):
    """t(s), in the reference's order of operations."""
    t = s * STEP
    if CONE > 0:
        t = tl.where(s <= 1 / CONE, t, (STEP / CONE) * tl.exp(tl.maximum(s * CONE - 1, 0.0)))
    return t


@triton.jit
def _stretched(t, STEP: tl.constexpr, CONE: tl.constexpr):
    s = t / STEP
    if CONE > 0:
        switch = tl.full((), STEP / CONE, t.dtype)
        ratio = tl.maximum(t, switch) / switch
        s = tl.where(t <= STEP / CONE, s, 1 / CONE + tl.log(ratio) / CONE)
    return s


@triton.jit
def _cell(position, cells):
    return tl.minimum(tl.maximum(tl.floor(position).to(tl.int32), 0), cells - 1)


@triton.jit
def _exit(position, direction, cell, size, cells, margin):
    """Distance to the border of ``size`` cells from ``cell`` on, less a margin; border cells reach to infinity."""
    ahead = direction > 0
    border = tl.where(ahead, cell + size, cell)
    room = tl.where(ahead, border - position, position - border) - margin
    endless = (direction == 0) | tl.where(ahead, border >= cells, border <= 0)
    return tl.where(endless, float("inf"), tl.maximum(room, 0.0) / tl.where(endless, 1.0, tl.abs(direction)))


@triton.jit(do_not_specialize=["rays", "cells", "capacity"])
def _walk(
    origins_ptr,
    directions_ptr,
    start_ptr,
    end_ptr,
    occupancy_ptr,
    blocks_ptr,
    offsets_ptr,
    ray_index_ptr,
    t_ptr,
    dt_ptr,
    rays,
    cells,
    capacity,
    STEP: tl.constexpr,
    CONE: tl.constexpr,
    MARGIN: tl.constexpr,
    BLOCK: tl.constexpr,
    WRITE: tl.constexpr,
    LANES: tl.constexpr,
):
    ray = tl.program_id(0) * LANES + tl.arange(0, LANES)
    inside = ray < rays
    base = ray.to(tl.int64) * 3
    ox = tl.load(origins_ptr + base, mask=inside, other=0.0)
    oy = tl.load(origins_ptr + base + 1, mask=inside, other=0.0)
    oz = tl.load(origins_ptr + base + 2, mask=inside, other=0.0)
    dx = tl.load(directions_ptr + base, mask=inside, other=0.0)
    dy = tl.load(directions_ptr + base + 1, mask=inside, other=0.0)
    dz = tl.load(directions_ptr + base + 2, mask=inside, other=0.0)
    start = tl.load(start_ptr + ray, mask=inside, other=0.0)
    end = tl.load(end_ptr + ray, mask=inside, other=-float("inf"))
    scale = 0.5 * cells.to(start.dtype)
    margin = MARGIN * cells.to(start.dtype)
    # Not left to the function that takes it: a bare number becomes float32 there, also beside float64.
    smallest = tl.full((), STEP, start.dtype)
    coarse = (cells + BLOCK - 1) // BLOCK
    slot = tl.zeros((LANES,), tl.int64)
    if WRITE:
        slot = tl.load(offsets_ptr + ray, mask=inside, other=0)

    k = tl.zeros((LANES,), tl.int32)
    t = _distance(start, STEP, CONE)
    alive = t < end
    while tl.max(alive.to(tl.int32), axis=0) > 0:
        # The grid's cells are unit cubes in these coordinates.
        px = (ox + t * dx + 1) * scale
        py = (oy + t * dy + 1) * scale
        pz = (oz + t * dz + 1) * scale
        ix = _cell(px, cells)
        iy = _cell(py, cells)
        iz = _cell(pz, cells)
        bx = ix // BLOCK
        by = iy // BLOCK
        bz = iz // BLOCK
        filled = tl.load(occupancy_ptr + (ix * cells + iy) * cells + iz, mask=alive, other=0) != 0
        near_filled = tl.load(blocks_ptr + (bx * coarse + by) * coarse + bz, mask=alive, other=0) != 0
        if WRITE:
            found = alive & filled & (slot < capacity)
            tl.store(ray_index_ptr + slot, ray, mask=found)
            tl.store(t_ptr + slot, t, mask=found)
            tl.store(dt_ptr + slot, tl.maximum(t * CONE, smallest), mask=found)
        slot += tl.where(alive & filled, 1, 0)

        size = tl.where(near_filled, 1, BLOCK)
        ix = tl.where(near_filled, ix, bx * BLOCK)
        iy = tl.where(near_filled, iy, by * BLOCK)
        iz = tl.where(near_filled, iz, bz * BLOCK)
        room_x = _exit(px, dx * scale, ix, size, cells, margin)
        room_y = _exit(py, dy * scale, iy, size, cells, margin)
        room_z = _exit(pz, dz * scale, iz, size, cells, margin)
        aim = tl.minimum(t + tl.minimum(room_x, tl.minimum(room_y, room_z)), end)
        jump = tl.ceil(_stretched(aim, STEP, CONE) - start - _SHORT)
        jump = tl.where(alive & (filled == 0), jump, 0.0).to(tl.int32)
        k = tl.maximum(k + 1, jump)
        t = _distance(start + k.to(start.dtype), STEP, CONE)
        alive = alive & (t < end)
    if not WRITE:
        tl.store(offsets_ptr + ray + 1, slot, mask=inside)


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
    """In buffers of ``capacity``, or as large as the samples need, which the host then waits for."""
    rays, cells = near.shape[0], occupancy.shape[0]
    filled = (occupancy != 0).to(torch.uint8).contiguous()
    padded = torch.nn.functional.pad(filled, (0, -cells % BLOCK) * 3)
    n = padded.shape[0] // BLOCK
    blocks = padded.view(n, BLOCK, n, BLOCK, n, BLOCK).amax(dim=(1, 3, 5)).contiguous()
    start = stretch(near, step, cone) + jitter
    end = torch.where(far > near, far, -torch.inf)
    offsets = torch.zeros(rays + 1, dtype=torch.int64, device=near.device)
    inputs = origins.contiguous(), directions.contiguous(), start, end, filled, blocks
    constants = {
        "STEP": float(step),
        "CONE": float(cone),
        "MARGIN": 8 * torch.finfo(near.dtype).eps,
        "BLOCK": BLOCK,
        "LANES": LANES,
        "num_warps": 1,
        # Without fused multiply-add, samples on a border fall into the same cell as the reference's.
        "enable_fp_fusion": False,
    }

    def walk(write: bool, *out: Tensor) -> None:
        if rays:
            grid = (triton.cdiv(rays, LANES),)
            with torch.cuda.device_of(near):
                _walk[grid](*inputs, offsets, *out, rays, cells, len(out[1]), **constants, WRITE=write)

    walk(False, torch.empty_like(near, dtype=torch.int32), near, near)
    offsets = offsets.cumsum(0)
    samples = int(offsets[-1]) if capacity is None else capacity
    ray_index = torch.zeros(samples, dtype=torch.int32, device=near.device)
    t, dt = near.new_zeros(samples), near.new_zeros(samples)
    walk(True, ray_index, t, dt)
    return offsets, ray_index, t, dt
