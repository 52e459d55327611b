"""Files of values on a grid in space: NPZ, NRRD, VTI, written slab by slab, with their place in the world.

Conventions. A volume is an array [z, y, x], as every format here keeps it (x fastest). Sample (0, 0, 0) lies at
``origin`` and its neighbours at ``spacing`` from it; both are (x, y, z) in world units. Samples are points in the
middle of their cells: where a grid divides a box, the first lies half a spacing inside.

- NPZ: arrays ``values`` [z, y, x], ``origin`` (x, y, z), ``spacing`` (x, y, z), ``axes`` ("zyx"), ``quantity``.
- NRRD (teem's format, version 5; 3D Slicer, ITK, MATLAB): header and raw little-endian data in one file.
- VTI (VTK XML image data; ParaView): point data, raw appended, 64-bit lengths.
- TIFF, NIfTI, HDF5 and MetaImage: :mod:`recon3d.export.volume_formats`.
"""

from __future__ import annotations

import shutil
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from xml.sax.saxutils import quoteattr

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.errors import UserError
from recon3d.export.levelset import ValueFn
from recon3d.files import write_whole
from recon3d.geometry.boxes import Normalizer
from recon3d.geometry.voxels import VolumeGrid
from recon3d.tasks.ct_data import scaled

Slabs = Iterable[np.ndarray]
FORMATS = ("npz", "nrrd", "vti", "tif", "tiff", "nii", "nii.gz", "h5", "hdf5", "mha")
MOST_SAMPLES = 4096
"""Along an axis."""
_SLAB_BYTES = 32 * 2**20
_TYPES = {  # numpy's name: NRRD's, VTK's
    "float32": ("float", "Float32"),
    "float64": ("double", "Float64"),
    "uint8": ("uchar", "UInt8"),
    "uint16": ("ushort", "UInt16"),
    "int16": ("short", "Int16"),
}


@dataclass(frozen=True)
class Lattice:
    """Where the samples of a volume are. ``shape``: (nz, ny, nx); ``origin``: of the first sample, (x, y, z), world
    units; ``spacing``: (x, y, z)."""

    shape: tuple[int, int, int]
    origin: tuple[float, float, float]
    spacing: tuple[float, float, float]

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or not all(s > 0 for s in self.spacing):
            raise ValueError(f"no volume of {self.shape} samples at spacing {self.spacing}")

    @property
    def samples(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]

    def points(self, first: int, last: int) -> Float[np.ndarray, "n 3"]:
        """World coordinates (x, y, z) of the samples of slices ``first`` to ``last`` along z, in the array's order."""
        z, y, x = np.indices((last - first, *self.shape[1:]), np.float64).reshape(3, -1)
        return np.stack([x, y, z + first], axis=1) * self.spacing + np.asarray(self.origin)


Writer = Callable[[IO[bytes], Iterator[memoryview], Lattice, str, str], None]
"""Writes the bytes of slabs into a file: (file, slabs, lattice, quantity, dtype)."""


def lattice_over(
    normalizer: Normalizer, resolution: int, crop: tuple[Sequence[float], Sequence[float]] | None = None
) -> Lattice:
    """The middles of ``resolution`` cells an axis over the field's cube; of a ``crop`` (low, high; world units), those
    that lie in it or on its border.

    Raises:
        UserError: a resolution out of range, or a box that has nothing of the cube.
    """
    if not 2 <= resolution <= MOST_SAMPLES:
        raise UserError(f"the resolution is {resolution}, but must be 2 to {MOST_SAMPLES}")
    spacing = 2 * normalizer.half_size / resolution
    corner = np.asarray(normalizer.center) - normalizer.half_size
    return _cropped(corner, np.full(3, spacing), np.full(3, resolution), crop, "the field's cube")


def lattice_of_voxels(
    grid: VolumeGrid, resolution: int | None = None, crop: tuple[Sequence[float], Sequence[float]] | None = None
) -> Lattice:
    """A scan's own voxels, or others of ``resolution`` along the longest side; of a ``crop``, those that lie in it.

    Raises:
        UserError: a resolution out of range, or a box that has nothing of the volume.
    """
    if resolution is not None:
        if not 2 <= resolution <= MOST_SAMPLES:
            raise UserError(f"the resolution is {resolution}, but must be 2 to {MOST_SAMPLES}")
        grid = scaled(grid, resolution / max(grid.shape))
    return _cropped(np.asarray(grid.low), np.asarray(grid.spacing), np.asarray(grid.shape[::-1]), crop, "the volume")


