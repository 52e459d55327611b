"""Image files as signals: every channel and every bit of the file, cropped and resized on demand.

Where :mod:`recon3d.data.images` makes 8-bit RGB for photographs of a scene, this keeps what is there: grey stays one
channel, alpha is the last one (straight), 16 bits and floats stay. Colours stay in the file's own space; a camera's
picture is turned upright as its EXIF data say (JPEG, WEBP, 8-bit PNG); of a file with several pictures the first is
read.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Shaped, UInt16
from PIL import Image, ImageOps

from recon3d.data.images import DECODE_ERRORS, FORMATS, has_alpha, undecodable
from recon3d.data.signal import Signal
from recon3d.errors import UserError

Channels = Literal["auto", "grey", "rgb", "rgba"]
Crop = tuple[int, int, int, int] | Literal["square"]

_PNG, _NPY = b"\x89PNG\r\n\x1a\n", b"\x93NUMPY"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_CHANNELS = 4
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB = 0, 1, 2  # TIFF 6.0, PhotometricInterpretation


class _Pixels(NamedTuple):
    """What a decoder found: (H, W, C) values, and the largest number they can be; None for floats."""

    values: np.ndarray
    high: float | None


def read_image_signal(
    path: Path, *, channels: Channels = "auto", size: tuple[int, int] | None = None, crop: Crop | None = None
) -> Signal:
    """Read PNG, JPEG, WEBP, TIFF, BMP, PPM or NPY: uint8, uint16 or float32 values (H, W, C) as the file has them.

    NPY files hold (H, W) or (H, W, C) arrays of uint8, uint16 or floats. A palette is looked up, 1 to 4 bits become 8.
    A float image is expected in 0..1; where a value lies outside, ``low`` and ``high`` are the file's extremes.

    Args:
        channels: ``auto`` keeps the file's (1 grey, 2 grey and alpha, 3 RGB, 4 RGBA); ``grey`` is the luma of ITU-R
            BT.601 as Pillow computes it; ``grey`` and ``rgb`` drop alpha, ``rgba`` adds an opaque one.
        size: rows and columns to resize to, after the crop: bilinear with antialiasing. The values are float32 then.
        crop: top, left, height and width in pixels, or ``square`` for the largest square in the centre.

    Raises:
        UserError: the file is missing, empty, damaged or no image, holds NaN or infinity, or the crop leaves the image.
    """
    pixels = _decode(path)
    values = np.ascontiguousarray(pixels.values)
    if values.size == 0:
        raise UserError(f"{path}: an image of {values.shape[0]} x {values.shape[1]} pixels; give one that is not empty")
    low, high, bits = 0.0, pixels.high or 1.0, 8 * values.dtype.itemsize
    if pixels.high is None:
        _check_finite(values, path)
        least, greatest = float(values.min()), float(values.max())
        if least < 0 or greatest > 1:
            low, high = least, greatest if greatest > least else least + 1
    values = _convert(values, channels, high)
    if crop is not None:
        values = np.ascontiguousarray(crop_box(values, crop, path))
    if size is not None:
        values = resize_bilinear(values, size)
    return Signal("image", values, low, high, bits, None, path)


def center_square(signal: Signal) -> Signal:
    """The largest square in the centre of an image; the spare row or column of an odd difference goes at the end."""
    if signal.kind != "image":
        raise ValueError(f"the centre square is cut from images, not from {signal.kind}")
    return replace(signal, values=np.ascontiguousarray(crop_box(signal.values, "square", signal.path)))


def crop_box(values: Shaped[np.ndarray, "h w c"], crop: Crop, path: Path) -> Shaped[np.ndarray, "h2 w2 c"]:
    """A view of the box ``crop``, as in :func:`read_image_signal`; ``path`` is for the message."""
    height, width = values.shape[:2]
    if crop == "square":
        side = min(height, width)
        crop = (height - side) // 2, (width - side) // 2, side, side
    top, left, rows, columns = crop
    if min(top, left) < 0 or min(rows, columns) < 1 or top + rows > height or left + columns > width:
        raise UserError(
            f"{path}: the crop of {rows} x {columns} pixels at row {top}, column {left} is not inside the"
            f" {height} x {width} image; give top, left, height, width that are"
        )
    return values[top : top + rows, left : left + columns]


def resize_bilinear(values: Shaped[np.ndarray, "h w c"], size: tuple[int, int]) -> Float32[np.ndarray, "h2 w2 c"]:
    """Resize to ``size`` rows and columns in the same range of values, unrounded.

    Bilinear with antialiasing, torch's ``interpolate(mode="bilinear", antialias=True)``, as published results on
    images of 256 x 256 pixels were prepared.
    """
    if min(size) < 1:
        raise UserError(f"cannot resize to {size[0]} x {size[1]} pixels; give a height and a width of 1 or more")
    image = torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(image, size=size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def luma(rgb: Shaped[np.ndarray, "*grid 3"]) -> Shaped[np.ndarray, "*grid 1"]:
    """Grey of RGB by ITU-R BT.601, in the same dtype; integers exactly as Pillow's ``convert("L")``, in 16 bits too."""
    if rgb.dtype.kind == "f":
        return (rgb @ np.array([0.299, 0.587, 0.114], rgb.dtype))[..., None]
    red, green, blue = (rgb[..., c].astype(np.uint32) for c in range(3))
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).astype(rgb.dtype)[..., None]


