"""The benchmarks' images and sounds: scikit-image's own, or files.

scikit-image is only needed for its images; it is not among what the toolkit installs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recon3d.errors import UserError

EIGHT = ("camera", "astronaut", "cat", "coffee", "brick", "text", "rocket", "coins")
TUNING = ("moon", "grass")
"""What learning rates are chosen on: in no table."""


def image_file(name: str, folder: Path) -> Path:
    """The file of an image: ``name`` is a path, or that of one of scikit-image's images, which is then written as a
    PNG into ``folder``.

    Raises:
        UserError: neither.
    """
    if Path(name).is_file():
        return Path(name)
    path = folder / f"{name}.png"
    if path.is_file():
        return path
    try:
        from skimage import data
    except ImportError:
        raise UserError(f"image {name!r}: no such file; scikit-image's images need: pip install scikit-image") from None
    make = getattr(data, name, None) if name.isidentifier() else None
    try:
        pixels = np.asarray(make())  # type: ignore[misc]
    except Exception:
        raise UserError(f"image {name!r}: neither a file nor an image that scikit-image carries") from None
    import imageio.v3 as iio

    folder.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, pixels)
    return path
