"""Videos: H.264 in MP4, through imageio's ffmpeg."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import UInt8


class VideoWriter:
    """Writes frames (H, W, 3) uint8, of even width and height, to an MP4; the file appears when it is whole."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.stem}.tmp.mp4")
        self._fps = fps
        self._writer: Any = None

    def __enter__(self) -> VideoWriter:
        import imageio.v2 as iio

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = iio.get_writer(
            self._temporary, format="FFMPEG", fps=self._fps, codec="libx264", quality=8, macro_block_size=2
        )
        return self

    def add(self, frame: UInt8[np.ndarray, "h w 3"]) -> None:
        self._writer.append_data(frame)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._writer.close()
        if kind is None:
            self._temporary.replace(self.path)
        else:
            self._temporary.unlink(missing_ok=True)
