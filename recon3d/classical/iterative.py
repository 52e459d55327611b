"""SIRT and CGLS: least squares A x = p, stopped early.

Sources: Gregor and Benson, "Computational analysis and improvement of SIRT" (2008); Hestenes and Stiefel, "Methods of
conjugate gradients" (1952), on the normal equations.

Both take weights m of the rays, 1 for a ray that counts and 0 for one that is held out.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.classical.projector import Projector


def sirt(
    projector: Projector,
    projections: Float[Tensor, "a rows columns"],
    rays: Float[Tensor, "a rows columns"],
    nonnegative: bool,
    start: Float[Tensor, "nz ny nx"] | None = None,
) -> Iterator[Float[Tensor, "nz ny nx"]]:
    """The iterates x_1, x_2, ... without end, from x_0 = 0 or ``start``; the tensor is the same one, changed in place.

    x_{k+1} = [x_k + C A^T m R (p - A x_k)]_+,   R = 1 / (A 1),   C = 1 / (A^T m 1).
    """
    row = inverse(projector.lengths(projections)) * rays
    column = inverse(projector.back(rays))
    volume = projections.new_zeros(projector.grid.shape) if start is None else start.clone()
    while True:
        volume += column * projector.back(row * (projections - projector.forward(volume)))
        if nonnegative:
            volume.clamp_(min=0)
        yield volume


def cgls(
    projector: Projector, projections: Float[Tensor, "a rows columns"], rays: Float[Tensor, "a rows columns"]
) -> Iterator[Float[Tensor, "nz ny nx"]]:
    """The iterates x_1, x_2, ... until the residual is nothing; the tensor is the same one, changed in place."""
    volume = torch.zeros(projector.grid.shape, dtype=projections.dtype, device=projections.device)
    residual = rays * projections
    gradient = projector.back(residual)
    direction = gradient.clone()
    energy = first = float(gradient.double().square().sum())
    while energy > 1e-14 * first:
        image = rays * projector.forward(direction)
        step = energy / float(image.double().square().sum())
        volume += step * direction
        residual -= step * image
        gradient = projector.back(rays * residual)
        before, energy = energy, float(gradient.double().square().sum())
        direction = gradient + (energy / before) * direction
        yield volume


def inverse(values: Tensor) -> Tensor:
    """1 / values; 0 where they are (nearly) nothing: rays and voxels that do not meet."""
    small = 1e-6 * values.amax()
    return torch.where(values > small, 1 / values.clamp_min(small.clamp_min(1e-30)), 0.0)
