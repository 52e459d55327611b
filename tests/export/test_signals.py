"""What is written reads back as it was: every format, depth and channel count."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon3d.data.audio_files import read_audio
from recon3d.data.image_files import read_image_signal
from recon3d.data.signal import Signal
from recon3d.data.video_files import read_video
from recon3d.errors import UserError
from recon3d.export.signals import write_signal

NOWHERE = Path("nowhere")


def image(channels: int, bits: int, seed: int = 0) -> Signal:
    generator = np.random.default_rng(seed)
    if bits == 32:
        return Signal("image", generator.random((7, 10, channels), np.float32), 0.0, 1.0, 32, None, NOWHERE)
    high = 2**bits - 1
    values = generator.integers(0, high + 1, (7, 10, channels)).astype(np.uint8 if bits == 8 else np.uint16)
    return Signal("image", values, 0.0, float(high), bits, None, NOWHERE)


def audio(bits: int, channels: int = 2, count: int = 70001) -> Signal:
    """Samples that the bits hold exactly, from one end of the range to the other; more than are written at once."""
    generator = np.random.default_rng(bits)
    top = 2 ** (min(bits, 24) - 1)
    values = (generator.integers(-top, top, (count, channels)) / top).astype(np.float32)
    values[:2] = [[-1], [(top - 1) / top]]
    return Signal("audio", values, -1.0, 1.0, bits, 22050.0, NOWHERE)


def video(channels: int, height: int = 32, width: int = 48) -> Signal:
    """A smooth gradient that moves, ten frames."""
    t, y, x, c = np.meshgrid(*(np.arange(n) for n in (10, height, width, channels)), indexing="ij")
    values = (127 + 100 * np.sin(0.1 * x + 0.2 * t + c) * np.cos(0.1 * y)).astype(np.uint8)
    return Signal("video", values, 0.0, 255.0, 8, 20.0, NOWHERE)


def same(read: Signal, written: Signal) -> None:
    np.testing.assert_array_equal(read.values, written.values)
    assert (read.values.dtype, read.low, read.high, read.bits) == (
        written.values.dtype,
        written.low,
        written.high,
        written.bits,
    )


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "suffix, bits", [(".png", 8), (".png", 16), (".tif", 8), (".tiff", 16), (".tif", 32), (".PNG", 8)]
)
def test_images(tmp_path: Path, suffix: str, bits: int, channels: int) -> None:
    signal = image(channels, bits)
    path = tmp_path / "new" / f"a{suffix}"
    assert write_signal(signal, path) == path
    same(read_image_signal(path), signal)
    assert list(path.parent.iterdir()) == [path]


@settings(max_examples=20, deadline=None)
@given(low=st.floats(-1e4, 1e4), width=st.floats(1e-2, 1e4))
def test_floats_as_png_span_16_bits(tmp_path_factory: pytest.TempPathFactory, low: float, width: float) -> None:
    values = (low + width * image(3, 32).values).astype(np.float32)
    signal = Signal("image", values, float(values.min()), float(values.max()), 32, None, NOWHERE)
    read = read_image_signal(write_signal(signal, tmp_path_factory.mktemp("png") / "a.png"))
    assert (read.values.min(), read.values.max(), read.bits) == (0, 65535, 16)
    np.testing.assert_allclose(read.normalized(), signal.normalized(), atol=1e-3)


def test_resized_pictures_are_rounded(tmp_path: Path) -> None:
    signal = read_image_signal(write_signal(image(3, 8), tmp_path / "a.png"), size=(5, 4))
    read = read_image_signal(write_signal(signal, tmp_path / "b.png"))
    np.testing.assert_array_equal(read.values, np.rint(signal.values))
    narrow = replace(image(1, 16), values=image(1, 16).values % 1024, high=1023.0)
    read = read_image_signal(write_signal(narrow, tmp_path / "c.png"))
    np.testing.assert_array_equal(np.rint(read.values / 65535 * 1023), narrow.values)


def test_float_tiff_keeps_its_numbers(tmp_path: Path) -> None:
    signal = replace(image(1, 32), values=image(1, 32).values * 1e6 - 3, low=-3.0, high=1e6)
    np.testing.assert_array_equal(read_image_signal(write_signal(signal, tmp_path / "a.tif")).values, signal.values)


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg(tmp_path: Path, channels: int, bits: int) -> None:
    signal = image(channels, bits)
    flat = replace(
        signal, values=np.full_like(signal.values, signal.high * 0.25 if bits == 32 else int(signal.high) // 4)
    )
    read = read_image_signal(write_signal(flat, tmp_path / "a.jpg"))
    assert read.channels == channels
    assert np.abs(read.values.astype(float) - 64).max() <= 2


@pytest.mark.parametrize(
    "name, bits",
    [("a.wav", 8), ("a.wav", 16), ("a.wav", 24), ("a.wav", 32), ("a.flac", 8), ("a.flac", 16), ("a.flac", 24)],
)
def test_audio(tmp_path: Path, name: str, bits: int) -> None:
    signal = audio(bits)
    read = read_audio(write_signal(signal, tmp_path / name))
    same(read, signal)
    assert read.rate == 22050


def test_audio_is_clipped_where_the_format_is_whole_numbers(tmp_path: Path) -> None:
    loud = replace(audio(16), values=2 * audio(16).values)
    read = read_audio(write_signal(loud, tmp_path / "a.wav"))
    np.testing.assert_array_equal(read.values, np.clip(loud.values, -1, 1 - 2.0**-15))
    loud = replace(loud, bits=32)
    np.testing.assert_array_equal(read_audio(write_signal(loud, tmp_path / "b.wav")).values, loud.values)
    assert read_audio(write_signal(loud, tmp_path / "b.flac")).bits == 24


def test_ogg(tmp_path: Path) -> None:
    time = np.arange(300000) / 22050
    tone = replace(audio(16), values=(0.5 * np.sin(2 * np.pi * 440 * time))[:, None].astype(np.float32))
    read = read_audio(write_signal(tone, tmp_path / "a.ogg"))
    assert read.values.shape == tone.values.shape
    assert np.abs(read.values - tone.values)[1000:-1000].max() < 0.05


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("height, width", [(32, 48), (33, 47)])
def test_mp4(tmp_path: Path, channels: int, height: int, width: int) -> None:
    signal = video(channels, height, width)
    path = write_signal(signal, tmp_path / "a.mp4")
    read = read_video(path, channels="grey" if channels == 1 else "rgb")
    assert read.grid == (10, height + height % 2, width + width % 2)
    assert read.rate == pytest.approx(20)
    error = read.values[:, :height, :width].astype(float) - signal.values
    assert np.abs(error).mean() < 5
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("channels", [1, 3])
def test_gif(tmp_path: Path, channels: int) -> None:
    signal = video(channels)
    read = read_video(write_signal(signal, tmp_path / "a.gif"), channels="grey" if channels == 1 else "rgb")
    assert read.values.shape == signal.values.shape
    assert read.rate == pytest.approx(20)
    if channels == 1:
        np.testing.assert_array_equal(read.values, signal.values)
    else:
        assert np.abs(read.values.astype(float) - signal.values).mean() < 10


@pytest.mark.parametrize(
    "signal, name, match",
    [
        (image(3, 8), "a.wav", r"cannot write image as '.wav'; choose from .png, .jpg, .jpeg, .tif, .tiff"),
        (image(3, 8), "a", "without suffix"),
        (audio(16, count=10), "a.mp3", "choose from .wav, .flac, .ogg"),
        (video(3), "a.png", "choose from .mp4, .gif"),
        (image(4, 8), "a.jpg", "holds 1 or 3 channels, not the 4 of nowhere; write .png, or read the image as rgb"),
        (video(2), "a.mp4", "holds 1 or 3 channels"),
        (video(2), "a.gif", "holds 1 or 3 channels"),
        (replace(audio(16, count=10), rate=9e6), "a.flac", "at 9000000 Hz"),
        (audio(16, channels=9, count=10), "a.flac", "9 channels"),
    ],
)
def test_what_a_format_does_not_hold(tmp_path: Path, signal: Signal, name: str, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        write_signal(signal, tmp_path / name)
    assert "\n" not in str(caught.value)
    assert ".tmp" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("signal, name", [(image(3, 8), "a.png"), (audio(16, count=9), "a.wav"), (video(3), "a.mp4")])
def test_a_place_that_cannot_be_written(tmp_path: Path, signal: Signal, name: str) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="cannot be written"):
        write_signal(signal, tmp_path / "file" / name)
    assert (tmp_path / "file").read_text() == "kept"


def test_real_files(shared_data: Path, tmp_path: Path) -> None:
    chest = read_image_signal(shared_data / "ct" / "chest.png")
    same(read_image_signal(write_signal(chest, tmp_path / "chest.png")), chest)
    bach = read_audio(shared_data / "audio" / "gt_bach.wav")
    same(read_audio(write_signal(bach, tmp_path / "bach.wav")), bach)
    film = read_video(shared_data / "video" / "carphone_pristine.mp4", frames=(0, 30))
    again = read_video(write_signal(film, tmp_path / "film.mp4"))
    assert np.abs(again.values.astype(float) - film.values).mean() < 4
