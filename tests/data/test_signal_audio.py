"""Audio files: every coding, parts of files, bad input, and real clips."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from recon3d.data.audio_files import read_audio
from recon3d.errors import UserError

RATE = 8000


def tone(channels: int = 2, seconds: float = 1.0) -> np.ndarray:
    time = np.arange(round(RATE * seconds)) / RATE
    return np.stack([0.5 * np.sin(2 * np.pi * 220 * (c + 1) * time) for c in range(channels)], axis=-1)


@pytest.mark.parametrize(
    "name, coding, bits",
    [
        ("a.wav", "PCM_U8", 8),
        ("a.wav", "PCM_16", 16),
        ("a.wav", "PCM_24", 24),
        ("a.wav", "PCM_32", 32),
        ("a.wav", "FLOAT", 32),
        ("a.flac", "PCM_16", 16),
        ("a.flac", "PCM_24", 24),
        ("a.ogg", "VORBIS", 16),
    ],
)
def test_codings(tmp_path: Path, name: str, coding: str, bits: int) -> None:
    path, samples = tmp_path / name, tone()
    soundfile.write(path, samples, RATE, coding)
    signal = read_audio(path)
    assert (signal.kind, signal.low, signal.high, signal.bits, signal.rate) == ("audio", -1, 1, bits, RATE)
    assert (signal.values.dtype, signal.values.shape) == (np.float32, (RATE, 2))
    assert np.abs(signal.values - samples).max() < (0.05 if coding == "VORBIS" else 2.0 ** (2 - min(bits, 22)))


def test_integers_are_exact(tmp_path: Path) -> None:
    whole = np.random.default_rng(0).integers(-(2**23), 2**23, (500, 1)).astype(np.int32)
    soundfile.write(tmp_path / "a.wav", whole << 8, RATE, "PCM_24")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav").values.astype(np.float64) * 2**23, whole)


def test_parts_and_mono(tmp_path: Path) -> None:
    path, samples = tmp_path / "a.wav", tone().astype(np.float32)
    soundfile.write(path, samples, RATE, "FLOAT")
    part = read_audio(path, start=0.25, seconds=0.5)
    np.testing.assert_array_equal(part.values, samples[RATE // 4 : 3 * RATE // 4])
    assert len(read_audio(path, start=0.9, seconds=5.0).values) == RATE // 10
    mono = read_audio(path, mono=True)
    np.testing.assert_allclose(mono.values[:, 0], samples.mean(axis=1), atol=1e-7)
    assert mono.channels == 1


def test_louder_than_full_scale_is_kept(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 4 * tone(), RATE, "FLOAT")
    assert read_audio(tmp_path / "a.wav").normalized().max() == pytest.approx(2, abs=1e-3)


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    def refused(name: str, match: str, content: bytes | np.ndarray | None = None, **options: object) -> None:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            soundfile.write(path, content, RATE, "FLOAT")
        with pytest.raises(UserError, match=match) as caught:
            read_audio(path, **options)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)

    refused("none.wav", "no such file")
    refused("empty.wav", "cannot read the audio", b"")
    refused("noise.wav", "cannot read the audio", b"noise" * 99)
    refused("noise.ogg", "cannot read the audio", b"OggS" + b"noise" * 99)
    refused("silent.wav", "no samples", np.zeros((0, 1)))
    flawed = tone()
    flawed[1234, 1] = np.nan
    flawed[2000] = np.inf
    refused("nan.wav", r"sample 1234 is not finite \(3 of 16000", flawed)
    refused("nan.wav", "sample 1234 is not finite", start=0.1)
    refused("good.wav", "start at 3 s is past the end, 1 s", tone(), start=3.0)
    refused("good.wav", "past the end", start=1.0)
    refused("good.wav", "give a start of 0 or more", start=-1.0)
    refused("good.wav", "a length above 0", seconds=0.0)


def test_real_clips(shared_data: Path) -> None:
    folder = shared_data / "audio"
    for name in ("gt_bach.wav", "gt_counting.wav"):
        signal = read_audio(folder / name, seconds=7.0)
        assert (signal.rate, signal.channels, signal.bits) == (44100, 1, 32)
        assert np.abs(signal.values).max() > 0.05
    for path in sorted((folder / "esc10").glob("*.ogg")):
        signal = read_audio(path, mono=True)
        assert signal.points == pytest.approx(5 * signal.rate, rel=0.02)
