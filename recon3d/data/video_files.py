"""Video files as signals: decoded by ffmpeg frame by frame into a file that is mapped to memory, not loaded."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from recon3d.data.image_files import Crop, crop_box, luma, resize_bilinear
from recon3d.data.signal import Signal
from recon3d.errors import UserError

_TEXT_CODECS = ("ansi", "bintext", "xbin", "idf")  # ffmpeg would draw a text file


def read_video(
    path: Path,
    *,
    cache: Path | None = None,
    frames: tuple[int, int] | None = None,
    stride: int = 1,
    size: tuple[int, int] | None = None,
    crop: Crop | None = None,
    channels: Literal["grey", "rgb"] = "rgb",
) -> Signal:
    """Read a video (any that ffmpeg reads, GIF too): uint8 values (T, H, W, C), a read-only memory map.

    Every coded frame counts once, and the file's mean rate is taken as regular. Frames of more than 8 bits are rounded
    to 8. Transparency is dropped.

    Args:
        cache: folder for the decoded frames; a later call with the same arguments finds them there. Where None they lie
            in a temporary file that is gone when the program ends.
        frames: the first frame and how many of the file to use (fewer where it ends before); all where None.
        stride: keep every stride-th of these; the rate is divided by it.
        size: rows and columns to resize to after the crop, bilinear with antialiasing, rounded.
        crop: top, left, height and width in pixels, or ``square`` for the largest square in the centre.
        channels: ``rgb``, or ``grey`` for the luma of ITU-R BT.601.

    Raises:
        UserError: the file is missing, damaged or no video, ``frames`` begins past the end, the crop leaves the
            picture, or the disk is full.
    """
    first, count = frames or (0, None)
    if first < 0 or stride < 1 or (count is not None and count < 1):
        raise UserError(
            f"{path}: cannot read frames {frames} with stride {stride}; give a first of 0, others of 1 or more"
        )
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of a video")
    try:
        if cache is None:
            return _mapped(path, *_decode_to_temporary(path, first, count, stride, size, crop, channels), stride)
        cache.mkdir(parents=True, exist_ok=True)
        stat = path.stat()
        key = repr((str(path.resolve()), stat.st_size, stat.st_mtime_ns, first, count, stride, size, crop, channels))
        target = cache / f"{path.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.raw"
        facts = target.with_suffix(".json")  # written last: where it is, the frames are whole
        if not (facts.is_file() and target.is_file()):
            raw, shape, rate = _decode_to_temporary(path, first, count, stride, size, crop, channels, cache)
            raw.replace(target)
            unfinished = facts.with_suffix(".tmp")
            unfinished.write_text(json.dumps({"shape": shape, "rate": rate}))
            unfinished.replace(facts)
        known = json.loads(facts.read_text())
        return _mapped(path, target, tuple(known["shape"]), known["rate"], stride)
    except OSError as error:
        raise UserError(
            f"{path}: cannot store the decoded frames: {error.strerror or error}; give another cache"
        ) from error


def _mapped(path: Path, raw: Path, shape: tuple[int, ...], rate: float, stride: int) -> Signal:
    values = np.memmap(raw, np.uint8, "r", shape=shape)
    return Signal("video", values, 0.0, 255.0, 8, rate / stride, path)


def _decode_to_temporary(
    path: Path,
    first: int,
    count: int | None,
    stride: int,
    size: tuple[int, int] | None,
    crop: Crop | None,
    channels: str,
    folder: Path | None = None,
) -> tuple[Path, tuple[int, ...], float]:
    """Decode to a new file; returns it, the shape (T, H, W, C) and the frames per second. Without ``folder`` the file
    lies in the system's temporary folder and is removed at exit."""
    handle, name = tempfile.mkstemp(suffix=".raw", prefix=".frames-", dir=folder)
    raw = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            total, shape = 0, ()
            rate = 0.0
            for rate, frame in _frames(path, first, count, stride):  # noqa: B007
                values = frame if crop is None else crop_box(frame, crop, path)
                if channels == "grey":
                    values = luma(values)
                if size is not None:
                    values = np.rint(resize_bilinear(values, size)).astype(np.uint8)
                file.write(values.tobytes())
                total, shape = total + 1, values.shape
        if total == 0:
            raise UserError(_nothing_read(path, first))
    except BaseException:
        raw.unlink(missing_ok=True)
        raise
    if folder is None:
        atexit.register(raw.unlink, missing_ok=True)
    return raw, (total, *shape), rate


def _frames(
    path: Path, first: int, count: int | None, stride: int
) -> Iterator[tuple[float, UInt8[np.ndarray, "h w 3"]]]:
    """Frames of the file with its frames per second, one in memory at a time."""
    import imageio_ffmpeg

    # A file is only a file: no address, no list of other files. Each coded frame comes through once.
    source = ["-protocol_whitelist", "file"]
    output = ["-fps_mode", "passthrough", "-vf", rf"select=gte(n\,{first})*not(mod(n-{first}\,{stride}))"]
    if count is not None:
        output += ["-frames:v", str(-(-count // stride))]
    reader: Any = imageio_ffmpeg.read_frames(f"file:{path.resolve()}", input_params=source, output_params=output)
    try:
        about = _next(reader, path)
        if about is None or about["codec"].rstrip(",") in _TEXT_CODECS:
            raise UserError(f"{path}: not a video; give a file with a picture stream")
        width, height = about["size"]
        while (data := _next(reader, path)) is not None:
            yield float(about["fps"]) or 25.0, np.frombuffer(data, np.uint8).reshape(height, width, 3)
    finally:
        reader.close()


def _next(reader: Iterator[Any], path: Path) -> Any:
    """The reader's next answer, None at its end. What it raises depends on where in ffmpeg's output it stumbled."""
    try:
        return next(reader, None)
    except (OSError, RuntimeError, ValueError, LookupError, AttributeError, AssertionError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if "Invalid data" in line or "does not contain" in line), "")
        reason = reason.split("] ")[-1] or "it cannot be decoded"
        raise UserError(f"{path}: not a video, or a damaged one: {reason}; replace the file") from error


def _nothing_read(path: Path, first: int) -> str:
    total = sum(1 for _ in _frames(path, 0, None, 1)) if first else 0
    if total == 0:
        return f"{path}: the video has no frames; replace the file"
    return (
        f"{path}: frame {first} is past the end, the video has {total} frames (0 to {total - 1}); give an earlier one"
    )
