"""Spectra of filtered back-projections, and of untrained fields of attenuation, over the fields' cube."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from recon3d.classical import reconstruct
from recon3d.config import CtConfig, RunConfig
from recon3d.config.classical import FbpConfig, SirtConfig
from recon3d.errors import UserError
from recon3d.geometry.grids import grid_points
from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.voxels import VolumeGrid
from recon3d.tasks import ct_data
from recon3d.tuning.options import Binning
from recon3d.tuning.signals import CHUNK, LONGEST, untrained_field, values_on
from recon3d.tuning.spectrum import Bins, magnitudes

FILTER = FbpConfig("hann")
"""Noise and streaks are no frequencies of the object."""
ITERATIONS = 20
"""Of SIRT, for geometries without filtered back-projection."""


@dataclass(frozen=True)
class VolumeTarget:
    """Values (*grid, 1) of a first reconstruction at the samples of a grid over the field's square or cube."""

    values: Float[Tensor, "*grid c"]
    device: torch.device

    @staticmethod
    def read(config: CtConfig, device: torch.device) -> VolumeTarget:
        """What is seen of a run's scan at once, without training.

        Raises:
            UserError: a file that is no scan, or one that cannot be prepared so.
        """
        scan = ct_data.read(config.data, config)
        geometry = scan.geometry.to(device)
        volume = first_reconstruction(ct_data.tensor_of(scan, device), geometry, scan.grid)
        return VolumeTarget(over_the_cube(volume, scan.grid), device)

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(self.values.shape[:-1])

    def bins(self, size: int, binning: Binning) -> Bins:
        return Bins.of(self.grid, size, binning)

    def draws(self, bins: Bins) -> int:
        return 2 if len(self.grid) == 2 else 1

    def measured(self, bins: Bins) -> Float[Tensor, " bins"]:
        return magnitudes(self.values, bins)

    def untrained(self, config: RunConfig, bins: Bins, seed: int) -> Float[Tensor, " bins"]:
        assert isinstance(config, CtConfig)
        field = untrained_field(config.field.resolved(), self.values.cpu(), seed).to(self.device)
        return magnitudes(values_on(field, self.grid, self.device), bins)


def first_reconstruction(
    projections: Float[Tensor, "a rows columns"], geometry: ScanGeometry, grid: VolumeGrid
) -> Float[Tensor, "nz ny nx"]:
    """Filtered back-projection; a few iterations of SIRT where the geometry has none."""
    try:
        return reconstruct("fbp", projections, geometry, grid, FILTER).volume
    except UserError:
        return reconstruct("sirt", projections, geometry, grid, SirtConfig(iterations=ITERATIONS)).volume


def over_the_cube(volume: Float[Tensor, "nz ny nx"], grid: VolumeGrid) -> Float[Tensor, "*cube 1"]:
    """A volume sampled on a grid over the field's cube (x first), 0 outside: what spectra of fields are compared with.

    As fine as the volume along its longest side, but not finer than spectra are taken of.
    """
    dim = 2 if grid.shape[0] == 1 else 3
    side = min(max(grid.shape), LONGEST[dim])
    cube = grid.normalizer()
    reach = torch.tensor([size / (2 * cube.half_size) for size in grid.size[:dim]], device=volume.device)
    source = volume[0] if dim == 2 else volume
    parts = []
    for points in grid_points((side,) * dim, device=volume.device).split(64 * CHUNK):
        places = (points / reach).view(*([1] * dim), -1, dim)
        parts.append(F.grid_sample(source[None, None], places, align_corners=False).flatten())
    return torch.cat(parts).view(*[side] * dim, 1)
