"""Metrics of sampled signals of any grid dimension: (*grid, channels), values in [-1, 1] unless said otherwise."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon3d.metrics import image

_ROUNDING = 1e-6  # so that frequencies which are a band's edge fall in it whatever the rounding


def mse(prediction: Float[Tensor, "*grid c"], target: Float[Tensor, "*grid c"]) -> float:
    """Mean squared error over points and channels."""
    _check(prediction, target)
    return float((prediction.float() - target.float()).square().mean())


def psnr(prediction: Float[Tensor, "*grid c"], target: Float[Tensor, "*grid c"], peak: float = 2.0) -> float:
    """Peak signal-to-noise ratio in dB of the range stated, 10 log10(peak^2 / MSE); infinite where both are equal.

    A peak of 2, the width of [-1, 1], gives 10 log10(4 / MSE) (SPDER, appendix A.14, equation 23).
    """
    _check(prediction, target)
    channels = target.shape[-1]
    return image.psnr(prediction.reshape(1, -1, channels), target.reshape(1, -1, channels), peak)


def amplitude_spectrum(signal: Float[Tensor, "*grid c"]) -> Float[Tensor, "*grid c"]:
    """2 / N |DFT| over the grid axes, N the number of points, for every channel; frequency zero comes first.

    No window is applied (SPDER, equation 6). A cosine of amplitude 1 has 1 at its two frequencies.
    """
    points = math.prod(signal.shape[:-1])
    return torch.fft.fftn(signal, dim=_axes(signal)).abs() * (2 / points)


def spectrum_cosine(prediction: Float[Tensor, "*grid c"], target: Float[Tensor, "*grid c"]) -> float:
    """rho_AG of SPDER (equation 5): cosine of the zero-centred amplitude spectra, the mean over channels; 1 at best.

    Zero-centred is read as "each spectrum minus its mean", which makes it a correlation. The other reading, frequency
    zero in the middle, would change nothing; and the published values near zero (0.04 ± 0.09, audio, Table 2) are
    out of reach of the cosine of two spectra that are nowhere negative. A flat spectrum (of zero, or of an impulse)
    gives 0, but 1 with another flat one.
    """
    _check(prediction, target)
    (a, a_flat), (g, g_flat) = (_centred_direction(amplitude_spectrum(x.float())) for x in (prediction, target))
    cosine = torch.where(a_flat | g_flat, (a_flat & g_flat).to(a.dtype), (a * g).sum(0))
    return float(cosine.clamp(-1, 1).mean())


def band_energies(signal: Float[Tensor, "*grid c"], bands: int) -> Float[Tensor, " bands"]:
    """Energy by |frequency|: sums of |DFT / N|^2 in rings of equal width, over the channels.

    Frequencies are in cycles per sample; the last ring ends at 1/2 (Nyquist along an axis) and also takes the corners
    beyond. The sum is the mean square of the signal over points, summed over channels (Parseval).
    """
    axes = _axes(signal)
    power = (torch.fft.fftn(signal, dim=axes) / math.prod(signal.shape[:-1])).abs().square().sum(-1)
    return torch.zeros(bands, dtype=power.dtype, device=power.device).index_add_(
        0, _bands(signal.shape[:-1], bands, signal.device), power.flatten()
    )


def band_errors(
    prediction: Float[Tensor, "*grid c"], target: Float[Tensor, "*grid c"], bands: int
) -> Float[Tensor, " bands"]:
    """Relative error of the DFT in rings of |frequency| as in :func:`band_energies`: |P - T| / |T|, norms over a ring.

    A row of these per training step is the map of SL2A-INR's Figure 6 (steps against frequency, the relative error as
    colour): 0 is learned, 1 not yet begun. For a 1D signal of n samples and ``bands`` = n / 2 a ring is one frequency.
    A ring where the target has nothing is 0 if the prediction has nothing there either, else infinite.
    """
    _check(prediction, target)
    energy = band_energies(target.float(), bands)
    missed = band_energies(prediction.float() - target.float(), bands)
    return torch.where(missed == 0, torch.zeros_like(missed), (missed / energy).sqrt())


def exact_share(prediction: Float[Tensor, "*grid c"], target: Float[Tensor, "*grid c"], levels: int = 255) -> float:
    """Share of values, 0 to 1, that are equal once [-1, 1] is rounded to 0..levels: 255 for 8 bits, 65535 for 16."""
    _check(prediction, target)
    a, b = (((x.double() + 1) * (levels / 2)).round().clamp(0, levels) for x in (prediction, target))
    return float((a == b).double().mean())


def _centred_direction(spectrum: Float[Tensor, "*grid c"]) -> tuple[Float[Tensor, "n c"], Bool[Tensor, " c"]]:
    """Each channel minus its mean, of length 1, and whether nothing was left of it but rounding."""
    amplitudes = spectrum.flatten(0, -2)
    amplitudes = amplitudes / amplitudes.amax(0).clamp_min(1e-30)
    centred = amplitudes - amplitudes.mean(0)
    length = centred.norm(dim=0)
    return centred / length.clamp_min(1e-30), length <= 1e-5 * amplitudes.norm(dim=0)


def _bands(grid: torch.Size, bands: int, device: torch.device) -> Int[Tensor, " points"]:
    """The ring of every point of the spectrum."""
    square = torch.zeros(grid, dtype=torch.float64, device=device)
    for axis, n in enumerate(grid):
        shape = [1] * len(grid)
        shape[axis] = n
        square += torch.fft.fftfreq(n, dtype=torch.float64, device=device).square().view(shape)
    ring = square.sqrt() * (2 * bands) + _ROUNDING
    return ring.long().clamp_max(bands - 1).flatten()


def _axes(signal: Tensor) -> tuple[int, ...]:
    return tuple(range(signal.ndim - 1))


def _check(prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape:
        raise ValueError(f"signals of different shapes: {tuple(prediction.shape)} and {tuple(target.shape)}")
