"""Frames on disk: H.264 in MP4, through imageio's ffmpeg, or a folder of PNG pictures."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from recon3d.errors import UserError


@runtime_checkable
class FrameWriter(Protocol):
    """Takes frames of one size in their order, between ``__enter__`` and ``__exit__``."""

    def __enter__(self) -> FrameWriter: ...

    def add(self, frame: UInt8[np.ndarray, "h w 3"]) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


def frame_writer(path: Path, fps: float) -> FrameWriter:
    """A video where ``path`` ends in .mp4, a folder of pictures where it has no ending.

    Raises:
        UserError: another ending.
    """
    if path.suffix.lower() == ".mp4":
        return VideoWriter(path, fps)
    if path.suffix == "":
        return FrameFolder(path)
    raise UserError(f"{path}: frames are written to a video that ends in .mp4, or to a folder, of a name without a dot")


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


class FrameFolder:
    """Writes frames to ``path/000.png``, ``001.png`` ...; they appear together, when the last one is written, in the
    place of those of an earlier rendering."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._count = 0

    def __enter__(self) -> FrameFolder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._temporary = Path(tempfile.mkdtemp(dir=self.path.parent, prefix=f".{self.path.name}."))
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror or error}") from None
        return self

    def add(self, frame: UInt8[np.ndarray, "h w 3"]) -> None:
        import imageio.v3 as iio

        iio.imwrite(self._temporary / _name(self._count), frame)
        self._count += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            for frame in sorted(self._temporary.iterdir()):
                frame.replace(self.path / frame.name)
            while (left := self.path / _name(self._count)).is_file():  # of a longer rendering before
                left.unlink()
                self._count += 1
        shutil.rmtree(self._temporary, ignore_errors=True)


def _name(frame: int) -> str:
    return f"{frame:03d}.png"
