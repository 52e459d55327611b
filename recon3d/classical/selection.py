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
    """The first iteration that predicts the rays with weight 0 as well as any, of ``longest`` at most.

    As well as any: within one standard error of the best, so that of what cannot be told apart the smoothest is taken.
    """
    held = Held(projector, projections, rays)
    errors: list[float] = []
    best, uncertain, chosen = float("inf"), 0.0, 1
    for step, volume in enumerate(iterates, start=1):
        squares = held.squares(volume)
        errors.append(float(squares.mean()))
        if errors[-1] < best:
            best, chosen = errors[-1], step
            uncertain = float(squares.std()) / squares.numel() ** 0.5
        progress(step, longest)
        if step == longest or step > max(10, chosen + max(5, chosen // PATIENCE)):
            break
    return next(step for step, error in enumerate(errors, start=1) if error <= best + uncertain)


def choose_weight(
    projector: Projector,
    projections: Float[Tensor, "a rows columns"],
    rays: Float[Tensor, "a rows columns"],
    nonnegative: bool,
    progress: Progress = silent,
) -> tuple[float, State]:
    """The weight of the total variation whose solution predicts the rays with weight 0 best, and that solution."""
    held = Held(projector, projections, rays)
    best: tuple[float, float, State] | None = None
    state: State | None = None
    since = 0
    for number, weight in enumerate(WEIGHTS):
        state = tv(projector, projections, rays, weight, STEPS, nonnegative, state)
        error = float(held.squares(state.volume).mean())
        progress(number + 1, len(WEIGHTS))
        if best is None or error < best[0]:
            best, since = (error, weight, state), 0
        else:
            since += 1
            if since == PATIENCE:
                break
    assert best is not None
    return best[1:]


class Held:
    """The views that are held out."""

    def __init__(self, projector: Projector, projections: Tensor, rays: Tensor) -> None:
        views = (rays.amax(dim=(1, 2)) == 0).nonzero().squeeze(1)
        self.projector = Projector(projector.geometry.subset(views), projector.grid)
        self.projections = projections[views]

    def squares(self, volume: Float[Tensor, "nz ny nx"]) -> Float[Tensor, "a rows columns"]:
        """Squared residuals."""
        return (self.projector.forward(volume) - self.projections).double().square()
