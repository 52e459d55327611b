"""FreSh (Kania et al. 2024): of several configurations, the one whose untrained output has the target's spectrum."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.config import RunConfig
from recon3d.errors import UserError
from recon3d.tuning.options import SEED_STRIDE, TuneOptions
from recon3d.tuning.search import Search, Value, best_of, search_of
from recon3d.tuning.spectrum import Bins, distance, normalised
from recon3d.tuning.targets import Target, target_of

C = TypeVar("C", bound=RunConfig)
DEFAULT = TuneOptions()


@dataclass(frozen=True)
class Tuning:
    """What was found. Spectra are (bins,), of sum 1; ``default`` is None where the network has its own."""

    search: Search
    bins: Bins
    draws: int
    distances: dict[Value, float]
    chosen: Value
    default: Value | None
    default_distance: float
    measured: Float[Tensor, " bins"]
    spectra: dict[Value, Float[Tensor, " bins"]]
    default_spectrum: Float[Tensor, " bins"]
    seconds: float

    def apply(self, config: C) -> C:
        """The configuration with the chosen value."""
        field = self.search.apply(config.field, self.chosen)  # type: ignore[attr-defined]
        return dataclasses.replace(config, field=field)  # type: ignore[call-arg]


def tune(
    config: RunConfig,
    device: torch.device,
    options: TuneOptions = DEFAULT,
    progress: Callable[[Value, float], None] = lambda value, distance: None,
) -> Tuning:
    """Reads the data of a run and compares its spectrum with those of its untrained fields.

    ``progress`` is told every value that was tried and its distance. Same seed, same choice.

    Raises:
        UserError: data that cannot be read or is constant, or a field without a frequency to tune.
    """
    begin = time.perf_counter()
    field = config.field  # type: ignore[attr-defined]
    search = search_of(field, options.search)
    target = target_of(config, device)
    bins = target.bins(options.bins or search.bins, options.binning)
    draws = options.draws or target.draws(bins)
    measured = normalised(target.measured(bins))
    if not measured.any():
        raise UserError(f"{config.data}: constant as far as {bins.count} frequencies see: there is nothing to tune by")
    seeds = range(config.seed * SEED_STRIDE, config.seed * SEED_STRIDE + draws)

    spectra: dict[Value, Tensor] = {}
    distances: dict[Value, float] = {}
    for value in search.possible(field):
        tried = dataclasses.replace(config, field=search.apply(field, value))  # type: ignore[call-arg]
        spectra[value] = mean_spectrum(target, tried, bins, seeds)
        distances[value] = distance_to(spectra[value], measured)
        progress(value, distances[value])
    default = search.default(field)
    own = None if default is None or search.also else spectra.get(default)
    own = mean_spectrum(target, config, bins, seeds) if own is None else own
    return Tuning(
        search,
        bins,
        draws,
        distances,
        best_of(distances),
        default,
        distance_to(own, measured),
        measured,
        spectra,
        own,
        time.perf_counter() - begin,
    )


def mean_spectrum(target: Target, config: RunConfig, bins: Bins, seeds: range) -> Float[Tensor, " bins"]:
    """The mean of the spectrum vectors of a field's initialisations; all 0 where all are constant.

    All configurations see the same seeds: what one draw of weights adds to each of them cancels when they are compared,
    so that few draws are enough.
    """
    return normalised(torch.stack([normalised(target.untrained(config, bins, seed)) for seed in seeds]).sum(0))


def distance_to(spectrum: Float[Tensor, " bins"], measured: Float[Tensor, " bins"]) -> float:
    """Wasserstein-1 distance; infinite for a field that is constant."""
    return distance(spectrum, measured) if bool(spectrum.any()) else math.inf
