"""The system of equations A x = p of a scan: A projects a volume, its transpose back-projects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.voxels import VolumeGrid
from recon3d.kernels import back_project, project

Progress = Callable[[int, int], None]
"""Called with the steps done and their number after every step."""


def silent(done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Projector:
    """A of a geometry and a grid; tensors on the device of what it is given."""

    geometry: ScanGeometry
    grid: VolumeGrid

    def forward(self, volume: Float[Tensor, "nz ny nx"]) -> Float[Tensor, "a rows columns"]:
        """A x: line integrals of a volume in 1/mm."""
        g = self.geometry
        return project(volume, g.vectors, g.rows, g.columns, self.grid.spacing, self.grid.center, g.divergent, g.curved)

    def back(self, projections: Float[Tensor, "a rows columns"]) -> Float[Tensor, "nz ny nx"]:
        """A^T p, in mm."""
        g = self.geometry
        return back_project(
            projections, g.vectors, self.grid.shape, self.grid.spacing, self.grid.center, g.divergent, g.curved
        )

    def lengths(self, like: Tensor) -> Float[Tensor, "a rows columns"]:
        """A 1: how far every ray runs through the volume, in mm."""
        return self.forward(torch.ones(self.grid.shape, dtype=like.dtype, device=like.device))
