"""Choosing a number of iterations or a weight without the ground truth: by how well held-out views are predicted.

Every tenth view (two at least, where there are four) is left out of the fit. What predicts them best is chosen, and
used with all views; between weights that predict as well as each other, the noise decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from recon3d.classical.noise import in_units_of_noise, noise_variance
from recon3d.classical.projector import Progress, Projector, silent
from recon3d.classical.variation import State, near, tv, unit
from recon3d.errors import require
from recon3d.geometry.voxels import VolumeGrid

SHARE = 10
"""Of so many views one is held out."""
PATIENCE = 3
"""The search ends where the prediction has not become better, by more than a standard error, for this many weights (for
one, where the photons are known and less than their noise is left); or for a third of the iterations."""
SURPLUS = 1.25
"""Mean squared residual, in units of the noise, that counts as the noise: solutions of STEPS steps are not quite
finished, and voxels do not tell all."""
BLOCK = 8
"""Pixels a side of what counts as one sample of an error."""
WEIGHTS = tuple(10 ** (-1.5 - k / 3) for k in range(14))
"""From strong to weak, in units of :func:`recon3d.classical.variation.unit`."""
STEPS = 80
"""Iterations for each weight, from the solution for the one before."""
SAMPLES = 2.5e7
"""Rays times voxels a side, above which the search begins in voxels and pixels twice as large."""


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
    counts: float | None = None,
    progress: Progress = silent,
) -> tuple[float, State]:
    """A weight of the total variation, and a solution near that of all rays.

    Of the weights that predict the rays with weight 0 as well as any (within one standard error of the best), the one
    that leaves of the others what the noise is (the discrepancy principle). Held-out views alone cannot tell: where few
    views leave much unknown, details hardly change the error of a prediction, and noise passes for detail.

    Args:
        counts: photons of an unattenuated pixel, where known; see :func:`recon3d.classical.noise.noise_variance`.
    """
    tried, state = _try(projector, projections, rays, nonnegative, counts, progress)
    return chosen_weight(tried, counts is not None), state


def _try(
    projector: Projector, projections: Tensor, rays: Tensor, nonnegative: bool, counts: float | None, progress: Progress
) -> tuple[list[Tried], State]:
    """Weights from strong to weak, each from the solution for the one before, and the solution that predicts best.

    Of more than SAMPLES, the strongest weight is found in voxels and pixels twice as large; the noise decides in those
    that are asked for, as larger ones do not tell all that is in the projections.
    """
    held = Held(projector, projections, rays)
    variance = noise_variance(projections, counts)
    first, state = 0, None
    if projections.numel() * max(projector.grid.shape) > SAMPLES:
        first, state = _begin(projector, projections, rays, nonnegative, counts, progress)
    tried: list[Tried] = []
    best: tuple[float, State] | None = None
    least, since = float("inf"), 0
    for number, weight in enumerate(WEIGHTS[first:], start=first):
        state = tv(projector, projections, rays, weight, STEPS, nonnegative, state)
        error, uncertain = held.error(state.volume)
        left = float(in_units_of_noise(projector.forward(state.volume) - projections, variance, rays))
        tried.append(Tried(weight, error, uncertain, left))
        progress(number + 1, len(WEIGHTS))
        if best is None or error < best[0]:
            best = error, state
        if error < least - uncertain:
            least, since = error, 0
        else:
            since += 1
            if since == PATIENCE or (counts is not None and left < SURPLUS):
                break
    assert best is not None
    return tried, best[1]


def _begin(
    projector: Projector, projections: Tensor, rays: Tensor, nonnegative: bool, counts: float | None, progress: Progress
) -> tuple[int, State]:
    """The strongest weight that predicts as well as any in voxels and pixels twice as large, and a state to begin at.

    The lambda of the problem stays what it is: rays become as many fewer, two or four times, as the sum of the
    differences along an edge or a surface.
    """
    down, across = 2 if projections.shape[1] > 1 else 1, 2
    larger = Projector(projector.geometry.binned(2), projector.grid.binned(2))
    averages, fitted = (F.avg_pool2d(values[:, None], (down, across))[:, 0] for values in (projections, rays))
    photons = None if counts is None else counts * down * across
    tried, state = _try(larger, averages, (fitted == 1).to(rays), nonnegative, photons, progress)
    strongest = max(one.weight for one in near_best(tried)) * unit(larger, averages) / unit(projector, projections)
    first = min(range(len(WEIGHTS)), key=lambda number: abs(math.log(WEIGHTS[number] / strongest)))
    return first, near(projector, projections, rays, resampled(state.volume, larger.grid, projector.grid))


@dataclass(frozen=True)
class Tried:
    """What became of a weight: the mean squared error of rays held out, its standard error, and the mean squared
    residual of the others in units of their noise."""

    weight: float
    error: float
    uncertain: float
    left: float


def chosen_weight(tried: list[Tried], known: bool = False) -> float:
    """The weight among those near the best prediction whose residual is nearest to the noise.

    Where the noise is ``known`` and none of them leaves as little, it is the voxels that do not fit, and the residual
    tells nothing: the best prediction then.
    """
    near = near_best(tried)
    if known and min(one.left for one in near) > SURPLUS:
        return min(near, key=lambda one: one.error).weight
    return min(near, key=lambda one: abs(math.log(max(one.left, 1e-30) / SURPLUS))).weight


def near_best(tried: list[Tried]) -> list[Tried]:
    """The weights that predict within a standard error of the best."""
    best = min(tried, key=lambda one: one.error)
    return [one for one in tried if one.error <= best.error + best.uncertain]


def resampled(volume: Float[Tensor, "nz ny nx"], grid: VolumeGrid, wanted: VolumeGrid) -> Float[Tensor, "nz2 ny2 nx2"]:
    """A volume of one grid on another about the same middle: between voxels linearly, beyond them the nearest."""
    places = [
        (wanted.axis(axis, volume.device) - grid.center[axis]).to(volume) * (2 / grid.size[axis]) for axis in (2, 1, 0)
    ]
    points = torch.stack(torch.meshgrid(*places, indexing="ij")[::-1], dim=-1)
    found = F.grid_sample(volume[None, None], points[None], align_corners=False, padding_mode="border")
    return found[0, 0]


class Held:
    """The views that are held out."""

    def __init__(self, projector: Projector, projections: Tensor, rays: Tensor) -> None:
        views = (rays.amax(dim=(1, 2)) == 0).nonzero().squeeze(1)
        self.projector = Projector(projector.geometry.subset(views), projector.grid)
        self.projections = projections[views]

    def squares(self, volume: Float[Tensor, "nz ny nx"]) -> Float[Tensor, "a rows columns"]:
        """Squared residuals."""
        return (self.projector.forward(volume) - self.projections).double().square()

    def error(self, volume: Float[Tensor, "nz ny nx"]) -> tuple[float, float]:
        """The mean of the squared residuals, and its standard error, for which a block of BLOCK pixels a side is one
        sample: what is wrong with a volume is wrong for neighbouring rays."""
        squares = self.squares(volume)
        size = tuple(min(BLOCK, n) for n in squares.shape[1:])
        blocks = torch.nn.functional.avg_pool2d(squares[:, None], size)
        return float(squares.mean()), float(blocks.std()) / blocks.numel() ** 0.5
