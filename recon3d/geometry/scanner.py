"""Scanners: where the volume lies, and along which line every detector pixel looks.

Conventions, used everywhere in computed tomography here:

- Lengths are in mm, angles in radians, triples are (x, y, z). The object stands still, source and detector turn.
- A volume is an array [z, y, x] whose indices rise with the coordinates. A slice is a volume with nz = 1 at z = 0.
- Projections are arrays (views, rows, columns). The pixel at column c and row r of n columns and m rows has its centre
  at ``detector + (c - (n - 1) / 2) u + (r - (m - 1) / 2) v``, on an arc about the source where the detector is curved.
- A view has 12 numbers: the source (divergent rays) or the rays' unit direction (parallel ones), the detector's centre,
  and u, v: the steps from one pixel to the next along columns and rows. Every other geometry is made of these.
- The axis of rotation is z. At the angle t, as ASTRA counts it (counter-clockwise seen from +z), columns run along
  (cos t, sin t, 0) and rows along z. Parallel rays run along (sin t, -cos t, 0); a divergent source stands at
  ``source_origin`` times that, and its detector at ``-origin_detector`` times that.
- A detector behind a divergent source is flat, or curved: an arc about the source, equal angles between columns
  (a cylinder about the line through the source along v, where it has rows).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon3d.errors import UserError, require
from recon3d.geometry.cameras import Rays
from recon3d.geometry.voxels import VolumeGrid

KINDS = ("parallel", "divergent")

Angles = Float[Tensor, " a"] | Sequence[float]


@dataclass(frozen=True)
class ScanGeometry:
    """Sources and detectors of A views; see the top of this module for the conventions.

    Attributes:
        kind: "parallel" or "divergent".
        source: (A, 3) points in mm (divergent), or unit directions of the rays (parallel).
        detector: (A, 3) centres of the detector in mm.
        u, v: (A, 3) steps in mm from one column, one row to the next.
        rows, columns: size of the detector in pixels.
        curved: the detector is an arc about the source; u is its tangent in the middle, as long as a pixel's arc.
        angles: (A,) angles of rotation, where the views have such: the weights of FBP need them.

    All tensors are float64 on one device.
    """

    kind: str
    source: Float[Tensor, "a 3"]
    detector: Float[Tensor, "a 3"]
    u: Float[Tensor, "a 3"]
    v: Float[Tensor, "a 3"]
    rows: int
    columns: int
    curved: bool = False
    angles: Float[Tensor, " a"] | None = None

    def __post_init__(self) -> None:
        require(self.kind in KINDS, f"rays are {' or '.join(KINDS)}, not {self.kind!r}")
        require(self.rows >= 1 and self.columns >= 1, f"a detector of {self.rows} x {self.columns} pixels is none")
        for name in ("source", "detector", "u", "v", "angles"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, value.double())
                broken = ~value.isfinite().reshape(len(value), -1).all(1)
                _refuse(broken, f"geometry: {name} of view {{view}} is not finite")
        flat = torch.linalg.cross(self.u, self.v).norm(dim=1) <= 1e-9 * self.u.norm(dim=1) * self.v.norm(dim=1)
        _refuse(flat, "geometry: u and v of view {view} span no detector; both must be steps in mm")
        through = self.source if self.kind == "parallel" else self.detector - self.source
        if self.kind == "parallel":
            wrong = (through.norm(dim=1) - 1).abs() > 1e-6
            _refuse(wrong, "geometry: the ray direction of view {view} has not length 1")
        distance = through.norm(dim=1)
        normal = torch.linalg.cross(self.u, self.v)
        grazing = (normal * through).sum(1).abs() <= 1e-9 * distance * normal.norm(dim=1)
        _refuse(grazing, "geometry: the rays of view {view} run along its detector")
        if self.curved:
            require(self.kind == "divergent", "a curved detector needs a source: parallel rays have none")
            askew = (self.u * self.middle).sum(1).abs() > 1e-6 * distance * self.u.norm(dim=1)
            _refuse(askew, "geometry: u of view {view} is not square to the ray through its middle")

    def __len__(self) -> int:
        return self.source.shape[0]

    @property
    def divergent(self) -> bool:
        return self.kind == "divergent"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (views, rows, columns) of the projections."""
        return len(self), self.rows, self.columns

    @property
    def device(self) -> torch.device:
        return self.source.device

    @property
    def vectors(self) -> Float[Tensor, "a 12"]:
        """Source or direction, detector, u, v of every view side by side: what the projector takes."""
        return torch.cat([self.source, self.detector, self.u, self.v], dim=1)

    @property
    def source_origin(self) -> Float[Tensor, " a"]:
        """Distances (A,) of the source from the axis of rotation, in mm."""
        return self.source[:, :2].norm(dim=1)

    @property
    def middle(self) -> Float[Tensor, "a 3"]:
        """From the source to the middle column (A, 3), square to v: the radius of a curved detector."""
        across = self.detector - self.source
        return across - (across * self.v).sum(1, keepdim=True) / self.v.square().sum(1, keepdim=True) * self.v

    @property
    def source_detector(self) -> Float[Tensor, " a"]:
        """Distances (A,) of the source from the plane (flat) or the middle (curved) of its detector, in mm."""
        if self.curved:
            return self.middle.norm(dim=1)
        normal = torch.nn.functional.normalize(torch.linalg.cross(self.u, self.v), dim=1)
        return ((self.detector - self.source) * normal).sum(1).abs()

    @property
    def magnification(self) -> float:
        """How much larger the axis of rotation appears on the detector, in the median of the views; 1 if parallel."""
        if not self.divergent:
            return 1.0
        return float((self.source_detector / self.source_origin.clamp_min(1e-12)).median())

    def subset(self, indices: Int[Tensor, " n"] | Sequence[int] | slice) -> ScanGeometry:
        """These views only, in this order."""
        if not isinstance(indices, slice):
            indices = torch.as_tensor(indices, dtype=torch.int64, device=self.device)
        chosen = {name: getattr(self, name)[indices] for name in ("source", "detector", "u", "v")}
        return replace(self, **chosen, angles=None if self.angles is None else self.angles[indices])

    def to(self, device: torch.device | str) -> ScanGeometry:
        moved = {name: getattr(self, name).to(device) for name in ("source", "detector", "u", "v")}
        return replace(self, **moved, angles=None if self.angles is None else self.angles.to(device))

    def binned(self, factor: int) -> ScanGeometry:
        """The geometry of projections whose blocks of factor x factor pixels are averaged (one row stays one row).

        Columns and rows that do not fill a block are dropped at the far end.
        """
        require(1 <= factor <= self.columns, f"{self.columns} columns cannot be binned by {factor}")
        down = factor if self.rows > 1 else 1
        require(down <= self.rows, f"{self.rows} rows cannot be binned by {factor}")
        cut = self.cropped((0, self.rows // down * down), (0, self.columns // factor * factor))
        rows, columns = cut.rows // down, cut.columns // factor
        return replace(cut, rows=rows, columns=columns, u=cut.u * factor, v=cut.v * down)

    def cropped(self, rows: tuple[int, int], columns: tuple[int, int]) -> ScanGeometry:
        """The detector's rows and columns from the first up to (not with) the last given."""
        for (first, last), n, what in ((rows, self.rows, "rows"), (columns, self.columns, "columns")):
            require(0 <= first < last <= n, f"{what} {first} to {last} are not among the detector's {n}")
        return self._window(rows, columns)

    def widened(self, before: int, behind: int) -> ScanGeometry:
        """A detector with so many more columns before the first and behind the last."""
        return self._window((0, self.rows), (-before, self.columns + behind))

    def _window(self, rows: tuple[int, int], columns: tuple[int, int]) -> ScanGeometry:
        shift_u = (columns[0] + columns[1] - self.columns) / 2
        shift_v = (rows[0] + rows[1] - self.rows) / 2
        detector, u = self.detector + shift_v * self.v, self.u
        if self.curved:
            distance, length = self.middle.norm(dim=1, keepdim=True), self.u.norm(dim=1, keepdim=True)
            angle = shift_u * length / distance
            detector = detector + self.middle * (angle.cos() - 1) + self.u * (distance / length) * angle.sin()
            u = self.u * angle.cos() - self.middle * (length / distance) * angle.sin()
        else:
            detector = detector + shift_u * self.u
        return replace(self, detector=detector, u=u, rows=rows[1] - rows[0], columns=columns[1] - columns[0])

    def pixels(
        self, view: Int[Tensor, " n"], row: Float[Tensor, " n"], column: Float[Tensor, " n"]
    ) -> Float[Tensor, "n 3"]:
        """Points in mm of the detector at fractional ``row`` and ``column`` (pixels' centres at whole numbers)."""
        along = (column.double() - (self.columns - 1) / 2).unsqueeze(1)
        up = (row.double() - (self.rows - 1) / 2).unsqueeze(1) * self.v[view]
        if not self.curved:
            return self.detector[view] + along * self.u[view] + up
        radius, u = self.middle[view], self.u[view]
        distance, length = radius.norm(dim=1, keepdim=True), u.norm(dim=1, keepdim=True)
        angle = along * length / distance
        return self.detector[view] + radius * (angle.cos() - 1) + u * (distance / length) * angle.sin() + up

    def rays_at(self, view: Int[Tensor, " n"], row: Float[Tensor, " n"], column: Float[Tensor, " n"]) -> Rays:
        """Rays (float64) to fractional detector positions: from the source, or, parallel, through the detector."""
        points = self.pixels(view, row, column)
        if not self.divergent:
            return Rays(points, self.source[view])
        origins = self.source[view]
        return Rays(origins, torch.nn.functional.normalize(points - origins, dim=-1))

    def rays(self, view: int) -> Rays:
        """Rays (float64) to the centres of all pixels of one view, row by row: (rows * columns)."""
        index = torch.arange(self.rows * self.columns, device=self.device)
        return self.rays_at(
            torch.full_like(index, view), (index // self.columns).double(), (index % self.columns).double()
        )

    def shadows(
        self, points: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, "a n"], Float[Tensor, "a n"], Float[Tensor, "a n"]]:
        """Where the rays through points meet the detector: columns, rows, and the points' depths.

        A depth is 1 at the detector and 0 at the source (flat: measured square to the detector; curved: to v), and 1
        everywhere where rays are parallel. What lies behind the source has a depth <= 0 and no meaning.
        """
        points = points.double()
        if self.curved:
            return self._shadows_on_arc(points)
        # Along which vectors to measure the coefficients of u, v, and of the ray.
        ray = self.detector - self.source if self.divergent else self.source
        inverse = torch.linalg.inv(torch.stack([self.u, self.v, ray], dim=2))
        if self.divergent:
            local = (points[None] - self.source[:, None]) @ inverse.mT
            along, up = local[..., 0] / local[..., 2], local[..., 1] / local[..., 2]
            depth = local[..., 2]
        else:
            local = (points[None] - self.detector[:, None]) @ inverse.mT
            along, up = local[..., 0], local[..., 1]
            depth = torch.ones_like(along)
        return along + (self.columns - 1) / 2, up + (self.rows - 1) / 2, depth

    def _shadows_on_arc(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        distance, length = self.middle.norm(dim=1, keepdim=True), self.u.norm(dim=1, keepdim=True)
        basis = torch.stack([self.u * (distance / length), self.v, self.middle], dim=2)
        local = (points[None] - self.source[:, None]) @ torch.linalg.inv(basis).mT
        depth = torch.hypot(local[..., 0], local[..., 2])
        along = torch.atan2(local[..., 0], local[..., 2]) * (distance / length)
        lift = ((self.detector - self.source) * self.v).sum(1) / self.v.square().sum(1)
        up = local[..., 1] / depth - lift[:, None]
        return along + (self.columns - 1) / 2, up + (self.rows - 1) / 2, depth

    @staticmethod
    def parallel(
        angles: Angles,
        columns: int,
        pitch: float,
        rows: int = 1,
        row_pitch: float | None = None,
        axis_offset: float = 0.0,
        detector_offset: tuple[float, float] = (0.0, 0.0),
        tilt: float = 0.0,
    ) -> ScanGeometry:
        """Parallel rays, in 2D (one row) or 3D.

        Args:
            angles: of rotation (A,).
            columns, rows: size of the detector in pixels.
            pitch, row_pitch: distance of columns, of rows (default: the same) in mm.
            axis_offset: how far along u the shadow of the axis of rotation lies from the middle of the beam, in mm:
                column (columns - 1) / 2 + axis_offset / pitch where the detector is not offset.
            detector_offset: shift of the detector alone, along u and v, in mm.
            tilt: turn of the detector in its own plane, from u towards v.
        """
        frame = _Frame.at(angles)
        return frame.scan(None, None, columns, pitch, rows, row_pitch, axis_offset, detector_offset, tilt, False)

    @staticmethod
    def fan(
        angles: Angles,
        columns: int,
        pitch: float,
        source_origin: float,
        origin_detector: float,
        curved: bool = False,
        axis_offset: float = 0.0,
        detector_offset: float = 0.0,
    ) -> ScanGeometry:
        """Rays in the plane z = 0 from a point, 2D; ``pitch`` is measured on the detector. See :meth:`cone`."""
        return ScanGeometry.cone(
            angles,
            columns,
            1,
            pitch,
            source_origin,
            origin_detector,
            curved=curved,
            axis_offset=axis_offset,
            detector_offset=(detector_offset, 0.0),
        )

    @staticmethod
    def cone(
        angles: Angles,
        columns: int,
        rows: int,
        pitch: float,
        source_origin: float,
        origin_detector: float,
        row_pitch: float | None = None,
        curved: bool = False,
        axis_offset: float = 0.0,
        detector_offset: tuple[float, float] = (0.0, 0.0),
        tilt: float = 0.0,
    ) -> ScanGeometry:
        """Rays from a point on a circle about the axis of rotation.

        Args:
            angles: of rotation (A,).
            columns, rows: size of the detector in pixels.
            pitch, row_pitch: distance of columns, of rows (default: the same) in mm, on the detector.
            source_origin, origin_detector: distances in mm from the axis to the source, to the detector.
            curved: the detector is an arc about the source; then it cannot be tilted, and its offset is along the arc.
            axis_offset: how far along u the axis of rotation lies from the line between source and detector, in mm.
            detector_offset: shift of the detector alone, along u and v, in mm.
            tilt: turn of the detector in its own plane, from u towards v.
        """
        frame = _Frame.at(angles)
        return frame.scan(
            source_origin,
            origin_detector,
            columns,
            pitch,
            rows,
            row_pitch,
            axis_offset,
            detector_offset,
            tilt,
            curved,
        )

    @staticmethod
    def helical(
        angles: Angles,
        columns: int,
        rows: int,
        pitch: float,
        source_origin: float,
        origin_detector: float,
        rise: float,
        row_pitch: float | None = None,
        curved: bool = False,
    ) -> ScanGeometry:
        """A :meth:`cone` whose source and detector climb ``rise`` mm along z with every turn, z = 0 halfway."""
        circle = ScanGeometry.cone(
            angles, columns, rows, pitch, source_origin, origin_detector, row_pitch=row_pitch, curved=curved
        )
        t = _angles(angles)
        height = torch.zeros_like(circle.source)
        height[:, 2] = rise * (t - (t[0] + t[-1]) / 2) / (2 * math.pi)
        return replace(circle, source=circle.source + height, detector=circle.detector + height)

    @staticmethod
    def laminography(
        angles: Angles,
        columns: int,
        rows: int,
        pitch: float,
        inclination: float,
        row_pitch: float | None = None,
        source_origin: float | None = None,
        origin_detector: float | None = None,
    ) -> ScanGeometry:
        """Rays that come from above at an angle: the axis of rotation is not square to the beam.

        Args:
            inclination: of the beam, from the plane of rotation (0: :meth:`parallel` or :meth:`cone`).
            source_origin, origin_detector: distances in mm from the origin to the source, to the detector; without
                them rays are parallel.
        """
        if (source_origin is None) != (origin_detector is None):
            raise UserError("laminography: give the distances of both source and detector, or of neither")
        frame = _Frame.at(angles).inclined(inclination, parallel=source_origin is None)
        return frame.scan(source_origin, origin_detector, columns, pitch, rows, row_pitch, 0.0, (0.0, 0.0), 0.0, False)


@dataclass(frozen=True)
class _Frame:
    """Unit vectors (A, 3) of each view: along columns, along rows, and from the axis to where the source stands."""

    angles: Tensor
    along: Tensor
    up: Tensor
    back: Tensor

    @staticmethod
    def at(angles: Angles) -> _Frame:
        t = _angles(angles)
        zero, one = torch.zeros_like(t), torch.ones_like(t)
        return _Frame(
            t,
            torch.stack([t.cos(), t.sin(), zero], dim=1),
            torch.stack([zero, zero, one], dim=1),
            torch.stack([t.sin(), -t.cos(), zero], dim=1),
        )

    def inclined(self, angle: float, parallel: bool) -> _Frame:
        """The beam comes from above: a source at ``back`` is raised, parallel rays along ``back`` descend."""
        cos, sin = math.cos(angle), math.sin(angle)
        rise = -sin if parallel else sin
        return replace(self, back=cos * self.back + rise * self.up, up=cos * self.up - rise * self.back)

    def scan(
        self,
        source_origin: float | None,
        origin_detector: float | None,
        columns: int,
        pitch: float,
        rows: int,
        row_pitch: float | None,
        axis_offset: float,
        detector_offset: tuple[float, float],
        tilt: float,
        curved: bool,
    ) -> ScanGeometry:
        row_pitch = pitch if row_pitch is None else row_pitch
        require(pitch > 0 and row_pitch > 0, f"a detector's pixels need a size above 0, not {pitch} x {row_pitch} mm")
        along = math.cos(tilt) * self.along + math.sin(tilt) * self.up
        up = math.cos(tilt) * self.up - math.sin(tilt) * self.along
        beside = -axis_offset * self.along
        if source_origin is None or origin_detector is None:
            detector = beside + detector_offset[0] * self.along + detector_offset[1] * self.up
            source = self.back
        else:
            require(source_origin > 0, f"the source must stand off the axis of rotation, not at {source_origin} mm")
            require(
                source_origin + origin_detector > 0,
                f"the detector must stand off the source, not at {source_origin} + {origin_detector} mm",
            )
            require(not (curved and tilt), "a curved detector cannot be tilted; give vectors instead")
            source = source_origin * self.back + beside
            if curved:
                distance = source_origin + origin_detector
                angle = detector_offset[0] / distance
                forward = -math.cos(angle) * self.back + math.sin(angle) * self.along
                along = math.cos(angle) * self.along + math.sin(angle) * self.back
                detector = source + distance * forward + detector_offset[1] * self.up
            else:
                detector = -origin_detector * self.back + beside
                detector = detector + detector_offset[0] * self.along + detector_offset[1] * self.up
        return ScanGeometry(
            "parallel" if source_origin is None else "divergent",
            source,
            detector,
            pitch * along,
            row_pitch * up,
            rows,
            columns,
            curved,
            self.angles,
        )


def default_grid(geometry: ScanGeometry) -> VolumeGrid:
    """The voxels that a detector resolves: as many as it has columns (rows), of a pixel's size at the axis.

    A geometry whose views see the axis of rotation off the detector's middle gets the whole circle that the farther
    side sees.
    """
    zoom = geometry.magnification
    pitch = float(geometry.u.norm(dim=1).median()) / zoom
    row_pitch = float(geometry.v.norm(dim=1).median()) / zoom
    column, _, _ = geometry.shadows(torch.zeros(1, 3, dtype=torch.float64, device=geometry.device))
    aside = float((column[:, 0] - (geometry.columns - 1) / 2).abs().median())
    across = geometry.columns + 2 * round(aside) if aside > 0.02 * geometry.columns else geometry.columns
    return VolumeGrid(
        (geometry.rows, across, across), (pitch, pitch, row_pitch if geometry.rows > 1 else pitch), (0.0, 0.0, 0.0)
    )


def _angles(angles: Angles) -> Float[Tensor, " a"]:
    values = torch.as_tensor(angles, dtype=torch.float64)
    require(len(values) > 0, "a scan without views: give at least one angle")
    return values


def _refuse(wrong: Tensor, message: str) -> None:
    """Raise UserError if any view is ``wrong``; ``{view}`` in the message is the first of them."""
    if bool(wrong.any()):
        raise UserError(message.format(view=int(wrong.nonzero()[0])))
