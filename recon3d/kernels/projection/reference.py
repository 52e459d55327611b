"""Line integrals through a voxel volume, and their exact transpose, in plain torch.

Source: Joseph, "An improved algorithm for reprojecting rays through pixel images" (1982).

Conventions. A volume is (nz, ny, nx), a view the 12 numbers of ``geometry/scanner.py`` (source or direction, detector,
u, v; x, y, z each). In index coordinates g = (p - center) / spacing + (n - 1) / 2 voxels' centres are whole numbers. A
ray g(t) = q + t d has as its main axis m the one of the largest |d_m| (of equal ones the first of y, x, z). Where it
crosses the plane g_m = i of each slice i = 0 .. n_m - 1, the volume is interpolated linearly along the two other axes,
with zeros around it; the line integral is the sum of these samples times the length |d in mm| / |d_m| between planes.
Rays are whole lines: they end neither at the source nor at the detector.

The rays of a view are written with an offset o on its detector, so that nothing cancels where a source is far away:

    q = q0 + t0 o,   d = d0 + s o,   o = c U + r V + w E,   c, r: column and row from the detector's middle,

s = 1 for divergent rays and 0 for parallel ones; q0 = q(t0) is the point of the middle ray nearest to the volume's
middle. A curved detector has c = sin, w = cos - 1 of the column's angle, and its radius in U and E; a flat one
has c = column, w = 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

Q0, D0, U, V, E = (slice(3 * i, 3 * i + 3) for i in range(5))
T0, ANGLE = 15, 16
"""Where a frame of :func:`frames` holds what; ANGLE is that of one column, 0 where the detector is flat."""
FRAME = 17
AXES = ((1, 0, 2), (0, 1, 2), (2, 0, 1))
"""For each main axis in the order of preference (y, x, z): itself and the two others, as 0: x, 1: y, 2: z."""


class Grid(NamedTuple):
    """Shape (nz, ny, nx), and spacing and middle (x, y, z) in mm of a volume."""

    shape: tuple[int, int, int]
    spacing: list[float]
    center: list[float]


def frames(vectors: Tensor, grid: Grid, divergent: bool, curved: bool) -> Tensor:
    """(A, 17) in float64: q0, d0, U, V, E in index coordinates, t0, and a column's angle, for every view."""
    vectors = vectors.double()
    spacing = vectors.new_tensor(grid.spacing)
    source, detector, u, v = vectors.split(3, dim=1)
    middle = vectors.new_tensor(grid.center)
    half = (vectors.new_tensor(grid.shape[::-1]) - 1) / 2
    across = detector - source if divergent else source
    begin = source if divergent else detector
    angle = torch.zeros_like(vectors[:, 0])
    edge = torch.zeros_like(across)
    if curved:
        # The arc lies square to v, whatever the height of its detector.
        edge = across - (across * v).sum(1, keepdim=True) / v.square().sum(1, keepdim=True) * v
        distance, length = edge.norm(dim=1, keepdim=True), u.norm(dim=1, keepdim=True)
        angle, u = (length / distance)[:, 0], u * (distance / length)
    t0 = ((middle - begin) * across).sum(1, keepdim=True) / across.square().sum(1, keepdim=True)
    q0 = (begin + t0 * across - middle) / spacing + half
    if not divergent:
        t0 = torch.ones_like(t0)
    return torch.cat([q0, *(w / spacing for w in (across, u, v, edge)), t0, angle[:, None]], dim=1)


def planar(frames: Tensor, shape: tuple[int, int, int], rows: int) -> bool:
    """Whether all is in the plane of a single slice, whatever the thickness of its voxels."""
    if shape[0] != 1 or rows != 1:
        return False
    return not bool((frames[:, [2, 5, 8, 14]].abs() > 1e-12 * frames[:, :15].abs().amax()).any())


def rays(frame: Tensor, rows: int, columns: int, divergent: bool) -> tuple[Tensor, Tensor]:
    """Points q and directions d, (rows * columns, 3) each, of one view in index coordinates."""
    index = torch.arange(rows * columns, device=frame.device)
    c = (index % columns - (columns - 1) / 2).double().unsqueeze(1)
    r = (index // columns - (rows - 1) / 2).double().unsqueeze(1)
    w = torch.zeros_like(c)
    if frame[ANGLE] > 0:
        c, w = (c * frame[ANGLE]).sin(), (c * frame[ANGLE]).cos() - 1
    offset = c * frame[U] + r * frame[V] + w * frame[E]
    return frame[Q0] + frame[T0] * offset, frame[D0] + offset if divergent else frame[D0].expand_as(offset)


def samples(
    frame: Tensor, grid: Grid, rows: int, columns: int, divergent: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rays (n,), flat voxel indices (n, slices) and weights (n, slices), for each main axis and each neighbour."""
    q, d = rays(frame, rows, columns, divergent)
    length = (d * d.new_tensor(grid.spacing)).norm(dim=1)
    sizes = grid.shape[::-1]
    strides = (1, sizes[0], sizes[0] * sizes[1])
    main = d.abs()[:, [1, 0, 2]].argmax(dim=1)
    for order, (m, a, b) in enumerate(AXES):
        ray = (main == order).nonzero().squeeze(1)
        if not len(ray):
            continue
        qm, dm = q[ray, m, None], d[ray, m, None]
        i = torch.arange(sizes[m], device=q.device)
        t = (i - qm) / dm
        at_a, at_b = q[ray, a, None] + t * d[ray, a, None], q[ray, b, None] + t * d[ray, b, None]
        scale = length[ray, None] / dm.abs()
        for near_a in (0, 1):
            for near_b in (0, 1):
                ja, jb = at_a.floor().long() + near_a, at_b.floor().long() + near_b
                weight = (1 - (at_a - ja).abs()) * (1 - (at_b - jb).abs()) * scale
                inside = (ja >= 0) & (ja < sizes[a]) & (jb >= 0) & (jb < sizes[b])
                index = i * strides[m] + ja * strides[a] + jb * strides[b]
                yield ray, torch.where(inside, index, 0), torch.where(inside, weight, 0.0)


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
    """See :func:`recon3d.kernels.project`."""
    grid = Grid((volume.shape[0], volume.shape[1], volume.shape[2]), spacing, center)
    values = volume.reshape(-1)
    out = volume.new_zeros(len(vectors), rows * columns)
    for view, frame in zip(out, frames(vectors, grid, divergent, curved)):
        for ray, index, weight in samples(frame, grid, rows, columns, divergent):
            view.index_add_(0, ray, (weight * values[index]).sum(dim=1).to(view.dtype))
    return out.view(len(vectors), rows, columns)


def back_project(
    projections: Tensor,
    vectors: Tensor,
    shape: list[int],
    spacing: list[float],
    center: list[float],
    divergent: bool,
    curved: bool,
) -> Tensor:
    """See :func:`recon3d.kernels.back_project`."""
    grid = Grid((shape[0], shape[1], shape[2]), spacing, center)
    _, rows, columns = projections.shape
    volume = projections.new_zeros(shape[0] * shape[1] * shape[2])
    for view, frame in zip(projections, frames(vectors, grid, divergent, curved)):
        values = view.reshape(-1)
        for ray, index, weight in samples(frame, grid, rows, columns, divergent):
            volume.index_add_(0, index.reshape(-1), (weight * values[ray, None]).reshape(-1).to(volume.dtype))
    return volume.view(shape)
