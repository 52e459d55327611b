"""What a CT run is trained on: the scan as its configuration asks for it, the voxels, and what is held out."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon3d.classical.iterative import sirt
from recon3d.classical.projector import Projector
from recon3d.config import CtConfig, ScanSource
from recon3d.config.scans import VolumeConfig
from recon3d.data.scan import Scan
from recon3d.data.scan_checks import check
from recon3d.data.scan_files import read_scan
from recon3d.data.scan_preprocess import prepare
from recon3d.data.volume_files import read_volume
from recon3d.errors import UserError, require
from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.voxels import VolumeGrid

logger = logging.getLogger(__name__)

GUESS = 8
"""Iterations of SIRT that tell roughly what the volume is."""
BRIGHT = 0.995
"""Quantile of that guess that is the scan's scale."""


@dataclass(frozen=True)
class CtData:
    """Projections, all on one device, and what is known before training.

    Attributes:
        projections: line integrals.
        held: rays that are not trained on, None where there are none.
        geometry: of the projections.
        grid: the voxels.
        inside: voxels that may be filled; None: all.
        guess: the volume in 1/mm, roughly.
        scale: attenuation in 1/mm that is 1 in the field.
        counts: photons of an unattenuated pixel, where known.
    """

    projections: Float[Tensor, "a rows columns"]
    held: Bool[Tensor, "a rows columns"] | None
    geometry: ScanGeometry
    grid: VolumeGrid
    inside: Bool[Tensor, "nz ny nx"] | None
    guess: Float[Tensor, "nz ny nx"]
    scale: float
    counts: float | None

    @property
    def trained(self) -> Bool[Tensor, "a rows columns"]:
        """Rays that are trained on."""
        return torch.ones_like(self.projections, dtype=torch.bool) if self.held is None else ~self.held

    @property
    def unit(self) -> float:
        """A line integral that is 1 in losses: the scale through the longest side of the volume."""
        return self.scale * max(self.grid.size)


def read(data: Path, source: ScanSource) -> Scan:
    """A scan, prepared as asked, in memory; what looks wrong with it is logged.

    Raises:
        UserError: a file that is no scan, one that cannot be prepared so, or whose volume no view sees.
    """
    scan = prepare(read_scan(data, geometry=source.geometry, raw=True), source.scan)
    scan = dataclasses.replace(scan, grid=wanted_grid(scan.grid, source.volume)).load()
    for warning in check(scan):
        logger.warning("%s: %s", data, warning)
    return scan


def check_grid(scan: Scan, grid: VolumeGrid) -> None:
    """Refuse a scan that is not of the volume of a run.

    Raises:
        UserError: its voxels are others.
    """
    if scan.grid != grid:
        raise UserError(
            f"{scan.path}: not the scan of this run, whose volume has {grid.shape} voxels (z, y, x) of {grid.spacing}"
            f" mm at {grid.center}; this one's are {scan.grid.shape} of {scan.grid.spacing} mm at {scan.grid.center}"
        )


def tensor_of(scan: Scan, device: torch.device) -> Float[Tensor, "a rows columns"]:
    """A scan's projections."""
    return torch.from_numpy(np.ascontiguousarray(scan.projections, dtype=np.float32)).to(device)


def measure(config: CtConfig, scan: Scan, device: torch.device) -> CtData:
    """What of a prepared scan is trained on, and a rough guess of the volume.

    Raises:
        UserError: nothing is left to train on, or the line integrals are not above 0.
    """
    geometry, grid = scan.geometry.to(device), scan.grid
    projections = tensor_of(scan, device)
    inside = support(config, geometry, grid)
    held = held_out(config, projections.shape, device)
    trained = torch.ones_like(projections) if held is None else (~held).float()
    guess = _guess(Projector(geometry, grid), projections, trained)
    filled = guess.flatten() if inside is None else guess[inside.to(device)]
    scale = float(np.quantile(filled.cpu().numpy(), BRIGHT))
    require(scale > 0, f"{config.data}: no attenuation is seen in it; are these line integrals, or transmission?")
    return CtData(projections, held, geometry, grid, inside, guess, scale, scan.counts)


def wanted_grid(default: VolumeGrid, volume: VolumeConfig) -> VolumeGrid:
    """The scan's voxels with what the configuration changes; a shape or a spacing alone keeps the space covered."""
    shape, spacing = volume.shape, volume.spacing
    if shape is None and spacing is not None:
        nz, ny, nx = (max(1, round(size / step)) for size, step in zip(default.size[::-1], spacing[::-1]))
        shape = (nz if default.shape[0] > 1 else 1, ny, nx)
    if spacing is None and shape is not None:
        nz, ny, nx = shape
        spacing = (default.size[0] / nx, default.size[1] / ny, default.size[2] / nz)
    return VolumeGrid(shape or default.shape, spacing or default.spacing, volume.center or default.center)


