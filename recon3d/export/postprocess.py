"""What is done to a mesh after it was extracted: one step after the other, each says what it did.

Steps take and give vertices (V, 3) in float64, in world units, and faces (F, 3) in int32, which use every vertex.
Decimation, smoothing and cropping are open3d's. Holes are closed by a fan around their middle: a fan adds no edge that
the mesh may have already, so what was a closed surface but for its holes is one, which neither open3d's filling (it
does not keep the orientation) nor trimesh's (it can use an edge a third time) always gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from recon3d.data.ray_casting import import_open3d
from recon3d.errors import UserError
from recon3d.export.triangles import areas_and_volumes, boundary_edges, joined, pieces, without_unused

Vertices = Float[np.ndarray, "_ 3"]
Faces = Int[np.ndarray, "_ 3"]


@runtime_checkable
class Step(Protocol):
    """One thing that is done to a mesh."""

    @property
    def name(self) -> str: ...

    def apply(self, vertices: Vertices, faces: Faces) -> tuple[Vertices, Faces, str]:
        """The mesh afterwards (it may have unused vertices), and what was done, in words."""


@dataclass(frozen=True)
class StepReport:
    """What a step did."""

    step: str
    did: str
    faces_before: int
    faces_after: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def apply_steps(vertices: Vertices, faces: Faces, steps: Sequence[Step]) -> tuple[Vertices, Faces, list[StepReport]]:
    """The mesh after all ``steps``, in their order, and a report of each.

    Raises:
        UserError: a step leaves nothing of the mesh, or needs open3d where it is not installed.
    """
    reports = []
    for step in steps:
        before = len(faces)
        vertices, faces, did = step.apply(vertices, faces)
        if len(faces) == 0:
            raise UserError(f"nothing is left of the mesh after {step.name} ({did}); it had {before} faces before")
        vertices, faces = without_unused(np.asarray(vertices, np.float64), np.asarray(faces, np.int32))
        reports.append(StepReport(step.name, did, before, len(faces)))
    return vertices, faces, reports


@dataclass(frozen=True)
class DropCavities:
    """Removes the insides of hollow bodies, which no camera outside saw: closed pieces whose normals point inward
    (negative signed volume), in the bounding box of another piece. What lies in no other's is a room seen from within,
    or inside out, and stays; so do open pieces, which have no inside."""

    name = "drop cavities"

    def apply(self, vertices: Vertices, faces: Faces) -> tuple[Vertices, Faces, str]:
        piece = pieces(faces, len(vertices))
        volume = areas_and_volumes(vertices, faces, piece)[1]
        owner = np.empty(len(vertices), np.int64)
        owner[faces] = piece[:, None]
        hollow = volume < 0
        hollow[owner[boundary_edges(faces)[:, 0]]] = False
        low, high = np.full((len(volume), 3), np.inf), np.full((len(volume), 3), -np.inf)
        np.minimum.at(low, owner, vertices)
        np.maximum.at(high, owner, vertices)
        solid_low, solid_high = low[~hollow], high[~hollow]
        cavity = hollow.copy()
        for i in hollow.nonzero()[0]:
            cavity[i] = ((solid_low <= low[i]) & (solid_high >= high[i])).all(axis=1).any()
        return vertices, faces[~cavity[piece]], f"{_count(cavity, 'cavity', 'cavities')} dropped"


@dataclass(frozen=True)
class DropPieces:
    """Removes connected pieces with less than ``share`` of the area of all; the largest always stays."""

    share: float
    name = "drop pieces"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UserError(f"the least share of a piece is {self.share}, but must lie in 0..1")

    def apply(self, vertices: Vertices, faces: Faces) -> tuple[Vertices, Faces, str]:
        piece = pieces(faces, len(vertices))
        area, _ = areas_and_volumes(vertices, faces, piece)
        small = area < self.share * area.sum()
        small[area.argmax()] = False
        gone = (
            f"{_count(small, 'piece', 'pieces')} with {100 * area[small].sum() / area.sum():.3g}% of the area dropped"
        )
        return vertices, faces[~small[piece]], gone


@dataclass(frozen=True)
class KeepLargest:
    """Keeps the connected piece with the largest area."""

    name = "keep the largest piece"

    def apply(self, vertices: Vertices, faces: Faces) -> tuple[Vertices, Faces, str]:
        return DropPieces(1.0).apply(vertices, faces)


@dataclass(frozen=True)
class Crop:
    """Cuts off what lies outside the box from ``low`` to ``high``, in world units; what is cut stays open."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    name = "crop"

    def __post_init__(self) -> None:
        if not all(a < b for a, b in zip(self.low, self.high)):
            raise UserError(f"the box to crop to, from {self.low} to {self.high}, is empty: give low before high")

    def apply(self, vertices: Vertices, faces: Faces) -> tuple[Vertices, Faces, str]:
        o3d = import_open3d("meshes are cropped")
        for axis in range(3):
            for bound, sign in ((self.low[axis], 1.0), (self.high[axis], -1.0)):
                if len(faces) == 0 or (sign * (vertices[:, axis] - bound) >= 0).all():
                    continue
                point, normal = np.zeros(3), np.zeros(3)
                point[axis], normal[axis] = bound, sign
                mesh = o3d.t.geometry.TriangleMesh(o3d.core.Tensor(vertices), o3d.core.Tensor(faces))
                vertices, faces = _arrays_of_tensors(mesh.clip_plane(point, normal))
        return vertices, faces, f"cut to {_box(self.low, self.high)}"


