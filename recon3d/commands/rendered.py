"""Sampling a signal's field on a grid of any size, block by block: shared by eval, render, export and decode."""

from __future__ import annotations

import atexit
import math
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon3d.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from recon3d.data.signal import Signal
    from recon3d.tasks.evaluation import Rendering
    from recon3d.tasks.signal import Header

BLOCK = 2**18
"""Points rendered at once."""
IN_MEMORY = 2**29
"""Bytes of a rendering above which it lies in a temporary file."""
SUFFIXES = {
    "image": (".png", ".jpg", ".jpeg", ".tif", ".tiff"),
    "audio": (".wav", ".flac", ".ogg"),
    "video": (".mp4", ".gif"),
}
"""What a signal can be written as; the first is what it is written as by default."""


@dataclass(frozen=True)
class Sampling:
    """How finely a field is sampled, and where the file goes."""

    scale: float | None = None
    """Image, video: so many times the rows and columns of the file."""
    size: tuple[int, int] | None = None
    """Image, video: rows and columns."""
    render_fps: float | None = None
    """Video: frames per second (default: the file's); more of them interpolate."""
    rate: int | None = None
    """Audio: samples per second (default: the file's)."""
    output: Path | None = None
    """File to write; its suffix chooses PNG, TIFF, JPEG, WAV, FLAC, OGG, MP4 or GIF."""

    def grid(self, header: Header) -> tuple[tuple[int, ...], float | None]:
        """The grid to sample, and its rate.

        Raises:
            UserError: an option for another kind of signal, or a grid without points.
        """
        given = {name for name in ("scale", "size", "render_fps", "rate") if getattr(self, name) is not None}
        fitting = {"image": {"scale", "size"}, "video": {"scale", "size", "render_fps"}, "audio": {"rate"}}[header.kind]
        for name in sorted(given - fitting):
            known = ", ".join(_flag(other) for other in sorted(fitting))
            raise UserError(f"{_flag(name)} is not for {header.kind}, which takes {known}")
        if self.scale is not None and self.size is not None:
            raise UserError("--scale and --size: both say how many pixels; give one")
        for name in ("scale", "render_fps", "rate"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UserError(f"{_flag(name)} is {value}: give a positive number")
        grid, rate = header.grid, header.rate
        if header.kind != "audio":
            plane = self.size or tuple(round(size * (self.scale or 1)) for size in grid[-2:])
            grid = (*grid[:-2], *plane)
        wanted = self.rate if header.kind == "audio" else self.render_fps
        if wanted is not None:
            grid, rate = (round(grid[0] * wanted / (rate or 1)), *grid[1:]), float(wanted)
        if min(grid) < 1:
            raise UserError(f"{' x '.join(map(str, grid))} samples: give sizes of 1 or more")
        return grid, rate

    def target(self, header: Header, default: Path) -> Path:
        """Where to write; ``default`` is without a suffix."""
        path = self.output or default.with_name(default.name + SUFFIXES[header.kind][0])
        return checked(path, SUFFIXES[header.kind], header.kind)


def checked(path: Path, suffixes: tuple[str, ...], kind: str) -> Path:
    """``path``, if it has one of the suffixes: told before the work is done, not after it."""
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{path}: cannot write {kind} as {path.suffix or 'a file without suffix'!r}; choose from"
                        f" {', '.join(suffixes)}")  # fmt: skip
    return path


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


class Canvas:
    """A signal in the file's own numbers that is filled block by block; in a temporary file where it is large."""

    def __init__(self, header: Header, grid: tuple[int, ...], rate: float | None = None) -> None:
        import numpy as np
        import torch

        point = torch.zeros(*(1 for _ in grid), header.channels)
        self._like = header.signal(point, rate)
        shape, dtype = (*grid, header.channels), self._like.dtype
        large = math.prod(shape) * dtype.itemsize > IN_MEMORY
        self._values: Any = _mapped(shape, dtype) if large else np.empty(shape, dtype)

    def put(self, begin: int, values: Tensor) -> None:
        """Values in [-1, 1] of the points from ``begin`` on."""
        flat = self._values.reshape(-1, self._values.shape[-1])
        flat[begin : begin + len(values)] = self._like.denormalized(values.cpu().numpy())

    def signal(self) -> Signal:
        return replace(self._like, values=self._values)


def _mapped(shape: tuple[int, ...], dtype: Any) -> Any:
    import numpy as np

    handle, name = tempfile.mkstemp(suffix=".raw", prefix=".recon3d-")
    os.close(handle)
    atexit.register(Path(name).unlink, missing_ok=True)
    return np.memmap(name, dtype, "w+", shape=shape)


def rendered(rendering: Rendering, grid: tuple[int, ...], rate: float | None = None) -> Signal:
    """The field's samples on ``grid`` as a signal in the file's own numbers."""
    from tqdm import tqdm

    canvas = Canvas(rendering.task.header, grid, rate)
    points = math.prod(grid)
    with tqdm(total=points, unit="point", unit_scale=True, desc="render") as bar:
        for begin in range(0, points, BLOCK):
            end = min(begin + BLOCK, points)
            canvas.put(begin, rendering.values(grid, begin, end))
            bar.update(end - begin)
    return canvas.signal()