def _cropped(
    corner: np.ndarray,
    spacing: np.ndarray,
    counts: np.ndarray,
    crop: tuple[Sequence[float], Sequence[float]] | None,
    whole: str,
) -> Lattice:
    """The middles of ``counts`` cells along x, y, z from a ``corner`` on, of a crop those that lie in it."""
    first, last = np.zeros(3, int), counts.astype(int)
    if crop is not None:
        low, high = (np.asarray(side, np.float64) for side in crop)
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
            raise UserError(f"the box to crop to must have low < high along every axis, not {_box(low, high)}")
        first = np.clip(np.ceil((low - corner) / spacing - 0.5 - 1e-9), 0, counts).astype(int)
        last = np.clip(np.floor((high - corner) / spacing - 0.5 + 1e-9) + 1, 0, counts).astype(int)
        if not (first < last).all():
            reach = _box(corner, corner + counts * spacing)
            raise UserError(f"the box {_box(low, high)} holds no sample of {whole}, which is {reach}")
    x, y, z = (corner + (first + 0.5) * spacing).tolist()
    nx, ny, nz = (last - first).tolist()
    sx, sy, sz = spacing.tolist()
    return Lattice((nz, ny, nx), (x, y, z), (sx, sy, sz))


def _box(low: np.ndarray, high: np.ndarray) -> str:
    return "({}) to ({})".format(*(" ".join(f"{value:.4g}" for value in corner) for corner in (low, high)))


