"""HDF5: datasets read by block, without a file held open between reads, and the tree of a file in a few words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from recon3d.data import stacks
from recon3d.data.optional import library
from recon3d.data.stacks import LazyStack, Views
from recon3d.errors import UserError

MAGIC = b"\x89HDF\r\n\x1a\n"
_SHOWN = 12


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file, open to read.

    Raises:
        UserError: h5py is not installed, or the file is damaged.
    """
    h5py = library("h5py", f"{path}: HDF5")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot read the HDF5 file ({' '.join(str(error).split())})") from error


def datasets(file: Any) -> dict[str, Any]:
    """All datasets by their path."""
    h5py = library("h5py", "HDF5")
    found: dict[str, Any] = {}
    file.visititems(lambda name, item: found.__setitem__(name, item) if isinstance(item, h5py.Dataset) else None)
    return found


def tree(file: Any) -> str:
    """The datasets of a file on one line, the largest first."""
    found = sorted(datasets(file).items(), key=lambda pair: -int(np.prod(pair[1].shape or (1,))))
    words = [f"{name} {item.shape} {item.dtype}" for name, item in found[:_SHOWN]]
    rest = f", and {len(found) - _SHOWN} smaller" if len(found) > _SHOWN else ""
    return (", ".join(words) or "no datasets") + rest


def lazy(path: Path, name: str, transpose: bool = False, only: Views | None = None) -> LazyStack:
    """A dataset of three axes as a stack that reads what is indexed.

    Args:
        transpose: the axes are (columns, rows, views), as MATLAB writes them.
        only: the numbers of the frames that count; others are left out.
    """
    with opened(path) as file:
        shape = file[name].shape
    if transpose:
        shape = shape[::-1]
    if only is not None:
        shape = (len(only), *shape[1:])

    def read(views: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        chosen = views if only is None else only[views]
        out = np.empty((len(chosen), rows.stop - rows.start, columns.stop - columns.start), np.float32)
        with opened(path) as file:
            dataset = file[name]
            for place, part in stacks.runs(chosen):
                if transpose:
                    out[place] = dataset[columns, rows, part].transpose(2, 1, 0)
                else:
                    out[place] = dataset[part, rows, columns]
        return out

    return LazyStack(shape, read)


def text(value: Any) -> str:
    """An attribute or a dataset of text as a string."""
    if isinstance(value, np.ndarray):
        value = value.reshape(-1)[0] if value.size else ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
