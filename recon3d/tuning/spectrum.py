"""Spectrum vectors: how much of a signal lies at each frequency, as a distribution, and how far two of them are apart.

FreSh (Kania et al. 2024): magnitudes of the discrete Fourier transform, summed over channels, are gathered into bins,
frequency zero is dropped, and the rest is scaled to a sum of 1. Frequencies are counted in periods per length of the
grid, so that spectra of one signal sampled at two rates agree, up to what the coarser one aliases.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon3d.tuning.options import Binning as Binning


@dataclass(frozen=True)
class Bins:
    """Bin b of ``count`` holds the frequencies b width + 1 to (b + 1) width; what lies beyond is left out.

    ``published`` counts a frequency by the sum of its unsigned DFT indices, as FreSh's code does: (5, -3) of a
    512 x 512 image is (5, 509), 514, out of sight, so half of a plane's directions are not seen, and three quarters of
    space's. ``radial`` counts it by |frequency|, rounded: 6.
    """

    count: int
    width: int = 1
    binning: Binning = "radial"

    @staticmethod
    def of(grid: tuple[int, ...], size: int, binning: Binning) -> Bins:
        """At most ``size`` bins, up to the Nyquist frequency of a ``grid``'s longest axis.

        Bins are one period wide in the plane and in space, as published. In one dimension they share all frequencies
        up to Nyquist: a sound of some seconds has nothing in its first hundred.
        """
        nyquist = max(grid) // 2
        width = max(1, nyquist // size) if len(grid) == 1 else 1
        return Bins(max(1, min(size, nyquist // width)), width, binning)


def spectrum(signal: Float[Tensor, "*grid c"], bins: Bins) -> Float[Tensor, " bins"]:
    """The spectrum vector of a signal, of sum 1; all 0 where the signal is constant."""
    return normalised(magnitudes(signal, bins))


def magnitudes(signal: Float[Tensor, "*grid c"], bins: Bins) -> Float[Tensor, " bins"]:
    """|DFT| summed over channels and over the frequencies of every bin, in float64."""
    grid = tuple(signal.shape[:-1])
    found = torch.stack([_coefficients(channel) for channel in signal.unbind(-1)]).sum(0)
    place = _frequencies(grid, bins.binning, signal.device).sub(1).div(bins.width, rounding_mode="floor")
    if bins.binning == "radial":
        # Half of the plane stands for all of it: the other half mirrors it, but for the columns that hold their own
        # mirror image.
        found[..., 1 : (grid[-1] + 1) // 2] *= 2
    inside = (place >= 0) & (place < bins.count)
    total = torch.zeros(bins.count, dtype=torch.float64, device=signal.device)
    return total.index_add_(0, place[inside], found[inside].double()).cpu()


def _coefficients(channel: Float[Tensor, "*grid"]) -> Float[Tensor, "*half"]:
    """|DFT| of one channel without its mean, the half that a real signal has."""
    values = channel.float()
    return torch.fft.rfftn(values - values.double().mean().float()).abs()


def normalised(vector: Float[Tensor, " bins"]) -> Float[Tensor, " bins"]:
    """Scaled to a sum of 1; what is all 0 stays so."""
    return vector / vector.sum().clamp_min(1e-300)


def centroid(vector: Float[Tensor, " bins"]) -> float:
    """The mean of a spectrum vector over its bins, counted from 1."""
    return float((vector * torch.arange(1, len(vector) + 1, dtype=vector.dtype)).sum())


def distance(first: Float[Tensor, " bins"], second: Float[Tensor, " bins"]) -> float:
    """Wasserstein-1 distance of two distributions over bins: the L1 norm of the difference of their cumulative sums."""
    return float((first.cumsum(0) - second.cumsum(0)).abs().sum())


def _frequencies(grid: tuple[int, ...], binning: Binning, device: torch.device) -> Int[Tensor, "*half"]:
    """What every coefficient of a real signal's DFT counts as, in periods per length of the grid."""
    axes = []
    for axis, size in enumerate(grid):
        count = torch.arange(size if axis < len(grid) - 1 else size // 2 + 1, device=device)
        if binning == "radial":
            count = torch.minimum(count, size - count)
        axes.append(count.view([-1 if a == axis else 1 for a in range(len(grid))]))
    if binning == "published":
        return sum(axes[1:], axes[0])
    square = sum((axis.double() ** 2 for axis in axes[1:]), axes[0].double() ** 2)
    return square.sqrt().round().long()
