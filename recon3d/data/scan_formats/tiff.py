"""TIFF stacks: a folder of pages, one projection each in the order of their numbers, or one file of many pages."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np

from recon3d.config.scans import SidecarConfig
from recon3d.data.sidecar import Found
from recon3d.data.stacks import LazyStack
from recon3d.errors import UserError, require

_ENDS = (".tif", ".tiff")
DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    RuntimeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)


def read(path: Path, told: SidecarConfig) -> Found:
    """A folder or a file; pages are read when they are asked for. A single page is a sinogram (angles, columns)."""
    stack = open_stack(path)
    if stack.shape[0] == 1 and told.axes is None:
        return Found(np.asarray(stack[0]))
    return Found(stack)


def files_in(folder: Path) -> list[Path]:
    """The TIFF files of a folder, by the numbers in their names."""
    found = [f for f in folder.iterdir() if f.suffix.lower() in _ENDS and not f.name.startswith(".")]
    return sorted(found, key=lambda f: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", f.name)])


def open_stack(path: Path) -> LazyStack:
    """All pages (pages, rows, columns) of a file or a folder, read when they are indexed.

    Raises:
        UserError: no TIFF, pages of several sizes, or of several channels.
    """
    files = files_in(path) if path.is_dir() else [path]
    require(bool(files), f"{path}: no TIFF files in the folder; give the folder of the projections")
    if len(files) == 1:
        return _pages_of(files[0])
    shape = _page_shape(files[0])

    def frame(index: int) -> np.ndarray:
        page = _read_pages(files[index], [0])[0]
        require(
            page.shape == shape,
            f"{files[index]}: {page.shape} pixels, but {files[0].name} has {shape}; all pages must have one size",
        )
        return page

    return LazyStack((len(files), *shape), lambda v, r, c: _gather([frame(i)[r, c] for i in v.tolist()], r, c))


def _pages_of(path: Path) -> LazyStack:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            pages = len(file.pages)
            contiguous = file.series[0] if pages == 1 or len(file.series) == 1 else None
            shape = None if contiguous is None else tuple(contiguous.shape)
            mappable = contiguous is not None and contiguous.dataoffset is not None and len(shape or ()) == 3
        mapped = tifffile.memmap(path, mode="r") if mappable else None
    except DAMAGE as error:
        raise UserError(f"{path}: cannot read the TIFF ({' '.join(str(error).split())})") from error
    if mapped is not None:  # e.g. ImageJ's stacks, which may have one page and thousands of frames behind it
        rows, columns = mapped.shape[1:]
        return LazyStack((len(mapped), rows, columns), lambda v, r, c: mapped[v][:, r, c])
    rows, columns = _page_shape(path)
    return LazyStack((pages, rows, columns), lambda v, r, c: _gather(_read_pages(path, v.tolist(), (r, c)), r, c))


def _page_shape(path: Path) -> tuple[int, int]:
    rows, columns = _read_pages(path, [0])[0].shape
    return rows, columns


def _read_pages(
    path: Path, indices: list[int], part: tuple[slice, slice] = (slice(None), slice(None))
) -> list[np.ndarray]:
    import tifffile

    parts = []
    index = 0
    try:
        with tifffile.TiffFile(path) as file:
            for index in indices:
                values = file.pages[index].asarray()
                if values.ndim != 2:
                    raise ValueError(f"shape {values.shape}; give rows and columns, no colours")
                parts.append(values[part])
    except DAMAGE as error:
        raise UserError(f"{path}: cannot read page {index} of the TIFF ({' '.join(str(error).split())})") from error
    return parts


def _gather(parts: list[np.ndarray], rows: slice, columns: slice) -> np.ndarray:
    if not parts:
        return np.zeros((0, rows.stop - rows.start, columns.stop - columns.start), np.float32)
    return np.stack(parts).astype(np.float32)
