"""Image files to 8-bit arrays, and box downscaling that treats alpha right.

Colours stay in the file's own space (no gamma, no colour profile is applied) and EXIF rotation is ignored, as the tools
that estimate camera poses ignore it. Only raster formats are opened, through Pillow.
"""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from recon3d.errors import UserError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
_PHOTOGRAPHS = re.compile(r"images(?:_(\d+))?")
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM")
# What Pillow raises on damaged files, by format: it has no exception of its own for them.
DECODE_ERRORS = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class ImageHeader(NamedTuple):
    """What is known of an image before its pixels are decoded. ``alpha`` says whether it has transparency."""

    width: int
    height: int
    alpha: bool


def photographs_folder(folder: Path) -> Path | None:
    """Of ``images``, and ``images_2``, ``images_4``, ..., which hold the same made smaller, the one with the largest;
    None where none holds any image."""
    found = [(int(match[1] or 1), path) for path in folder.iterdir() if (match := _PHOTOGRAPHS.fullmatch(path.name))]
    return next((path for _, path in sorted(found) if path.is_dir() and any(map(is_photograph, path.rglob("*")))), None)


def is_photograph(path: Path) -> bool:
    """By its name alone."""
    return path.suffix.lower() in EXTENSIONS


def read_header(path: Path) -> ImageHeader:
    """Size and presence of alpha, without decoding. Raises :class:`UserError` if the file is no image."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return ImageHeader(image.width, image.height, has_alpha(image))
    except DECODE_ERRORS as error:
        raise undecodable(path, error) from error


def read_image(path: Path) -> UInt8[np.ndarray, "h w c"]:
    """Decode one image to RGB (c = 3), or to RGB with straight alpha (c = 4) where the file has transparency.

    Grey becomes RGB, a palette is looked up, and 16-bit values become 8-bit ones.

    Raises:
        UserError: the file is truncated, is no image, or holds values that 8 bits cannot stand for (floats).
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            return _to_uint8(image)
    except DECODE_ERRORS as error:
        raise undecodable(path, error) from error


def _to_uint8(image: Image.Image) -> UInt8[np.ndarray, "h w c"]:
    if image.mode == "F":
        raise ValueError("floating-point pixels; save it as 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):  # one grey channel of 16 bits
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ValueError("integer pixels outside 0..65535; save it as 8 or 16 bits")
        grey = ((wide * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    mode = "RGBA" if has_alpha(image) else "RGB"
    return np.asarray(image if image.mode == mode else image.convert(mode))


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or (
        image.mode in ("P", "L", "RGB", "1") and "transparency" in image.info
    )


def undecodable(path: Path, error: BaseException) -> UserError:
    if isinstance(error, UnidentifiedImageError):
        reason = "not an image in a known format (" + ", ".join(FORMATS) + ")"
    else:
        reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{path}: cannot read the image: {reason}; replace the file")


def box_downscale(image: UInt8[np.ndarray, "h w c"], factor: int) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Average blocks of ``factor`` x ``factor`` pixels; sizes are rounded down, what is left over is cut off.

    With alpha (c = 4) premultiplied colours are averaged and divided by the mean alpha after, so transparent pixels do
    not bleed into an edge. Exact integer arithmetic, rounded to nearest; a wholly transparent block becomes zeros.
    """
    if factor == 1:
        return image
    height, width, channels = image.shape[0] // factor, image.shape[1] // factor, image.shape[2]
    image = image[: height * factor, : width * factor]
    out = np.empty((height, width, channels), dtype=np.uint8)
    if channels != 4:
        pixels = factor * factor
        for c in range(channels):
            out[..., c] = (_block_sum(image[..., c], factor) + pixels // 2) // pixels
        return out
    alpha = image[..., 3].astype(np.uint16)
    weight = _block_sum(alpha, factor)
    divisor = np.maximum(weight, 1)
    for c in range(3):
        premultiplied = image[..., c] * alpha  # at most 255 * 255, which 16 bits hold
        out[..., c] = (_block_sum(premultiplied, factor) + divisor // 2) // divisor
    out[..., 3] = (weight + factor * factor // 2) // (factor * factor)
    return out


def _block_sum(plane: np.ndarray, factor: int) -> np.ndarray:
    """Sums over factor x factor blocks of a (h, w) plane, as uint32 (uint64 where that could overflow)."""
    dtype = np.uint32 if factor <= 256 else np.uint64
    total = np.zeros((plane.shape[0] // factor, plane.shape[1]), dtype=dtype)
    for row in range(factor):
        total += plane[row::factor]
    result = np.zeros((total.shape[0], total.shape[1] // factor), dtype=dtype)
    for column in range(factor):
        result += total[:, column::factor]
    return result
