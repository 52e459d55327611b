"""Volume metrics against scikit-image and against what follows by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon3d.errors import UserError
from recon3d.metrics import volume as metrics


def pair(shape=(12, 14, 16), noise=0.1, offset=0.0):
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(shape, generator=generator) + offset
    return target + noise * torch.randn(shape, generator=generator), target


def test_errors_by_hand():
    target = torch.zeros(2, 3, 4)
    target[0, 0, 0] = 2.0
    prediction = target + 0.5
    assert metrics.rmse(prediction, target) == pytest.approx(0.5)
    assert metrics.psnr(prediction, target) == pytest.approx(20 * math.log10(2 / 0.5))
    assert metrics.psnr(prediction, target, peak=1.0) == pytest.approx(20 * math.log10(1 / 0.5))
    assert metrics.psnr(target, target) == math.inf


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_ssim_is_that_of_scikit_image(offset):
    structural = pytest.importorskip("skimage.metrics").structural_similarity
    a, b = pair(offset=offset)
    expected = structural(
        a.double().numpy(), b.double().numpy(), gaussian_weights=True, use_sample_covariance=False, data_range=1.0
    )
    assert metrics.ssim_3d(a, b, peak=1.0) == pytest.approx(expected, abs=1e-6)


def test_ssim_of_equal_volumes_and_of_small_ones():
    _, target = pair()
    assert metrics.ssim_3d(target, target) == pytest.approx(1.0)
    assert metrics.ssim_slices(target, target) == pytest.approx(1.0)
    with pytest.raises(UserError, match="11 voxels or more"):
        metrics.ssim_3d(target[:3], target[:3])


def test_ssim_of_slices_is_the_mean_over_them():
    from recon3d.metrics import image

    a, b = pair()
    expected = np.mean([image.ssim(a[k, ..., None], b[k, ..., None], 0.9) for k in range(len(a))])
    assert metrics.ssim_slices(a, b, peak=0.9) == pytest.approx(expected)


def test_otsu_is_that_of_scikit_image():
    otsu = pytest.importorskip("skimage.filters").threshold_otsu
    generator = torch.Generator().manual_seed(1)
    volume = torch.cat([torch.randn(3, 20, 20, generator=generator), 5 + torch.randn(2, 20, 20, generator=generator)])
    assert metrics.otsu_threshold(volume) == pytest.approx(otsu(volume.numpy()), abs=1e-5)
    mask = metrics.segment(volume)
    assert mask[3:].float().mean() > 0.98 and mask[:3].float().mean() < 0.02


@pytest.mark.parametrize(
    ("values", "words"), [(torch.ones(1, 4, 4), "all values"), (torch.full((1, 4, 4), math.nan), "finite")]
)
def test_no_threshold(values, words):
    with pytest.raises(UserError, match=words):
        metrics.otsu_threshold(values)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_matthews_correlation_is_the_correlation_of_the_masks(seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(2, 5, 6, generator=generator) > 0.6 for _ in range(2))
    if 0 < a.sum() < a.numel() and 0 < b.sum() < b.numel():
        expected = np.corrcoef(a.flatten().float().numpy(), b.flatten().float().numpy())[0, 1]
        assert metrics.mcc(a, b) == pytest.approx(expected, abs=1e-6)
    assert metrics.iou(a, b) == pytest.approx(int((a & b).sum()) / max(1, int((a | b).sum())))


def test_masks_at_the_ends():
    some = torch.zeros(1, 4, 4, dtype=torch.bool)
    some[0, 1] = True
    none = torch.zeros_like(some)
    assert metrics.mcc(some, some) == 1 and metrics.mcc(some, ~some) == -1 and metrics.mcc(none, some) == 0
    assert metrics.iou(none, none) == 1 and metrics.iou(none, some) == 0


def test_the_residual_of_noise_alone_is_one():
    generator = torch.Generator().manual_seed(2)
    clean = 3 * torch.rand(40, 5, 60, generator=generator)
    noisy = clean + torch.randn(clean.shape, generator=generator) * (clean.exp() / 1e4).sqrt()
    assert metrics.residual_ratio(clean, noisy, photons=1e4) == pytest.approx(1.0, abs=0.03)
    assert metrics.residual_ratio(clean, clean + 0.2, sigma=0.1) == pytest.approx(2.0)
    for level in ({}, {"photons": 1.0, "sigma": 1.0}):
        with pytest.raises(UserError, match="noise level"):
            metrics.residual_ratio(clean, noisy, **level)


def test_a_constant_reference_needs_a_peak():
    a, _ = pair()
    with pytest.raises(UserError, match="give the peak"):
        metrics.psnr(a, torch.ones_like(a))
    assert math.isfinite(metrics.psnr(a, torch.ones_like(a), peak=1.0))


def test_masks_of_the_challenge(shared_data):
    from PIL import Image

    folder = shared_data / "ct" / "htc2022"
    one, other = (
        torch.from_numpy(np.array(Image.open(folder / f"t{c}_category7_groundtruth.png")) > 0)[None] for c in "ab"
    )
    assert metrics.mcc(one, one) == 1 and 0 < metrics.mcc(one, other) < 0.99
    noisy = one.float() + 0.1 * torch.randn(one.shape, generator=torch.Generator().manual_seed(0))
    assert metrics.mcc(metrics.segment(noisy), one) > 0.99
