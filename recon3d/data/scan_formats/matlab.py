"""MATLAB files of both kinds (to version 7, and 7.3, which is HDF5); the Helsinki laboratory's structures are known.

That laboratory's scans (Helsinki Tomography Challenge 2022, zenodo.org/record/6937616, and others of its open data) are
a structure with a ``sinogram`` (angles, columns), line integrals, and ``parameters``: distances in ``distanceUnit``,
the pixel size after binning, and angles in degrees. Their source stands at the angle t + 270 degrees, counted from x
towards y, and columns run along (cos t, sin t), which is the convention here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recon3d.config.scans import AnglesConfig, SidecarConfig
from recon3d.data import hdf5
from recon3d.data.scan_formats import arrays
from recon3d.data.sidecar import Found, numbers
from recon3d.data.stacks import LazyStack
from recon3d.errors import UserError, require

_UNITS = {"mm": 1.0, "cm": 10.0, "m": 1e3, "um": 1e-3}


def read(path: Path, told: SidecarConfig) -> Found:
    """A MAT file: a Helsinki structure, or arrays by name as in NPZ files."""
    values = load(path)
    for structure in values.values():
        if isinstance(structure, dict) and {"sinogram", "parameters"} <= structure.keys():
            return _helsinki(structure, path)
    plain = {name: value for name, value in values.items() if isinstance(value, np.ndarray | LazyStack | float | int)}
    return arrays.from_mapping(plain, path, told.key)


def load(path: Path) -> dict[str, Any]:
    """The variables of a file: arrays, structures as dictionaries, and large arrays of three axes as lazy stacks."""
    return _read_hdf5(path) if is_version_73(path) else _read_old(path)


def is_version_73(path: Path) -> bool:
    """Whether a MAT file is HDF5 behind a header of 512 bytes."""
    with path.open("rb") as file:
        file.seek(512)
        return file.read(8) == hdf5.MAGIC


def _helsinki(structure: Mapping[str, Any], path: Path) -> Found:
    parameters = structure["parameters"]
    require(
        isinstance(parameters, dict), f"{path}: parameters is no structure; is it a file of the Helsinki laboratory?"
    )
    wanted = ("distanceSourceOrigin", "distanceSourceDetector", "angles")
    missing = [name for name in wanted if name not in parameters]
    require(not missing, f"{path}: parameters without {', '.join(missing)}; write them in a sidecar")
    sinogram = numbers(structure["sinogram"], path, "sinogram")
    unit = _UNITS.get(str(parameters.get("distanceUnit", "mm")), 1.0)
    binned = parameters.get("pixelSizePost", parameters.get("pixelSize"))
    require(binned is not None, f"{path}: parameters without pixelSize; write pixel_pitch in a sidecar")
    angles = tuple(np.ravel(parameters["angles"]).astype(np.float64).tolist())
    return Found(
        sinogram,
        SidecarConfig(
            kind="fan" if sinogram.ndim == 2 else "cone",
            angles=AnglesConfig("degrees", values=angles),
            source_origin=float(np.ravel(parameters["distanceSourceOrigin"])[0]) * unit,
            source_detector=float(np.ravel(parameters["distanceSourceDetector"])[0]) * unit,
            pixel_pitch=float(np.ravel(binned)[0]) * unit,
        ),
    )


def _read_old(path: Path) -> dict[str, Any]:
    import scipy.io
    from scipy.io.matlab import MatReadError

    try:
        values = scipy.io.loadmat(path, struct_as_record=False, squeeze_me=True)
    except (OSError, ValueError, TypeError, NotImplementedError, LookupError, EOFError, MatReadError) as error:
        raise UserError(f"{path}: cannot read the MAT file ({' '.join(str(error).split())})") from error
    return {name: _plain(value) for name, value in values.items() if not name.startswith("__")}


def _plain(value: Any) -> Any:
    """Structures as dictionaries."""
    names = getattr(value, "_fieldnames", None)
    return value if names is None else {name: _plain(getattr(value, name)) for name in names}


def _read_hdf5(path: Path) -> dict[str, Any]:
    """Structures as dictionaries; arrays with their axes as MATLAB shows them, large ones of three axes read lazily."""
    with hdf5.opened(path) as file:
        return {name: _from_hdf5(path, item) for name, item in file.items() if not name.startswith("#")}


def _from_hdf5(path: Path, item: Any) -> Any:
    if hasattr(item, "items"):
        return {name: _from_hdf5(path, part) for name, part in item.items()}
    if hdf5.text(item.attrs.get("MATLAB_class", "")) == "char":
        return "".join(map(chr, np.ravel(item[...].T).tolist()))
    if item.dtype.kind not in "fiub":
        return None
    if item.ndim == 3:
        return hdf5.lazy(path, item.name, transpose=True)
    values = item[...].T
    return values.reshape([n for n in values.shape if n != 1]) if values.ndim == 2 else values
