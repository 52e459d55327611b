"""Options of the classical methods of computed tomography. What is None is chosen from the projections alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recon3d.errors import require

Filter = Literal["ramp", "shepp-logan", "cosine", "hamming", "hann"]


@dataclass(frozen=True)
class FbpConfig:
    """Filtered back-projection: FBP of parallel rays and fans, FDK of cones."""

    filter: Filter = "ramp"
    """Window over the ramp: the smoother, the less noise and detail."""
    cutoff: float = 1.0
    """Frequency above which nothing passes, as a share of the detector's highest."""

    def __post_init__(self) -> None:
        require(
            0 < self.cutoff <= 1, f"cutoff {self.cutoff}: give a share of the highest frequency, above 0 and up to 1"
        )


@dataclass(frozen=True)
class SirtConfig:
    """Simultaneous iterative reconstruction."""

    iterations: int | None = None
    """None: as many as predict held-out rays best."""
    longest: int = 400
    """At most so many where they are chosen."""
    nonnegative: bool = True

    def __post_init__(self) -> None:
        _counts(self.iterations, self.longest)


@dataclass(frozen=True)
class CglsConfig:
    """Conjugate gradients on the least-squares problem."""

    iterations: int | None = None
    """None: as many as predict held-out rays best."""
    longest: int = 60
    """At most so many where they are chosen."""

    def __post_init__(self) -> None:
        _counts(self.iterations, self.longest)


@dataclass(frozen=True)
class TvConfig:
    """Total variation: least squares plus ``weight`` times the sum of gradient lengths."""

    weight: float | None = None
    """In units of the largest value of the back-projected data; None: the one that predicts held-out rays best."""
    iterations: int = 300
    nonnegative: bool = True

    def __post_init__(self) -> None:
        require(self.weight is None or self.weight >= 0, f"weight {self.weight} of the total variation is below 0")
        require(self.iterations >= 1, f"{self.iterations} iterations; give one or more")


def _counts(iterations: int | None, longest: int) -> None:
    require(iterations is None or iterations >= 1, f"{iterations} iterations; give one or more")
    require(longest >= 1, f"longest {longest}; give one iteration or more")
