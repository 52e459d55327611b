"""HDF5 of synchrotrons: Data Exchange and NeXus NXtomo; projections stay in the file.

Data Exchange (De Carlo et al. 2014, "Scientific data exchange"): ``exchange/data``, ``data_white``, ``data_dark`` of
axes (theta, y, x), and ``theta`` in degrees. NXtomo (NeXus definitions): one stack of frames with an ``image_key``
beside it, 0 for projections, 1 flat, 2 dark, 3 invalid, and ``rotation_angle`` in ``sample``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from recon3d.config.scans import AnglesConfig, AngleUnit, SidecarConfig
from recon3d.data import hdf5, stacks
from recon3d.data.sidecar import Found
from recon3d.data.stacks import LazyStack, Stack, Views
from recon3d.errors import UserError, require

_METRES = {"m": 1e3, "metre": 1e3, "meter": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3}
_PROJECTION, _FLAT, _DARK = 0, 1, 2
_WIDTHS = ("x_pixel_size", "pixel_size_x", "actual_pixel_size_x")
_HEIGHTS = ("y_pixel_size", "pixel_size_y", "actual_pixel_size_y")


def read(path: Path, told: SidecarConfig) -> Found:
    """A Data Exchange or NXtomo file, or the dataset that the sidecar names (``key``).

    Raises:
        UserError: none of these; the message shows what is in the file.
    """
    with hdf5.opened(path) as file:
        names = hdf5.datasets(file)
        if told.key is not None:
            if told.key.strip("/") not in names:
                raise UserError(f"{path}: no dataset {told.key!r}; it has {hdf5.tree(file)}")
            return _named(path, told, names[told.key.strip("/")].shape)
        if "exchange/data" in names:
            return _data_exchange(path, names)
        keys = [name for name in names if name.rpartition("/")[2] == "image_key"]
        if keys:
            return _nxtomo(path, names, keys[0])
        raise UserError(
            f"{path}: looked for exchange/data (Data Exchange) and an image_key (NeXus NXtomo); it has"
            f" {hdf5.tree(file)}; name the dataset in a sidecar: key: PATH"
        )


def _named(path: Path, told: SidecarConfig, shape: tuple[int, ...]) -> Found:
    if len(shape) == 3:
        return Found(hdf5.lazy(path, told.key or ""))
    require(len(shape) == 2, f"{path}: {told.key} has shape {shape}; give a dataset of two or three axes")
    with hdf5.opened(path) as file:
        return Found(np.asarray(file[told.key], np.float32))


def _data_exchange(path: Path, names: dict[str, Any]) -> Found:
    shape = names["exchange/data"].shape
    require(len(shape) == 3, f"{path}: exchange/data has shape {shape}; Data Exchange has (theta, y, x)")
    told = SidecarConfig(**_pitches(names, "measurement/instrument/detector"))
    theta = names.get("exchange/theta")
    if theta is not None:
        values = np.ravel(theta[...]).astype(np.float64).tolist()
        told = dataclasses.replace(told, angles=AnglesConfig(_unit(theta, "degrees"), values=tuple(values)))
    axes = hdf5.text(names["exchange/data"].attrs.get("axes", "theta:y:x")).split(":")
    if axes == ["y", "theta", "x"]:
        told = dataclasses.replace(told, axes=("rows", "angles", "columns"))
    flat, dark = (_mean(path, names, f"exchange/data_{kind}", told) for kind in ("white", "dark"))
    return Found(hdf5.lazy(path, "exchange/data"), told, flat=flat, dark=dark)


def _nxtomo(path: Path, names: dict[str, Any], key: str) -> Found:
    folder = key.rpartition("/")[0]
    frames = f"{folder}/data"
    require(frames in names, f"{path}: an image_key without frames: no {frames}")
    shape = names[frames].shape
    kinds = np.ravel(names[key][...]).astype(np.int64)
    require(
        len(shape) == 3 and len(kinds) == shape[0],
        f"{path}: {len(kinds)} image keys for frames of shape {shape} in {frames}; NXtomo has one key a frame",
    )
    shown = np.flatnonzero(kinds == _PROJECTION)
    require(shown.size > 0, f"{path}: no frame of {len(kinds)} is a projection (image_key 0)")
    told = SidecarConfig(**_pitches(names, folder))
    entry = key.split("/")[0]
    turned = [n for n in names if n.startswith(entry) and n.rpartition("/")[2] == "rotation_angle"]
    if turned:
        angle = min((names[n] for n in turned), key=lambda item: len(item.shape) == 0)
        values = np.ravel(angle[...]).astype(np.float64)
        if len(values) == len(kinds):
            values = values[shown]
        told = dataclasses.replace(told, angles=AnglesConfig(_unit(angle, "degrees"), values=tuple(values.tolist())))
    means = [_mean_of(hdf5.lazy(path, frames), np.flatnonzero(kinds == kind)) for kind in (_FLAT, _DARK)]
    return Found(hdf5.lazy(path, frames, only=shown), told, flat=means[0], dark=means[1])


def _mean(path: Path, names: dict[str, Any], name: str, told: SidecarConfig) -> np.ndarray | None:
    if name not in names:
        return None
    shape = names[name].shape
    if len(shape) == 2:
        return np.asarray(names[name][...], np.float32)
    require(len(shape) == 3, f"{path}: {name} has shape {shape}; give frames of rows and columns")
    frames: Stack = hdf5.lazy(path, name)
    if told.axes is not None:
        frames = stacks.reorder(frames, told.axes)
    return _mean_of(frames, np.arange(frames.shape[0]))


def _mean_of(frames: Stack, chosen: Views) -> np.ndarray | None:
    """The mean of some frames, a block at a time; None of none."""
    if not len(chosen):
        return None
    total = np.zeros(frames.shape[1:], np.float64)
    picked: LazyStack = stacks.take_views(frames, chosen)
    for views in stacks.chunks(picked):
        total += stacks.block(picked, views).sum(axis=0, dtype=np.float64)
    return (total / len(chosen)).astype(np.float32)


def _pitches(names: dict[str, Any], folder: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field, candidates in (("pixel_pitch", _WIDTHS), ("row_pitch", _HEIGHTS)):
        name = next((f"{folder}/{c}" for c in candidates if f"{folder}/{c}" in names), None)
        if name is not None:
            item = names[name]
            size = float(np.ravel(item[...])[0]) * _METRES.get(hdf5.text(item.attrs.get("units", "m")).lower(), 1e3)
            if size > 0:
                found[field] = size
    return found


def _unit(item: Any, default: AngleUnit) -> AngleUnit:
    unit = hdf5.text(item.attrs.get("units", default)).lower()
    return "radians" if unit.startswith("rad") else "degrees" if unit.startswith("deg") else default
