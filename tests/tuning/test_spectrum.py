"""Spectrum vectors and their distance."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recon3d.geometry.grids import grid_points
from recon3d.tuning.spectrum import Bins, centroid, distance, magnitudes, normalised, spectrum

UNHURRIED = settings(deadline=None, max_examples=50)


def wave(grid, frequency, phase=0.3):
    """cos of ``frequency`` periods along every axis, (*grid, 1)."""
    x = grid_points(grid)
    turns = (x + 1) / 2 @ torch.tensor([float(f) for f in frequency])
    return torch.cos(2 * math.pi * turns + phase).view(*grid, 1)


def peak(signal, bins):
    """The frequency of the fullest bin, and its share."""
    vector = spectrum(signal, bins)
    return int(vector.argmax()) + 1, float(vector.max())


@UNHURRIED
@given(st.integers(-15, 15), st.integers(-15, 15))
def test_wave_of_the_plane_lands_at_its_frequency(i, j):
    assume((i, j) != (0, 0))
    found, share = peak(wave((64, 64), (i, j)), Bins(32))
    assert found == round(math.hypot(i, j))
    assert share > 0.99


@UNHURRIED
@given(st.integers(0, 15), st.integers(0, 15))
def test_published_bins_add_the_indices(i, j):
    assume((i, j) != (0, 0))
    found, share = peak(wave((64, 64), (i, j)), Bins(32, binning="published"))
    assert found == i + j
    assert share > 0.99


def test_opposite_signs_leave_the_published_spectrum():
    for i, j in [(5, -3), (-5, 3), (3, -5)]:
        falling = wave((64, 64), (i, j))
        assert peak(falling, Bins(32))[0] == 6
        rising = wave((64, 64), (abs(i), abs(j)))
        published = Bins(32, binning="published")
        assert magnitudes(falling, published).sum() < 1e-3 * magnitudes(rising, published).sum()
        every = Bins(95, binning="published")
        assert peak(falling, every)[0] >= 62


@pytest.mark.parametrize("sign", [1, -1])
def test_space(sign):
    signal = wave((16, 32, 32), (2, 3 * sign, 6))
    assert peak(signal, Bins(16)) == (7, pytest.approx(1, abs=1e-3))
    if sign == 1:
        assert peak(signal, Bins(16, binning="published")) == (11, pytest.approx(1, abs=1e-3))


@UNHURRIED
@given(st.integers(1, 511))
def test_line_is_shared_among_the_bins(frequency):
    bins = Bins.of((1024,), 64, "radial")
    assert (bins.count, bins.width) == (64, 8)
    assert peak(wave((1024,), (frequency,)), bins)[0] == (frequency - 1) // 8 + 1


def test_number_of_bins():
    assert Bins.of((256, 200), 64, "radial") == Bins(64, 1)
    assert Bins.of((32, 100), 64, "published") == Bins(50, 1, "published")
    assert Bins.of((10, 20), 64, "radial").count == 10
    assert Bins.of((4,), 64, "radial") == Bins(2, 1)


@UNHURRIED
@given(
    st.floats(-100, 100, allow_subnormal=False),
    st.floats(0.001, 1000, allow_subnormal=False),
    st.sampled_from(["published", "radial"]),
)
def test_neither_level_nor_contrast_count(level, contrast, binning):
    signal = torch.randn(24, 20, 3, generator=torch.Generator().manual_seed(1))
    bins = Bins(10, binning=binning)
    expected = spectrum(signal, bins)
    assert float(expected.sum()) == pytest.approx(1)
    torch.testing.assert_close(spectrum(signal * contrast, bins), expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(spectrum(signal + level, bins), expected, rtol=1e-3, atol=1e-5)


def test_both_halves_of_the_plane_count_alike():
    generator = torch.Generator().manual_seed(2)
    for grid in [(24, 20), (17, 24), (20, 17), (9, 8, 12)]:
        signal = torch.randn(*grid, 2, generator=generator)
        bins = Bins(12)
        axes = list(range(len(grid)))
        turned = signal.permute(*reversed(axes), len(grid))
        torch.testing.assert_close(magnitudes(turned.contiguous(), bins), magnitudes(signal, bins))
        torch.testing.assert_close(magnitudes(signal.flip(0), bins), magnitudes(signal, bins))


def test_constant_has_no_spectrum():
    assert not spectrum(torch.full((16, 16, 1), 0.7), Bins(8)).any()


def test_sampling_rate_does_not_matter():
    frequencies = [(3, 4), (10, -2), (1, 14)]
    fine, coarse = (sum(wave(grid, f) for f in frequencies) for grid in ((128, 128), (48, 40)))
    assert distance(spectrum(fine, Bins(20)), spectrum(coarse, Bins(20))) < 1e-3


def test_centroid():
    assert centroid(torch.tensor([0.0, 0.5, 0.0, 0.5], dtype=torch.float64)) == pytest.approx(3)


vectors = (
    st.lists(st.floats(0, 1, allow_subnormal=False), min_size=6, max_size=6)
    .filter(any)
    .map(lambda values: normalised(torch.tensor(values, dtype=torch.float64) + 1e-9))
)


@UNHURRIED
@given(vectors, vectors, vectors)
def test_distance_is_one(a, b, c):
    assert distance(a, a) == 0
    assert distance(a, b) == distance(b, a) >= 0
    assert distance(a, c) <= distance(a, b) + distance(b, c) + 1e-12


def test_distance_of_two_peaks_is_their_gap():
    one = torch.eye(10, dtype=torch.float64)
    assert distance(one[2], one[7]) == pytest.approx(5)
