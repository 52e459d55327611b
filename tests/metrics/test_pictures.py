from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from recon3d.data.audio_files import read_audio
from recon3d.metrics.pictures import line_plot, spectrogram_picture, waveform_picture

RATE = 16000.0


def tone(frequency: float, count: int = 32000, rate: float = RATE) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(count) / rate).astype(np.float32)


@pytest.mark.parametrize("rate", [8000.0, 16000.0, 44100.0])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_tone_is_a_line_at_its_frequency(rate: float, share: float) -> None:
    picture = spectrogram_picture(tone(share * rate / 2, round(2 * rate), rate), rate)
    assert picture.dtype == np.uint8
    assert picture.shape[0] == 256
    middle = picture[:, picture.shape[1] // 2].astype(int)
    brightest = int(middle[:, 1].argmax())  # green grows along the ramp
    assert brightest == pytest.approx(256 * (1 - share), abs=2)
    assert (middle[:, 1] > 100).mean() < 0.2


@pytest.mark.parametrize("count", [1, 100, 5000, 3_000_000])
def test_any_length(count: int) -> None:
    picture = spectrogram_picture(tone(440, count), RATE)
    assert picture.shape[0] == 256
    assert 1 <= picture.shape[1] <= 1024
    assert waveform_picture(tone(440, count), tone(440, count)).shape == (384, min(count, 1024), 3)


def test_time_runs_to_the_right() -> None:
    samples = np.concatenate([tone(1000), tone(5000)])
    picture = spectrogram_picture(samples, RATE)[..., 1].astype(int)
    low, high = 256 * (1 - 1000 / 8000), 256 * (1 - 5000 / 8000)
    columns = picture.shape[1]
    assert picture[:, columns // 4].argmax() == pytest.approx(low, abs=2)
    assert picture[:, 3 * columns // 4].argmax() == pytest.approx(high, abs=2)


def test_loudness_is_relative_to_the_truth() -> None:
    loud, quiet = tone(1000), 0.01 * tone(1000)
    np.testing.assert_array_equal(spectrogram_picture(loud, RATE), spectrogram_picture(loud, RATE, like=loud))
    beside = spectrogram_picture(quiet, RATE, like=loud)
    assert beside.astype(int)[..., 1].max() < spectrogram_picture(quiet, RATE).astype(int)[..., 1].max()
    silence = spectrogram_picture(np.zeros(9999, np.float32), RATE)
    assert (silence == silence[0, 0]).all()
    assert (spectrogram_picture(np.zeros(9999, np.float32), RATE, like=loud) == silence[0, 0]).all()


def test_waveforms_cover_each_other_where_they_are_equal() -> None:
    truth = tone(5)
    equal = waveform_picture(truth, truth)
    assert not (equal == (240, 150, 50)).all(axis=-1).any()
    assert ((equal[256:] == (200, 40, 40)).all(axis=-1).sum(axis=0) <= 1).all()  # the error is a thin line at zero
    assert (equal[256 + 63 : 256 + 65] == (200, 40, 40)).all(axis=-1).any(axis=0).all()
    half = waveform_picture(truth, 0.5 * truth)
    wrong = (half[256:] == (200, 40, 40)).all(axis=-1)
    assert wrong[:2].any() and wrong[-2:].any()  # half the scale is all of the lower part


def test_waveform_stands_upright() -> None:
    rising = np.linspace(-1, 1, 2000).astype(np.float32)
    dark = (waveform_picture(rising, rising)[:256] == (60, 75, 100)).all(axis=-1)
    assert dark[-3:, 0].any()
    assert dark[:3, -1].any()
    silent, broken = np.zeros(50, np.float32), np.full(50, np.nan, np.float32)
    waveform_picture(silent, broken)  # a diverged prediction is drawn, not an error
    with pytest.raises((ValueError, TypeError)):
        waveform_picture(rising, rising[:-1])


@pytest.mark.parametrize("log", ["", "x", "y", "xy"])
def test_line_plot(log: str) -> None:
    x = np.linspace(1, 100, 50)
    picture = line_plot({"loss": (x, 1 / x), "other": (x, 2 / x)}, "Training", "step", "MSE", log)
    assert picture.shape == (600, 960, 3)
    assert picture.dtype == np.uint8
    assert (picture == 255).all(axis=-1).mean() > 0.5
    blue = (np.abs(picture.astype(int) - (31, 119, 180)) < 10).all(axis=-1)
    assert blue.sum() > 100
    assert "matplotlib.pyplot" not in sys.modules
    assert line_plot({}, "Nothing", "x", "y").shape == picture.shape


def test_real_audio(shared_data: Path) -> None:
    bach = read_audio(shared_data / "audio" / "gt_bach.wav")
    samples = bach.values[:, 0]
    picture = spectrogram_picture(samples, bach.rate)
    assert picture.shape[1] <= 1024
    green = picture[..., 1].astype(int)
    assert green[192:].mean() > green[:64].mean() + 20  # music is below 5 kHz
    assert waveform_picture(samples, samples).shape == (384, 1024, 3)
