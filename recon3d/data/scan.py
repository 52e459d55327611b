"""Scan: projections with the geometry they were taken in, the typed measurement of computed tomography.

Lengths are in mm, angles in radians, attenuation in 1/mm; axes and pixel order as in :mod:`recon3d.geometry.scanner`.

A scan is kept in one NPZ file, which any numpy reads (``allow_pickle=False``). Its arrays are not compressed, so they
are mapped into memory where they lie and a scan larger than the memory can be written and used. The keys:

======================== ============================================================================================
``recon3d_scan``         version of this layout, 1
``projections``          (A, rows, columns) float32
``quantity``             ``line_integrals``, ``transmission`` or ``counts``
``kind``, ``curved``     ``parallel`` or ``divergent``; whether the detector is an arc about the source
``source``               (A, 3) points of the source, or unit directions of the rays where they are parallel
``detector``             (A, 3) centres of the detector
``u``, ``v``             (A, 3) steps of one pixel along columns and rows
``angles``               (A,) radians; may be absent
``grid_shape``           (nz, ny, nx) voxels of the volume
``grid_spacing``         (3,) along x, y, z
``grid_center``          (3,) x, y, z
``counts``               photons of an unattenuated pixel, where known
``flat``, ``dark``       (rows, columns) frames without the object and without the beam, where the quantity is counts
``notes``                lines of text
======================== ============================================================================================
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from recon3d.data import npz, stacks
from recon3d.data.stacks import Stack
from recon3d.errors import UserError, require
from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.voxels import VolumeGrid

Quantity = Literal["line_integrals", "transmission", "counts"]
QUANTITIES = ("line_integrals", "transmission", "counts")

_VERSION = 1
_MARK = "recon3d_scan"
_VECTORS = ("source", "detector", "u", "v")


@dataclass(frozen=True)
class Scan:
    """Projections, their geometry and the volume they are of.

    Attributes:
        projections: (A, rows, columns); an array in memory, a memory map or a lazily read stack
            (:mod:`recon3d.data.stacks`). Only what is indexed is read.
        geometry: of the A projections.
        grid: the volume to reconstruct unless told otherwise.
        counts: photons that an unattenuated pixel counts (I0 of the Poisson noise), where known.
        path: the file the scan was read from.
        notes: what a reader assumed or a step of preprocessing did, one line each.
        quantity: what the numbers are: line integrals of attenuation, -log of ``transmission``, which is the share of
            the photons that came through, or raw ``counts`` of the detector.
        flat: (rows, columns) counts without the object, dark: without the beam; only beside raw counts.

    Raises:
        UserError: the projections do not fit the geometry.
    """

    projections: Stack
    geometry: ScanGeometry
    grid: VolumeGrid
    counts: float | None = None
    path: Path | None = None
    notes: tuple[str, ...] = ()
    quantity: Quantity = "line_integrals"
    flat: np.ndarray | None = None
    dark: np.ndarray | None = None

    def __post_init__(self) -> None:
        where = "" if self.path is None else f"{self.path}: "
        shape = tuple(self.projections.shape)
        require(len(shape) == 3, f"{where}projections of shape {shape}; give (angles, rows, columns)")
        require(min(shape) > 0, f"{where}no projections: an array of shape {shape}; give one that is not empty")
        views = len(self.geometry)
        require(
            shape[0] == views,
            f"{where}{views} angles, but {shape[0]} projections; give one angle for every projection",
        )
        detector = self.geometry.rows, self.geometry.columns
        require(
            shape[1:] == detector,
            f"{where}projections of {shape[1]} rows and {shape[2]} columns, but a detector of {detector[0]} and"
            f" {detector[1]}; are the axes (angles, rows, columns)?",
        )
        for name in ("flat", "dark"):
            frame = getattr(self, name)
            require(
                frame is None or frame.shape == detector,
                f"{where}{name} field of shape {() if frame is None else frame.shape}; the detector has {detector}",
            )
        require(self.counts is None or self.counts > 0, f"{where}photon count {self.counts}; give one above 0, or none")

    def __len__(self) -> int:
        return int(self.projections.shape[0])

    def views(self, indices: Sequence[int] | np.ndarray | slice) -> Scan:
        """The scan of some of the projections, in that order; nothing is read yet.

        Raises:
            UserError: no projection is left.
        """
        key = indices if isinstance(indices, slice) else np.asarray(indices)
        chosen = np.arange(len(self))[key if isinstance(key, slice) or key.size else np.zeros(0, np.int64)]
        require(chosen.size > 0, f"no projection of {len(self)} is left; choose at least one")
        return dataclasses.replace(
            self,
            projections=stacks.take_views(self.projections, chosen),
            geometry=self.geometry.subset(chosen.tolist()),
        )

    def load(self) -> Scan:
        """The same with all projections in memory, as float32."""
        return dataclasses.replace(self, projections=stacks.in_memory(self.projections))

    def noted(self, *lines: str) -> Scan:
        """The same with further notes."""
        return dataclasses.replace(self, notes=(*self.notes, *lines))

    def save(self, path: Path) -> None:
        """Write the NPZ file described in :mod:`recon3d.data.scan`, whole or not at all, a block of views at a time.

        Raises:
            UserError: it cannot be written there.
        """
        members: dict[str, Any] = {_MARK: np.int64(_VERSION), "projections": self.projections}
        members |= {name: getattr(self.geometry, name).numpy(force=True) for name in _VECTORS}
        members |= {
            "quantity": np.array(self.quantity),
            "kind": np.array(self.geometry.kind),
            "curved": np.array(self.geometry.curved),
            "grid_shape": np.array(self.grid.shape, np.int64),
            "grid_spacing": np.array(self.grid.spacing, np.float64),
            "grid_center": np.array(self.grid.center, np.float64),
            "notes": np.array(self.notes, dtype=np.str_),
        }
        optional = {
            "angles": None if self.geometry.angles is None else self.geometry.angles.numpy(force=True),
            "counts": None if self.counts is None else np.float64(self.counts),
            "flat": self.flat,
            "dark": self.dark,
        }
        npz.write(path, members | {key: value for key, value in optional.items() if value is not None})


def is_scan(path: Path) -> bool:
    """Whether a file is an NPZ that :meth:`Scan.save` wrote."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return f"{_MARK}.npy" in archive.namelist()
    except zipfile.BadZipFile:
        return False


