"""NPY and NPZ files, and JSON of lists: arrays by name, with or without a geometry. Pickles are never loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recon3d.config.scans import AnglesConfig, AngleUnit, SidecarConfig
from recon3d.data import npz
from recon3d.data.scan_formats import dictionaries
from recon3d.data.sidecar import Found, mean_frame, numbers
from recon3d.errors import UserError, require

_PROJECTIONS = ("projections", "sinogram", "sino", "proj", "data", "arr_0")
_ANGLES = ("angles", "theta", "angle", "thetas")
_FLAT = ("flat", "flats", "white", "data_white")
_DARK = ("dark", "darks", "data_dark")
_LENGTHS = {
    "source_origin": ("source_origin", "distance_source_origin", "dso"),
    "source_detector": ("source_detector", "distance_source_detector", "dsd"),
    "origin_detector": ("origin_detector", "distance_origin_detector"),
    "pixel_pitch": ("pixel_pitch", "detector_pixel", "pixel_size", "detector_pixel_size"),
    "row_pitch": ("row_pitch",),
    "axis_column": ("axis_column", "rotation_axis", "center_of_rotation"),
    "counts": ("counts", "i0"),
}
_UNITS: dict[str, float] = {"mm": 1.0, "cm": 10.0, "um": 1e-3, "m": 1e3}


def read(path: Path, told: SidecarConfig) -> Found:
    """An NPY or NPZ file."""
    values = npz.read(path)
    if list(values) == ["data"] and values["data"].ndim > 0:
        return Found(numbers(values["data"], path, "the array"))
    return from_mapping(values, path, told.key)


def read_json(path: Path, told: SidecarConfig) -> Found:
    """A JSON object of lists and numbers, such as a dictionary that NAF reads, saved without a pickle."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot read the JSON ({' '.join(str(error).split())[:120]})") from error
    require(isinstance(values, dict), f"{path}: holds a JSON {type(values).__name__}; give an object of arrays")
    return from_mapping(_arrays(values, path), path, told.key)


def from_mapping(values: Mapping[str, Any], path: Path, key: str | None) -> Found:
    """Projections and geometry among named arrays: names as this and other programs use them, units as suffixes
    (``_mm``, ``_deg``). Distances make it a fan (two axes) or a cone (three).

    Raises:
        UserError: there are no projections among them.
    """
    if dictionaries.is_dictionary(values):
        return dictionaries.from_dictionary(values, path)
    plain = {_plain(name): name for name in values}
    if key is None:
        key = next((plain[name] for name in _PROJECTIONS if name in plain), None)
    arrays = ", ".join(f"{name} {np.shape(value)}" for name, value in list(values.items())[:12])
    if key is None or key not in values:
        what = f"no array {key!r}" if key else f"no projections: none of {', '.join(_PROJECTIONS)}"
        raise UserError(f"{path}: {what} among {arrays or 'no arrays'}; name the array in a sidecar: key: NAME")
    stack = numbers(values[key], path, key)
    told: dict[str, Any] = {
        field: _length(values, plain, names, path)
        for field, names in _LENGTHS.items()
        if any(name in plain for name in names)
    }
    if "source_origin" in told:
        told["kind"] = "fan" if stack.ndim == 2 or stack.shape[1] == 1 else "cone"
    angles = next((plain[name] for name in _ANGLES if name in plain), None)
    if angles is not None:
        told["angles"] = AnglesConfig(_angle_unit(angles), values=tuple(np.ravel(values[angles]).tolist()))
    flat, dark = (_frame(values, plain, names, path) for names in (_FLAT, _DARK))
    return Found(stack, SidecarConfig(**told), flat=flat, dark=dark)


def _plain(name: str) -> str:
    """A name without its unit: ``angles_deg`` is ``angles``."""
    return re.sub(r"_(mm|cm|um|m|deg|degrees|rad|radians)$", "", name).lower()


def _angle_unit(name: str) -> AngleUnit | None:
    end = name.lower().rpartition("_")[2]
    if end in ("deg", "degrees"):
        return "degrees"
    return "radians" if end in ("rad", "radians") else None


def _length(values: Mapping[str, Any], plain: dict[str, str], names: tuple[str, ...], path: Path) -> float:
    name = next(plain[n] for n in names if n in plain)
    value = numbers(values[name], path, name)
    require(value.size == 1, f"{path}: {name} has {value.size} values; give one number")
    return float(value.reshape(())) * _UNITS.get(name.rpartition("_")[2], 1.0)


def _frame(values: Mapping[str, Any], plain: dict[str, str], names: tuple[str, ...], path: Path) -> np.ndarray | None:
    name = next((plain[n] for n in names if n in plain), None)
    return None if name is None else mean_frame(numbers(values[name], path, name))


def _arrays(values: dict[str, Any], path: Path) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            made[name] = _arrays(value, path)
            continue
        try:
            made[name] = np.asarray(value)
        except ValueError as error:
            raise UserError(f"{path}: {name} is a list of rows of different lengths; give a full array") from error
    return made
