"""Signals to files: PNG, JPEG, TIFF, WAV, FLAC, OGG, MP4, GIF. Each file is written whole or not at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num, Shaped, UInt8

from recon3d.data.signal import Signal
from recon3d.errors import UserError
from recon3d.export.video import VideoWriter
from recon3d.files import cannot_write

_AUDIO_BLOCK = 2**16  # samples at once: libsndfile's Vorbis encoder overflows its stack on long writes
_WAV = {8: "PCM_U8", 16: "PCM_16", 24: "PCM_24", 32: "FLOAT"}
_FLAC = {8: "PCM_S8", 16: "PCM_16", 24: "PCM_24", 32: "PCM_24"}


def write_signal(signal: Signal, path: Path) -> Path:
    """Write a signal, values in the file's own numbers, to the format that the suffix of ``path`` names; returns it.

    Images: PNG of 8 or 16 bits with 1 to 4 channels (floats become 16 bits), TIFF of 8 or 16 bits or floats, JPEG of 8
    bits without alpha. Audio: WAV of the signal's bits (32 is float), FLAC up to 24 bits, OGG Vorbis. Video: MP4 (an
    odd height or width gains a row or column, repeated) and GIF (256 colours a frame, steps of 10 ms), grey or RGB.
    Values that are not integers are rounded, and clipped to ``low``..``high``, where the format holds integers; a range
    other than the format's whole one is stretched to it.

    Raises:
        UserError: a suffix that this kind of signal has no format for, channels or a rate that the format does not
            hold, or the file cannot be written.
    """
    writers = _WRITERS[signal.kind]
    write = writers.get(path.suffix.lower())
    if write is None:
        raise UserError(f"{path}: cannot write {signal.kind} as {path.suffix or 'a file without suffix'!r}; choose from"
                        f" {', '.join(writers)}")  # fmt: skip
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(signal, temporary)
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def _integers(values: Num[np.ndarray, "*shape c"], signal: Signal, bits: int) -> Shaped[np.ndarray, "*shape c"]:
    """``low``..``high`` as 0..2^bits - 1, rounded to nearest; a copy of integers that already span it."""
    dtype, top = (np.uint8, 255) if bits == 8 else (np.uint16, 65535)
    if values.dtype == dtype and (signal.low, signal.high) == (0, top):
        return np.array(values)
    unit = np.clip((np.asarray(values, np.float64) - signal.low) / (signal.high - signal.low), 0, 1)
    return np.rint(np.nan_to_num(unit) * top).astype(dtype)


def _check_channels(signal: Signal, path: Path, allowed: tuple[int, ...], instead: str) -> None:
    if signal.channels not in allowed:
        numbers = " or ".join(str(n) for n in allowed)
        given = f"the {signal.channels} of {signal.path}" if signal.path.name else str(signal.channels)
        raise UserError(f"{path.suffix} holds {numbers} channels, not {given}; {instead}")


def _write_png(signal: Signal, path: Path) -> None:
    _check_channels(signal, path, (1, 2, 3, 4), "write each channel to a file of its own")
    if signal.bits == 8:
        _save_with_pillow(_integers(signal.values, signal, 8), path)
        return
    import png  # 16 bits and colour: Pillow cannot

    values = _integers(signal.values, signal, 16)
    height, width, channels = values.shape
    writer = png.Writer(width, height, greyscale=channels < 3, alpha=channels % 2 == 0, bitdepth=16)
    with path.open("wb") as file:
        writer.write(file, values.reshape(height, width * channels))


def _write_jpeg(signal: Signal, path: Path) -> None:
    _check_channels(signal, path, (1, 3), "write .png, or read the image as rgb")
    _save_with_pillow(_integers(signal.values, signal, 8), path, quality=95)


def _save_with_pillow(values: UInt8[np.ndarray, "h w c"], path: Path, **options: Any) -> None:
    from PIL import Image

    Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values).save(path, **options)


def _write_tiff(signal: Signal, path: Path) -> None:
    _check_channels(signal, path, (1, 2, 3, 4), "write each channel to a file of its own")
    import tifffile

    values = np.asarray(signal.values, np.float32)
    if signal.bits <= 16:
        values = _integers(signal.values, signal, signal.bits)
    tifffile.imwrite(
        path,
        values[..., 0] if signal.channels == 1 else values,
        photometric="rgb" if signal.channels > 2 else "minisblack",
        planarconfig=None if signal.channels == 1 else "contig",
        extrasamples=["unassalpha"] if signal.channels % 2 == 0 else None,
        metadata=None,
    )


def _write_wav(signal: Signal, path: Path) -> None:
    _write_audio(signal, path, "WAV", _WAV[signal.bits])


def _write_flac(signal: Signal, path: Path) -> None:
    _write_audio(signal, path, "FLAC", _FLAC[signal.bits])


def _write_ogg(signal: Signal, path: Path) -> None:
    _write_audio(signal, path, "OGG", "VORBIS")


def _write_audio(signal: Signal, path: Path, container: str, coding: str) -> None:
    import soundfile

    rate = round(_rate(signal))
    try:
        with soundfile.SoundFile(path, "w", rate, signal.channels, coding, format=container) as file:
            for at in range(0, len(signal.values), _AUDIO_BLOCK):
                block = np.asarray(signal.values[at : at + _AUDIO_BLOCK], np.float32)
                file.write(_pcm(block, signal.bits) if coding.startswith("PCM") else block)
    except soundfile.LibsndfileError as error:
        reason = f"{error.error_string.rstrip('.')} ({signal.channels} channels at {rate} Hz)"
        raise OSError(reason) from error


def _pcm(values: Num[np.ndarray, "t c"], bits: int) -> Num[np.ndarray, "t c"]:
    """Integers in the upper bits of int32. Readers divide by 2^(bits - 1), so this multiplies by it, and what was read
    is written unchanged; libsndfile itself multiplies floats by one less."""
    kept = min(bits, 24)
    top = 2 ** (kept - 1)
    whole = np.rint(np.clip(np.nan_to_num(values.astype(np.float64) * top), -top, top - 1))
    return whole.astype(np.int32) << (32 - kept)


def _write_mp4(signal: Signal, path: Path) -> None:
    with VideoWriter(path, _rate(signal)) as video:
        for frame in _frames(signal, path):
            odd = [(0, n % 2) for n in frame.shape[:2]]
            even = np.pad(frame, [*odd, (0, 0)], mode="edge")
            video.add(np.ascontiguousarray(np.broadcast_to(even, (*even.shape[:2], 3))))


def _write_gif(signal: Signal, path: Path) -> None:
    from PIL import Image

    pictures = (Image.fromarray(f[..., 0] if f.shape[-1] == 1 else f) for f in _frames(signal, path))
    milliseconds = max(round(100 / _rate(signal)), 1) * 10
    next(pictures).save(path, save_all=True, append_images=pictures, duration=milliseconds, loop=0)


def _frames(signal: Signal, path: Path) -> Iterator[UInt8[np.ndarray, "h w c"]]:
    _check_channels(signal, path, (1, 3), "read the video as grey or rgb")
    for frame in signal.values:
        yield _integers(frame, signal, 8)


def _rate(signal: Signal) -> float:
    if signal.rate is None or not (math.isfinite(signal.rate) and signal.rate > 0):
        raise ValueError(f"{signal.kind} without a rate: {signal.rate}")
    return signal.rate


_WRITERS: dict[str, dict[str, Callable[[Signal, Path], None]]] = {
    "image": {
        ".png": _write_png,
        ".jpg": _write_jpeg,
        ".jpeg": _write_jpeg,
        ".tif": _write_tiff,
        ".tiff": _write_tiff,
    },
    "audio": {".wav": _write_wav, ".flac": _write_flac, ".ogg": _write_ogg},
    "video": {".mp4": _write_mp4, ".gif": _write_gif},
}
