"""The range of a signal: to [-1, 1], back, and by point."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon3d.data.signal import Signal

RANGES = {8: (np.uint8, 255.0), 16: (np.uint16, 65535.0)}


def image(bits: int = 8, shape: tuple[int, int, int] = (5, 7, 3), seed: int = 0) -> Signal:
    dtype, high = RANGES[bits]
    values = np.random.default_rng(seed).integers(0, int(high) + 1, shape).astype(dtype)
    return Signal("image", values, 0.0, high, bits, None, Path("a.png"))


@pytest.mark.parametrize("bits", [8, 16])
def test_every_integer_comes_back(bits: int) -> None:
    dtype, high = RANGES[bits]
    values = np.arange(int(high) + 1).astype(dtype).reshape(1, -1, 1)
    signal = Signal("image", values, 0.0, high, bits, None, Path("a.png"))
    unit = signal.normalized()
    assert unit.dtype == np.float32
    assert (unit.min(), unit.max()) == (-1, 1)
    assert (np.diff(unit[0, :, 0]) > 0).all()
    back = signal.denormalized(unit)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, values)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20))
def test_audio_is_untouched(samples: list[float]) -> None:
    values = np.array(samples, np.float32)[:, None]
    signal = Signal("audio", values, -1.0, 1.0, 24, 8000.0, Path("a.wav"))
    np.testing.assert_array_equal(signal.normalized(), values)
    np.testing.assert_array_equal(signal.denormalized(values), values)


def test_a_narrow_range_far_from_zero() -> None:
    values = (4096 + np.array([0, 100, 201], np.float32) / 2048).reshape(1, 3, 1)  # no float32 lies in the middle
    signal = Signal("image", values, float(values.min()), float(values.max()), 32, None, Path("a.npy"))
    np.testing.assert_allclose(signal.normalized().ravel(), [-1, 200 / 201 - 1, 1], atol=1e-6)
    np.testing.assert_allclose(signal.denormalized(signal.normalized()), values, atol=5e-4)


def test_points_are_counted_row_by_row() -> None:
    signal = image()
    index = np.array([0, 8, 34, 8])
    np.testing.assert_array_equal(signal.normalized(index), signal.normalized().reshape(-1, 3)[index])
    assert (signal.grid, signal.channels, signal.points) == ((5, 7), 3, 35)


def test_reading_a_range_leaves_the_values_alone() -> None:
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(2, 2, 3)
    signal = Signal("image", values.copy(), 0.0, 1.0, 32, None, Path("a.tif"))
    signal.normalized()[:] = 9
    signal.normalized(np.arange(4))[:] = 9
    np.testing.assert_array_equal(signal.values, values)


def test_predictions_are_rounded_and_clipped() -> None:
    prediction = np.array([-1.5, -1, -0.002, 0.002, 1, 7, np.nan, np.inf], np.float32).reshape(1, 8, 1)
    np.testing.assert_array_equal(image().denormalized(prediction).ravel(), [0, 0, 127, 128, 255, 255, 0, 255])


def test_what_is_no_signal() -> None:
    with pytest.raises(ValueError, match=r"image values must be \(H, W, C\), not of shape \(5, 7\)"):
        Signal("image", np.zeros((5, 7), np.uint8), 0.0, 255.0, 8, None, Path("a.png"))
    with pytest.raises(ValueError, match="contiguous"):
        Signal("image", np.zeros((5, 7, 3), np.uint8)[:, ::2], 0.0, 255.0, 8, None, Path("a.png"))
    with pytest.raises(ValueError, match="must not be empty"):
        Signal("image", np.zeros((5, 7, 3), np.float32), 1.0, 1.0, 32, None, Path("a.png"))
