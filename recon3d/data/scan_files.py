"""Any file of projections -> :class:`Scan`: the format is told by the content, the geometry by the file or a sidecar.

==================== ====================================================================================
NPZ of ``Scan.save`` projections stay in the file
NPY, NPZ, JSON       arrays by name (``projections`` or ``sinogram``, ``angles``, distances); NAF's, TIGRE's
MAT 5 and 7.3        arrays by name; the structures of the Helsinki Tomography Challenge
TIFF                 a folder of pages or one file of many
HDF5                 Data Exchange, NeXus NXtomo, or the dataset that the sidecar names
RAW                  bare numbers, laid out as the sidecar tells
YAML                 a sidecar whose ``data`` names one of these
==================== ====================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np

from recon3d.config.scans import SidecarConfig
from recon3d.data import npz, sidecar
from recon3d.data.scan import Scan, is_scan, load_scan
from recon3d.data.scan_preprocess import to_line_integrals
from recon3d.data.sidecar import Found, mean_frame
from recon3d.errors import UserError, require

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HDF5 = b"\x89HDF\r\n\x1a\n"
_PICKLES = (".pickle", ".pkl", ".p")
_VOLUMES = (".nii", ".nii.gz", ".dcm", ".mha", ".mhd", ".nrrd", ".nhdr", ".vti")


def read_scan(path: Path, *, geometry: Path | None = None, raw: bool = False) -> Scan:
    """Read a scan; projections of files that allow it stay there until they are indexed.

    Args:
        path: a file of projections, a folder of TIFF pages, or a sidecar that names its data.
        geometry: the sidecar (default: the YAML file of the same name beside it, where there is one).
        raw: leave counts and transmission as they are, for :mod:`recon3d.data.scan_preprocess`. Otherwise line
            integrals are made of them, lazily.

    Raises:
        UserError: no such file, an unknown or damaged format, no angles, or a geometry that does not fit.
    """
    require(path.exists(), f"{path}: no such file or folder; give the path of a scan")
    scan = _read(path, geometry)
    return scan if raw else to_line_integrals(scan)


def _read(path: Path, geometry: Path | None) -> Scan:
    if geometry is None and path.suffix.lower() in (".yaml", ".yml"):
        geometry = path
        named = sidecar.read_sidecar(path).data
        if named is None:
            raise UserError(f"{path}: a sidecar without data; add data: FILE, or give the file of projections itself")
        require(named.exists(), f"{path}: data {named}: no such file or folder; correct the path")
        path = named
    geometry = geometry or sidecar.find_sidecar(path)
    told = SidecarConfig() if geometry is None else sidecar.read_sidecar(geometry)
    found = _reader(path, told)(path, told)
    if geometry is not None:
        told = sidecar.read_sidecar(geometry, found.told)
    else:
        told = found.told
    flat = found.flat if told.flat is None else _mean_frame(told.flat)
    dark = found.dark if told.dark is None else _mean_frame(told.dark)
    return sidecar.assemble(replace(found, flat=flat, dark=dark), told, path)


def _mean_frame(path: Path) -> np.ndarray:
    """A flat or dark field: the mean of the frames in an NPY file, a TIFF file or a folder of these."""
    require(path.exists(), f"{path}: no such file or folder; correct the sidecar")
    if path.suffix.lower() in (".npy", ".npz"):
        arrays = npz.read(path)
        require(len(arrays) == 1, f"{path}: {len(arrays)} arrays; give a flat or dark field in a file of its own")
        return mean_frame(sidecar.numbers(next(iter(arrays.values())), path, "the field"))
    return mean_frame(np.asarray(_module("tiff").open_stack(path)))


def _read_own(path: Path, told: SidecarConfig) -> Found:
    scan = load_scan(path)
    known = SidecarConfig(quantity=scan.quantity, counts=scan.counts)
    return Found(scan.projections, known, scan.flat, scan.dark, scan.geometry, scan.grid, scan.notes)


def _reader(path: Path, told: SidecarConfig) -> Callable[[Path, SidecarConfig], Found]:
    """The ``read`` of the module for this file.

    Raises:
        UserError: a pickle, a volume, or a file that none of them reads.
    """
    if path.is_dir():
        return _module("tiff").read
    if is_scan(path):
        return _read_own
    name = path.name.lower()
    try:
        with path.open("rb") as file:
            head = file.read(600)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    require(bool(head), f"{path}: the file is empty; replace it")
    if name.endswith(_PICKLES) or (head[0] == 0x80 and head[1:2] and head[1] <= 5 and told.raw is None):
        raise UserError(
            f"{path}: a pickle, which can run any code and is never loaded; save its arrays with numpy.savez"
        )
    if name.endswith(_VOLUMES) or head[128:132] == b"DICM":
        raise UserError(f"{path}: a volume, not projections; it can be given as a reference")
    if told.raw is not None:
        return _module("raw").read
    if head.startswith((b"MATLAB 5.0", b"MATLAB 7.3")) or head[512:520] == _HDF5:
        return _module("matlab").read
    if head.startswith(_HDF5):
        return _module("matlab" if name.endswith(".mat") else "hdf5").read
    if head.startswith(_TIFF):
        return _module("tiff").read
    if head.startswith((b"\x93NUMPY", b"PK\x03\x04")):
        return _module("arrays").read
    if name.endswith(".json"):
        return _module("arrays").read_json
    if name.endswith((".raw", ".bin", ".dat", ".img")):
        return _module("raw").read
    if name.endswith(".mat"):
        return _module("matlab").read
    raise UserError(
        f"{path}: no scan in a format that is known; give NPY, NPZ, MAT, TIFF, HDF5, JSON, or RAW with a sidecar"
    )


def _module(name: str):  # type: ignore[no-untyped-def]
    return import_module(f"recon3d.data.scan_formats.{name}")
