"""What a CT run may start from: the volume of total variation alone, whose weight the projections choose."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.classical.projector import Projector
from recon3d.classical.selection import choose_weight, fitted_views
from recon3d.classical.variation import tv, unit
from recon3d.metrics.volume import otsu_threshold
from recon3d.tasks.ct_data import CtData

ITERATIONS = 200
CEILING = 1.25
"""Of the mean above Otsu's threshold."""


@dataclass(frozen=True)
class Start:
    """A volume in 1/mm, and the weight of its total variation beside the mean of squared errors, in the units of the
    task's losses."""

    volume: Float[Tensor, "nz ny nx"]
    weight: float


@torch.no_grad()
def by_variation(data: CtData) -> Start:
    """From the rays that are trained on.

    Of 1/2 |A x - p|^2 + lambda |D x| with x = scale v, the mean squared error of R rays in the task's unit has, beside
    the mean over N voxels of |D v|, the weight 2 lambda N scale / (R unit^2).

    Raises:
        UserError: too few views to choose a weight by.
    """
    projector = Projector(data.geometry, data.grid)
    rays = data.trained.to(data.projections)
    fitted = rays * fitted_views(len(data.geometry)).to(rays)[:, None, None]
    weight, state = choose_weight(projector, data.projections, fitted, True, data.counts)
    volume = tv(projector, data.projections, rays, weight, ITERATIONS, True, state).volume
    strength = weight * unit(projector, data.projections)
    return Start(volume, 2 * strength * volume.numel() * data.scale / (float(rays.sum()) * data.unit**2))


def material(volume: Float[Tensor, "nz ny nx"]) -> float:
    """What the one material of a volume attenuates at most, in 1/mm: the mean of what lies above Otsu's threshold, with
    a margin, since a short arc smears part of the material over its surroundings.

    Raises:
        UserError: all values are equal.
    """
    return CEILING * float(volume[volume > otsu_threshold(volume)].mean())


def likelihood_share(measured: Float[Tensor, " n"]) -> float:
    """What a weight beside squared errors is multiplied by, to mean the same beside the likelihood of photon counts.

    Rays of transmission t have noise of variance 1 / (I t): squared errors are in units of its mean, mean(1 / t) / I;
    the likelihood is in those of 1 / (I mean(t)) (:func:`recon3d.heads.projection.poisson_deviance`).
    """
    return float(1 / (torch.exp(-measured).mean() * torch.exp(measured).mean()))
