"""Dictionaries of NAF and TIGRE, from NPZ or JSON; the pickles that NAF's data come in are not loaded.

NAF's have ``train`` (and ``val``) with ``angles`` and ``projections``; in an NPZ, which has no nesting, these are
``train.angles``, ``train.projections``. TIGRE's geometry stands beside ``angles`` and ``projections``. The units and
axes of both are in :mod:`recon3d.geometry.scanner_formats`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recon3d.data.sidecar import Found, numbers
from recon3d.errors import UserError, require
from recon3d.geometry.scanner_formats import from_naf, from_tigre

_GEOMETRY = {"DSD", "DSO", "nDetector", "dDetector", "nVoxel", "dVoxel"}


def is_dictionary(values: Mapping[str, Any]) -> bool:
    """Whether the names are those of NAF's or TIGRE's geometries."""
    return values.keys() >= _GEOMETRY


def from_dictionary(values: Mapping[str, Any], path: Path) -> Found:
    """The training projections of a NAF dictionary, or those beside a TIGRE geometry.

    Raises:
        UserError: projections, angles or a part of the geometry are missing.
    """
    nested: dict[str, Any] = {}
    for name, value in values.items():
        folder, dot, key = name.partition(".")
        if dot:
            nested.setdefault(folder, {})[key] = value
        else:
            nested[name] = value
    plain = {name: _scalar(value) for name, value in nested.items()}
    train = plain.get("train")
    holder = plain if train is None else train
    require(isinstance(holder, dict), f"{path}: train is {type(holder).__name__}; give its angles and projections")
    missing = [name for name in ("angles", "projections") if name not in holder]
    require(not missing, f"{path}: {', '.join(missing)} missing; NAF's are train.angles and train.projections")
    projections = numbers(holder["projections"], path, "projections")
    try:
        geometry, grid = from_tigre(plain) if train is None else from_naf(plain)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return Found(projections, geometry=geometry, grid=grid)


def _scalar(value: Any) -> Any:
    """Arrays without axes as plain values."""
    if isinstance(value, dict):
        return {name: _scalar(part) for name, part in value.items()}
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
