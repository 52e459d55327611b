from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from recon3d.errors import UserError
from recon3d.metrics.image import psnr, silhouette_iou, ssim


def pair(seed: int, shape: tuple[int, int, int], noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture with smooth and rough parts, and a noisy copy."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.linspace(0, 6, shape[0]).view(-1, 1, 1)
    x = torch.linspace(0, 9, shape[1]).view(1, -1, 1)
    c = torch.arange(shape[2]).view(1, 1, -1)
    target = (0.5 + 0.3 * torch.sin(x * (c + 1)) * torch.cos(y)).clamp(0, 1)
    return (target + noise * torch.randn(shape, generator=generator)).clamp(0, 1), target


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 100),
    shape=st.tuples(st.integers(11, 60), st.integers(11, 60), st.integers(1, 4)),
    noise=st.floats(0.001, 0.5),
    peak=st.sampled_from([1.0, 255.0]),
)
def test_agrees_with_scikit_image(seed, shape, noise, peak) -> None:
    prediction, target = (peak * image for image in pair(seed, shape, noise))
    a, b = prediction.double().numpy(), target.double().numpy()
    assert psnr(prediction, target, peak) == pytest.approx(peak_signal_noise_ratio(b, a, data_range=peak), abs=1e-3)
    options = {"gaussian_weights": True, "use_sample_covariance": False, "channel_axis": 2, "data_range": peak}
    assert ssim(prediction, target, peak) == pytest.approx(structural_similarity(a, b, **options), abs=1e-4)


def test_equal_images() -> None:
    image, _ = pair(0, (20, 30, 3), 0.1)
    assert psnr(image, image) == math.inf
    assert ssim(image, image) == pytest.approx(1)


@pytest.mark.parametrize("error, expected", [(0.1, 20.0), (0.01, 40.0)])
def test_psnr_of_a_constant_error(error: float, expected: float) -> None:
    target = torch.full((4, 5, 3), 0.5)
    assert psnr(target + error, target) == pytest.approx(expected, abs=1e-3)


def test_peak_scales_both_metrics() -> None:
    prediction, target = pair(1, (24, 24, 3), 0.1)
    assert psnr(255 * prediction, 255 * target, 255.0) == pytest.approx(psnr(prediction, target), abs=1e-3)
    assert ssim(255 * prediction, 255 * target, 255.0) == pytest.approx(ssim(prediction, target), abs=1e-4)


def test_symmetric_and_lower_with_more_noise() -> None:
    scores = []
    for noise in (0.02, 0.1, 0.3):
        prediction, target = pair(2, (40, 40, 3), noise)
        assert ssim(prediction, target) == pytest.approx(ssim(target, prediction), abs=1e-6)
        scores.append((psnr(prediction, target), ssim(prediction, target)))
    assert scores == sorted(scores, reverse=True)
    assert np.diff([s for _, s in scores]).max() < -0.05


def test_small_or_unequal_images() -> None:
    with pytest.raises(UserError, match="11 x 11 pixels or more, not 30 x 10"):
        ssim(torch.zeros(10, 30, 3), torch.zeros(10, 30, 3))
    with pytest.raises((ValueError, TypeError)):
        psnr(torch.zeros(10, 30, 3), torch.zeros(30, 10, 3))


def test_silhouettes():
    a, b = torch.zeros(2, 4, 4, dtype=torch.bool)
    assert silhouette_iou(a, b) == 1
    a[:2], b[1:3] = True, True
    assert silhouette_iou(a, b) == pytest.approx(4 / 12)
    assert silhouette_iou(a, a) == 1
    assert silhouette_iou(a, ~a) == 0
