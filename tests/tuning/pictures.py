"""Small images of chosen frequencies, and small fields."""

import math
from pathlib import Path

import imageio.v3 as iio
import numpy as np

from recon3d.config import FieldConfig, ImageConfig

SIREN = FieldConfig(encoder=("identity",), network="siren", width=32, depth=1)


def banded(size: int, low: float, high: float, seed: int = 0) -> np.ndarray:
    """Grey noise (size, size) uint8 of all frequencies from ``low`` to ``high`` periods a side."""
    noise = np.fft.fft2(np.random.default_rng(seed).standard_normal((size, size)))
    counts = np.abs(np.fft.fftfreq(size, 1 / size))
    radius = np.hypot(counts[:, None], counts[None, :])
    values = np.fft.ifft2(np.where((radius >= low) & (radius <= high), noise, 0)).real
    values /= np.abs(values).max()
    return np.round(127.5 + 127 * values).astype(np.uint8)


def stripes(size: int, across: int, down: int) -> np.ndarray:
    """Grey stripes (size, size) uint8 of so many periods."""
    at = np.arange(size) / size
    phase = 2 * math.pi * (down * at[:, None] + across * at[None, :])
    return np.round(127.5 + 127 * np.cos(phase)).astype(np.uint8)


def image_config(folder: Path, values: np.ndarray, field: FieldConfig = SIREN, **settings) -> ImageConfig:
    path = folder / "image.png"
    iio.imwrite(path, values)
    return ImageConfig(data=path, steps=10, field=field, **settings)
