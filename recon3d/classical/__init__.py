"""Classical reconstruction: FBP and FDK, SIRT, CGLS, total variation, all with one projector and one interface.

They are the baseline, the start of others, and often what a user wants. Whatever their options leave open is chosen
from the projections alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.classical.analytic import fbp
from recon3d.classical.iterative import cgls, sirt
from recon3d.classical.projector import Progress, Projector, silent
from recon3d.classical.selection import choose_iterations, choose_weight, fitted_views
from recon3d.classical.variation import tv
from recon3d.config.classical import CglsConfig, FbpConfig, SirtConfig, TvConfig
from recon3d.errors import require
from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.voxels import VolumeGrid

__all__ = ["METHODS", "Options", "Progress", "Projector", "Reconstruction", "reconstruct"]

Options = FbpConfig | SirtConfig | CglsConfig | TvConfig

METHODS: dict[str, type[Options]] = {
    "fbp": FbpConfig,
    "fdk": FbpConfig,
    "sirt": SirtConfig,
    "cgls": CglsConfig,
    "tv": TvConfig,
}


@dataclass(frozen=True)
class Reconstruction:
    """A volume (nz, ny, nx) in 1/mm, and what was chosen for it from the projections: "iterations" or "weight"."""

    volume: Float[Tensor, "nz ny nx"]
    chosen: dict[str, int | float]


def reconstruct(
    method: str,
    projections: Float[Tensor, "a rows columns"],
    geometry: ScanGeometry,
    grid: VolumeGrid,
    options: Options | None = None,
    progress: Progress = silent,
    counts: float | None = None,
) -> Reconstruction:
    """A volume by a classical method, on the device of the projections.

    Args:
        method: a key of ``METHODS``; "fbp" and "fdk" are one: the geometry decides.
        projections: line integrals.
        geometry, grid: of the scanner and the volume.
        options: the method's, of the class that ``METHODS`` tells.
        progress: called with the steps done and their number, from the start again after a choice.
        counts: photons of an unattenuated pixel, where known: they tell the noise, by which a weight is chosen.

    Raises:
        UserError: the method is not for this geometry, or there are too few views to choose by.
    """
    require(method in METHODS, f"no method {method!r}: choose {', '.join(METHODS)}")
    options = METHODS[method]() if options is None else options
    require(
        tuple(projections.shape) == geometry.shape,
        f"projections of shape {tuple(projections.shape)} for a geometry of {geometry.shape} views, rows, columns",
    )
    require(
        bool(projections.isfinite().all()), "projections that are not finite: mend bad pixels before reconstructing"
    )
    geometry = geometry.to(projections.device)
    chosen: dict[str, int | float] = {}
    if isinstance(options, FbpConfig):
        return Reconstruction(fbp(projections, geometry, grid, options, progress), chosen)
    projector = Projector(geometry, grid)
    every = torch.ones_like(projections)

    def fitted() -> Tensor:
        return every * fitted_views(len(geometry)).to(every)[:, None, None]

    if isinstance(options, TvConfig):
        weight, start = options.weight, None
        if weight is None:
            weight, start = choose_weight(projector, projections, fitted(), options.nonnegative, counts, progress)
            chosen["weight"] = weight
        state = tv(projector, projections, every, weight, options.iterations, options.nonnegative, start, progress)
        return Reconstruction(state.volume, chosen)

    def iterates(rays: Tensor) -> Iterator[Tensor]:
        if isinstance(options, SirtConfig):
            return sirt(projector, projections, rays, options.nonnegative)
        return cgls(projector, projections, rays)

    iterations = options.iterations
    if iterations is None:
        rays = fitted()
        iterations = choose_iterations(iterates(rays), projector, projections, rays, options.longest, progress)
        chosen["iterations"] = iterations
    volume = torch.zeros(grid.shape, dtype=projections.dtype, device=projections.device)
    for step, iterate in enumerate(islice(iterates(every), iterations), start=1):
        volume = iterate
        progress(step, iterations)
    return Reconstruction(volume, chosen)
