"""Audio files as signals, through libsndfile."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recon3d.data.signal import Signal
from recon3d.errors import UserError

# Bits of a sample, by libsndfile's name of the coding. What codes lossily (Vorbis, MP3, laws) counts as 16 bits.
_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32, "FLOAT": 32, "DOUBLE": 32}


def read_audio(path: Path, *, start: float = 0.0, seconds: float | None = None, mono: bool = False) -> Signal:
    """Read WAV, FLAC, OGG and whatever else libsndfile knows: float32 values (T, C) in [-1, 1], at the file's own rate.

    Files of floats may go beyond 1; they are kept as they are.

    Args:
        start: where to begin, in seconds.
        seconds: how much to read; to the end where None or where the file is shorter.
        mono: average the channels to one.

    Raises:
        UserError: the file is missing, damaged or no audio, holds no samples or NaN, or ends before ``start``.
    """
    import soundfile

    if start < 0 or (seconds is not None and seconds <= 0):
        raise UserError(
            f"{path}: cannot read {seconds} s from {start} s on; give a start of 0 or more, a length above 0"
        )
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of an audio file")
    try:
        with soundfile.SoundFile(path) as file:
            rate, total, bits = file.samplerate, file.frames, _BITS.get(file.subtype, 16)
            if total == 0:
                raise UserError(f"{path}: the audio has no samples; replace the file")
            first = round(start * rate)
            if first >= total:
                raise UserError(
                    f"{path}: start at {start:g} s is past the end, {total / rate:g} s; give an earlier one"
                )
            file.seek(first)
            count = total - first if seconds is None else min(max(round(seconds * rate), 1), total - first)
            values = file.read(count, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        reason = getattr(error, "error_string", None) or str(error)
        raise UserError(f"{path}: cannot read the audio: {reason.rstrip('.')}; replace the file") from error
    if len(values) == 0:
        raise UserError(f"{path}: the audio breaks off before {start:g} s; replace the file")
    wrong = ~np.isfinite(values)
    if wrong.any():
        sample = first + int(wrong.any(axis=1).argmax())
        raise UserError(
            f"{path}: sample {sample} is not finite ({int(wrong.sum())} of {values.size} are not); replace them"
        )
    if mono:
        values = values.mean(axis=1, keepdims=True, dtype=np.float32)
    return Signal("audio", np.ascontiguousarray(values), -1.0, 1.0, bits, float(rate), path)
