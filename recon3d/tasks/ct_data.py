"""What a CT run is trained on: the scan as its configuration asks for it, the voxels, and what is held out.

A scan is in memory as a whole, or, where rays are projected and it is larger than they may take, evenly spaced views of
it are at a time: one part after the other.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from recon3d.classical.iterative import sirt
from recon3d.classical.projector import Projector
from recon3d.config import CtConfig, ScanSource
from recon3d.config.scans import VolumeConfig
from recon3d.data.scan import Scan
from recon3d.data.scan_checks import check
from recon3d.data.scan_files import read_scan
from recon3d.data.scan_preprocess import bin_pixels, prepare
from recon3d.data.volume_files import read_volume
from recon3d.errors import UserError, require
from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.voxels import VolumeGrid

logger = logging.getLogger(__name__)

GUESS = 8
"""Iterations of SIRT that tell roughly what the volume is."""
FEWEST = 4
"""Views that a part of a scan has at least."""
ROUGH = 64
"""Views, detector columns and voxels a side, about, that such a guess is made of where the scan is taken in parts."""
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


@dataclass(frozen=True)
class Parts:
    """A prepared scan, still in its file, and how many of its views are taken at a time."""

    scan: Scan
    views: int

    @staticmethod
    def of(config: CtConfig, data: Path | None = None) -> Parts:
        """The scan of a run (now at ``data``, where it has moved); what looks wrong with it is logged.

        Raises:
            UserError: a file that is no scan, one that cannot be prepared so, whose volume no view sees, or of which
                not even four views fit the memory that rays may take.
        """
        scan = opened(data or config.data, config)
        if config.projector == "grid":
            return Parts(scan, len(scan))
        views, rows, columns = scan.projections.shape
        room = int(config.rays.memory * 2**30 / (4 * rows * columns))
        if room >= views:
            return Parts(scan, views)
        require(
            room >= FEWEST,
            f"{config.data}: only {room} of {views} views of {rows} x {columns} pixels fit --rays.memory"
            f" {config.rays.memory:g} (GiB); raise it, or give --bin or --rows",
        )
        require(
            config.hold == "pixels" or config.holdout == 0,
            f"{config.data}: views cannot be held out of a scan that is taken in parts; give --hold pixels",
        )
        return Parts(scan, room)

    @property
    def number(self) -> int:
        """How many parts hold as much as the scan; 1: it is taken as a whole."""
        return -(-len(self.scan) // self.views)

    def places(self, part: int) -> Int64[np.ndarray, " views"]:
        """Which views are in a part, evenly spaced; further parts fill the gaps (by the golden ratio)."""
        share = part * (5**0.5 - 1) / 2 % 1
        return ((np.arange(self.views) + share) * len(self.scan) / self.views).astype(np.int64)

    def load(self, part: int = 0) -> Scan:
        """The scan of a part, in memory."""
        return (self.scan if self.number == 1 else self.scan.views(self.places(part))).load()


def opened(data: Path, source: ScanSource) -> Scan:
    """A scan, prepared as asked and not yet in memory; what looks wrong with it is logged.

    Raises:
        UserError: a file that is no scan, one that cannot be prepared so, or whose volume no view sees.
    """
    scan = prepare(read_scan(data, geometry=source.geometry, raw=True), source.scan)
    scan = dataclasses.replace(scan, grid=wanted_grid(scan.grid, source.volume))
    for warning in check(scan):
        logger.warning("%s: %s", data, warning)
    return scan


def read(data: Path, source: ScanSource) -> Scan:
    """:func:`opened`, in memory."""
    return opened(data, source).load()


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


def measure(config: CtConfig, parts: Parts, device: torch.device) -> CtData:
    """What of a prepared scan is trained on, of the first part, and a rough guess of the volume.

    Raises:
        UserError: nothing is left to train on, or the line integrals are not above 0.
    """
    scan = parts.load()
    geometry, grid = scan.geometry.to(device), scan.grid
    projections = tensor_of(scan, device)
    inside = support(config, geometry, grid)
    held = held_out(config, projections.shape, device, parts.places(0))
    if parts.number == 1:
        trained = torch.ones_like(projections) if held is None else (~held).float()
        guess, filled = _guess(Projector(geometry, grid), projections, trained), inside
    else:
        rough = _rough(scan)
        measured = tensor_of(rough, device)
        guess = _guess(Projector(rough.geometry.to(device), rough.grid), measured, torch.ones_like(measured))
        filled = None if inside is None else F.adaptive_max_pool3d(inside[None].float(), rough.grid.shape)[0] > 0
    values = guess.flatten() if filled is None else guess[filled.to(device)]
    scale = float(np.quantile(values.cpu().numpy(), BRIGHT))
    require(scale > 0, f"{config.data}: no attenuation is seen in it; are these line integrals, or transmission?")
    return CtData(projections, held, geometry, grid, inside, guess, scale, scan.counts)


def exchanged(data: CtData, config: CtConfig, parts: Parts, part: int) -> CtData:
    """The same with the views of another part."""
    device = data.projections.device
    scan = parts.load(part)
    held = held_out(config, scan.geometry.shape, device, parts.places(part))
    return dataclasses.replace(data, projections=tensor_of(scan, device), held=held, geometry=scan.geometry.to(device))


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


def held_out(
    config: CtConfig, shape: tuple[int, ...], device: torch.device, places: Int64[np.ndarray, " a"] | None = None
) -> Bool[Tensor, "a rows columns"] | None:
    """Rays that are not trained on: the same ones for the same seed, shape of a view, and place of it in the scan.

    Views are held out evenly spaced, never the first or the last (of a limited arc, nothing lies beyond these).

    Args:
        places: of the views in the scan (default: these are all).

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
        for view, place in enumerate(range(views) if places is None else places.tolist()):
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + place)
            held[view] = torch.rand(shape[1:], generator=generator) < config.holdout
        require(bool(held.any()), f"{config.data}: too few rays to hold {config.holdout:g} of them out; give more")
    return held.to(device)


def _guess(projector: Projector, projections: Tensor, rays: Tensor) -> Tensor:
    steps = itertools.islice(sirt(projector, projections, rays, True), GUESS)
    *_, volume = steps
    return volume.clone()


def _rough(scan: Scan) -> Scan:
    """A scan in so few views, pixels and voxels that a guess of its volume is cheap."""
    few = scan.views(np.unique(np.linspace(0, len(scan) - 1, min(ROUGH, len(scan))).astype(np.int64)))
    rows, columns = scan.geometry.rows, scan.geometry.columns
    few = bin_pixels(few, max(1, min(columns // ROUGH, rows if rows > 1 else columns)))
    return dataclasses.replace(few, grid=scaled(scan.grid, min(1.0, ROUGH / max(scan.grid.shape)))).load()
