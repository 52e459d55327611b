"""Closed solids with exact surface normals, the building blocks of the toy.

Every solid is a soup of triangles wound counter-clockwise seen from outside. Vertices are not shared between faces that
meet at a hard edge, so that each keeps its own normal; merged by position the surface is closed. Lengths are in studs:
the pitch of the studs of a brick is 1, a plate is 0.4 high, a brick 1.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

Points2 = Float[np.ndarray, "k 2"]


@dataclass(frozen=True)
class Solid:
    """Triangles with a unit normal at each of their vertices."""

    vertices: Float[np.ndarray, "v 3"]
    normals: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]

    def moved(self, offset: Sequence[float]) -> Solid:
        return replace(self, vertices=self.vertices + np.asarray(offset, dtype=np.float64))

    def turned(self, rotation: Float[np.ndarray, "3 3"]) -> Solid:
        """Turned about the origin by a proper rotation."""
        return replace(self, vertices=self.vertices @ rotation.T, normals=self.normals @ rotation.T)


def join(solids: Sequence[Solid]) -> Solid:
    """All triangles of several solids as one."""
    starts = np.cumsum([0, *(len(solid.vertices) for solid in solids[:-1])])
    return Solid(
        np.concatenate([solid.vertices for solid in solids]),
        np.concatenate([solid.normals for solid in solids]),
        np.concatenate([solid.faces + start for solid, start in zip(solids, starts)]),
    )


def frame_along(direction: Sequence[float], up: Sequence[float]) -> Float[np.ndarray, "3 3"]:
    """The rotation that takes z to ``direction`` and y as near to ``up`` as it can."""
    z = np.asarray(direction, dtype=np.float64)
    z = z / np.linalg.norm(z)
    x = np.cross(np.asarray(up, dtype=np.float64), z)
    x = x / np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z], axis=1)


def box(low: Sequence[float], high: Sequence[float]) -> Solid:
    """The axis-aligned box between two corners."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=np.float64)
    return prism(corners, None, z0, z1)


def prism(outer: Points2, inner: Points2 | None, low: float, high: float, round_inner: bool = False) -> Solid:
    """A polygon in the xy plane raised from z = ``low`` to ``high``, with or without a hole.

    Args:
        outer: corners, counter-clockwise; without a hole the polygon must be star-shaped about the mean of its corners.
        inner: corners of the hole, as many as ``outer`` has and at the same angles; None for a solid prism.
        round_inner: smooth normals on the wall of the hole, as of a circle about the origin.
    """
    walls = [_wall(outer, low, high, None)]
    rim = np.broadcast_to(outer.mean(axis=0), outer.shape) if inner is None else inner
    if inner is not None:
        smooth = -inner / np.linalg.norm(inner, axis=1, keepdims=True) if round_inner else None
        walls.append(_wall(inner[::-1], low, high, None if smooth is None else smooth[::-1]))
    top = np.concatenate([outer, rim])
    k = len(outer)
    i = np.arange(k)
    j = (i + 1) % k
    quads = np.stack([i, j, k + j, k + i], axis=1)
    up = _flat(np.column_stack([top, np.full(2 * k, high)]), quads, (0.0, 0.0, 1.0))
    down = _flat(np.column_stack([top, np.full(2 * k, low)]), quads[:, ::-1], (0.0, 0.0, -1.0))
    return join([*walls, up, down])


def revolve(profile: Points2, segments: int) -> Solid:
    """A closed profile of (radius, height) points turned about z.

    The profile runs so that the solid lies to its left (counter-clockwise with radius to the right and height up). The
    surface is smooth around the axis and has hard edges at the profile's corners.
    """
    angle = np.arange(segments + 1) * (2 * np.pi / segments)
    angle[-1] = 0.0  # the seam closes exactly
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    bands = []
    for (r0, h0), (r1, h1) in zip(profile, np.roll(profile, -1, axis=0)):
        if r0 == 0 and r1 == 0:
            continue
        length = np.hypot(r1 - r0, h1 - h0)
        normal = np.column_stack([ring * (h1 - h0), np.full(len(ring), r0 - r1)]) / length
        lower = np.column_stack([ring * r0, np.full(len(ring), h0)])
        upper = np.column_stack([ring * r1, np.full(len(ring), h1)])
        bands.append(_strip(lower, upper, normal))
    return join(bands)


