"""Ray marching in Triton; see ``reference.py`` for the conventions.

One lane per ray, one warp per program, two walks: the first counts the samples of each ray, and tells where the first
one lies that is not wanted; the second writes them to their place. A ray in an empty cell, or in an empty block of
``BLOCK``^3 cells, jumps to its first sample that may lie outside. It is then tested like any other, so jumping short
costs a test and jumping far would cost a sample: all rounding is towards short.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from recon3d.kernels.marching.reference import BLOCK, first_samples, occupied_blocks

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


@triton.jit(do_not_specialize=["rays", "cells", "capacity", "least", "most"])
def _walk(
    origins_ptr,
    directions_ptr,
    start_ptr,
    end_ptr,
    occupancy_ptr,
    blocks_ptr,
    density_ptr,
    wanted_ptr,
    offsets_ptr,
    rest_ptr,
    ray_index_ptr,
    t_ptr,
    dt_ptr,
    rays,
    cells,
    capacity,
    least,
    most,
    STEP: tl.constexpr,
    CONE: tl.constexpr,
    MARGIN: tl.constexpr,
    BLOCK: tl.constexpr,
    LIMITED: tl.constexpr,
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
    last = slot
    if WRITE:
        slot = tl.load(offsets_ptr + ray, mask=inside, other=0)
        last = tl.load(offsets_ptr + ray + 1, mask=inside, other=0)
    wanted = tl.zeros((LANES,), start.dtype)
    if LIMITED:
        wanted = tl.load(wanted_ptr + ray, mask=inside, other=0.0).to(start.dtype)
    depth = tl.zeros((LANES,), start.dtype)
    rest = tl.full((LANES,), float("inf"), start.dtype)

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
        cell = (ix * cells + iy) * cells + iz
        filled = tl.load(occupancy_ptr + cell, mask=alive, other=0) != 0
        near_filled = tl.load(blocks_ptr + (bx * coarse + by) * coarse + bz, mask=alive, other=0) != 0
        length = tl.maximum(t * CONE, smallest)
        if LIMITED:
            if WRITE:
                enough = filled & (slot >= last)
            else:
                enough = filled & ((slot >= most) | ((slot >= least) & (depth >= wanted)))
                rest = tl.where(alive & enough, start + k.to(start.dtype), rest)
                density = tl.load(density_ptr + cell, mask=alive & filled, other=0.0).to(start.dtype)
                depth += density * length
            alive = alive & (enough == 0)
        if WRITE:
            found = alive & filled & (slot < capacity)
            tl.store(ray_index_ptr + slot, ray, mask=found)
            tl.store(t_ptr + slot, t, mask=found)
            tl.store(dt_ptr + slot, length, mask=found)
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
        if LIMITED:
            tl.store(rest_ptr + ray, rest, mask=inside)


def _samples(
    origins: Tensor,
    directions: Tensor,
    start: Tensor,
    far: Tensor,
    occupancy: Tensor,
    blocks: Tensor,
    step: float,
    cone: float,
    limits: tuple[Tensor, Tensor, int, int] | None,
    capacity: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Offsets, where each ray's next sample lies, ray indices, distances and lengths; ``limits`` are the density, the
    optical depth that is wanted, and how many samples it takes at least and at most."""
    rays, cells = far.shape[0], occupancy.shape[0]
    density, wanted, least, most = limits or (far, far, 0, 0)
    grids = occupancy.contiguous().view(torch.uint8), blocks.contiguous().view(torch.uint8), density.contiguous()
    inputs = origins.contiguous(), directions.contiguous(), start.contiguous(), far.contiguous(), *grids
    offsets = torch.zeros(rays + 1, dtype=torch.int64, device=far.device)
    rest = torch.empty_like(start, memory_format=torch.contiguous_format)
    constants = {
        "STEP": float(step),
        "CONE": float(cone),
        "MARGIN": 8 * torch.finfo(far.dtype).eps,
        "BLOCK": BLOCK,
        "LIMITED": limits is not None,
        "LANES": LANES,
        "num_warps": 1,
        # Without fused multiply-add, samples on a border fall into the same cell as the reference's.
        "enable_fp_fusion": False,
    }

    def walk(write: bool, *out: Tensor) -> None:
        if rays:
            grid, numbers = (triton.cdiv(rays, LANES),), (rays, cells, len(out[1]), least, most)
            with torch.cuda.device_of(far):
                _walk[grid](*inputs, wanted.contiguous(), offsets, rest, *out, *numbers, **constants, WRITE=write)

    walk(False, torch.empty_like(far, dtype=torch.int32), far, far)
    offsets = offsets.cumsum(0)
    samples = int(offsets[-1]) if capacity is None else capacity
    ray_index = torch.zeros(samples, dtype=torch.int32, device=far.device)
    t, dt = far.new_zeros(samples), far.new_zeros(samples)
    walk(True, ray_index, t, dt)
    return offsets, rest, ray_index, t, dt


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
    start = first_samples(near, far, jitter, step, cone)
    lines = origins, directions, start, far, occupancy, occupied_blocks(occupancy)
    offsets, _, ray_index, t, dt = _samples(*lines, step, cone, None, capacity)
    return offsets, ray_index, t, dt


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
    offsets, rest, ray_index, t, dt = _samples(*lines, step, cone, (density, wanted, least, most), None)
    ray = ray_index.long()
    points = torch.addcmul(origins[ray], directions[ray], t.unsqueeze(1))
    return offsets.diff(), rest, points, t, dt
