"""Volume: values on a grid in space, the reference that reconstructions are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from recon3d.errors import require
from recon3d.geometry.voxels import VolumeGrid


@dataclass(frozen=True)
class Volume:
    """Values [z, y, x] whose indices rise with the coordinates.

    Attributes:
        values: float32; of attenuation in 1/mm, unless the file has other units.
        grid: where the voxels are; None where the file does not tell.
        path: of the file.
    """

    values: Float32[np.ndarray, "z y x"]
    grid: VolumeGrid | None = None
    path: Path | None = None

    def __post_init__(self) -> None:
        where = "" if self.path is None else f"{self.path}: "
        require(self.values.size > 0, f"{where}a volume of shape {self.values.shape} is empty")
        require(
            self.grid is None or self.grid.shape == self.values.shape,
            f"{where}{self.values.shape} values on a grid of {None if self.grid is None else self.grid.shape}",
        )


def grid_of(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], origin: tuple[float, float, float]
) -> VolumeGrid:
    """The grid of ``shape`` (z, y, x) whose first voxel's centre is at ``origin``; triples of mm are (x, y, z)."""
    x, y, z = (o + (n - 1) / 2 * s for o, n, s in zip(origin, shape[::-1], spacing))
    return VolumeGrid(shape, spacing, (x, y, z))
