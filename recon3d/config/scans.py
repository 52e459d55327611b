"""What a sidecar file tells about a scan, and what is done to projections before they are reconstructed.

A sidecar is a YAML file beside data that do not tell their own geometry (or tell it wrong): what it has stands above
what the data file has. Lengths are in mm.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from recon3d.errors import require

AngleUnit = Literal["degrees", "radians"]
Axis = Literal["angles", "rows", "columns"]


@dataclass(frozen=True)
class AnglesConfig:
    """Angles of the projections: evenly spaced, in a list or in a text file, one of these."""

    unit: AngleUnit | None = None
    """Where it is left out, radians, unless the angles span more than two turns of them: then degrees."""
    start: float = 0.0
    """The first angle of an even spacing."""
    stop: float | None = None
    """Where an even spacing ends; the last projection lies one step before it, as angles of a full turn usually do."""
    endpoint: bool = False
    """The last projection lies at ``stop``."""
    values: tuple[float, ...] | None = None
    """A list."""
    file: Path | None = None
    """Numbers in a text file, one a line."""

    def __post_init__(self) -> None:
        given = [name for name in ("stop", "values", "file") if getattr(self, name) is not None]
        require(len(given) <= 1, f"angles: {' and '.join(given)} are given; give one of them")

    @property
    def empty(self) -> bool:
        """Whether no angles are told, at most their unit."""
        return self.stop is None and self.values is None and self.file is None


@dataclass(frozen=True)
class RawConfig:
    """Layout of a file of bare numbers."""

    shape: tuple[int, ...]
    """Sizes of the axes, slowest first."""
    dtype: Literal["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"] = "uint16"
    byte_order: Literal["little", "big"] = "little"
    offset: int = 0
    """Bytes before the numbers."""

    def __post_init__(self) -> None:
        require(
            len(self.shape) in (2, 3) and min(self.shape) >= 1,
            f"raw: shape {list(self.shape)}; give two or three sizes of 1 or more",
        )
        require(self.offset >= 0, f"raw: offset {self.offset}; give the bytes before the numbers, 0 or more")


@dataclass(frozen=True)
class VolumeConfig:
    """The volume to reconstruct; what is left out follows from the detector (one voxel a pixel, at the axis)."""

    shape: tuple[int, int, int] | None = None
    """Voxels along z, y, x."""
    spacing: tuple[float, float, float] | None = None
    """Size of a voxel along x, y, z."""
    center: tuple[float, float, float] | None = None
    """The middle of the volume: x, y, z."""

    def __post_init__(self) -> None:
        require(
            self.shape is None or min(self.shape) >= 1, f"volume: shape {self.shape}; give 1 or more along each axis"
        )
        require(self.spacing is None or min(self.spacing) > 0, f"volume: spacing {self.spacing}; give sizes above 0 mm")


_DISTANCES = {"source_origin", "source_detector", "origin_detector"}
_GEOMETRY = _DISTANCES | {
    *("row_pitch", "axis_offset", "axis_column", "detector_offset", "tilt", "curved"),
    *("pitch_per_turn", "laminography_angle", "vectors"),
}
_TAKEN = {
    "parallel": {"row_pitch", "axis_offset", "axis_column", "detector_offset", "tilt"},
    "fan": _DISTANCES | {"axis_offset", "detector_offset", "curved"},
    "cone": _DISTANCES | {"row_pitch", "axis_offset", "detector_offset", "tilt", "curved"},
    "helical": _DISTANCES | {"row_pitch", "curved", "pitch_per_turn"},
    "laminography": _DISTANCES | {"row_pitch", "laminography_angle"},
    "vectors": {"vectors"},
}


@dataclass(frozen=True)
class SidecarConfig:
    """Everything that can be told about a file of projections. Distances and sizes are in mm."""

    kind: Literal["parallel", "fan", "cone", "helical", "laminography", "vectors"] | None = None
    """How the rays run (where it is left out and the file does not tell: parallel)."""
    angles: AnglesConfig | None = None
    """Of the projections."""
    pixel_pitch: float | None = None
    """From one detector column to the next."""
    row_pitch: float | None = None
    """From one detector row to the next (default: as between columns)."""
    source_origin: float | None = None
    """From the source to the axis of rotation."""
    source_detector: float | None = None
    """From the source to the detector."""
    origin_detector: float | None = None
    """From the axis of rotation to the detector (instead of source_detector)."""
    axis_offset: float = 0.0
    """How far the axis of rotation lies from the middle of the scanner along the detector's columns."""
    axis_column: float | None = None
    """The detector column that the axis falls on, counted from 0 (parallel rays; instead of axis_offset)."""
    detector_offset: tuple[float, float] = (0.0, 0.0)
    """How far the detector is moved along its columns and its rows."""
    tilt: float = 0.0
    """Rotation of the detector in its own plane, in degrees."""
    curved: bool = False
    """The detector is an arc about the source (fan)."""
    pitch_per_turn: float | None = None
    """How far the source rises in a turn (helical)."""
    laminography_angle: float | None = None
    """Angle between the axis of rotation and the detector's plane, in degrees (laminography)."""
    vectors: Path | None = None
    """An NPZ file with the arrays kind, source, detector, u, v of a saved scan (vectors)."""

    data: Path | None = None
    """The file of projections, where the sidecar itself is given to a command."""
    key: str | None = None
    """Name of the projections inside a file of several arrays."""
    axes: tuple[Axis, ...] | None = None
    """Order of the axes in the file (default: angles, rows, columns; without rows: angles, columns)."""
    quantity: Literal["line_integrals", "transmission", "counts"] | None = None
    """What the numbers are (default: counts where there is a flat field, else line integrals)."""
    counts: float | None = None
    """Photons that an unattenuated pixel counts, for Poisson noise."""
    flat: Path | None = None
    """Frame, or frames to average, without the object."""
    dark: Path | None = None
    """Frame, or frames to average, without the beam."""
    raw: RawConfig | None = None
    """Layout of a file of bare numbers."""
    volume: VolumeConfig = VolumeConfig()

    def __post_init__(self) -> None:
        for name in ("pixel_pitch", "row_pitch", "source_origin", "source_detector", "origin_detector", "counts"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{name} is {value}; give a number above 0")
        require(
            self.source_detector is None
            or self.source_origin is None
            or self.origin_detector is not None
            or self.source_detector > self.source_origin,
            f"source_detector {self.source_detector} is not above source_origin {self.source_origin}: the detector"
            " would be before the axis; give the distance from the source to the detector",
        )
        require(
            self.source_detector is None or self.origin_detector is None,
            "source_detector and origin_detector are both given; give one of them",
        )
        require(
            self.axis_column is None or self.axis_offset == 0,
            "axis_column and axis_offset are both given; give one of them",
        )
        if self.kind is not None:
            misplaced = [name for name in _GEOMETRY - _TAKEN[self.kind] if self._is_told(name)]
            require(
                not misplaced, f"kind {self.kind} takes no {', '.join(sorted(misplaced))}; remove it or change the kind"
            )
        if self.axes is not None:
            complete = sorted(self.axes) in (["angles", "columns"], ["angles", "columns", "rows"])
            require(complete, f"axes {list(self.axes)}; give angles, columns and, of a flat detector, rows, each once")

    @property
    def tells_geometry(self) -> bool:
        """Whether anything of the scanner's geometry is told."""
        return any(self._is_told(name) for name in {"kind", "angles", "pixel_pitch"} | _GEOMETRY)

    def _is_told(self, name: str) -> bool:
        return bool(getattr(self, name) != next(f.default for f in fields(self) if f.name == name))


@dataclass(frozen=True)
class PreprocessConfig:
    """What is done to projections before they are reconstructed, in this order."""

    without: tuple[int, ...] | None = None
    """Leave out these projections, counted from 0 as in the file."""
    angle_range: tuple[float, float] | None = None
    """Keep the projections from one angle to another, in degrees as in the file (whole turns aside)."""
    every: int = 1
    """Keep every so-many-th projection."""
    views: int | None = None
    """Keep so many projections, evenly spaced."""
    rows: tuple[int, int] | None = None
    """Keep the detector rows from the first up to, not with, the second."""
    columns: tuple[int, int] | None = None
    """Keep the detector columns from the first up to, not with, the second."""
    bad_pixels: float | None = None
    """Replace pixels that are not finite, or whose flat field is off its surroundings by more than this share, by their
    neighbours (0.5 finds dead and hot ones)."""
    flat_field: bool = True
    """Divide counts by the flat field, less the dark field; else by the largest count."""
    least_transmission: float = 1e-5
    """Lower transmission, which has no logarithm or a senseless one, is taken for this."""
    nonpositive: Literal["clip", "refuse"] = "clip"
    """Whether zero or negative transmission is clipped, with a line that counts it, or ends the run."""
    bin: int = 1
    """Average blocks of so many pixels a side."""
    zingers: float | None = None
    """Replace bright specks (algotom's method): relative threshold, 0.05 to 0.1."""
    rings: Literal["none", "sorting", "filtering", "fitting", "all"] = "none"
    """Remove what would be rings in the volume (Vo et al. 2018, by algotom): from partial ("sorting") to all kinds."""
    find_axis: bool = False
    """Find the detector column that the axis of rotation falls on (parallel rays; Vo et al. 2014, by algotom)."""
    axis_column: float | None = None
    """This is the detector column, from 0, that the axis of rotation falls on (parallel rays)."""
    photons: float | None = None
    """Simulate noise: Poisson counts of a beam of so many photons a pixel."""
    peak: float | None = None
    """Scale line integrals so that the largest is this before photons are counted, and back after."""
    electronic_noise: float = 0.0
    """Standard deviation of Gaussian noise added to the counts."""
    noise_seed: int = 0
    """Of the simulated noise."""

    def __post_init__(self) -> None:
        for name in ("every", "bin"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; give 1 or more")
        require(self.views is None or self.views >= 1, f"views is {self.views}; give 1 or more")
        for name in ("rows", "columns"):
            part = getattr(self, name)
            require(part is None or 0 <= part[0] < part[1], f"{name} {part}; give the first and the end, rising")
        require(
            not (self.find_axis and self.axis_column is not None),
            "find_axis and axis_column are both given; give one of them",
        )
        for name in ("bad_pixels", "zingers", "photons", "peak"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{name} is {value}; give a number above 0")
        require(
            0 < self.least_transmission < 1, f"least_transmission is {self.least_transmission}; give a share of 0 to 1"
        )
        require(self.electronic_noise >= 0, f"electronic_noise is {self.electronic_noise}; give 0 or more counts")
        require(
            self.photons is not None or (self.peak is None and self.electronic_noise == 0),
            "peak and electronic_noise are of simulated noise: give photons as well",
        )