def scaled(grid: VolumeGrid, scale: float) -> VolumeGrid:
    """The same space in ``scale`` times as many voxels along every axis; one layer stays one."""
    nz, ny, nx = (max(1, round(n * scale)) if n > 1 else 1 for n in grid.shape)
    x, y, z = (size / n for size, n in zip(grid.size, (nx, ny, nz)))
    return VolumeGrid((nz, ny, nx), (x, y, z), grid.center)


# --- support --------------------------------------------------------------------------------------------------------


def support(config: CtConfig, geometry: ScanGeometry, grid: VolumeGrid) -> Bool[Tensor, "nz ny nx"] | None:
    """Voxels that may be filled, on the CPU; None: all.

    Raises:
        UserError: nothing is left, or a mask of another shape.
    """
    inside = torch.ones(grid.shape, dtype=torch.bool)
    if config.support == "circle":
        x, y = grid.axis(0), grid.axis(1)
        inside &= (x.square() + y[:, None].square()).sqrt() <= seen_radius(geometry)
        require(
            bool(inside.any()), f"{config.data}: no voxel lies in the circle that all views see: give --support box"
        )
    if config.mask is not None:
        inside &= read_mask(config.mask, grid)
        require(bool(inside.any()), f"{config.mask}: the mask leaves no voxel of the volume")
    return None if bool(inside.all()) else inside


def seen_radius(geometry: ScanGeometry) -> float:
    """Radius in mm of the circle about the axis of rotation (z) that every view sees, at least on one side.

    A detector that is set aside sees half of the larger circle in every view, and all of it in a full turn.
    """
    view = torch.arange(len(geometry), device=geometry.device)
    middle = torch.full_like(view, 0, dtype=torch.float64) + (geometry.rows - 1) / 2
    reach = []
    for column in (-0.5, geometry.columns - 0.5):
        rays = geometry.rays_at(view, middle, torch.full_like(middle, column))
        (ox, oy, _), (dx, dy, _) = rays.origins.unbind(-1), rays.directions.unbind(-1)
        reach.append((ox * dy - oy * dx).abs() / torch.hypot(dx, dy).clamp_min(1e-12))
    return float(torch.maximum(*reach).min())


def read_mask(path: Path, grid: VolumeGrid) -> Bool[Tensor, "nz ny nx"]:
    """Where a volume file (or an image of a slice, y up) of a grid's shape is above 0.

    Raises:
        UserError: it cannot be read, or has another shape.
    """
    values = read_volume(path).values
    if values.shape != grid.shape:
        raise UserError(f"{path}: a mask of {values.shape} voxels (z, y, x); the volume has {grid.shape}")
    return torch.from_numpy(np.ascontiguousarray(values) > 0)


# --- what is held out -----------------------------------------------------------------------------------------------


def held_out(config: CtConfig, shape: tuple[int, ...], device: torch.device) -> Bool[Tensor, "a rows columns"] | None:
    """Rays that are not trained on: the same ones for the same seed and shape.

    Views are held out evenly spaced, never the first or the last (of a limited arc, nothing lies beyond these).

    Raises:
        UserError: too few views to hold one out.
    """
    if config.holdout == 0:
        return None
    views = shape[0]
    held = torch.zeros(shape, dtype=torch.bool)
    if config.hold == "views":
        count = max(1, round(config.holdout * views))
        require(
            views >= 3 and count <= views - 2,
            f"{config.data}: {count} of {views} views cannot be held out; give --hold pixels, or --holdout 0",
        )
        place = (torch.arange(1, count + 1, dtype=torch.float64) * views / (count + 1)).long()
        held[place] = True
    else:
        generator = torch.Generator().manual_seed(config.seed)
        for view in range(views):
            held[view] = torch.rand(shape[1:], generator=generator) < config.holdout
        require(bool(held.any()), f"{config.data}: too few rays to hold {config.holdout:g} of them out; give more")
    return held.to(device)


def _guess(projector: Projector, projections: Tensor, rays: Tensor) -> Tensor:
    steps = itertools.islice(sirt(projector, projections, rays, True), GUESS)
    *_, volume = steps
    return volume.clone()
