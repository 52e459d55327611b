"""How a tuning chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recon3d.errors import require

Binning = Literal["published", "radial"]
SEED_STRIDE = 1000
"""Runs of neighbouring seeds share no draw."""


@dataclass(frozen=True)
class TuneOptions:
    """How to choose."""

    binning: Binning = "radial"
    """radial: spectra over |frequency|; published: over sums of unsigned indices, which see half the directions."""
    bins: int | None = None
    """Bins of a spectrum (default: as recommended, 64 for SIREN and its relatives, 128 for others; views: half)."""
    draws: int | None = None
    """Initialisations that an untrained field's spectrum is the mean of (default: 2, in space 1; published: 10)."""
    search: str | None = None
    """Which setting to search, where a field has several (default: the encoder's, else the network's)."""

    def __post_init__(self) -> None:
        require(self.bins is None or 2 <= self.bins <= 4096, f"bins is {self.bins}: give 2 to 4096")
        require(self.draws is None or 1 <= self.draws < SEED_STRIDE, f"draws is {self.draws}: give 1 to 999")
