from __future__ import annotations

import math

import pytest
import skimage.data
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recon3d.metrics import image
from recon3d.metrics.signal import (
    amplitude_spectrum,
    band_energies,
    band_errors,
    exact_share,
    mse,
    psnr,
    spectrum_cosine,
)

SHAPES = st.one_of(
    st.tuples(st.integers(2, 60), st.integers(1, 3)),
    st.tuples(st.integers(2, 15), st.integers(2, 15), st.integers(1, 4)),
    st.tuples(st.integers(1, 5), st.integers(2, 9), st.integers(2, 9), st.integers(1, 3)),
)


def noise(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def wave(frequency: int, points: int = 300, phase: float = 0.0) -> torch.Tensor:
    return torch.cos(2 * math.pi * frequency * torch.arange(points, dtype=torch.float64) / points + phase)[:, None]


@settings(max_examples=30, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 99))
def test_psnr_is_that_of_the_error(shape: tuple[int, ...], seed: int) -> None:
    prediction, target = noise(shape, seed), noise(shape, seed + 1)
    error = mse(prediction, target)
    assert error == pytest.approx(float((prediction - target).pow(2).mean()), rel=1e-5)
    assert psnr(prediction, target) == pytest.approx(10 * math.log10(4 / error), abs=1e-4)
    unit = psnr((prediction + 1) / 2, (target + 1) / 2, peak=1.0)
    assert unit == pytest.approx(psnr(prediction, target), abs=1e-3)
    if len(shape) == 3:
        assert psnr(prediction, target, 2.0) == image.psnr(prediction, target, 2.0)
    assert psnr(target, target) == math.inf


@pytest.mark.parametrize("frequency", [1, 7, 149])
def test_amplitude_of_a_cosine(frequency: int) -> None:
    spectrum = amplitude_spectrum(0.7 * wave(frequency, phase=0.3))
    expected = torch.zeros(300, 1, dtype=torch.float64)
    expected[frequency] = expected[300 - frequency] = 0.7
    torch.testing.assert_close(spectrum, expected)


@settings(max_examples=30, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3), shift=st.integers(0, 9))
def test_the_cosine_of_a_signal_with_itself_is_1(shape: tuple[int, ...], seed: int, scale: float, shift: int) -> None:
    target, other = noise(shape, seed), noise(shape, seed + 1)
    assert spectrum_cosine(target, target) == pytest.approx(1, abs=1e-5)
    assert spectrum_cosine(scale * target, target) == pytest.approx(1, abs=1e-4)
    assert spectrum_cosine(target.roll(shift, 0), target) == pytest.approx(1, abs=1e-4)  # phases do not matter
    assume(math.prod(shape[:-1]) > 4)
    cosine = spectrum_cosine(other, target)
    assert -1 <= cosine <= 1
    assert spectrum_cosine(scale * other, target) == pytest.approx(cosine, abs=1e-3)
    assert spectrum_cosine(target, other) == pytest.approx(cosine, abs=1e-5)


def test_cosine_is_the_correlation_of_the_spectra() -> None:
    prediction, target = noise((50, 40, 1), 0), noise((50, 40, 1), 1)
    rows = torch.stack([amplitude_spectrum(x).flatten() for x in (prediction, target)])
    assert spectrum_cosine(prediction, target) == pytest.approx(float(torch.corrcoef(rows)[0, 1]), abs=1e-5)
    assert abs(spectrum_cosine(prediction, target)) < 0.1
    assert spectrum_cosine(wave(3), wave(40)) == pytest.approx(-2 / 298, abs=1e-4)


def test_cosine_of_flat_spectra() -> None:
    impulse, nothing = torch.zeros(16, 1), torch.zeros(16, 1)
    impulse[5] = 1
    assert spectrum_cosine(nothing, noise((16, 1), 0)) == 0
    assert spectrum_cosine(impulse, noise((16, 1), 0)) == 0
    assert spectrum_cosine(nothing, nothing) == spectrum_cosine(nothing, impulse) == 1


@settings(max_examples=30, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 99), bands=st.integers(1, 40))
def test_parseval(shape: tuple[int, ...], seed: int, bands: int) -> None:
    signal = noise(shape, seed)
    energy = band_energies(signal, bands)
    assert energy.shape == (bands,)
    assert float(energy.sum()) == pytest.approx(float(signal.square().sum() / math.prod(shape[:-1])), rel=1e-4)


@pytest.mark.parametrize("frequency", [0, 1, 5, 75, 149, 150])
def test_a_ring_per_frequency(frequency: int) -> None:
    energy = band_energies(wave(frequency), 150)
    assert int(energy.argmax()) == min(frequency, 149)
    assert float(energy.max()) == pytest.approx(float(energy.sum()))


def test_rings_are_round() -> None:
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(60.0), indexing="ij")
    for slanted in (0.15 * y, 0.15 * x, 0.1 * (y + x)):  # the last is 0.14 cycles a sample
        energy = band_energies(torch.cos(2 * math.pi * slanted)[..., None] * torch.ones(1), 4)
        assert float(energy[1] / energy.sum()) > 0.999


def test_errors_of_a_fit_that_learned_the_low_frequencies() -> None:
    """The experiment of SL2A-INR's equation 6: four frequencies; two are learned, one is half there, one is absent."""
    target = sum(wave(k) for k in (3, 5, 7, 9))
    prediction = wave(3) + wave(5) + 0.5 * wave(7)
    errors = band_errors(prediction, target, 150)
    assert [float(errors[k]) for k in (3, 5, 7, 9)] == pytest.approx([0, 0, 0.5, 1], abs=1e-4)
    assert (band_errors(target, target, 150) == 0).all()


def test_errors_where_the_target_has_nothing() -> None:
    errors = band_errors(torch.ones(8, 1), torch.zeros(8, 1), 4)
    assert errors[0] == math.inf
    assert not errors.isnan().any()


@pytest.mark.parametrize("levels", [255, 65535])
def test_exact_share(levels: int) -> None:
    target = torch.arange(levels + 1, dtype=torch.float64)[:, None] / levels * 2 - 1
    step = 2 / levels
    assert exact_share(target + 0.4 * step, target, levels) == 1
    assert exact_share(target + 0.6 * step, target, levels) == pytest.approx(1 / (levels + 1))  # the last is clipped
    half = target.clone()
    half[::2] = 0.123 + step * 1e6
    assert exact_share(half, target, levels) == pytest.approx(0.5, abs=0.01)


def test_a_blurred_photograph() -> None:
    camera = torch.from_numpy(skimage.data.camera()[::2, ::2, None] / 127.5 - 1).float()
    blurred = torch.nn.functional.avg_pool2d(camera[None, ..., 0], 3, 1, 1, count_include_pad=False)[0, ..., None]
    errors = band_errors(blurred, camera, 8)
    assert errors[0] < 0.1 < 0.5 < errors[-1]
    assert 0.8 < spectrum_cosine(blurred, camera) < 0.9999
    assert 15 < psnr(blurred, camera) < 40


def test_unequal_shapes() -> None:
    for metric in (mse, psnr, spectrum_cosine, exact_share):
        with pytest.raises((ValueError, TypeError)):
            metric(torch.zeros(3, 1), torch.zeros(4, 1))
