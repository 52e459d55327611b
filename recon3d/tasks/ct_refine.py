"""What a trained field has left of the projections: its total variation keeps some of it back."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.classical.iterative import sirt
from recon3d.classical.noise import in_units_of_noise, noise_variance
from recon3d.classical.projector import Projector
from recon3d.classical.selection import SURPLUS
from recon3d.tasks.ct_data import CtData


@torch.no_grad()
def refined(
    projector: Projector, data: CtData, volume: Float[Tensor, "nz ny nx"], steps: int, nonnegative: bool
) -> Float[Tensor, "nz ny nx"]:
    """The volume after SIRT on the rays that are trained on, ``steps`` steps at most.

    It ends where no more is left of them than their noise (the discrepancy principle): a field that has come so far is
    given back as it is.
    """
    rays = data.trained.to(data.projections)
    variance = noise_variance(data.projections, data.counts)
    iterates = sirt(projector, data.projections, rays, nonnegative, volume)
    for _ in range(steps):
        if in_units_of_noise(projector.forward(volume) - data.projections, variance, rays) <= SURPLUS:
            break
        volume = next(iterates)
        if data.inside is not None:
            volume *= data.inside
    return volume
