"""Scans of phantoms: exact projections of ellipsoids, fine-grid projections of the porous bone."""

from __future__ import annotations

import math
from typing import Literal

import torch

from recon3d.data.phantoms import porous, random_ellipsoids, shepp_logan
from recon3d.data.scan import Scan
from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.voxels import VolumeGrid
from recon3d.kernels import project

Phantom = Literal["shepp-logan", "ellipses", "porous"]
Layout = Literal["parallel", "fan", "fan-curved", "parallel3d", "cone", "cone-curved", "helical", "laminography"]

FLAT: tuple[Layout, ...] = ("parallel", "fan", "fan-curved")
"""Geometries of a slice."""
_FAR, _BEHIND = 4.0, 2.0
"""Distances of a source and its detector from the axis, in sizes of the object."""
_MARGIN = 1.1
"""How much wider than the object's diagonal the field of view is."""
_TURNS = 2.0
"""Turns of a helix, which climbs the object's height."""


def scanner(
    layout: Layout, size: float, voxels: int, views: int, angle_range: float | None = None
) -> tuple[ScanGeometry, VolumeGrid]:
    """A scanner that sees a cube of ``size`` mm whole, in ``voxels`` voxels a side, with one pixel a voxel at the axis.

    Args:
        angle_range: in radians; by default half a turn for parallel rays, a full one else (helix: two).
    """
    flat = layout in FLAT
    pitch = size / voxels
    grid = VolumeGrid((1 if flat else voxels, voxels, voxels), (pitch, pitch, pitch))
    full = {"parallel": math.pi, "parallel3d": math.pi, "helical": _TURNS * 2 * math.pi}.get(layout, 2 * math.pi)
    reach = full if angle_range is None else angle_range
    angles = torch.arange(views, dtype=torch.float64) * (reach / views)
    columns = math.ceil(_MARGIN * math.sqrt(2) * voxels)
    if layout in ("parallel", "parallel3d"):
        return ScanGeometry.parallel(angles, columns, pitch, 1 if flat else voxels), grid
    if layout == "laminography":
        return ScanGeometry.laminography(angles, columns, columns, pitch, inclination=math.radians(30)), grid
    distances = _FAR * size, _BEHIND * size
    zoomed = pitch * (_FAR + _BEHIND) / _FAR
    if flat:
        return ScanGeometry.fan(angles, columns, zoomed, *distances, curved=layout == "fan-curved"), grid
    # The nearest corner throws the longest shadow.
    rows = math.ceil(_MARGIN * voxels * _FAR / (_FAR - math.sqrt(0.5)))
    if layout == "helical":
        return ScanGeometry.helical(angles, columns, rows, zoomed, *distances, rise=size / _TURNS), grid
    return ScanGeometry.cone(angles, columns, rows, zoomed, *distances, curved=layout == "cone-curved"), grid


def scan_phantom(
    phantom: Phantom, geometry: ScanGeometry, grid: VolumeGrid, density: float = 0.02, seed: int = 0
) -> tuple[Scan, torch.Tensor]:
    """The scan without noise, and the true volume (nz, ny, nx) in 1/mm.

    Ellipsoids are projected exactly. The porous bone is projected from voxels of half the size, so that no
    reconstruction of the volume fits by having the same voxels.
    """
    flat = grid.shape[0] == 1
    size = grid.size[0]
    if phantom == "porous":
        nz, ny, nx = grid.shape
        x, y, z = grid.spacing
        fine = VolumeGrid((nz if flat else 2 * nz, 2 * ny, 2 * nx), (x / 2, y / 2, z if flat else z / 2), grid.center)
        volume = porous(fine, density, seed=seed)
        rays = geometry.divergent, geometry.curved
        projections = project(
            volume, geometry.vectors, geometry.rows, geometry.columns, fine.spacing, fine.center, *rays
        )
        truth = torch.nn.functional.avg_pool3d(volume[None], (1 if flat else 2, 2, 2))[0]
    else:
        maker = shepp_logan if phantom == "shepp-logan" else random_ellipsoids
        options = {} if phantom == "shepp-logan" else {"seed": seed}
        ellipsoids = maker(size, density, flat=flat, **options)  # type: ignore[operator]
        projections = ellipsoids.project(geometry)
        truth = ellipsoids.rasterize(grid, 4 if flat else 2)
    note = f"{phantom} phantom of {size:g} mm, {density:g} per mm" + (
        "" if phantom == "shepp-logan" else f", seed {seed}"
    )
    return Scan(projections.numpy(), geometry, grid, notes=(note,)), truth
