"""Where the voxels of a volume lie; conventions as in :mod:`recon3d.geometry.scanner`: mm, triples (x, y, z), arrays
[z, y, x] whose indices rise with the coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.errors import require
from recon3d.geometry.boxes import Normalizer


@dataclass(frozen=True)
class VolumeGrid:
    """A grid of voxels.

    Attributes:
        shape: numbers of voxels (nz, ny, nx), in the order of the array's axes.
        spacing: distances of neighbouring voxels (x, y, z) in mm.
        center: middle of the volume (x, y, z) in mm.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    center: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        require(min(self.shape) >= 1, f"a volume needs at least one voxel along every axis, not {self.shape}")
        require(
            all(math.isfinite(s) and s > 0 for s in self.spacing),
            f"the distance of voxels must be positive along every axis, not {self.spacing} mm",
        )
        require(all(math.isfinite(c) for c in self.center), f"the middle of a volume must be finite, not {self.center}")

    @property
    def size(self) -> tuple[float, float, float]:
        """Extent (x, y, z) in mm, voxels' outer borders included."""
        nz, ny, nx = self.shape
        return nx * self.spacing[0], ny * self.spacing[1], nz * self.spacing[2]

    @property
    def low(self) -> tuple[float, float, float]:
        """Corner of the smallest coordinates (x, y, z) in mm."""
        x, y, z = (c - s / 2 for c, s in zip(self.center, self.size))
        return x, y, z

    @property
    def high(self) -> tuple[float, float, float]:
        """Corner of the largest coordinates (x, y, z) in mm."""
        x, y, z = (c + s / 2 for c, s in zip(self.center, self.size))
        return x, y, z

    def axis(self, axis: int, device: torch.device | str = "cpu") -> Float[Tensor, " n"]:
        """Coordinates in mm of the voxels' centres along x (0), y (1) or z (2), in float64."""
        n = self.shape[2 - axis]
        index = torch.arange(n, dtype=torch.float64, device=device)
        return self.center[axis] + (index - (n - 1) / 2) * self.spacing[axis]

    def points(self, device: torch.device | str = "cpu") -> Float[Tensor, "nz ny nx 3"]:
        """Centres (x, y, z) of all voxels in mm, in the order of the array."""
        z, y, x = torch.meshgrid(*(self.axis(i, device) for i in (2, 1, 0)), indexing="ij")
        return torch.stack([x, y, z], dim=-1).float()

    def normalizer(self) -> Normalizer:
        """The cube [-1, 1]^3 of a field that holds this volume whole."""
        return Normalizer(self.center, max(self.size) / 2)

    def binned(self, factor: int) -> VolumeGrid:
        """The same space (at least) in voxels ``factor`` times as large; a slice stays one."""
        nz, ny, nx = (-(-n // factor) if n > 1 else 1 for n in self.shape)
        x, y, z = self.spacing
        return replace(self, shape=(nz, ny, nx), spacing=(x * factor, y * factor, z * factor if nz > 1 else z))
