"""Choosing a number of iterations or a weight without the ground truth: by how well held-out views are predicted.

Every tenth view (two at least, where there are four) is left out of the fit. What predicts them best is chosen, and
used with all views.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.classical.projector import Progress, Projector, silent
from recon3d.classical.variation import State, tv
from recon3d.errors import require

SHARE = 10
"""Of so many views one is held out."""
PATIENCE = 3
"""The search ends where the prediction has not become better for this many weights, or a third of the iterations."""
WEIGHTS = tuple(10 ** (-1.5 - k / 3) for k in range(14))
"""From strong to weak, in units of :func:`recon3d.classical.variation.unit`."""
STEPS = 80
"""Iterations for each weight, from the solution for the one before."""


def fitted_views(views: int) -> Float[Tensor, " a"]:
    """1 for views to fit, 0 for those held out, spread evenly."""
    require(views >= 4, f"{views} views are too few to hold some out: give the iterations or the weight")
    held = max(2, round(views / SHARE))
    rays = torch.ones(views)
    rays[((torch.arange(held) + 0.5) * views / held).long()] = 0
    return rays


def choose_iterations(
    iterates: Iterator[Float[Tensor, "nz ny nx"]],
    projector: Projector,
    projections: Float[Tensor, "a rows columns"],
    rays: Float[Tensor, "a rows columns"],
    longest: int,
    progress: Progress = silent,
) -> int:
    """The iteration after which the rays with weight 0 are predicted best, of ``longest`` at most."""
    held = Held(projector, projections, rays)
    best, chosen = float("inf"), 1
    for step, volume in enumerate(iterates, start=1):
        error = held.error(volume)
        if error < best:
            best, chosen = error, step
        progress(step, longest)
        if step == longest or step > max(10, chosen + max(5, chosen // PATIENCE)):
            break
    return chosen


def choose_weight(
    projector: Projector,
    projections: Float[Tensor, "a rows columns"],
    rays: Float[Tensor, "a rows columns"],
    nonnegative: bool,
    progress: Progress = silent,
) -> float:
    """The weight of the total variation whose solution predicts the rays with weight 0 best."""
    held = Held(projector, projections, rays)
    best, chosen, since = float("inf"), WEIGHTS[0], 0
    state: State | None = None
    for number, weight in enumerate(WEIGHTS):
        state = tv(projector, projections, rays, weight, STEPS, nonnegative, state)
        error = held.error(state.volume)
        progress(number + 1, len(WEIGHTS))
        if error < best:
            best, chosen, since = error, weight, 0
        else:
            since += 1
            if since == PATIENCE:
                break
    return chosen


class Held:
    """The views that are held out."""

    def __init__(self, projector: Projector, projections: Tensor, rays: Tensor) -> None:
        views = (rays.amax(dim=(1, 2)) == 0).nonzero().squeeze(1)
        self.projector = Projector(projector.geometry.subset(views), projector.grid)
        self.projections = projections[views]

    def error(self, volume: Float[Tensor, "nz ny nx"]) -> float:
        """Mean squared residual."""
        return float((self.projector.forward(volume) - self.projections).square().mean())
