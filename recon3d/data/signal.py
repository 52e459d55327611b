"""Sampled signals (images, audio, video) in the numbers of their files, and the way from there to [-1, 1] and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int, Num

Kind = Literal["image", "audio", "video"]
_AXES = {"image": "(H, W, C)", "audio": "(T, C)", "video": "(T, H, W, C)"}


@dataclass(frozen=True)
class Signal:
    """A sampled signal on a regular grid: image (H, W, C), audio (T, C), video (T, H, W, C).

    ``values`` are numbers as the file has them, in uint8, uint16 or float32, and may be a memory map; a resized signal
    is float32 in the range of the file, unrounded. ``low`` and ``high`` are what maps to -1 and +1: 0..255, 0..65535,
    -1..1 for audio, 0..1 for images of floats (or their least and greatest value where some lie outside). ``bits`` is
    what a sample of the file has: 8, 16, 24 or 32. ``rate`` counts audio samples or video frames per second.
    """

    kind: Kind
    values: np.ndarray
    low: float
    high: float
    bits: int
    rate: float | None
    path: Path

    def __post_init__(self) -> None:
        if self.values.ndim != _AXES[self.kind].count(",") + 1:
            raise ValueError(f"{self.kind} values must be {_AXES[self.kind]}, not of shape {self.values.shape}")
        if not self.values.flags.c_contiguous:
            raise ValueError("the values of a signal must be contiguous, so that points can be picked without a copy")
        if not self.high > self.low:
            raise ValueError(f"the range of a signal must not be empty: {self.low}..{self.high}")

    @property
    def grid(self) -> tuple[int, ...]:
        """Sizes of the grid, without the channels."""
        return self.values.shape[:-1]

    @property
    def channels(self) -> int:
        """Numbers at every point."""
        return self.values.shape[-1]

    @property
    def points(self) -> int:
        """Points of the grid."""
        return math.prod(self.grid)

    @property
    def dtype(self) -> np.dtype:
        """The type of the file's numbers: uint8 or uint16 for pixels of 8 or 16 bits, else float32."""
        if self.kind == "audio" or self.bits > 16:
            return np.dtype(np.float32)
        return np.dtype(np.uint8 if self.bits == 8 else np.uint16)

    def normalized(self, index: Int[np.ndarray, " n"] | None = None) -> Float32[np.ndarray, "*shape c"]:
        """The values in [-1, 1]: all of them (*grid, C), or those of the points ``index`` (n, C), counted row by row.

        Audio files of floats may go beyond full scale, and then so do these.
        """
        chosen = self.values if index is None else self.values.reshape(self.points, self.channels)[index]
        out = np.asarray(chosen.astype(np.float32))  # a copy, and no memory map any more
        centre = (self.low + self.high) / 2
        out -= np.float32(centre)
        out -= np.float32(centre - float(np.float32(centre)))  # counts where a narrow range lies far from zero
        out /= np.float32((self.high - self.low) / 2)
        return out

    def denormalized(self, values: Num[np.ndarray, "*shape c"]) -> Num[np.ndarray, "*shape c"]:
        """Values in [-1, 1], on this grid or any other, as the file's own numbers in ``dtype``.

        Integers are rounded to nearest and clipped to the range, NaN becoming the low end; floats are kept as they are.
        """
        scaled = values.astype(np.float32) * np.float32((self.high - self.low) / 2)
        scaled += np.float32((self.low + self.high) / 2)
        if self.dtype == np.float32:
            return scaled
        return np.rint(np.clip(np.nan_to_num(scaled, nan=self.low), self.low, self.high)).astype(self.dtype)
