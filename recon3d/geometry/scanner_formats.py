"""Scanner geometries as other programs write them: plain dictionaries of numbers, converted exactly.

ASTRA
    Radians; no units, so lengths are read as mm. Slices are shown with the first row at the largest y: an ASTRA image
    is ``volume[0, ::-1]``; its volumes in 3D are [z, y, x] as here. Its 3D projections are (rows, views, columns).
    A curved detector has no counterpart.
TIGRE
    mm, radians; ``nVoxel``, ``offOrigin`` are (z, y, x), ``nDetector``, ``offDetector`` (v, u). The source stands at
    DSO (cos a, sin a, 0): TIGRE's angle a is ours less pi / 2. ``COR`` moves source and detector along u, so it is our
    ``axis_offset`` with the other sign. Projections and volumes are arrays as here.
NAF (neural attenuation fields and their descendants)
    TIGRE's circle with ``nDetector``, ``offDetector`` (u, v), ``nVoxel``, ``offOrigin`` (x, y, z), rows that fall with
    z, and images [x, y, z]. Files are in mm, but projections are attenuation per m times m: an image divided by 1000
    is in our 1/mm, projections are as they should be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recon3d.errors import UserError, require
from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.voxels import VolumeGrid

_TOLERANCE = 1e-9
"""Of lengths that are said to be equal, relative to the largest."""


@dataclass(frozen=True)
class _Circle:
    """What the constructors of :class:`ScanGeometry` take for a source on a circle, or parallel rays."""

    angles: Tensor
    pitch: float
    row_pitch: float
    axis_offset: float
    detector_offset: tuple[float, float]
    source_origin: float
    origin_detector: float

    @staticmethod
    def of(geometry: ScanGeometry) -> _Circle | None:
        """The circle of a geometry without tilt, or None where it is another."""
        t = torch.atan2(geometry.u[:, 1], geometry.u[:, 0]) if geometry.angles is None else geometry.angles
        along = torch.tensor([float(t[0].cos()), float(t[0].sin()), 0.0], dtype=torch.float64, device=t.device)
        back = torch.tensor([float(t[0].sin()), -float(t[0].cos()), 0.0], dtype=torch.float64, device=t.device)
        source, detector = geometry.source[0], geometry.detector[0]
        beside = float(source @ along) if geometry.divergent else 0.0
        circle = _Circle(
            t,
            float(geometry.u[0].norm()),
            float(geometry.v[0].norm()),
            -beside,
            (float(detector @ along) - beside, float(detector[2])),
            float(source @ back),
            -float(detector @ back),
        )
        if geometry.divergent and circle.source_origin <= 0:
            return None
        return circle if _same(circle.geometry(geometry), geometry) else None

    def geometry(self, like: ScanGeometry) -> ScanGeometry:
        offsets: dict[str, Any] = {"axis_offset": self.axis_offset, "detector_offset": self.detector_offset}
        pitches = self.pitch, like.rows, self.row_pitch
        if not like.divergent:
            return ScanGeometry.parallel(self.angles, like.columns, *pitches, **offsets)
        distances = self.source_origin, self.origin_detector
        return ScanGeometry.cone(
            self.angles, like.columns, like.rows, self.pitch, *distances, self.row_pitch, like.curved, **offsets
        )

    @property
    def centred(self) -> bool:
        offset = max(abs(self.axis_offset), *(abs(v) for v in self.detector_offset))
        return offset <= _TOLERANCE * self.pitch


def _same(one: ScanGeometry, other: ScanGeometry) -> bool:
    if one.shape != other.shape or one.kind != other.kind or one.curved != other.curved:
        return False
    for name in ("source", "u", "v"):
        a, b = getattr(one, name), getattr(other, name)
        if bool(((a - b).abs() > _TOLERANCE * b.abs().amax()).any()):
            return False
    apart = one.detector - other.detector
    if not one.divergent:
        # Where along its rays a detector stands is all the same to parallel rays.
        apart = apart - (apart * one.source).sum(1, keepdim=True) * one.source
    size = torch.cat([other.detector.abs().amax()[None], other.u.abs().amax()[None]]).amax()
    return not bool((apart.abs() > _TOLERANCE * size).any())


def to_astra(geometry: ScanGeometry, vectors: bool = False) -> dict[str, Any]:
    """A projection geometry of ASTRA: parallel, fanflat, parallel3d or cone, or, if need be, its ``_vec`` form.

    One row in the plane z = 0 becomes a 2D geometry, which has no size along z. Lengths are in mm: use it with
    :func:`grid_to_astra`.

    Args:
        vectors: give the ``_vec`` form in any case.

    Raises:
        UserError: the detector is curved.
    """
    require(not geometry.curved, "ASTRA has no curved detector: resample the projections to a flat one")
    out_of_plane = torch.stack([geometry.source[:, 2], geometry.detector[:, 2], geometry.u[:, 2]])
    flat = geometry.rows == 1 and not bool(out_of_plane.any())
    circle = None if vectors else _Circle.of(geometry)
    if circle is not None and circle.centred:
        angles = {"ProjectionAngles": circle.angles.numpy(force=True)}
        distances = {"DistanceOriginSource": circle.source_origin, "DistanceOriginDetector": circle.origin_detector}
        if not geometry.divergent:
            distances = {}
        if flat:
            detector: dict[str, Any] = {"DetectorWidth": circle.pitch, "DetectorCount": geometry.columns}
            return {"type": "fanflat" if geometry.divergent else "parallel", **detector, **angles, **distances}
        detector = {
            "DetectorSpacingX": circle.pitch,
            "DetectorSpacingY": circle.row_pitch,
            "DetectorRowCount": geometry.rows,
            "DetectorColCount": geometry.columns,
        }
        return {"type": "cone" if geometry.divergent else "parallel3d", **detector, **angles, **distances}
    if flat:
        rows = torch.cat([geometry.source[:, :2], geometry.detector[:, :2], geometry.u[:, :2]], dim=1)
        kind = "fanflat_vec" if geometry.divergent else "parallel_vec"
        return {"type": kind, "DetectorCount": geometry.columns, "Vectors": rows.numpy(force=True)}
    return {
        "type": "cone_vec" if geometry.divergent else "parallel3d_vec",
        "DetectorRowCount": geometry.rows,
        "DetectorColCount": geometry.columns,
        "Vectors": geometry.vectors.numpy(force=True),
    }


def from_astra(projection: Mapping[str, Any]) -> ScanGeometry:
    """The geometry of an ASTRA ``proj_geom``: one of the eight types that :func:`to_astra` gives.

    A 2D detector is taken to be as high as its pixels are wide.

    Raises:
        UserError: another type, or a key is missing.
    """
    try:
        kind = projection["type"]
        if kind in ("parallel_vec", "fanflat_vec", "parallel3d_vec", "cone_vec"):
            return _from_vectors(kind, projection)
        angles = np.asarray(projection["ProjectionAngles"], dtype=np.float64)
        if kind in ("parallel", "fanflat"):
            columns, rows = int(projection["DetectorCount"]), 1
            pitch = row_pitch = float(projection["DetectorWidth"])
        elif kind in ("parallel3d", "cone"):
            columns, rows = int(projection["DetectorColCount"]), int(projection["DetectorRowCount"])
            pitch, row_pitch = float(projection["DetectorSpacingX"]), float(projection["DetectorSpacingY"])
        else:
            raise UserError(f"ASTRA geometry of type {kind!r}: give parallel, fanflat, parallel3d, cone or their _vec")
        t = torch.from_numpy(angles)
        if kind in ("parallel", "parallel3d"):
            return ScanGeometry.parallel(t, columns, pitch, rows, row_pitch)
        distances = float(projection["DistanceOriginSource"]), float(projection["DistanceOriginDetector"])
        return ScanGeometry.cone(t, columns, rows, pitch, *distances, row_pitch)
    except KeyError as error:
        raise UserError(f"ASTRA geometry without {error}: give the whole dictionary") from error


def _from_vectors(kind: str, projection: Mapping[str, Any]) -> ScanGeometry:
    vectors = torch.from_numpy(np.array(projection["Vectors"], dtype=np.float64))
    flat = kind in ("parallel_vec", "fanflat_vec")
    width = 6 if flat else 12
    require(
        vectors.ndim == 2 and vectors.shape[1] == width,
        f"ASTRA geometry {kind}: Vectors of shape {tuple(vectors.shape)}, not (views, {width})",
    )
    if flat:
        columns, rows = int(projection["DetectorCount"]), 1
        zero = torch.zeros_like(vectors[:, :1])
        source, detector, u = (torch.cat([part, zero], dim=1) for part in vectors.split(2, dim=1))
        v = torch.cat([zero, zero, u.norm(dim=1, keepdim=True)], dim=1)
    else:
        columns, rows = int(projection["DetectorColCount"]), int(projection["DetectorRowCount"])
        source, detector, u, v = vectors.split(3, dim=1)
    if kind in ("parallel_vec", "parallel3d_vec"):
        length = source.norm(dim=1, keepdim=True)
        # Left as they are where they have unit length, so that nothing is rounded.
        source = torch.where((length - 1).abs() < 1e-12, source, source / length)
        return ScanGeometry("parallel", source, detector, u, v, rows, columns)
    return ScanGeometry("divergent", source, detector, u, v, rows, columns)


def grid_to_astra(grid: VolumeGrid, flat: bool = False) -> dict[str, Any]:
    """A volume geometry of ASTRA with its window in mm; ``flat``: of a slice, in 2D."""
    nz, ny, nx = grid.shape
    require(not flat or nz == 1, f"a volume of {nz} slices is not flat")
    low, high = grid.low, grid.high
    window = {"WindowMinX": low[0], "WindowMaxX": high[0], "WindowMinY": low[1], "WindowMaxY": high[1]}
    counts = {"GridRowCount": ny, "GridColCount": nx}
    if flat:
        return {**counts, "option": window}
    return {**counts, "GridSliceCount": nz, "option": {**window, "WindowMinZ": low[2], "WindowMaxZ": high[2]}}


def grid_from_astra(volume: Mapping[str, Any]) -> VolumeGrid:
    """The voxels of an ASTRA ``vol_geom``; a 2D one gets one slice as thick as its pixels are wide."""
    try:
        nx, ny, nz = int(volume["GridColCount"]), int(volume["GridRowCount"]), int(volume.get("GridSliceCount", 1))
        window = volume["option"]
        low, high = ([float(window[f"Window{end}{axis}"]) for axis in "XY"] for end in ("Min", "Max"))
        if "GridSliceCount" in volume:
            low, high = [*low, float(window["WindowMinZ"])], [*high, float(window["WindowMaxZ"])]
        else:
            thickness = (high[0] - low[0]) / nx
            low, high = [*low, -thickness / 2], [*high, thickness / 2]
    except KeyError as error:
        raise UserError(f"ASTRA volume without {error}: give the whole dictionary") from error
    x, y, z = ((b - a) / n for a, b, n in zip(low, high, (nx, ny, nz)))
    cx, cy, cz = ((a + b) / 2 for a, b in zip(low, high))
    return VolumeGrid((nz, ny, nx), (x, y, z), (cx, cy, cz))


def to_tigre(geometry: ScanGeometry, grid: VolumeGrid) -> dict[str, Any]:
    """The fields of a TIGRE geometry, and its ``angles``.

    Raises:
        UserError: it is not a circle with a flat detector, nor parallel.
    """
    circle = None if geometry.curved else _Circle.of(geometry)
    if circle is None:
        raise UserError("TIGRE writes a circle about z with a flat, untilted detector only; use ASTRA's vectors")
    detector, pitch = np.array([geometry.rows, geometry.columns]), np.array([circle.row_pitch, circle.pitch])
    voxels, spacing = np.array(grid.shape), np.array(grid.spacing[::-1])
    offset = circle.detector_offset
    distances = {"DSO": circle.source_origin, "DSD": circle.source_origin + circle.origin_detector}
    if not geometry.divergent:
        # TIGRE wants distances of parallel rays too, and uses them for nothing.
        reach = 2 * max(grid.size)
        distances = {"DSO": reach, "DSD": 2 * reach}
    return {
        "mode": "cone" if geometry.divergent else "parallel",
        **distances,
        "nDetector": detector,
        "dDetector": pitch,
        "sDetector": detector * pitch,
        "nVoxel": voxels,
        "dVoxel": spacing,
        "sVoxel": voxels * spacing,
        "offOrigin": np.array(grid.center[::-1]),
        "offDetector": np.array([offset[1], offset[0]]),
        "COR": -circle.axis_offset,
        "rotDetector": np.zeros(3),
        "angles": (circle.angles - math.pi / 2).numpy(force=True),
    }


def from_tigre(geometry: Mapping[str, Any]) -> tuple[ScanGeometry, VolumeGrid]:
    """Scanner and volume of a TIGRE geometry, given as a dictionary of its fields with its ``angles``.

    Raises:
        UserError: a field is missing, differs from view to view, or turns the detector.
    """
    try:
        rows, columns = (int(n) for n in _numbers(geometry, "nDetector", 2))
        row_pitch, pitch = _numbers(geometry, "dDetector", 2)
        up, along = _numbers(geometry, "offDetector", 2, 0.0)
        require(
            not np.any(geometry.get("rotDetector", 0)), "TIGRE geometry: rotDetector is not read; give ASTRA's vectors"
        )
        return _circle_of_tigre(
            geometry,
            (columns, rows),
            (pitch, row_pitch),
            (along, up),
            _numbers(geometry, "nVoxel", 3)[::-1],
            _numbers(geometry, "dVoxel", 3)[::-1],
            _numbers(geometry, "offOrigin", 3, 0.0)[::-1],
        )
    except KeyError as error:
        raise UserError(f"TIGRE geometry without {error}: give all fields and the angles") from error


def from_naf(dictionary: Mapping[str, Any], angles: Any = None) -> tuple[ScanGeometry, VolumeGrid]:
    """Scanner and volume of a NAF data set; the views are those at ``angles``, else at ``train["angles"]``.

    Raises:
        UserError: a field is missing.
    """
    try:
        if angles is None:
            angles = dictionary["train"]["angles"] if "train" in dictionary else dictionary["angles"]
        columns, rows = (int(n) for n in _numbers(dictionary, "nDetector", 2))
        pitch, row_pitch = _numbers(dictionary, "dDetector", 2)
        along, down = _numbers(dictionary, "offDetector", 2, 0.0)
        geometry, grid = _circle_of_tigre(
            {**dictionary, "angles": angles, "COR": 0.0},
            (columns, rows),
            (pitch, row_pitch),
            (along, -down),
            _numbers(dictionary, "nVoxel", 3),
            _numbers(dictionary, "dVoxel", 3),
            _numbers(dictionary, "offOrigin", 3, 0.0),
        )
    except KeyError as error:
        raise UserError(f"NAF data without {error}: give the whole dictionary") from error
    falling = ScanGeometry(
        geometry.kind,
        geometry.source,
        geometry.detector,
        geometry.u,
        -geometry.v,
        rows,
        columns,
        False,
        geometry.angles,
    )
    return falling, grid


def _circle_of_tigre(
    fields: Mapping[str, Any],
    pixels: tuple[int, int],
    pitches: tuple[float, float],
    offset: tuple[float, float],
    voxels: list[float],
    spacing: list[float],
    center: list[float],
) -> tuple[ScanGeometry, VolumeGrid]:
    """From what is (u, v) and (x, y, z) here, whatever the order in the file."""
    angles = torch.from_numpy(np.array(fields["angles"], dtype=np.float64).reshape(-1)) + math.pi / 2
    (columns, rows), (pitch, row_pitch) = pixels, pitches
    (axis,) = _numbers(fields, "COR", 1, 0.0)
    nx, ny, nz = (int(n) for n in voxels)
    grid = VolumeGrid((nz, ny, nx), (spacing[0], spacing[1], spacing[2]), (center[0], center[1], center[2]))
    offsets: dict[str, Any] = {"axis_offset": -axis, "detector_offset": offset}
    if fields.get("mode", "cone") == "parallel":
        return ScanGeometry.parallel(angles, columns, pitch, rows, row_pitch, **offsets), grid
    (origin,), (detector,) = _numbers(fields, "DSO", 1), _numbers(fields, "DSD", 1)
    return ScanGeometry.cone(angles, columns, rows, pitch, origin, detector - origin, row_pitch, **offsets), grid


def _numbers(fields: Mapping[str, Any], key: str, count: int, default: float | None = None) -> list[float]:
    """``count`` numbers of a field that may be one number for all, or the same for every view."""
    value = fields.get(key)
    if value is None:
        if default is None:
            raise KeyError(key)
        value = default
    values = np.asarray(value, dtype=np.float64)
    if values.size == 1:
        return [float(values.reshape(()))] * count
    table = values.reshape(-1, count) if values.size % count == 0 else values.reshape(-1, 1)
    require(
        table.shape[1] == count and bool((table == table[0]).all()),
        f"{key} has shape {values.shape}: give {count} numbers, the same for all views",
    )
    return [float(v) for v in table[0]]
