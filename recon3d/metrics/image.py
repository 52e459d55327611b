"""Image metrics: PSNR and SSIM. Images are (height, width, channels), values in [0, peak]."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon3d.errors import UserError

_WINDOW, _SIGMA = 11, 1.5  # Wang et al. 2004, section III-C
_K1, _K2 = 0.01, 0.03


def psnr(prediction: Float[Tensor, "h w c"], target: Float[Tensor, "h w c"], peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB: 10 log10(peak^2 / mean squared error); infinite where the images are equal."""
    _check(prediction, target)
    error = float((prediction.float() - target.float()).square().mean())
    return math.inf if error == 0 else 10 * math.log10(peak * peak / error)


def ssim(prediction: Float[Tensor, "h w c"], target: Float[Tensor, "h w c"], peak: float = 1.0) -> float:
    """Structural similarity, mean over pixels and channels (Wang et al. 2004, equation 13).

    11 x 11 Gaussian window of sigma 1.5, population covariance, only windows that lie whole in the image; the same as
    scikit-image's with ``gaussian_weights=True, use_sample_covariance=False, data_range=peak``. Raises UserError for
    images smaller than the window.
    """
    _check(prediction, target)
    height, width = target.shape[:2]
    if min(height, width) < _WINDOW:
        raise UserError(f"SSIM needs images of {_WINDOW} x {_WINDOW} pixels or more, not {width} x {height}")
    x, y = (image.float().permute(2, 0, 1).unsqueeze(1) for image in (prediction, target))
    mean_x, mean_y, xx, yy, xy = _blur(torch.cat([x, y, x * x, y * y, x * y])).chunk(5)
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    numerator = (2 * mean_x * mean_y + c1) * (2 * (xy - mean_x * mean_y) + c2)
    denominator = (mean_x**2 + mean_y**2 + c1) * (xx - mean_x**2 + yy - mean_y**2 + c2)
    return float((numerator / denominator).mean())


def silhouette_iou(prediction: Bool[Tensor, "h w"], target: Bool[Tensor, "h w"]) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    union = int((prediction | target).sum())
    return int((prediction & target).sum()) / union if union else 1.0


def _blur(images: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 u v"]:
    """Gaussian window, first down the columns, then along the rows; without padding."""
    offset = torch.arange(_WINDOW, device=images.device, dtype=images.dtype) - _WINDOW // 2
    weight = torch.exp(-0.5 * (offset / _SIGMA) ** 2)
    weight = weight / weight.sum()
    down = torch.nn.functional.conv2d(images, weight.view(1, 1, -1, 1))
    return torch.nn.functional.conv2d(down, weight.view(1, 1, 1, -1))


def _check(prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape:
        raise ValueError(f"images of different shapes: {tuple(prediction.shape)} and {tuple(target.shape)}")
