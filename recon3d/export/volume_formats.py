"""Further files of volumes: TIFF, NIfTI, HDF5 and MetaImage, written slab by slab like those of
:mod:`recon3d.export.volumes`, whose conventions hold: values [z, y, x], origin and spacing (x, y, z).

- TIFF: one page a slice, as ImageJ reads stacks, which keeps the spacing; the origin stands in the description.
- NIfTI (.nii, .nii.gz): its coordinates are the world's, without exchange of sides; units are mm.
- HDF5: the dataset ``volume`` with attributes ``spacing``, ``origin``, ``axes``, ``quantity``.
- MetaImage (.mha): header and raw data in one file (ITK, 3D Slicer).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import IO

import numpy as np

from recon3d.data.optional import library
from recon3d.export.volumes import Lattice, Writer

Slabs = Iterator[memoryview]
_META = {"float32": "FLOAT", "float64": "DOUBLE", "uint8": "UCHAR", "uint16": "USHORT", "int16": "SHORT"}
_IMAGEJ = ("float32", "uint8", "uint16")
_MOST_IMAGEJ = 2**32 - 2**25
_NIFTI1_SIDE = 32767


def write_tiff(file: IO[bytes], slabs: Slabs, lattice: Lattice, quantity: str, dtype: str) -> None:
    import tifffile

    def pages() -> Iterator[np.ndarray]:
        for slab in slabs:
            yield from _array(slab, lattice, dtype)

    small = lattice.samples * np.dtype(dtype).itemsize < _MOST_IMAGEJ
    imagej = dtype in _IMAGEJ and small
    x, y, z = lattice.spacing
    place = json.dumps({"spacing": lattice.spacing, "origin": lattice.origin})
    told = {"axes": "ZYX", "spacing": z, "unit": "mm", "mm": place, "quantity": " ".join(quantity.split())}
    # TIFF's resolution has no unit then: it is pixels per what the description says.
    with tifffile.TiffWriter(file, bigtiff=not small, imagej=imagej, byteorder="<" if not imagej else None) as writer:
        writer.write(
            pages(),
            shape=lattice.shape,
            dtype=np.dtype(dtype),
            photometric="minisblack",
            metadata=told,
            resolution=(1 / x, 1 / y),
            resolutionunit="NONE",
        )


def write_nifti(file: IO[bytes], slabs: Slabs, lattice: Lattice, quantity: str, dtype: str) -> None:
    file.write(_nifti_header(lattice, quantity, dtype))
    for slab in slabs:
        file.write(slab)


def write_nifti_gz(file: IO[bytes], slabs: Slabs, lattice: Lattice, quantity: str, dtype: str) -> None:
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=4, filename="", mtime=0) as packed:
        packed.write(_nifti_header(lattice, quantity, dtype))
        for slab in slabs:
            packed.write(slab)


def _nifti_header(lattice: Lattice, quantity: str, dtype: str) -> bytes:
    """Everything before the values."""
    nibabel = library("nibabel", "writing NIfTI")
    large = max(lattice.shape) > _NIFTI1_SIDE
    affine = np.diag([*lattice.spacing, 1.0])  # from voxel numbers (x, y, z) to mm
    affine[:3, 3] = lattice.origin
    empty = np.broadcast_to(np.zeros((), dtype), lattice.shape[::-1])
    header = (nibabel.Nifti2Image if large else nibabel.Nifti1Image)(empty, affine).header.copy()
    header.set_data_dtype(np.dtype(dtype).newbyteorder("<"))
    header.set_xyzt_units("mm")
    header["descrip"] = " ".join(quantity.split()).encode("ascii", "replace")[:79]
    header["vox_offset"] = start = 544 if large else 352
    return header.binaryblock.ljust(start, b"\0")  # the gap says that no extensions follow


def write_hdf5(file: IO[bytes], slabs: Slabs, lattice: Lattice, quantity: str, dtype: str) -> None:
    h5py = library("h5py", "writing HDF5")
    with h5py.File(file, "w") as out:
        dataset = out.create_dataset("volume", lattice.shape, np.dtype(dtype))
        dataset.attrs.update(
            {"spacing": lattice.spacing, "origin": lattice.origin, "axes": "zyx", "units": "mm", "quantity": quantity}
        )
        first = 0
        for slab in slabs:
            part = _array(slab, lattice, dtype)
            dataset[first : first + len(part)] = part
            first += len(part)


def write_meta(file: IO[bytes], slabs: Slabs, lattice: Lattice, quantity: str, dtype: str) -> None:
    nz, ny, nx = lattice.shape
    origin, spacing = (" ".join(map(repr, values)) for values in (lattice.origin, lattice.spacing))
    header = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = False",
        "TransformMatrix = 1 0 0 0 1 0 0 0 1",
        f"Offset = {origin}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {spacing}",
        f"DimSize = {nx} {ny} {nz}",
        f"ElementType = MET_{_META[dtype]}",
        "ElementDataFile = LOCAL",
    ]
    file.write(("\n".join(header) + "\n").encode())
    for slab in slabs:
        file.write(slab)


def _array(slab: memoryview, lattice: Lattice, dtype: str) -> np.ndarray:
    """The bytes of a slab as values [z, y, x]."""
    return np.frombuffer(slab, np.dtype(dtype).newbyteorder("<")).reshape(-1, *lattice.shape[1:])


WRITERS: dict[str, Writer] = {
    "tif": write_tiff,
    "tiff": write_tiff,
    "nii": write_nifti,
    "nii.gz": write_nifti_gz,
    "h5": write_hdf5,
    "hdf5": write_hdf5,
    "mha": write_meta,
}
