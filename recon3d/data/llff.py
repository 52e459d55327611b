"""Reader of LLFF's ``poses_bounds.npy`` (Mildenhall et al. 2019): forward-facing captures.

Beside the file lie the photographs, in ``images``, or made smaller in ``images_4``, ``images_8``, ...: the i-th row is
for the i-th of them by name. A row holds a 3x5 matrix, row by row, and how near and how far its camera sees things. The
matrix's columns are the camera's axes in the world (down, right, backwards), its position, and the height, width and
focal length of the photographs in ``images`` in pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from recon3d.data.images import is_photograph, photographs_folder
from recon3d.errors import UserError

FILE = "poses_bounds.npy"


def read_llff(path: Path) -> dict[str, Any]:
    """A ``poses_bounds.npy`` as a ``transforms.json`` would tell it, ``near`` and ``far`` in each frame. Of several
    folders of photographs, the one with the largest is taken.

    Raises:
        UserError: no photographs, not as many as rows, or rows that are no poses.
    """
    rows = _rows(path)
    images = _photographs(path.parent)
    if len(images) != len(rows):
        folder = path.parent / Path(images[0]).parent
        raise UserError(f"{path}: has {len(rows)} rows, but {folder} holds {len(images)} photographs: one for each row")
    return {"frames": [_frame(row, image) for row, image in zip(rows, images, strict=True)]}


def _rows(path: Path) -> np.ndarray:
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not a NumPy array of numbers: {error}") from error
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != 17 or rows.dtype.kind not in "fiu":
        shape = getattr(rows, "shape", "several arrays")
        raise UserError(f"{path}: holds {shape}; LLFF's file has a row of 17 numbers for each photograph")
    if not np.isfinite(rows).all():
        raise UserError(f"{path}: row {int(np.argwhere(~np.isfinite(rows))[0, 0])} has a number that is not finite")
    return rows.astype(np.float64)


def _photographs(folder: Path) -> list[str]:
    """The photographs of the folder with the largest ones, by name, relative to ``folder``."""
    largest = photographs_folder(folder)
    if largest is None:
        raise UserError(f"{folder}: no photographs; LLFF has them in images or images_8 beside {FILE}")
    return sorted(path.relative_to(folder).as_posix() for path in largest.iterdir() if is_photograph(path))


def _frame(row: np.ndarray, image: str) -> dict[str, Any]:
    matrix = row[:15].reshape(3, 5)
    down, right, backwards, position, (height, width, focal) = matrix.T
    pose = np.eye(4)
    pose[:3] = np.stack([right, -down, backwards, position], axis=1)
    near, far = row[15:]
    return {
        "file_path": image,
        "transform_matrix": pose.tolist(),
        "w": width,
        "h": height,
        "fl_x": focal,
        "near": near,
        "far": far,
    }
