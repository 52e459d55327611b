"""Files of shapes: triangle meshes (OBJ, PLY, STL, GLB, OFF) and point clouds (PLY without faces, XYZ, PCD).

Only the bytes of the file itself are read: materials, textures and other files that it names are not followed, and
nothing is unpickled. A mesh is cleaned on the way in (:func:`clean_mesh`): vertices at one place become one, so that
STL, which has no shared vertices, is closed again; faces that use a vertex twice or have no area, and faces that are
there twice, are dropped. What was done is told in the shape's :class:`ShapeReport`. Coordinates are the file's own but
for GLB, where +Y is up by definition: it is turned to +Z up, as on its way out.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from recon3d.data.ray_casting import import_open3d
from recon3d.errors import UserError
from recon3d.geometry.axes import from_y_up

MESHES = (".obj", ".ply", ".stl", ".glb", ".off")
POINT_CLOUDS = (".ply", ".xyz", ".pcd")
_FLAT = 1e-6
"""What lies within this share of its own size of a plane has no inside."""
_FAR = 1e18
"""Coordinates up to here have squares that float32 holds."""
_NO_AREA = 1e-12
"""Share of the squared longest side of a face below which its area counts as none."""


@dataclass(frozen=True)
class ShapeReport:
    """What a file held and what was cleaned.

    ``boundary_edges``: edges that an odd number of faces share: where there are some, the mesh is not watertight.
    ``flipped_edges``: edges whose faces do not run around the same way. ``inverted``: the faces of a closed mesh looked
    inwards and were turned.
    """

    vertices: int
    faces: int
    merged_vertices: int = 0
    degenerate_faces: int = 0
    duplicate_faces: int = 0
    boundary_edges: int = 0
    flipped_edges: int = 0
    inverted: bool = False

    @property
    def watertight(self) -> bool:
        return self.faces > 0 and self.boundary_edges == 0

    def cleaned(self) -> str | None:
        """What was dropped or turned, in words; None where nothing was."""
        counts = [(self.degenerate_faces, "degenerate"), (self.duplicate_faces, "duplicate")]
        dropped = [f"{count} {what}" for count, what in counts if count]
        parts = [f"dropped {' and '.join(dropped)} faces"] if dropped else []
        return "; ".join([*parts, *(["turned faces that looked inwards"] if self.inverted else [])]) or None


@dataclass(frozen=True)
class Shape:
    """A triangle mesh, or a point cloud where there are no faces; in the world coordinates of its file.

    ``normals`` are unit vectors of a point cloud, None for a mesh (whose faces have theirs) and for bare points.
    """

    path: Path
    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    normals: Float[np.ndarray, "v 3"] | None
    report: ShapeReport

    @property
    def is_mesh(self) -> bool:
        return len(self.faces) > 0

    @property
    def bounds(self) -> Float[np.ndarray, "2 3"]:
        """Least and greatest coordinates."""
        return np.stack([self.vertices.min(axis=0), self.vertices.max(axis=0)])

    @property
    def diagonal(self) -> float:
        """Of the bounding box."""
        low, high = self.bounds
        return float(np.linalg.norm(high - low))

    @property
    def is_flat(self) -> bool:
        """Whether all of it lies in one plane."""
        spread = np.linalg.svd(self.vertices - self.vertices.mean(axis=0), compute_uv=False, full_matrices=False)
        return len(spread) < 3 or bool(spread[2] <= _FLAT * spread[0])


def read_shape(path: Path) -> Shape:
    """Read a mesh or a point cloud by its suffix; a PLY file without faces is a point cloud.

    Raises:
        UserError: no such file, a type that is not read, a file that is damaged, holds no faces or points, coordinates
            that are not finite, faces without area only, or points that all lie in one plane.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (*MESHES, *POINT_CLOUDS):
        raise UserError(f"{path}: not a type of shape that is read: give a mesh ({_listed(MESHES)}) or a point cloud "
                        f"({_listed(POINT_CLOUDS)})")  # fmt: skip
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if suffix == ".xyz":
        raw = _read_xyz(path, content)
    elif suffix == ".pcd":
        raw = _read_pcd(path, content)
    else:
        raw = _read_with_trimesh(path, content, suffix.removeprefix("."))
    _check_finite(path, raw.vertices)
    if raw.faces is not None:
        return clean_mesh(path, raw.vertices, raw.faces)
    return _point_cloud(path, raw.vertices, raw.normals)


