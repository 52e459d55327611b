"""Least squares with total variation, over volumes that are nowhere negative.

    minimise 1/2 |m (A x - p)|^2 + lambda sum_i |(D x)_i|,   x >= 0,

where D are the differences of neighbouring voxels along x, y and z, |.| the length of the three (two in a slice), and
m = 0 for rays that are held out.

Solved by the primal-dual method of Chambolle and Pock, "A first-order primal-dual algorithm for convex problems"
(2011), with the steps of Pock and Chambolle, "Diagonal preconditioning" (2011): the inverse sums of the rows and
columns of (A; r D). The factor r gives both blocks columns of like size, without changing the problem: lambda becomes
lambda / r.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.classical.iterative import inverse, sirt
from recon3d.classical.projector import Progress, Projector, silent

RATIO = 3.0
"""Of the dual variables' steps to the volume's, times the voxels' size: found to converge fastest."""


FIRST = 20
"""Steps of SIRT before."""


@dataclass
class State:
    """Where a solution stands, to go on from with another weight: volume and the two dual variables."""

    volume: Float[Tensor, "nz ny nx"]
    ray: Float[Tensor, "a rows columns"]
    slope: Float[Tensor, "d nz ny nx"]


def tv(
    projector: Projector,
    projections: Float[Tensor, "a rows columns"],
    rays: Float[Tensor, "a rows columns"],
    weight: float,
    iterations: int,
    nonnegative: bool,
    start: State | None = None,
    progress: Progress = silent,
) -> State:
    """The solution for lambda = ``weight`` times :func:`unit`, after ``iterations`` steps from ``start``.

    Without a start, from a few steps of SIRT, and the rays' dual variables at the residual, which they are in the end.
    """
    strength = weight * unit(projector, projections)
    column = projector.back(rays)
    if start is None:
        volume = next(islice(sirt(projector, projections, rays, True), FIRST - 1, None))
        start = near(projector, projections, rays, volume)
    volume, ray, slope = start.volume.clone(), start.ray.clone(), start.slope.clone()
    balance = float(column.mean()) / (2 * len(slope))
    # With the length, the steps and so the iterates are the same in all units.
    ratio = RATIO * min(projector.grid.spacing[:2])
    row_step = ratio * inverse(projector.lengths(projections)) * rays
    column_step = 1 / (ratio * (column + 2 * len(slope) * balance))
    slope_step = ratio / (2 * balance)
    ahead = volume.clone()
    for step in range(iterations):
        ray += row_step * (projector.forward(ahead) - projections)
        ray /= 1 + row_step
        ray *= rays
        slope += slope_step * balance * differences(ahead)
        slope /= (slope.norm(dim=0, keepdim=True) / max(strength / balance, 1e-30)).clamp_min(1)
        before = volume
        volume = volume - column_step * (projector.back(ray) + balance * transpose_differences(slope))
        if nonnegative:
            volume.clamp_(min=0)
        ahead = 2 * volume - before
        progress(step + 1, iterations)
    return State(volume, ray, slope)


def near(
    projector: Projector,
    projections: Float[Tensor, "a rows columns"],
    rays: Float[Tensor, "a rows columns"],
    volume: Float[Tensor, "nz ny nx"],
) -> State:
    """A state to begin at with a volume that is not far from the solution."""
    return State(volume, rays * (projector.forward(volume) - projections), torch.zeros_like(differences(volume)))


def unit(projector: Projector, projections: Float[Tensor, "a rows columns"]) -> float:
    """What weights are counted in: the largest value of A^T p, above which nothing but a constant is left."""
    return float(projector.back(projections).abs().amax())


def _axes(volume: Tensor) -> list[int]:
    return [axis for axis in range(3) if axis > 0 or volume.shape[0] > 1]


def differences(volume: Float[Tensor, "nz ny nx"]) -> Float[Tensor, "d nz ny nx"]:
    """D x: from each voxel to the next along each axis, 0 at the last; without z in a slice."""
    out = []
    for axis in _axes(volume):
        n = volume.shape[axis]
        step = torch.zeros_like(volume)
        step.narrow(axis, 0, n - 1).copy_(volume.narrow(axis, 1, n - 1) - volume.narrow(axis, 0, n - 1))
        out.append(step)
    return torch.stack(out)


def transpose_differences(slope: Float[Tensor, "d nz ny nx"]) -> Float[Tensor, "nz ny nx"]:
    """D^T g: minus the divergence."""
    out = torch.zeros_like(slope[0])
    for axis, step in zip(_axes(out), slope):
        n = out.shape[axis]
        inner = step.narrow(axis, 0, n - 1)
        out.narrow(axis, 1, n - 1).add_(inner)
        out.narrow(axis, 0, n - 1).sub_(inner)
    return out
