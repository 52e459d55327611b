"""From what is known of a file of projections to the :class:`Scan`: the sidecar over the file's own words.

A reader returns :class:`Found`: the numbers, and a :class:`SidecarConfig` of whatever the file tells. The sidecar file
is read on top of that, and :func:`assemble` makes the geometry.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from recon3d.config.plain import from_plain, read_yaml
from recon3d.config.scans import AnglesConfig, AngleUnit, SidecarConfig
from recon3d.data import npz, stacks
from recon3d.data.scan import Scan
from recon3d.data.stacks import LazyStack, Stack
from recon3d.errors import UserError, require
from recon3d.geometry.scanner import ScanGeometry, default_grid
from recon3d.geometry.voxels import VolumeGrid

logger = logging.getLogger(__name__)

_TWO_TURNS = 4 * math.pi
_AXES: dict[int, tuple[Any, ...]] = {2: ("angles", "columns"), 3: ("angles", "rows", "columns")}


@dataclass(frozen=True)
class Found:
    """What a reader found in a file.

    Attributes:
        stack: (A, rows, columns), or with the axes that ``told.axes`` names, two or three of them.
        told: what the file tells about itself.
        flat, dark: (rows, columns) averaged frames.
        geometry, grid: of files that have them whole; a sidecar that tells of the geometry stands above both.
        notes: what was assumed.
    """

    stack: Stack
    told: SidecarConfig = SidecarConfig()
    flat: np.ndarray | None = None
    dark: np.ndarray | None = None
    geometry: ScanGeometry | None = None
    grid: VolumeGrid | None = None
    notes: tuple[str, ...] = ()


def numbers(values: Any, path: Path, name: str) -> Any:
    """``values`` as an array of numbers; a lazy stack is one already.

    Raises:
        UserError: it is something else.
    """
    if isinstance(values, LazyStack):
        return values
    array = values if isinstance(values, np.ndarray) else np.asarray(values)
    require(
        array.dtype.kind in "fiub",
        f"{path}: {name} holds values of type {array.dtype}, not real numbers; save plain arrays of numbers",
    )
    return array


def mean_frame(frames: np.ndarray) -> np.ndarray:
    """The mean (rows, columns) of frames (n, rows, columns), of one (rows, columns), or of one line (columns)."""
    if frames.ndim == 3:
        return frames.mean(axis=0, dtype=np.float64).astype(np.float32)
    return np.atleast_2d(frames).astype(np.float32)


def find_sidecar(path: Path) -> Path | None:
    """``scan.yaml`` beside ``scan.raw`` (or ``scan.yml``), ``geometry.yaml`` in a folder; None where there is none."""
    candidates = [path / "geometry.yaml"] if path.is_dir() else []
    candidates += [path.with_name(f"{path.name}{end}") for end in (".yaml", ".yml")]
    candidates += [path.with_suffix(end) for end in (".yaml", ".yml")]
    return next((c for c in candidates if c != path and c.is_file()), None)


def read_sidecar(path: Path, told: SidecarConfig | None = None) -> SidecarConfig:
    """A sidecar file over what is ``told`` already; the paths in it are relative to its folder.

    Raises:
        UserError: not YAML, unknown keys, or values that contradict.
    """
    read = from_plain(SidecarConfig, read_yaml(path), str(path), told)
    for name in ("vectors", "data", "flat", "dark"):
        value = getattr(read, name)
        if value is not None and value != getattr(told, name, None):
            read = dataclasses.replace(read, **{name: path.parent / value})
    known = None if told is None else told.angles
    if known is not None and read.angles is not None and read.angles.empty:  # only their unit is told
        read = dataclasses.replace(read, angles=dataclasses.replace(known, unit=read.angles.unit))
    if read.angles is not None and read.angles.file is not None:
        read = dataclasses.replace(read, angles=dataclasses.replace(read.angles, file=path.parent / read.angles.file))
    return read


def assemble(found: Found, told: SidecarConfig, path: Path) -> Scan:
    """The scan of what was found, with what the sidecar told on top.

    Raises:
        UserError: the geometry lacks something, or does not fit the projections.
    """
    stack = _in_order(found.stack, told, path)
    notes = list(found.notes)
    geometry, grid = found.geometry, found.grid
    if geometry is None or told.tells_geometry:
        geometry, grid = _geometry(told, stack, path, notes), None
    if told.quantity is not None:
        quantity = told.quantity
    else:
        quantity = "counts" if found.flat is not None else "line_integrals"
    return Scan(
        stack,
        geometry,
        _grid(told, grid or default_grid(geometry)),
        counts=told.counts,
        path=path,
        notes=tuple(notes),
        quantity=quantity,
        flat=found.flat if quantity == "counts" else None,
        dark=found.dark if quantity == "counts" else None,
    )


def angles_in_radians(
    angles: AnglesConfig, projections: int, where: str
) -> tuple[Float64[np.ndarray, " a"], list[str]]:
    """The angles, and notes on their unit.

    Raises:
        UserError: none are given, they are not numbers, or they are not as many as the projections.
    """
    if angles.values is not None:
        values = np.array(angles.values, np.float64)
    elif angles.file is not None:
        values = _text_numbers(angles.file)
    else:
        require(angles.stop is not None, f"{where}: angles without stop, values or file; give one of them")
        values = np.linspace(angles.start, angles.stop or 0.0, projections, endpoint=angles.endpoint)
    require(
        len(values) == projections,
        f"{where}: {len(values)} angles, but {projections} projections; give one angle for every projection",
    )
    wrong = np.flatnonzero(~np.isfinite(values))
    require(not wrong.size, f"{where}: angle {wrong[:1].tolist()} of {len(values)} is not a finite number; correct it")
    return _to_radians(values, angles.unit, where)


def _to_radians(
    values: Float64[np.ndarray, " a"], unit: AngleUnit | None, where: str
) -> tuple[Float64[np.ndarray, " a"], list[str]]:
    span = float(np.ptp(values)) if len(values) else 0.0
    notes = []
    if unit is None:
        unit = "degrees" if span > _TWO_TURNS else "radians"
        if unit == "degrees":
            notes.append(
                f"the angles span {span:.4g}, more than two turns of radians: taken for degrees; say angles: {{unit:"
                " radians} in a sidecar if they are not"
            )
    elif unit == "radians" and span > _TWO_TURNS:
        notes.append(
            f"the angles span {span:.4g} radians, {span / (2 * math.pi):.1f} turns: they look like degrees; if they"
            " are, say angles: {unit: degrees}"
        )
    elif unit == "degrees" and 0 < span < 2 * math.pi * 1.01 and len(values) > 16:
        notes.append(
            f"the angles span only {span:.4g} degrees over {len(values)} projections: they look like radians; if they"
            " are, say angles: {unit: radians}"
        )
    for note in notes:
        logger.warning("%s: %s", where, note)
    return (np.deg2rad(values) if unit == "degrees" else values), notes


def _text_numbers(path: Path) -> Float64[np.ndarray, " n"]:
    try:
        return np.loadtxt(path, dtype=np.float64, ndmin=1, comments="#").reshape(-1)
    except OSError as error:
        raise UserError(f"{path}: cannot read the angles ({error.strerror or error}); give a text file") from error
    except ValueError as error:
        raise UserError(f"{path}: not a list of numbers ({' '.join(str(error).split())}); give one a line") from error


def _in_order(stack: Stack, told: SidecarConfig, path: Path) -> Stack:
    shape = tuple(int(n) for n in stack.shape)
    axes = told.axes or _AXES.get(len(shape))
    require(
        axes is not None and len(axes) == len(shape),
        f"{path}: projections of shape {shape}, with {len(shape)} axes; give two or three, and name them: axes:"
        " [angles, rows, columns]",
    )
    return stacks.reorder(stack, axes or ())


def _geometry(told: SidecarConfig, stack: Stack, path: Path, notes: list[str]) -> ScanGeometry:
    views, rows, columns = stack.shape
    kind = told.kind or "parallel"
    if kind == "vectors":
        require(told.vectors is not None, f"{path}: kind vectors without the file of them; give vectors: FILE.npz")
        return _from_vectors(told.vectors or path, rows, columns)
    require(
        told.angles is not None,
        f"{path}: the angles are not known; write {path.with_suffix('.yaml').name} with angles: {{start: 0, stop: 180,"
        " unit: degrees} or a list of values",
    )
    angles, unit_notes = angles_in_radians(told.angles or AnglesConfig(), views, str(path))
    notes += unit_notes
    pitch = told.pixel_pitch
    if pitch is None:
        require(kind == "parallel", f"{path}: kind {kind} without pixel_pitch; give the pitch of the columns in mm")
        pitch = 1.0
        notes.append("the pixel pitch is not known: taken as 1 mm, so attenuation is per pixel")
    require(
        rows == 1 or kind != "fan", f"{path}: {rows} detector rows, but a fan has one; give kind: cone, or take one row"
    )
    detector: dict[str, Any] = {"angles": torch.from_numpy(angles), "columns": columns, "pitch": pitch}
    if kind != "fan":
        detector |= {"rows": rows, "row_pitch": told.row_pitch}
    offset = _axis_offset(told, kind, columns, pitch, path)
    tilt = math.radians(told.tilt)
    try:
        if kind == "parallel":
            return ScanGeometry.parallel(
                **detector, axis_offset=offset, detector_offset=told.detector_offset, tilt=tilt
            )
        if kind == "laminography":
            require(told.laminography_angle is not None, "kind laminography without laminography_angle in degrees")
            distances: dict[str, Any] = _distances(told, kind) if told.source_origin else {}
            return ScanGeometry.laminography(
                **detector, **distances, inclination=math.radians(told.laminography_angle or 0.0)
            )
        detector |= _distances(told, kind) | {"curved": told.curved}
        if kind == "fan":
            return ScanGeometry.fan(**detector, axis_offset=offset, detector_offset=told.detector_offset[0])
        if kind == "cone":
            return ScanGeometry.cone(**detector, axis_offset=offset, detector_offset=told.detector_offset, tilt=tilt)
        require(told.pitch_per_turn is not None, "kind helical without pitch_per_turn in mm")
        return ScanGeometry.helical(**detector, rise=told.pitch_per_turn or 0.0)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _distances(told: SidecarConfig, kind: str) -> dict[str, float]:
    """Distances of source and detector from the axis."""
    behind = told.origin_detector
    if behind is None and told.source_detector is not None and told.source_origin is not None:
        behind = told.source_detector - told.source_origin
    if told.source_origin is None or behind is None:
        raise UserError(f"kind {kind} needs source_origin, and source_detector or origin_detector, in mm")
    return {"source_origin": told.source_origin, "origin_detector": behind}


def _axis_offset(told: SidecarConfig, kind: str, columns: int, pitch: float, path: Path) -> float:
    if told.axis_column is None:
        return told.axis_offset
    require(kind == "parallel", f"{path}: axis_column is for parallel rays; give axis_offset or detector_offset in mm")
    return (told.axis_column - (columns - 1) / 2) * pitch


def _from_vectors(path: Path, rows: int, columns: int) -> ScanGeometry:
    values = npz.read(path)
    missing = [key for key in ("kind", "source", "detector", "u", "v") if key not in values]
    require(not missing, f"{path}: {', '.join(missing)} missing; vectors are kind, source, detector, u and v")
    return ScanGeometry(
        str(values["kind"]),
        **{name: torch.tensor(values[name], dtype=torch.float64) for name in ("source", "detector", "u", "v")},
        rows=rows,
        columns=columns,
        curved=bool(values.get("curved", False)),
        angles=torch.tensor(values["angles"], dtype=torch.float64) if "angles" in values else None,
    )


def _grid(told: SidecarConfig, default: VolumeGrid) -> VolumeGrid:
    volume = told.volume
    return VolumeGrid(volume.shape or default.shape, volume.spacing or default.spacing, volume.center or default.center)