def clean_mesh(path: Path, vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]) -> Shape:
    """A mesh as a shape, cleaned; ``path`` says in errors which file it is of.

    Faces without area still close the seams between their neighbours, so edges are counted before these are dropped.

    Raises:
        UserError: no faces, corners that are no vertices, or no area at all.
    """
    if len(faces) == 0:
        raise UserError(f"{path}: no faces, so there is no surface: give a mesh with faces, or a point cloud as "
                        f"{_listed(POINT_CLOUDS)}")  # fmt: skip
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise UserError(f"{path}: a face names vertex {int(faces.max())} of {len(vertices)}: the file is damaged")
    used = np.unique(faces)
    merged, of = np.unique(vertices[used], axis=0, return_inverse=True)
    place = np.zeros(len(vertices), np.int64)
    place[used] = of.ravel()
    corners = place[faces]
    whole = (corners != np.roll(corners, 1, axis=1)).all(axis=1)
    corners = corners[whole]
    _, first = np.unique(np.sort(corners, axis=1), axis=0, return_index=True)
    duplicates = len(corners) - len(first)
    corners = corners[np.sort(first)]
    boundary, flipped = _edges(corners)
    a, b, c = (merged[corners[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    longest = np.max([((q - p) ** 2).sum(axis=1) for p, q in ((a, b), (b, c), (c, a))], axis=0, initial=0.0)
    solid = area > _NO_AREA * longest
    if not solid.any():
        raise UserError(f"{path}: all {len(faces)} faces have zero area, so there is no surface")
    corners = corners[solid]
    inverted = boundary == 0 and flipped == 0 and _volume(merged, corners) < 0
    report = ShapeReport(
        vertices=len(merged),
        faces=len(corners),
        merged_vertices=len(used) - len(merged),
        degenerate_faces=int((~whole).sum() + (~solid).sum()),
        duplicate_faces=duplicates,
        boundary_edges=boundary,
        flipped_edges=flipped,
        inverted=inverted,
    )
    corners = corners[:, ::-1] if inverted else corners
    return Shape(path, merged, np.ascontiguousarray(corners, np.int32), None, report)


def _edges(faces: Int[np.ndarray, "f 3"]) -> tuple[int, int]:
    """Numbers of edges that an odd number of faces share, and of those whose faces do not all run against each other
    (boundary edges not counted)."""
    start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    forward = np.where(start < end, 1, -1)
    pairs = np.stack([np.minimum(start, end), np.maximum(start, end)], axis=1)
    _, edge, count = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    turns = np.bincount(edge.ravel(), weights=forward)
    odd = count % 2 == 1
    return int(odd.sum()), int((turns[~odd] != 0).sum())


def _volume(vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]) -> float:
    a, b, c = (vertices[faces[:, k]] - vertices.mean(axis=0) for k in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def _point_cloud(path: Path, points: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"] | None) -> Shape:
    if len(points) == 0:
        raise UserError(f"{path}: no points: there is nothing to fit")
    if normals is not None:
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        bad = ~(np.isfinite(length) & (length > 0)).ravel()
        if bad.any():
            raise UserError(f"{path}: normal {int(np.flatnonzero(bad)[0])} has no direction ({int(bad.sum())} of "
                            f"{len(points)} such): give unit normals, or a file without them")  # fmt: skip
        normals = normals / length
    shape = Shape(path, points, np.zeros((0, 3), np.int32), normals, ShapeReport(len(points), 0))
    if shape.is_flat:
        raise UserError(f"{path}: all {len(points)} points lie in one plane, so they bound nothing")
    return shape


def _check_finite(path: Path, vertices: Float[np.ndarray, "v 3"]) -> None:
    bad = ~np.isfinite(vertices).all(axis=1)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise UserError(f"{path}: vertex {first} is not finite ({vertices[first].tolist()}; {int(bad.sum())} of "
                        f"{len(vertices)} such): mend the file")  # fmt: skip
    farthest = float(np.abs(vertices).max(initial=0))
    if farthest > _FAR:
        raise UserError(f"{path}: a coordinate of {farthest:.3g} is beyond {_FAR:g}: mend the file, or scale it")


# --- formats --------------------------------------------------------------------------------------------------------


class _Raw(NamedTuple):
    """A file's numbers; ``faces`` is None for point clouds."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"] | None
    normals: Float[np.ndarray, "v 3"] | None


def _read_with_trimesh(path: Path, content: bytes, kind: str) -> _Raw:
    import trimesh

    options: dict[str, Any] = {"skip_materials": True} if kind in ("obj", "glb") else {}
    try:
        # Bytes have no folder beside them, so nothing that the file names can be followed.
        loaded: Any = trimesh.load(io.BytesIO(content), file_type=kind, process=False, **options)
        if isinstance(loaded, trimesh.Scene):
            loaded = loaded.to_mesh()
    except Exception as error:  # readers of damaged files raise whatever they stumble over
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read as {kind.upper()} ({reason[:120]})") from None
    vertices = np.array(loaded.vertices, np.float64).reshape(-1, 3)
    if kind == "glb":
        vertices = from_y_up(vertices)
    if isinstance(loaded, trimesh.PointCloud):
        if kind != "ply":
            raise UserError(f"{path}: no faces, so there is no surface: give a mesh with faces")
        return _Raw(vertices, None, _ply_normals(loaded))
    faces = np.array(getattr(loaded, "faces", np.zeros((0, 3))), np.int64).reshape(-1, 3)
    return _Raw(vertices, faces, None)


def _ply_normals(cloud: Any) -> Float[np.ndarray, "v 3"] | None:
    """The columns nx, ny, nz of a PLY file's vertices, where it has them."""
    columns = cloud.metadata.get("_ply_raw", {}).get("vertex", {}).get("data")
    try:
        return np.column_stack([np.asarray(columns[name], np.float64).reshape(-1) for name in ("nx", "ny", "nz")])
    except (KeyError, ValueError, IndexError, TypeError):
        return None


def _read_xyz(path: Path, content: bytes) -> _Raw:
    """Lines of x y z, or of x y z nx ny nz; blanks or commas between them, # begins a comment."""
    rows = []
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        words = line.split("#")[0].replace(",", " ").split()
        if not words:
            continue
        try:
            rows.append([float(word) for word in words])
        except ValueError:
            raise UserError(f"{path}: line {number} is not numbers: {line.strip()[:60]!r}") from None
        if len(words) not in (3, 6) or len(words) != len(rows[0]):
            raise UserError(f"{path}: line {number} has {len(words)} numbers: every line must have x y z, or every "
                            "line x y z nx ny nz")  # fmt: skip
    values = np.array(rows, np.float64).reshape(len(rows), len(rows[0]) if rows else 3)
    return _Raw(values[:, :3], None, values[:, 3:] if values.shape[1] == 6 else None)


def _read_pcd(path: Path, content: bytes) -> _Raw:
    if not (content.lstrip().startswith(b"#") or content.lstrip().startswith(b"VERSION")):
        raise UserError(f"{path}: cannot be read as PCD (it does not begin as one)")
    open3d = import_open3d("PCD files are read")
    with open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error):
        cloud = open3d.io.read_point_cloud(str(path), remove_nan_points=False, remove_infinite_points=False)
    points, normals = np.asarray(cloud.points, np.float64), np.asarray(cloud.normals, np.float64)
    if len(points) == 0:
        raise UserError(f"{path}: no points, or cannot be read as PCD")
    return _Raw(points.copy(), None, normals.copy() if len(normals) == len(points) else None)


def _listed(suffixes: tuple[str, ...]) -> str:
    return ", ".join(suffix.removeprefix(".").upper() for suffix in suffixes)
