"""Files of bare numbers; their layout is in the sidecar (``raw``)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from recon3d.config.scans import SidecarConfig
from recon3d.data.sidecar import Found
from recon3d.errors import UserError, require


def read(path: Path, told: SidecarConfig) -> Found:
    """A memory map of the file.

    Raises:
        UserError: no layout is told, or the file is shorter than it.
    """
    if told.raw is None:
        raise UserError(
            f"{path}: bare numbers; write {path.with_suffix('.yaml').name} beside it with raw: {{shape: [angles, rows,"
            " columns], dtype: uint16}"
        )
    dtype = np.dtype(told.raw.dtype).newbyteorder("<" if told.raw.byte_order == "little" else ">")
    needed = told.raw.offset + math.prod(told.raw.shape) * dtype.itemsize
    there = path.stat().st_size
    require(
        there >= needed,
        f"{path}: {there} bytes, but {'x'.join(map(str, told.raw.shape))} numbers of {told.raw.dtype} after"
        f" {told.raw.offset} bytes are {needed}; correct raw in the sidecar",
    )
    return Found(np.memmap(path, dtype, "r", told.raw.offset, told.raw.shape))