def _convert(values: Shaped[np.ndarray, "h w c"], channels: Channels, high: float) -> Shaped[np.ndarray, "h w c2"]:
    if channels == "auto":
        return values
    colours = values.shape[-1] - (values.shape[-1] % 2 == 0)  # without alpha: 1 or 3
    colour, alpha = values[..., :colours], values[..., colours:]
    if channels == "grey":
        return np.ascontiguousarray(colour) if colours == 1 else luma(colour)
    colour = np.ascontiguousarray(np.broadcast_to(colour, (*colour.shape[:-1], 3)))
    if channels == "rgb":
        return colour
    if alpha.shape[-1] == 0:
        alpha = np.full((*colour.shape[:-1], 1), high, colour.dtype)
    return np.concatenate([colour, alpha], axis=-1)


def _check_finite(values: Float32[np.ndarray, "h w c"], path: Path) -> None:
    wrong = ~np.isfinite(values)
    if wrong.any():
        row, column, channel = (int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
        raise UserError(
            f"{path}: pixel at row {row}, column {column} is {values[row, column, channel]}"
            f" ({int(wrong.sum())} of {values.size} values are not finite); replace them"
        )


def _decode(path: Path) -> _Pixels:
    try:
        with path.open("rb") as file:
            head = file.read(32)
    except OSError as error:
        raise UserError(f"{path}: cannot read the image: {error.strerror}; give the path of an image") from error
    if not head:
        raise UserError(f"{path}: cannot read the image: the file is empty; replace the file")
    try:
        if head.startswith(_NPY):
            return _read_npy(path)
        if head.startswith(_PNG) and head[24] == 16:
            return _read_png16(path)
        if head.startswith(_TIFF):
            return _read_tiff(path)
        if head[:2] in (b"P5", b"P6"):
            return _read_ppm(path)
        return _read_with_pillow(path)
    except DECODE_ERRORS as error:
        raise undecodable(path, error) from error


def _read_with_pillow(path: Path) -> _Pixels:
    with Image.open(path, formats=FORMATS) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode == "F" or image.mode == "I" or image.mode.startswith("I;16"):
            return _pixels(np.asarray(image)[..., None])
        if image.mode in ("1", "L", "LA", "La"):
            mode = "LA" if has_alpha(image) else "L"
        else:
            mode = "RGBA" if has_alpha(image) else "RGB"
        values = np.asarray(image if image.mode == mode else image.convert(mode))
    return _pixels(values[..., None] if values.ndim == 2 else values)


def _pixels(values: Shaped[np.ndarray, "h w c"]) -> _Pixels:
    if values.shape[-1] > _MOST_CHANNELS:
        raise ValueError(
            f"{values.shape[-1]} channels; give an image of rows, columns and 1 to {_MOST_CHANNELS} channels"
        )
    if values.dtype == np.bool_:
        return _Pixels(values.astype(np.uint8) * np.uint8(255), 255.0)
    if values.dtype.kind == "i" and values.size and values.min() >= 0 and values.max() <= 65535:
        values = values.astype(np.uint16)
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return _Pixels(values.astype(np.float32), None)
    if values.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"pixels of type {values.dtype}; save it as 8 or 16 bits, or as floats")
    native = values.astype(values.dtype.newbyteorder("="))
    return _Pixels(native, float(np.iinfo(native.dtype).max))


