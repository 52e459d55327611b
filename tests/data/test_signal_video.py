"""Video files: parts, sizes, the cache, bounded memory, bad input, and real films."""

import os
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile
from PIL import Image

from recon3d.data.image_files import luma, resize_bilinear
from recon3d.data.video_files import read_video
from recon3d.errors import UserError

COUNT, HEIGHT, WIDTH = 12, 48, 64


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Losslessly coded noise (RGB in AVI), 12 frames at 10 a second."""
    path = tmp_path_factory.mktemp("film") / "film.avi"
    writer = imageio_ffmpeg.write_frames(
        str(path), (WIDTH, HEIGHT), fps=10, codec="ffv1", pix_fmt_out="bgr0", macro_block_size=1, quality=None
    )
    writer.send(None)
    for frame in frames():
        writer.send(frame.tobytes())
    writer.close()
    return path


def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH, 3)).astype(np.uint8)


def test_every_frame_exactly(film: Path) -> None:
    signal = read_video(film)
    np.testing.assert_array_equal(signal.values, frames())
    assert isinstance(signal.values, np.memmap)
    assert not signal.values.flags.writeable
    assert (signal.kind, signal.low, signal.high, signal.bits, signal.rate) == ("video", 0, 255, 8, 10)
    index = np.array([0, 5, WIDTH * HEIGHT * 3 + 7])
    np.testing.assert_array_equal(signal.normalized(index), signal.normalized().reshape(-1, 3)[index])


@pytest.mark.parametrize(
    "part, stride, expected",
    [
        ((3, 5), 1, slice(3, 8)),
        (None, 4, slice(0, None, 4)),
        ((2, 6), 3, slice(2, 8, 3)),
        ((10, 99), 1, slice(10, None)),
    ],
)
def test_parts(film: Path, part: tuple[int, int] | None, stride: int, expected: slice) -> None:
    signal = read_video(film, frames=part, stride=stride)
    np.testing.assert_array_equal(signal.values, frames()[expected])
    assert signal.rate == pytest.approx(10 / stride)


def test_crop_grey_and_size(film: Path) -> None:
    cut = read_video(film, crop=(4, 8, 20, 30), channels="grey", frames=(0, 2))
    np.testing.assert_array_equal(cut.values, luma(frames()[:2, 4:24, 8:38]))
    small = read_video(film, crop="square", size=(16, 16), frames=(1, 1))
    np.testing.assert_array_equal(small.values[0], np.rint(resize_bilinear(frames()[1, :, 8:56], (16, 16))))


def test_the_cache_is_used_again(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    first = read_video(film, cache=cache, stride=2)
    files = sorted(cache.iterdir())
    assert [f.suffix for f in files] == [".json", ".raw"]
    assert files[1].stat().st_size == first.values.nbytes
    with monkeypatch.context() as patch:
        patch.setattr(imageio_ffmpeg, "read_frames", None)
        again = read_video(film, cache=cache, stride=2)
    np.testing.assert_array_equal(again.values, first.values)
    assert again.rate == first.rate == 5
    assert read_video(film, cache=cache, stride=3).values.shape[0] == 4
    film_changed = tmp_path / "film.avi"
    film_changed.write_bytes(film.read_bytes())
    read_video(film_changed, cache=cache)
    os.utime(film_changed, (1, 1))
    before = len(list(cache.iterdir()))
    read_video(film_changed, cache=cache)
    assert len(list(cache.iterdir())) == before + 2


def test_without_a_cache_nothing_is_left_behind(film: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from recon3d.data.video_files import read_video;"
        f"print(read_video(Path({str(film)!r})).values.shape)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == f"({COUNT}, {HEIGHT}, {WIDTH}, 3)"
    assert list(tmp_path.iterdir()) == []


def test_gif(tmp_path: Path) -> None:
    greys = [np.full((20, 30), 20 * k, np.uint8) for k in range(5)]
    pictures = [Image.fromarray(g) for g in greys]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=100)
    signal = read_video(tmp_path / "a.gif", channels="grey")
    np.testing.assert_array_equal(signal.values[..., 0], greys)
    assert signal.rate == pytest.approx(10)


def test_bad_input_is_one_line(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()

    def refused(path: Path, match: str, content: bytes | None = None, **options: object) -> None:
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=match) as caught:
            read_video(path, **options)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)
        assert list((tmp_path / "scratch").iterdir()) == []

    refused(tmp_path / "none.mp4", "no such file")
    refused(tmp_path, "no such file")
    refused(tmp_path / "empty.mp4", "not a video", b"")
    refused(tmp_path / "noise.mp4", "not a video", b"noise" * 999)
    refused(tmp_path / "text.txt", "not a video", b"a line of text\n" * 9)
    refused(tmp_path / "list.m3u8", "not a video", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    soundfile.write(tmp_path / "sound.wav", np.zeros(999), 8000)
    refused(tmp_path / "sound.wav", "not a video, or a damaged one: Output file does not contain any stream")
    refused(film, r"frame 12 is past the end, the video has 12 frames \(0 to 11\)", frames=(12, 3))
    refused(film, "give a first of 0", frames=(-1, 3))
    refused(film, "give a first of 0", stride=0)
    refused(film, "not inside the 48 x 64 image", crop=(0, 0, 49, 3))
    (tmp_path / "file").write_text("")
    refused(film, "give another cache", cache=tmp_path / "file")


def test_memory_is_bounded(shared_data: Path, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        signal = read_video(shared_data / "video" / "bikes.mp4", cache=tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert signal.values.shape == (250, 272, 640, 3)
    assert peak < 20 * signal.values[0].nbytes  # of 250


def test_real_films(shared_data: Path) -> None:
    bikes = read_video(
        shared_data / "video" / "bikes.mp4", frames=(0, 20), crop="square", size=(256, 256), channels="grey"
    )
    assert (bikes.values.shape, bikes.rate) == ((20, 256, 256, 1), 25)
    assert bikes.values.std() > 20
    carphone = read_video(shared_data / "video" / "carphone_pristine.mp4", stride=2)
    assert carphone.values.shape == (60, 144, 176, 3)
    assert carphone.rate == pytest.approx(29.97 / 2)
