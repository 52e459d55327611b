"""Joseph's projector and its transpose in Triton; see ``reference.py`` for the conventions.

One lane per ray, ``LANES`` neighbouring columns of a row per program: they walk the slices together, each along its own
main axis, and read neighbouring voxels. Back-projecting adds to the volume by atomic operations, so the order of sums,
and with it the last digits, may differ from run to run.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from recon3d.kernels.projection.reference import FRAME, Grid, frames, planar

LANES = 64


@triton.jit
def _clip(a0, step, n, begin, end):
    """The slices begin..end, less those that the ray crosses outside -1..n; one too many at each end."""
    tiny = tl.abs(step) < 1e-9
    inverse = 1 / tl.where(tiny, 1e-9, step)
    one = (-1 - a0) * inverse
    two = (n - a0) * inverse
    begin = tl.maximum(begin, tl.floor(tl.minimum(one, two)) - 1)
    return begin, tl.minimum(end, tl.floor(tl.maximum(one, two)) + 2)


@triton.jit
def _taps(volume_ptr, place, x, n, stride):
    """Where the two neighbours along one axis lie, whether they are in the volume, and their weights."""
    low = tl.floor(x)
    f = x - low
    k = low.to(tl.int32)
    below = (k >= 0) & (k < n)
    above = (k >= -1) & (k < n - 1)
    first = place + k.to(tl.int64) * stride
    return first, below, 1 - f, first + stride, above, f


@triton.jit(do_not_specialize=["rows", "columns", "nx", "ny", "nz"])
def _walk(
    frames_ptr,
    volume_ptr,
    projections_ptr,
    rows,
    columns,
    nx,
    ny,
    nz,
    SX: tl.constexpr,
    SY: tl.constexpr,
    SZ: tl.constexpr,
    DIVERGENT: tl.constexpr,
    CURVED: tl.constexpr,
    PLANAR: tl.constexpr,
    BACK: tl.constexpr,
    FRAME: tl.constexpr,
    LANES: tl.constexpr,
):
    line = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * LANES + tl.arange(0, LANES)
    inside = column < columns
    frame = frames_ptr + (line // rows) * FRAME
    t0 = tl.load(frame + 15)
    half = tl.full((), 0.5, t0.dtype)
    c = column.to(t0.dtype) - (columns - 1).to(t0.dtype) * half
    r = (line % rows).to(t0.dtype) - (rows - 1).to(t0.dtype) * half
    w = tl.zeros_like(c)
    if CURVED:
        angle = tl.load(frame + 16)
        sine = tl.sin(c * angle * half)
        w = -2 * sine * sine
        c = tl.sin(c * angle)
    ox = c * tl.load(frame + 6) + r * tl.load(frame + 9) + w * tl.load(frame + 12)
    oy = c * tl.load(frame + 7) + r * tl.load(frame + 10) + w * tl.load(frame + 13)
    oz = c * tl.load(frame + 8) + r * tl.load(frame + 11) + w * tl.load(frame + 14)
    qx = tl.load(frame) + t0 * ox
    qy = tl.load(frame + 1) + t0 * oy
    qz = tl.load(frame + 2) + t0 * oz
    dx = tl.load(frame + 3) + tl.zeros_like(ox)
    dy = tl.load(frame + 4) + tl.zeros_like(ox)
    dz = tl.load(frame + 5) + tl.zeros_like(ox)
    if DIVERGENT:
        dx += ox
        dy += oy
        dz += oz

    # The main axis m and the two others: a is x or y, b is z or y.
    on_y = (tl.abs(dy) >= tl.abs(dx)) & (tl.abs(dy) >= tl.abs(dz))
    on_x = (on_y == 0) & (tl.abs(dx) >= tl.abs(dz))
    if PLANAR:
        on_x = on_y == 0
    on_z = (on_y == 0) & (on_x == 0)
    along_y = tl.full((LANES,), 0, tl.int64) + nx
    along_z = along_y * ny
    qm = tl.where(on_y, qy, tl.where(on_x, qx, qz))
    dm = tl.where(on_y, dy, tl.where(on_x, dx, dz))
    slices = tl.where(on_y, ny, tl.where(on_x, nx, nz))
    along = tl.where(on_y, along_y, tl.where(on_x, 1, along_z))
    na = tl.where(on_x, ny, nx)
    across_a = tl.where(on_x, along_y, 1)
    nb = tl.where(on_z, ny, nz)
    across_b = tl.where(on_z, along_y, along_z)
    step_a = tl.where(on_x, dy, dx) / dm
    step_b = tl.where(on_z, dy, dz) / dm
    a0 = tl.where(on_x, qy, qx) - qm * step_a
    b0 = tl.where(on_z, qy, qz) - qm * step_b
    wx = dx * tl.full((), SX, t0.dtype)
    wy = dy * tl.full((), SY, t0.dtype)
    wz = dz * tl.full((), SZ, t0.dtype)
    if PLANAR:
        wz = tl.zeros_like(wx)
    length = tl.sqrt(wx * wx + wy * wy + wz * wz) / tl.abs(dm)

    begin, end = _clip(a0, step_a, na, tl.zeros_like(a0), slices.to(t0.dtype))
    if not PLANAR:
        begin, end = _clip(b0, step_b, nb, begin, end)
    end = tl.where(inside, end, 0)
    i = tl.min(tl.where(begin < end, begin, slices.to(t0.dtype)), axis=0).to(tl.int32)
    last = tl.max(end, axis=0).to(tl.int32)
    pixel = projections_ptr + line * columns + column
    total = tl.zeros_like(a0)
    if BACK:
        total = tl.load(pixel, mask=inside, other=0.0) * length
    while i < last:
        met = inside & (i < slices)
        place = i * along
        x = a0 + i.to(t0.dtype) * step_a
        left, left_in, left_weight, right, right_in, right_weight = _taps(volume_ptr, place, x, na, across_a)
        if PLANAR:
            if BACK:
                tl.atomic_add(volume_ptr + left, total * left_weight, mask=met & left_in, sem="relaxed")
                tl.atomic_add(volume_ptr + right, total * right_weight, mask=met & right_in, sem="relaxed")
            else:
                total += left_weight * tl.load(volume_ptr + left, mask=met & left_in, other=0.0)
                total += right_weight * tl.load(volume_ptr + right, mask=met & right_in, other=0.0)
        else:
            y = b0 + i.to(t0.dtype) * step_b
            low, low_in, low_weight, high, high_in, high_weight = _taps(volume_ptr, place * 0, y, nb, across_b)
            low_in = met & low_in
            high_in = met & high_in
            if BACK:
                lower = total * low_weight
                upper = total * high_weight
                at = volume_ptr + left
                tl.atomic_add(at + low, lower * left_weight, mask=low_in & left_in, sem="relaxed")
                tl.atomic_add(at + high, upper * left_weight, mask=high_in & left_in, sem="relaxed")
                at = volume_ptr + right
                tl.atomic_add(at + low, lower * right_weight, mask=low_in & right_in, sem="relaxed")
                tl.atomic_add(at + high, upper * right_weight, mask=high_in & right_in, sem="relaxed")
            else:
                at = volume_ptr + left
                value = low_weight * tl.load(at + low, mask=low_in & left_in, other=0.0)
                value += high_weight * tl.load(at + high, mask=high_in & left_in, other=0.0)
                total += left_weight * value
                at = volume_ptr + right
                value = low_weight * tl.load(at + low, mask=low_in & right_in, other=0.0)
                value += high_weight * tl.load(at + high, mask=high_in & right_in, other=0.0)
                total += right_weight * value
        i += 1
    if not BACK:
        tl.store(pixel, total * length, mask=inside)


def _run(
    volume: Tensor, projections: Tensor, vectors: Tensor, grid: Grid, divergent: bool, curved: bool, back: bool
) -> None:
    views, rows, columns = projections.shape
    nz, ny, nx = grid.shape
    frame = frames(vectors.to(volume.device), grid, divergent, curved)
    flat = planar(frame, grid.shape, rows)
    if not projections.numel():
        return
    sx, sy, sz = grid.spacing
    with torch.cuda.device_of(volume):
        _walk[(views * rows, triton.cdiv(columns, LANES))](
            frame.to(volume.dtype).contiguous(),
            volume,
            projections,
            rows,
            columns,
            nx,
            ny,
            nz,
            SX=sx,
            SY=sy,
            SZ=sz,
            DIVERGENT=divergent,
            CURVED=curved,
            PLANAR=flat,
            BACK=back,
            FRAME=FRAME,
            LANES=LANES,
            num_warps=LANES // 32,
        )


def project(
    volume: Tensor,
    vectors: Tensor,
    rows: int,
    columns: int,
    spacing: list[float],
    center: list[float],
    divergent: bool,
    curved: bool,
) -> Tensor:
    nz, ny, nx = volume.shape
    out = volume.new_zeros(len(vectors), rows, columns)
    _run(volume.contiguous(), out, vectors, Grid((nz, ny, nx), spacing, center), divergent, curved, False)
    return out


def back_project(
    projections: Tensor,
    vectors: Tensor,
    shape: list[int],
    spacing: list[float],
    center: list[float],
    divergent: bool,
    curved: bool,
) -> Tensor:
    nz, ny, nx = shape
    out = projections.new_zeros(nz, ny, nx)
    _run(out, projections.contiguous(), vectors, Grid((nz, ny, nx), spacing, center), divergent, curved, True)
    return out
