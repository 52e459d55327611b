"""Volume metrics: errors in the units of attenuation, structural similarity, overlap with a mask, and the residual.

Volumes are (z, y, x); a slice has one voxel along z. ``peak`` is the range of values that PSNR and SSIM are stated
for; by default the largest value of the reference less its smallest.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon3d.errors import UserError, require
from recon3d.metrics import image

_WINDOW, _SIGMA = 11, 1.5  # as in two dimensions
_K1, _K2 = 0.01, 0.03
_BINS = 256

Volume = Float[Tensor, "z y x"]
Mask = Bool[Tensor, "z y x"]


def rmse(prediction: Volume, target: Volume) -> float:
    """Root of the mean squared error, in the units of the volumes (attenuation: 1/mm)."""
    _check(prediction, target)
    return math.sqrt(float((prediction.double() - target.double()).square().mean()))


def psnr(prediction: Volume, target: Volume, peak: float | None = None) -> float:
    """Peak signal-to-noise ratio in dB over all voxels; infinite where the volumes are equal."""
    error = rmse(prediction, target)
    return math.inf if error == 0 else 20 * math.log10(_peak(target, peak) / error)


def ssim_slices(prediction: Volume, target: Volume, peak: float | None = None) -> float:
    """Structural similarity of the slices z = constant, their mean; see :func:`recon3d.metrics.image.ssim`.

    The peak is one for all slices, by default the range of the whole reference.
    """
    _check(prediction, target)
    range_ = _peak(target, peak)
    pairs = zip(prediction.float(), target.float())
    return float(np.mean([image.ssim(a.unsqueeze(-1), b.unsqueeze(-1), range_) for a, b in pairs]))


def ssim_3d(prediction: Volume, target: Volume, peak: float | None = None) -> float:
    """Structural similarity with windows of space: Wang et al. 2004, equation 13, over three axes.

    Gaussian window of sigma 1.5 and 11 voxels a side, population covariance, only windows that lie whole in the volume:
    scikit-image's with ``gaussian_weights=True, use_sample_covariance=False, data_range=peak``.

    Raises:
        UserError: the volume is smaller than the window.
    """
    _check(prediction, target)
    require(
        min(target.shape) >= _WINDOW,
        f"SSIM in 3D needs volumes of {_WINDOW} voxels or more along every axis, not {tuple(target.shape)}; take the"
        " mean over slices",
    )
    # Differences of large numbers: the covariances are of values about the common mean, which they do not depend on.
    mean = target.double().mean()
    x, y = (volume.double() - mean for volume in (prediction, target))
    mean_x, mean_y, xx, yy, xy = (_blur(v) for v in (x, y, x * x, y * y, x * y))
    range_ = _peak(target, peak)
    c1, c2 = (_K1 * range_) ** 2, (_K2 * range_) ** 2
    product, squares = (mean_x + mean) * (mean_y + mean), (mean_x + mean) ** 2 + (mean_y + mean) ** 2
    covariance = xy - mean_x * mean_y
    variances = xx - mean_x**2 + yy - mean_y**2
    return float(((2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))).mean())


def otsu_threshold(volume: Volume) -> float:
    """The value that splits the histogram (256 bins) into the two classes of least variance (Otsu 1979).

    Raises:
        UserError: all values are equal, or some are not finite.
    """
    low, high = float(volume.min()), float(volume.max())
    require(math.isfinite(low) and math.isfinite(high), "the volume has values that are not finite: no threshold")
    require(high > low, f"all values of the volume are {low:g}: there is no threshold between them")
    counts = torch.histc(volume.double().flatten().cpu(), _BINS, low, high)
    width = (high - low) / _BINS
    middles = low + width * (torch.arange(_BINS, dtype=torch.float64) + 0.5)
    below, above = counts.cumsum(0), counts.flip(0).cumsum(0).flip(0)
    mean_below = (counts * middles).cumsum(0) / below.clamp_min(1)
    mean_above = (counts * middles).flip(0).cumsum(0).flip(0) / above.clamp_min(1)
    between = below[:-1] * above[1:] * (mean_below[:-1] - mean_above[1:]) ** 2
    return float(middles[int(between.argmax())])


def segment(volume: Volume) -> Mask:
    """Voxels above Otsu's threshold."""
    return volume > otsu_threshold(volume)


def iou(prediction: Mask, target: Mask) -> float:
    """Voxels in both masks over voxels in either; 1 of two empty masks."""
    _check(prediction, target)
    either = int((prediction | target).sum())
    return 1.0 if either == 0 else int((prediction & target).sum()) / either


def mcc(prediction: Mask, target: Mask) -> float:
    """Matthews correlation of two masks, the score of the Helsinki Tomography Challenge 2022: 1 at best, 0 by chance.

    A mask of one value only correlates with nothing: 0, as the challenge has it.
    """
    _check(prediction, target)
    both = int((prediction & target).sum())
    extra, missed = int((prediction & ~target).sum()), int((~prediction & target).sum())
    neither = target.numel() - both - extra - missed
    bottom = math.sqrt((both + extra) * (both + missed) * (neither + extra) * (neither + missed))
    return 0.0 if bottom == 0 else (both * neither - extra * missed) / bottom


def residual_ratio(
    projected: Float[Tensor, "*shape"],
    measured: Float[Tensor, "*shape"],
    photons: float | None = None,
    sigma: float | None = None,
) -> float:
    """Norm of projected - measured over the norm that noise would leave: 1 where a volume explains all but the noise.

    Less than 1 fits the noise; more misses something (the discrepancy principle).

    Args:
        photons: of the open beam; the variance of a line integral p is exp(p) / photons.
        sigma: standard deviation of a line integral, instead of photons.

    Raises:
        UserError: neither, or both, are given.
    """
    require((photons is None) != (sigma is None), "the noise level is not known; give photons or sigma, one of them")
    if projected.shape != measured.shape:
        raise ValueError(f"projections of different shapes: {tuple(projected.shape)} and {tuple(measured.shape)}")
    residual = float((projected.double() - measured.double()).square().sum())
    if sigma is not None:
        variance = sigma**2 * measured.numel()
    else:
        variance = float(measured.double().exp().sum()) / (photons or 1.0)
    return math.sqrt(residual / variance)


def _blur(volume: Float[Tensor, "z y x"]) -> Float[Tensor, "u v w"]:
    offset = torch.arange(_WINDOW, device=volume.device, dtype=volume.dtype) - _WINDOW // 2
    weight = torch.exp(-0.5 * (offset / _SIGMA) ** 2)
    weight = weight / weight.sum()
    blurred = volume[None, None]
    for shape in ((_WINDOW, 1, 1), (1, _WINDOW, 1), (1, 1, _WINDOW)):
        blurred = torch.nn.functional.conv3d(blurred, weight.view(1, 1, *shape))
    return blurred[0, 0]


def _peak(target: Tensor, peak: float | None) -> float:
    if peak is not None:
        return peak
    found = float(target.max()) - float(target.min())
    if found <= 0:
        raise UserError("all values of the reference are equal: give the peak that PSNR and SSIM are stated for")
    return found


def _check(prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape:
        raise ValueError(f"volumes of different shapes: {tuple(prediction.shape)} and {tuple(target.shape)}")
