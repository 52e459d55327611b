"""NPZ files without pickles and without their size in memory: arrays are written by block and mapped where they lie."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from recon3d.data import stacks
from recon3d.errors import UserError, require
from recon3d.files import write_whole

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # APPNOTE.TXT 4.3.7: signature, ..., lengths of the name and the extra field
_SMALL = 1 << 16


def write(path: Path, members: Mapping[str, Any]) -> None:
    """Write arrays, uncompressed; lazy stacks a block of views at a time. The file appears whole or not at all.

    Raises:
        UserError: it cannot be written there.
    """

    def archive(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as members_in:
            for key, value in members.items():
                with members_in.open(f"{key}.npy", "w", force_zip64=True) as member:
                    _write_array(member, value)

    write_whole(path, archive)


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an NPZ or of one NPY file (key ``data``): those not compressed as read-only maps.

    Raises:
        UserError: no such file, damaged, or it holds pickled objects.
    """
    require(path.exists(), f"{path}: no such file; give the path of an NPY or NPZ file")
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                require(file.read(6) == b"\x93NUMPY", f"{path}: neither NPY nor NPZ; save it with numpy.save or savez")
            return {"data": np.load(path, mmap_mode="r", allow_pickle=False)}
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            require(bool(infos), f"{path}: a ZIP without NPY arrays; save it with numpy.savez")
            return {info.filename.removesuffix(".npy"): _read_member(path, archive, info) for info in infos}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, struct.error, NotImplementedError) as error:
        if any(word in str(error) for word in ("pickle", "Object arrays", "Python objects")):
            raise UserError(f"{path}: holds pickled objects, which are never loaded; save plain arrays") from error
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}); write it again") from error


def _write_array(member: Any, value: Any) -> None:
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.nbytes <= stacks.CHUNK_BYTES or array.ndim != 3:
            np.lib.format.write_array(member, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
            return
    header = {"descr": "<f4", "fortran_order": False, "shape": tuple(int(n) for n in value.shape)}
    np.lib.format.write_array_header_1_0(member, header)
    for views in stacks.chunks(value):
        member.write(np.ascontiguousarray(stacks.block(value, views), "<f4").data)


def _read_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    if info.compress_type != zipfile.ZIP_STORED or info.file_size <= _SMALL:
        with archive.open(info) as member:
            return np.lib.format.read_array(member, allow_pickle=False)
    with path.open("rb") as file:
        file.seek(info.header_offset)
        signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        if signature != b"PK\x03\x04":
            raise zipfile.BadZipFile(f"no local header of {info.filename}")
        file.seek(name + extra, os.SEEK_CUR)
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = reader(file)
        if dtype.hasobject:
            raise ValueError("Object arrays cannot be loaded")
        order: Any = "F" if fortran else "C"
        return np.memmap(path, dtype, "r", file.tell(), shape, order)
