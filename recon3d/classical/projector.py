"""The system of equations A x = p of a scan: A projects a volume, its transpose back-projects."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.voxels import VolumeGrid
from recon3d.kernels import back_project, project

Progress = Callable[[int, int], None]
"""Called with the steps done and their number after every step."""


def silent(done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Projector:
    """A of a geometry and a grid; tensors on the device of what it is given.

    Lines run through the middles of detector pixels, and between the middles of voxels the volume is interpolated. With
    ``finer`` above 1, voxels are cut into so many along every axis, of equal values, and a pixel measures the mean of
    as many lines along its columns and rows: voxels are nearly boxes then, and pixels areas, which matters where there
    is little noise.
    """

    geometry: ScanGeometry
    grid: VolumeGrid
    finer: int = 1

    def forward(self, volume: Float[Tensor, "nz ny nx"]) -> Float[Tensor, "a rows columns"]:
        """A x: line integrals of a volume in 1/mm."""
        if self.finer > 1:
            for axis, times in enumerate(self._cuts):
                volume = volume.repeat_interleave(times, axis)
            lines = Projector(finer(self.geometry, self.finer), self._finer_grid).forward(volume)
            return F.adaptive_avg_pool2d(lines[:, None], (self.geometry.rows, self.geometry.columns))[:, 0]
        g = self.geometry
        return project(volume, g.vectors, g.rows, g.columns, self.grid.spacing, self.grid.center, g.divergent, g.curved)

    def back(self, projections: Float[Tensor, "a rows columns"]) -> Float[Tensor, "nz ny nx"]:
        """A^T p, in mm."""
        if self.finer > 1:
            lines = finer(self.geometry, self.finer)
            down, across = lines.rows // self.geometry.rows, lines.columns // self.geometry.columns
            spread = projections.repeat_interleave(down, 1).repeat_interleave(across, 2) / (down * across)
            volume = Projector(lines, self._finer_grid).back(spread)
            return F.avg_pool3d(volume[None, None], self._cuts)[0, 0] * math.prod(self._cuts)
        g = self.geometry
        return back_project(
            projections, g.vectors, self.grid.shape, self.grid.spacing, self.grid.center, g.divergent, g.curved
        )

    def lengths(self, like: Tensor) -> Float[Tensor, "a rows columns"]:
        """A 1: how far every ray runs through the volume, in mm."""
        return self.forward(torch.ones(self.grid.shape, dtype=like.dtype, device=like.device))

    @property
    def _cuts(self) -> tuple[int, int, int]:
        """Into how many a voxel is cut along z, y, x."""
        return self.finer if self.grid.shape[0] > 1 else 1, self.finer, self.finer

    @property
    def _finer_grid(self) -> VolumeGrid:
        nz, ny, nx = (n * times for n, times in zip(self.grid.shape, self._cuts))
        x, y, z = (step / times for step, times in zip(self.grid.spacing, self._cuts[::-1]))
        return VolumeGrid((nz, ny, nx), (x, y, z), self.grid.center)


def finer(geometry: ScanGeometry, times: int) -> ScanGeometry:
    """The same detector in pixels so many times smaller; a single row stays one."""
    down = times if geometry.rows > 1 else 1
    return replace(
        geometry,
        rows=geometry.rows * down,
        columns=geometry.columns * times,
        u=geometry.u / times,
        v=geometry.v / down,
    )