@torch.no_grad()
def sampled(
    value_fn: ValueFn,
    lattice: Lattice,
    normalizer: Normalizer,
    *,
    batch_points: int = 2**18,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> Iterator[Float[np.ndarray, "t ny nx"]]:
    """``value_fn`` (field coordinates, float32 on ``device``) at every sample, in slabs along z of some tens of MB.

    Raises:
        UserError: a value is not finite.
    """
    nz, ny, nx = lattice.shape
    thick = max(1, _SLAB_BYTES // (32 * ny * nx))  # 24 bytes of each point are its coordinates
    for first in range(0, nz, thick):
        last = min(first + thick, nz)
        points = torch.from_numpy(lattice.points(first, last))
        inside = normalizer.to_field(points).float()
        values = torch.cat([value_fn(some.to(device)).float().cpu() for some in inside.split(batch_points)])
        if not bool(values.isfinite().all()):
            raise UserError("the field gives values that are not finite; is this the checkpoint of a diverged run?")
        yield values.view(last - first, ny, nx).numpy()
        if progress is not None:
            progress(last / nz)


def write_volume(
    path: Path, slabs: Slabs, lattice: Lattice, *, quantity: str = "values", dtype: str = "float32"
) -> Path:
    """Writes a volume whole or not at all, in the format of the path's suffix; returns the path.

    ``slabs``: arrays (t, ny, nx) that follow one another along z (one array of all will do); ``quantity``: what the
    values are, kept as their name.

    Raises:
        UserError: an unknown suffix, no room on the disk, or a file that cannot be written.
        ValueError: slabs that are not those of ``lattice``.
    """
    format_ = next((name for name in FORMATS if path.name.lower().endswith(f".{name}")), None)
    if format_ is None:
        raise UserError(f"{path}: volumes are written as {', '.join(FORMATS)}, by the file's suffix")
    if dtype not in _TYPES:
        raise UserError(f"volumes are written as {', '.join(_TYPES)}, not as {dtype}")
    size = lattice.samples * np.dtype(dtype).itemsize
    room = shutil.disk_usage(next(parent for parent in path.absolute().parents if parent.exists())).free
    if size > room:
        raise UserError(f"{path}: the volume takes {size / 2**30:.1f} GiB, and {room / 2**30:.1f} GiB are free")
    checked = _checked(slabs, lattice, np.dtype(dtype).newbyteorder("<"))
    writer = _writer(format_)
    return write_whole(path, lambda file: writer(file, checked, lattice, quantity, dtype))


def _writer(format_: str) -> Writer:
    if format_ in _WRITERS:
        return _WRITERS[format_]
    from recon3d.export.volume_formats import WRITERS

    return WRITERS[format_]


def _checked(slabs: Slabs, lattice: Lattice, dtype: np.dtype[Any]) -> Iterator[memoryview]:
    """The bytes of each slab, little-endian, once it is sure that there are as many as there should be."""
    count = 0
    for slab in slabs:
        if slab.ndim != 3 or slab.shape[1:] != lattice.shape[1:]:
            raise ValueError(f"a slab of shape {slab.shape} in a volume of {lattice.shape}")
        count += len(slab)
        yield np.ascontiguousarray(slab, dtype).data.cast("B")
    if count != lattice.shape[0]:
        raise ValueError(f"slabs of {count} slices for a volume of {lattice.shape[0]}")


def _write_npz(file: IO[bytes], slabs: Iterator[memoryview], lattice: Lattice, quantity: str, dtype: str) -> None:
    small = {
        "origin": np.asarray(lattice.origin),
        "spacing": np.asarray(lattice.spacing),
        "axes": np.asarray("zyx"),
        "quantity": np.asarray(quantity),
    }
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with archive.open("values.npy", "w", force_zip64=True) as entry:
            header = {"descr": np.dtype(dtype).newbyteorder("<").str, "fortran_order": False, "shape": lattice.shape}
            np.lib.format.write_array_header_1_0(entry, header)
            for slab in slabs:
                entry.write(slab)
        for name, array in small.items():
            with archive.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, array)


def _write_nrrd(file: IO[bytes], slabs: Iterator[memoryview], lattice: Lattice, quantity: str, dtype: str) -> None:
    nz, ny, nx = lattice.shape
    x, y, z = lattice.spacing
    header = [
        "NRRD0005",
        f"type: {_TYPES[dtype][0]}",
        "dimension: 3",
        "space dimension: 3",
        f"sizes: {nx} {ny} {nz}",
        f"space directions: ({x!r},0,0) (0,{y!r},0) (0,0,{z!r})",
        "kinds: domain domain domain",
        "centers: cell cell cell",
        "endian: little",
        "encoding: raw",
        "space origin: ({!r},{!r},{!r})".format(*lattice.origin),
        f"content: {' '.join(quantity.split())}",
    ]
    file.write(("\n".join(header) + "\n\n").encode("ascii", "replace"))
    for slab in slabs:
        file.write(slab)


def _write_vti(file: IO[bytes], slabs: Iterator[memoryview], lattice: Lattice, quantity: str, dtype: str) -> None:
    extent = " ".join(f"0 {n - 1}" for n in reversed(lattice.shape))
    origin, spacing = (" ".join(map(repr, values)) for values in (lattice.origin, lattice.spacing))
    name = quoteattr(quantity)
    file.write(
        '<?xml version="1.0"?>\n'
        '<VTKFile type="ImageData" version="1.0" byte_order="LittleEndian" header_type="UInt64">\n'
        f'<ImageData WholeExtent="{extent}" Origin="{origin}" Spacing="{spacing}">\n<Piece Extent="{extent}">'
        f'\n<PointData Scalars={name}>\n<DataArray type="{_TYPES[dtype][1]}" Name={name} format="appended" offset="0"/>'
        "\n</PointData>\n</Piece>\n</ImageData>"
        '\n<AppendedData encoding="raw">\n_'.encode()
    )
    file.write(struct.pack("<Q", lattice.samples * np.dtype(dtype).itemsize))
    for slab in slabs:
        file.write(slab)
    file.write(b"\n</AppendedData>\n</VTKFile>\n")


_WRITERS: dict[str, Writer] = {
    "npz": _write_npz,
    "nrrd": _write_nrrd,
    "vti": _write_vti,
}


def field_values(task: Any) -> tuple[str, ValueFn]:
    """What a volume of a run holds, and how it is had from points in field coordinates.

    ``density``: optical depth per world unit of length, 0 where the occupancy grid is empty; ``signed_distance``: world
    units, negative inside; ``occupancy``: probability of being inside; ``attenuation``: of a CT run, in 1/mm.

    Raises:
        UserError: the task's field is none of these.
    """
    from recon3d.export.sources import Solid
    from recon3d.tasks.ct import CtTask
    from recon3d.tasks.nerf import NerfTask

    if isinstance(task, CtTask):
        return "attenuation", lambda points: task.attenuation(points[:, : task.header.dim])
    half = task.normalizer.half_size if isinstance(task, NerfTask | Solid) else 1.0
    if isinstance(task, NerfTask):
        grid = task.head.grid

        def density(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
            x, y, z = grid.cells_of(points).unbind(-1)
            occupied = grid.occupied[x, y, z]
            values = torch.zeros_like(points[:, 0])
            if bool(occupied.any()):
                values[occupied] = task.field.density(points[occupied]).to(values.dtype) / half
            return values

        return "density", density
    if isinstance(task, Solid):
        if task.inside_slope is not None:
            return "signed_distance", lambda points: -half * task.inside(points).float()
        return "occupancy", lambda points: task.inside(points).float().sigmoid()
    raise UserError(f"a field of {type(task).__name__} is no volume")


def spread_of(task: Any) -> ValueFn | None:
    """The standard deviation of a CT run's ensemble, in 1/mm, at points in field coordinates; None of all others."""
    from recon3d.tasks.ct import CtTask

    if not isinstance(task, CtTask) or len(task.members) == 1:
        return None
    return lambda points: task.members_at(points[:, : task.header.dim]).std(0, correction=0)
