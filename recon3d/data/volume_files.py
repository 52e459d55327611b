"""Files of volumes -> :class:`Volume`: the references of reconstructions, in whatever the field keeps them.

================ =============================================================================================
NPY              [z, y, x], or one slice [y, x]
NPZ              ``values`` (or ``volume``, or the only array of two or three axes); ``spacing``, ``origin``
TIFF             a folder of slices, or pages of one file, [y, x] each with y rising; spacing where it is told
HDF5             ``volume``, or the only dataset of three axes; attributes ``spacing``, ``origin``
NIfTI            in its own millimetres; axes that run down are turned round
MHA, MHD, NRRD   with spacing and origin
DICOM            a folder of slices, by position; rescaled to the units that they tell (Hounsfield)
MAT              the only array of two or three axes
PNG and others   one slice, shown with y up: the last row of the picture has the smallest y
================ =============================================================================================

Triples are (x, y, z) in mm; the origin is the centre of the first voxel.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recon3d.data import hdf5, npz
from recon3d.data.optional import library
from recon3d.data.volume import Volume, grid_of
from recon3d.errors import UserError, require
from recon3d.geometry.voxels import VolumeGrid

_NAMES = ("values", "volume", "image", "data", "reconstruction")
_ALIGNED = 1e-3  # of a direction's cosine
_ELEMENTS = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def read_volume(path: Path, key: str | None = None) -> Volume:
    """Read a volume; the format is told by the name.

    Args:
        key: the array, in a file of several.

    Raises:
        UserError: no such file, an unknown or damaged format, axes askew to the world's, or values that are no numbers.
    """
    require(path.exists(), f"{path}: no such file or folder; give the path of a volume")
    reader = _reader(path)
    if reader is None:
        raise UserError(
            f"{path}: no volume in a format that is known; give NPY, NPZ, TIFF, HDF5, NIfTI, MHA, NRRD, DICOM, MAT or a"
            " picture"
        )
    return reader(path, key)


def _reader(path: Path) -> Callable[[Path, str | None], Volume] | None:
    if path.is_dir():
        names = [f.suffix.lower() for f in path.iterdir() if f.is_file()]
        return _read_tiff if any(n in (".tif", ".tiff") for n in names) else _read_dicom
    name = path.name.lower()
    for ends, reader in _READERS.items():
        if name.endswith(ends):
            return reader
    return None


def _volume(
    values: Any,
    path: Path,
    spacing: tuple[float, ...] | None = None,
    origin: tuple[float, ...] | None = None,
) -> Volume:
    array = np.asarray(values)
    require(
        array.dtype.kind in "fiub" and array.ndim in (2, 3),
        f"{path}: an array of shape {array.shape} and type {array.dtype}; a volume has two or three axes of numbers",
    )
    array = np.ascontiguousarray(array if array.ndim == 3 else array[None], np.float32)
    grid = None
    if spacing is not None:
        require(
            len(spacing) == 3 and all(math.isfinite(s) and s > 0 for s in spacing),
            f"{path}: spacing {tuple(spacing)}; give three distances above 0 (x, y, z)",
        )
        nz, ny, nx = array.shape
        x, y, z = (float(s) for s in spacing)
        first = (0.0, 0.0, 0.0) if origin is None else tuple(float(o) for o in origin)
        require(len(first) == 3, f"{path}: origin {first}; give three coordinates (x, y, z)")
        centred = grid_of((nz, ny, nx), (x, y, z), (first[0], first[1], first[2]))
        grid = centred if origin is not None else VolumeGrid((nz, ny, nx), (x, y, z))
    return Volume(array, grid, path)


# --------------------------------------------------------------------------------------------------------- plain arrays


def _read_arrays(path: Path, key: str | None) -> Volume:
    values = npz.read(path)
    if "grid_shape" in values and "projections" in values:
        raise UserError(f"{path}: a scan, not a volume; give the volume")
    chosen = _choose(values, key, path)
    triples = {name: tuple(np.ravel(values[name]).tolist()) for name in ("spacing", "origin") if name in values}
    return _volume(values[chosen], path, **triples)


def _read_mat(path: Path, key: str | None) -> Volume:
    from recon3d.data.scan_formats import matlab

    values = {name: value for name, value in matlab.load(path).items() if hasattr(value, "ndim")}
    return _volume(values[_choose(values, key, path)], path)


def _read_hdf5(path: Path, key: str | None) -> Volume:
    with hdf5.opened(path) as file:
        found = hdf5.datasets(file)
        wanted = {n: d for n, d in found.items() if d.ndim in (2, 3)} if key is None else found
        dataset = found[_choose(wanted, key, path, hdf5.tree(file))]
        triples = {n: tuple(np.ravel(dataset.attrs[n]).tolist()) for n in ("spacing", "origin") if n in dataset.attrs}
        return _volume(dataset[...], path, **triples)


def _choose(values: Mapping[str, Any], key: str | None, path: Path, tree: str | None = None) -> str:
    """The name of the array to read."""
    arrays = tree or ", ".join(f"{name} {np.shape(value)}" for name, value in values.items())
    if key is not None:
        require(key.strip("/") in values, f"{path}: no array {key!r}; it has {arrays or 'none'}")
        return key.strip("/")
    shaped = [name for name, value in values.items() if value.ndim in (2, 3) and value.size > 3]
    named = [n for wanted in _NAMES for n in shaped if n.rpartition("/")[2] == wanted]
    if named or len(shaped) == 1:
        return (named or shaped)[0]
    raise UserError(f"{path}: which array is the volume? It has {arrays or 'none'}; give its name")


# --------------------------------------------------------------------------------------------------------- image stacks


def _read_tiff(path: Path, key: str | None) -> Volume:
    from recon3d.data.scan_formats import tiff

    stack = np.asarray(tiff.open_stack(path))
    first = tiff.files_in(path)[0] if path.is_dir() else path
    try:
        spacing, origin = _tiff_place(first)
    except tiff.DAMAGE as error:
        raise _damaged(first, error) from error
    return _volume(stack, path, spacing, origin)


def _tiff_place(path: Path) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Spacing and origin from the description, as this and other programs (ImageJ) write it."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        told = dict(file.imagej_metadata or {})
        if not told and file.shaped_metadata:
            told = dict(file.shaped_metadata[0])
        tags = getattr(file.pages[0], "tags", {})
        across = [_ratio(tags[name].value) for name in ("XResolution", "YResolution") if name in tags]
    if isinstance(told.get("mm"), str):
        place = json.loads(told["mm"])
        return tuple(map(float, place["spacing"])), tuple(map(float, place["origin"]))
    scale = {"mm": 1.0, "micron": 1e-3, "um": 1e-3, "\\u00B5m": 1e-3, "µm": 1e-3, "cm": 10.0}.get(str(told.get("unit")))
    if scale is None or len(across) != 2 or min(across) <= 0:
        return None, None
    x, y = (scale / r for r in across)
    return (x, y, float(told.get("spacing", 0.0)) * scale or x), None


def _ratio(value: Any) -> float:
    top, bottom = value
    return top / bottom if bottom else 0.0


def _read_picture(path: Path, key: str | None) -> Volume:
    from recon3d.data.image_files import read_image_signal

    signal = read_image_signal(path, channels="grey")
    return _volume(signal.values[::-1, :, 0], path)


# ------------------------------------------------------------------------------------------------------------- medicine


def _read_nifti(path: Path, key: str | None) -> Volume:
    nibabel = library("nibabel", f"{path}: NIfTI")
    try:
        image = nibabel.as_closest_canonical(nibabel.load(path))
        values = np.asarray(image.dataobj, np.float32)
    except (
        *(OSError, ValueError, EOFError, OverflowError, TypeError, MemoryError, zlib.error),
        *(nibabel.filebasedimages.ImageFileError, nibabel.orientations.OrientationError),
    ) as error:
        raise _damaged(path, error) from error
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    require(values.ndim == 3, f"{path}: a NIfTI of shape {values.shape}; give a volume of three axes")
    affine = np.asarray(image.affine, np.float64)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    _check_aligned(affine[:3, :3] / np.maximum(spacing, 1e-30), path)
    return _volume(values.transpose(2, 1, 0), path, tuple(spacing.tolist()), tuple(affine[:3, 3].tolist()))


def _read_nrrd(path: Path, key: str | None) -> Volume:
    nrrd = library("nrrd", f"{path}: NRRD")
    try:
        values, header = nrrd.read(str(path), index_order="C")
    except (OSError, ValueError, EOFError, KeyError, zlib.error, nrrd.errors.NRRDError) as error:
        raise _damaged(path, error) from error
    directions = header.get("space directions")
    spacing = origin = None
    if directions is not None:
        matrix = np.asarray(directions, np.float64).reshape(-1, 3)
        lengths = np.linalg.norm(matrix, axis=1)
        values, spacing, origin = _turned(
            values, matrix / np.maximum(lengths, 1e-30)[:, None], lengths, header.get("space origin", (0.0,) * 3), path
        )
    elif "spacings" in header:
        spacing = tuple(float(s) for s in header["spacings"])
    return _volume(values, path, spacing, origin)


def _read_meta(path: Path, key: str | None) -> Volume:
    """MetaImage: MHA with the data behind the header, MHD with them in a file of their own."""
    data = path.read_bytes()
    header: dict[str, str] = {}
    end = 0
    while "ElementDataFile" not in header:
        stop = data.find(b"\n", end)
        name, equals, value = data[end : max(stop, 0)].decode("latin-1").partition("=")
        require(stop >= 0 and equals == "=", f"{path}: not a MetaImage header: {name.strip()[:40]!r}")
        header[name.strip()] = value.strip()
        end = stop + 1
    try:
        shape = [int(n) for n in header["DimSize"].split()][::-1]
        order = ">" if header.get("BinaryDataByteOrderMSB", header.get("ElementByteOrderMSB")) == "True" else "<"
        dtype = np.dtype(order + _ELEMENTS[header["ElementType"]])
        if header["ElementDataFile"].upper() == "LOCAL":
            data = data[end:]
        else:
            data = (path.parent / Path(header["ElementDataFile"]).name).read_bytes()
        if header.get("CompressedData") == "True":
            data = zlib.decompress(data)
        values = np.frombuffer(data, dtype, math.prod(shape)).reshape(shape)
        spacing = [float(s) for s in header.get("ElementSpacing", "1 1 1").split()]
        origin = [float(s) for s in header.get("Offset", header.get("Position", "0 0 0")).split()]
        matrix = np.array([float(v) for v in header.get("TransformMatrix", "1 0 0 0 1 0 0 0 1").split()]).reshape(3, 3)
    except (OSError, ValueError, KeyError, zlib.error) as error:
        raise _damaged(path, error) from error
    values, lengths, first = _turned(values, matrix, spacing, origin, path)
    return _volume(values, path, lengths, first)


def _read_dicom(path: Path, key: str | None) -> Volume:
    """Slices of one series, by their position along the normal; each rescaled by its slope and intercept."""
    files = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith(".")) if path.is_dir() else [path]
    require(bool(files), f"{path}: no files in the folder; give the folder of the DICOM slices")
    pydicom = library("pydicom", f"{path}: DICOM")
    slices = []
    for file in files:
        try:
            slices.append(pydicom.dcmread(file))
        except pydicom.errors.InvalidDicomError:
            continue
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(file, error) from error
    slices = [s for s in slices if "PixelData" in s]
    require(bool(slices), f"{path}: no DICOM slices with pixels among {len(files)} files; give the folder of a series")
    series = {str(s.get("SeriesInstanceUID", "")) for s in slices}
    require(len(series) == 1, f"{path}: slices of {len(series)} series; give a folder of one")
    shapes = {(int(s.Rows), int(s.Columns)) for s in slices}
    require(len(shapes) == 1, f"{path}: slices of several sizes, {sorted(shapes)}; give a folder of one series")
    along = np.array([float(v) for v in slices[0].get("ImageOrientationPatient", (1, 0, 0, 0, 1, 0))]).reshape(2, 3)
    normal = np.cross(along[0], along[1])
    places = np.array([[float(v) for v in s.get("ImagePositionPatient", (0, 0, i))] for i, s in enumerate(slices)])
    heights = places @ normal
    order = np.argsort(heights, kind="stable")
    gaps = np.diff(heights[order])
    require(
        gaps.size == 0 or float(np.ptp(gaps)) <= 0.01 * abs(float(gaps.mean())) + 1e-6,
        f"{path}: slices are {gaps.min() if gaps.size else 0:.4g} to {gaps.max() if gaps.size else 0:.4g} mm apart; a"
        " slice is missing or there are several series",
    )
    try:
        values = np.stack([_rescaled(slices[i]) for i in order])
    except (ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
        raise _damaged(path, error) from error
    row, column = (float(v) for v in slices[0].get("PixelSpacing", (1.0, 1.0)))
    thick = float(gaps.mean()) if gaps.size else float(slices[0].get("SliceThickness") or row)
    values, spacing, origin = _turned(
        values, np.stack([along[0], along[1], normal]), (column, row, thick), places[order[0]], path
    )
    return _volume(values, path, spacing, origin)


def _rescaled(piece: Any) -> np.ndarray:
    slope, intercept = float(piece.get("RescaleSlope", 1.0)), float(piece.get("RescaleIntercept", 0.0))
    pixels = piece.pixel_array
    if pixels.ndim != 2:
        raise ValueError(f"a slice of shape {pixels.shape}; give slices of rows and columns")
    return (pixels.astype(np.float32) * slope + intercept).astype(np.float32)


def _turned(
    values: np.ndarray, directions: Any, spacing: Any, origin: Any, path: Path
) -> tuple[np.ndarray, tuple[float, ...], tuple[float, ...]]:
    """Values [z, y, x] whose axes run along unit ``directions`` (of x, y, z), so that all run upwards.

    Raises:
        UserError: they are not the world's axes, up or down.
    """
    directions = np.asarray(directions, np.float64)
    require(values.ndim == 3, f"{path}: a volume of shape {values.shape}; give three axes")
    _check_aligned(directions, path)
    first = np.asarray(origin, np.float64).copy()
    for axis in range(3):
        if directions[axis, axis] < 0:
            values = np.flip(values, 2 - axis)
            first[axis] -= (values.shape[2 - axis] - 1) * float(spacing[axis])
    return values, tuple(float(s) for s in spacing), tuple(first.tolist())


def _check_aligned(directions: np.ndarray, path: Path) -> None:
    aligned = bool(np.abs(np.abs(directions) - np.eye(3)).max() <= _ALIGNED)
    require(aligned, f"{path}: its axes are turned against x, y, z; resample it to a straight grid first")


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot read the volume ({' '.join(str(error).split())[:200]})")


_READERS: dict[tuple[str, ...], Callable[[Path, str | None], Volume]] = {
    (".npy", ".npz"): _read_arrays,
    (".mat",): _read_mat,
    (".tif", ".tiff"): _read_tiff,
    (".h5", ".hdf5", ".nxs", ".he5"): _read_hdf5,
    (".nii", ".nii.gz"): _read_nifti,
    (".nrrd", ".nhdr"): _read_nrrd,
    (".mha", ".mhd"): _read_meta,
    (".dcm", ".ima"): _read_dicom,
    (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".pgm"): _read_picture,
}