def load_scan(path: Path) -> Scan:
    """Read what :meth:`Scan.save` wrote; the projections stay in the file until they are indexed.

    Raises:
        UserError: not such a file, damaged, or written by a later version.
    """
    values = npz.read(path)
    require(_MARK in values, f"{path}: not a scan of recon3d (no array {_MARK}); keys: {', '.join(values)}")
    version = int(values[_MARK])
    require(version == _VERSION, f"{path}: layout {version} of a scan; this version of recon3d reads {_VERSION}")
    needed = ("projections", "quantity", "kind", "curved", *_VECTORS, "grid_shape", "grid_spacing", "grid_center")
    missing = [key for key in needed if key not in values]
    require(not missing, f"{path}: {', '.join(missing)} missing; write the scan again")
    quantity = str(values["quantity"])
    require(quantity in QUANTITIES, f"{path}: quantity {quantity!r} is not one of {', '.join(QUANTITIES)}")
    projections = values["projections"]
    require(projections.ndim == 3, f"{path}: projections of shape {projections.shape}; give (angles, rows, columns)")
    try:
        geometry = ScanGeometry(
            kind=str(values["kind"]),
            **{name: torch.tensor(values[name], dtype=torch.float64) for name in _VECTORS},
            rows=int(projections.shape[1]),
            columns=int(projections.shape[2]),
            curved=bool(values["curved"]),
            angles=torch.tensor(values["angles"], dtype=torch.float64) if "angles" in values else None,
        )
        nz, ny, nx = (int(n) for n in values["grid_shape"])
        spacing, center = (_triple(values[key]) for key in ("grid_spacing", "grid_center"))
        grid = VolumeGrid((nz, ny, nx), spacing, center)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: its geometry cannot be read ({' '.join(str(error).split())})") from error
    return Scan(
        projections,
        geometry,
        grid,
        counts=float(values["counts"]) if "counts" in values else None,
        path=path,
        notes=tuple(str(line) for line in values.get("notes", ())),
        quantity=quantity,  # type: ignore[arg-type]
        flat=values.get("flat"),
        dark=values.get("dark"),
    )


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z