def cylinder(radius: float, low: float, high: float, segments: int = 24, bevel: float = 0.0) -> Solid:
    """A cylinder about z, whose upper edge may be bevelled."""
    profile = [(0.0, low), (radius, low), (radius, high - bevel), (radius - bevel, high), (0.0, high)]
    if bevel == 0:
        del profile[3]
    return revolve(np.array(profile), segments)


def tube(outer: float, inner: float, low: float, high: float, segments: int = 24, bevel: float = 0.0) -> Solid:
    """A cylinder about z with a hole through it; the outer edges may be bevelled."""
    profile = [(inner, low), (outer - bevel, low), (outer, low + bevel), (outer, high - bevel), (outer - bevel, high)]
    if bevel == 0:
        profile = [(inner, low), (outer, low), (outer, high)]
    return revolve(np.array([*profile, (inner, high)]), segments)


def holed_cell(width: float, height: float, radius: float, low: float, high: float, segments: int = 24) -> Solid:
    """A ``width`` x ``height`` block about the origin, from z = ``low`` to ``high``, with a round hole through it."""
    corner = np.arctan2(height, width)
    angle = np.concatenate(
        [
            np.linspace(a, b, segments // 4, endpoint=False)
            for a, b in (
                (-corner, corner),
                (corner, np.pi - corner),
                (np.pi - corner, np.pi + corner),
                (np.pi + corner, 2 * np.pi - corner),
            )
        ]
    )
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    to_edge = (0.5 * np.array([width, height]) / np.maximum(abs(ring), 1e-9)).min(axis=1, keepdims=True)
    return prism(ring * to_edge, ring * radius, low, high, round_inner=True)


def beam(start: Sequence[float], end: Sequence[float], width: float, up: Sequence[float] = (0.0, 1.0, 0.0)) -> Solid:
    """A bar of square section between two points, a pair of its sides facing ``up``."""
    offset = np.asarray(end, dtype=np.float64) - np.asarray(start, dtype=np.float64)
    half = 0.5 * width
    bar = box((-half, -half, 0.0), (half, half, float(np.linalg.norm(offset))))
    return bar.turned(frame_along(offset.tolist(), up)).moved(start)


def ribbon(inner: Points2, outer: Points2, low: float, high: float) -> Solid:
    """A bent sheet: the quadrilaterals between two polylines, raised from z = ``low`` to ``high``.

    Each quadrilateral is a closed prism of its own. ``outer`` lies to the right of the way along ``inner``.
    """
    pieces = []
    for i in range(len(inner) - 1):
        corners = np.stack([inner[i], outer[i], outer[i + 1], inner[i + 1]])
        pieces.append(prism(corners, None, low, high))
    return join(pieces)


def _wall(loop: Points2, low: float, high: float, normals: Points2 | None) -> Solid:
    """The upright wall over a closed loop with its inside to the left; flat normals unless given for each corner."""
    ahead = np.roll(loop, -1, axis=0)
    k = len(loop)
    points = np.concatenate([np.column_stack([corner, np.full(k, z)]) for z in (low, high) for corner in (loop, ahead)])
    if normals is None:
        edge = ahead - loop
        flat = np.stack([edge[:, 1], -edge[:, 0]], axis=1) / np.linalg.norm(edge, axis=1, keepdims=True)
        normals_at, normals_ahead = flat, flat
    else:
        normals_at, normals_ahead = normals, np.roll(normals, -1, axis=0)
    sides = np.column_stack([np.tile(np.concatenate([normals_at, normals_ahead]), (2, 1)), np.zeros(4 * k)])
    i = np.arange(k)
    return Solid(points, sides, _triangles(np.stack([i, k + i, 3 * k + i, 2 * k + i], axis=1)))


def _strip(lower: np.ndarray, upper: np.ndarray, normals: np.ndarray) -> Solid:
    """The band between two rings of points; triangles shrunk to a line at the axis are left out."""
    n = len(lower)
    i = np.arange(n - 1)
    points = np.concatenate([lower, upper])
    faces = _triangles(np.stack([i, i + 1, n + i + 1, n + i], axis=1))
    a, b, c = (points[faces[:, corner]] for corner in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    return Solid(points, np.concatenate([normals, normals]), faces[area > 1e-9])


def _flat(points: np.ndarray, quads: np.ndarray, normal: tuple[float, float, float]) -> Solid:
    faces = _triangles(quads)
    a, b, c = (points[faces[:, corner]] for corner in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    return Solid(points, np.tile(np.array(normal), (len(points), 1)), faces[area > 1e-9])


def _triangles(quads: np.ndarray) -> np.ndarray:
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