def _read_npy(path: Path) -> _Pixels:
    values = np.load(path, allow_pickle=False)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3:
        raise ValueError(f"an array of {values.ndim} axes; give rows, columns and, if any, channels")
    if values.dtype.kind not in "fu":
        raise ValueError(f"values of type {values.dtype}; save it as uint8, uint16 or floats")
    return _pixels(values)


def _read_png16(path: Path) -> _Pixels:
    """PNG of 16 bits through pypng, as Pillow makes 8 bits of all of them but grey without transparency.

    pypng is one module without dependencies, pure Python: up to two seconds a megapixel. OpenCV and
    imagecodecs do the same for 30 MB and more.
    """
    import png

    with Image.open(path, formats=("PNG",)):  # refuses a size that would fill the memory
        pass
    try:
        width, height, rows, info = png.Reader(filename=str(path)).read()
        values = np.vstack([np.asarray(row, np.uint16) for row in rows]).reshape(height, width, info["planes"])
    except png.Error as error:
        raise ValueError(error) from error
    if "transparent" in info:  # one grey or colour stands for transparent
        opaque = (values != np.asarray(info["transparent"])).any(axis=-1, keepdims=True)
        values = np.concatenate([values, opaque.astype(np.uint16) * np.uint16(65535)], axis=-1)
    return _Pixels(values, 65535.0)


def _read_tiff(path: Path) -> _Pixels:
    """TIFF of 8 bits through Pillow, which has every compression; of more through tifffile, which keeps the bits.

    tifffile without its large companion imagecodecs lacks LZW; then Pillow reads what it reads unharmed: one channel.
    """
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        if not isinstance(page, tifffile.TiffPage) or page.bitspersample <= 8:
            return _read_with_pillow(path)
        if page.photometric not in (_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB):
            raise ValueError(f"colours of kind {getattr(page.photometric, 'name', page.photometric)}; save it as RGB")
        try:
            values = page.asarray()
        except ValueError as error:
            if page.samplesperpixel == 1:
                return _read_with_pillow(path)
            raise ValueError(f"{error}; save it without compression or with deflate") from error
        if page.axes not in ("YX", "YXS", "SYX"):
            raise ValueError(f"axes {page.axes}; save it as rows, columns and channels")
        values = values[..., None] if page.axes == "YX" else values
        pixels = _pixels(np.moveaxis(values, 0, -1) if page.axes == "SYX" else values)
        if page.photometric == _MIN_IS_WHITE and pixels.high is not None:
            return pixels._replace(values=np.iinfo(pixels.values.dtype).max - pixels.values)
        return pixels


def _read_ppm(path: Path) -> _Pixels:
    """Binary PGM and PPM; of 16 bits they are read here (netpbm's ppm(5)), as Pillow makes 8 bits of colours."""
    data = path.read_bytes()
    fields: list[int] = []
    at = 2
    while len(fields) < 3:
        while data[at : at + 1].isspace():
            at += 1
        if data[at : at + 1] == b"#":
            at = data.index(b"\n", at)
            continue
        end = at
        while data[end : end + 1].isdigit():
            end += 1
        fields.append(int(data[at:end]))
        at = end
    width, height, greatest = fields
    if greatest < 256:
        return _read_with_pillow(path)
    channels = 1 if data[:2] == b"P5" else 3
    values: UInt16[np.ndarray, " n"] = np.frombuffer(data, ">u2", width * height * channels, at + 1)
    return _Pixels(values.reshape(height, width, channels).astype(np.uint16), float(greatest))