@dataclass(frozen=True)
class FillHoles:
    """Closes holes that fit into a sphere of ``radius``, in world units, each by a fan around its middle."""

    radius: float
    name = "fill holes"

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise UserError(f"the radius of the holes to fill is {self.radius:g}, but must be above 0")

    def apply(self, vertices: Vertices, faces: Faces) -> tuple[Vertices, Faces, str]:
        edges = boundary_edges(faces)
        if len(edges) == 0:
            return vertices, faces, "no holes"
        rim = np.unique(edges)
        hole_of = np.full(len(vertices), -1)
        _, hole_of[rim] = np.unique(joined(edges, len(vertices))[rim], return_inverse=True)
        count = np.bincount(hole_of[rim])
        middle = (
            np.stack([np.bincount(hole_of[rim], vertices[rim, axis]) for axis in range(3)], axis=1) / count[:, None]
        )
        reach = np.zeros(len(count))
        np.maximum.at(reach, hole_of[rim], np.linalg.norm(vertices[rim] - middle[hole_of[rim]], axis=1))
        filled = reach <= self.radius
        chosen = edges[filled[hole_of[edges[:, 0]]]]
        center = len(vertices) + np.cumsum(filled)[hole_of[chosen[:, 0]]] - 1
        fans = np.stack([chosen[:, 1], chosen[:, 0], center], axis=1)
        did = f"{_count(filled, 'hole', 'holes')} filled, {int((~filled).sum())} left open"
        return np.concatenate([vertices, middle[filled]]), np.concatenate([faces, fans]), did


@dataclass(frozen=True)
class Smooth:
    """Taubin's smoothing without shrinkage (1995), lambda 0.5 and mu -0.53, ``iterations`` times."""

    iterations: int
    name = "smooth"

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise UserError(f"smoothing takes at least 1 iteration, not {self.iterations}")

    def apply(self, vertices: Vertices, faces: Faces) -> tuple[Vertices, Faces, str]:
        o3d = import_open3d("meshes are smoothed")
        smooth, same = _arrays(_mesh(o3d, vertices, faces).filter_smooth_taubin(self.iterations))
        moved = np.linalg.norm(smooth - vertices, axis=1)
        return smooth, same, f"{self.iterations} iterations moved vertices by {moved.mean():.3g} on average"


@dataclass(frozen=True)
class Simplify:
    """Collapses edges by the quadric error (Garland and Heckbert 1997) until at most ``faces`` are left."""

    faces: int
    name = "simplify"

    def __post_init__(self) -> None:
        if self.faces < 4:
            raise UserError(f"a mesh cannot be simplified to {self.faces} faces; ask for at least 4")

    def apply(self, vertices: Vertices, faces: Faces) -> tuple[Vertices, Faces, str]:
        if len(faces) <= self.faces:
            return vertices, faces, f"there were no more than {self.faces} faces"
        o3d = import_open3d("meshes are simplified")
        simple = _arrays(_mesh(o3d, vertices, faces).simplify_quadric_decimation(self.faces))
        return *simple, f"to {len(simple[1])} faces of at most {self.faces}"


def _count(which: Bool[np.ndarray, "n"], one: str, many: str) -> str:
    count = int(which.sum())
    return f"{count} {one if count == 1 else many}"


def _box(low: Sequence[float], high: Sequence[float]) -> str:
    return " x ".join(f"[{a:g}, {b:g}]" for a, b in zip(low, high))


def _mesh(o3d: Any, vertices: Vertices, faces: Faces) -> Any:
    return o3d.geometry.TriangleMesh(o3d.utility.Vector3dVector(vertices), o3d.utility.Vector3iVector(faces))


def _arrays(mesh: Any) -> tuple[Vertices, Faces]:
    return np.asarray(mesh.vertices, np.float64), np.asarray(mesh.triangles, np.int32)


def _arrays_of_tensors(mesh: Any) -> tuple[Vertices, Faces]:
    if "positions" not in mesh.vertex or "indices" not in mesh.triangle:
        return np.zeros((0, 3)), np.zeros((0, 3), np.int32)
    return mesh.vertex.positions.numpy(), mesh.triangle.indices.numpy().astype(np.int32)
