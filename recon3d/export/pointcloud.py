"""Points with normals and colours, spread evenly over a surface, as PLY or PCD.

Both files are binary, little-endian, in world coordinates as float32 (coordinates of 10,000 keep a thousandth). PCD
keeps a colour as the four bytes blue, green, red, 0 of one float, as the Point Cloud Library does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from recon3d.errors import UserError
from recon3d.export.meshfiles import vertex_colors
from recon3d.export.triangles import face_normals
from recon3d.files import write_whole
from recon3d.metrics.mesh import even_places

if TYPE_CHECKING:
    import trimesh


@dataclass(frozen=True)
class PointCloud:
    """``points`` in world units, unit ``normals`` outward, ``colors`` rgb (None: the field has none)."""

    points: Float[np.ndarray, "n 3"]
    normals: Float[np.ndarray, "n 3"]
    colors: UInt8[np.ndarray, "n 3"] | None


def points_on(mesh: trimesh.Trimesh, count: int, seed: int = 0) -> PointCloud:
    """``count`` points spread evenly by area over a mesh; normals and colours are interpolated from its vertices'.

    Raises:
        UserError: no point is asked for, or the mesh has no area.
    """
    if count < 1:
        raise UserError(f"a point cloud of {count} points; give at least 1")
    vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces)
    of_faces = face_normals(vertices, faces)
    areas = np.linalg.norm(of_faces, axis=1)
    if not areas.sum() > 0:
        raise UserError(f"all {len(faces)} faces have zero area, so there is no surface to take points from")
    face, weights = even_places(areas, count, seed)
    corners = faces[face]

    def at_points(values: np.ndarray) -> np.ndarray:
        return np.einsum("nk,nkd->nd", weights, values[corners])

    normals = at_points(np.asarray(mesh.vertex_normals, np.float64))
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    # Where the corners' normals cancel, the face's own.
    normals = np.where(length > 1e-6, normals / length.clip(1e-6), of_faces[face] / areas[face, None])
    colors = vertex_colors(mesh)
    rgb = None if colors is None else np.rint(at_points(colors[:, :3].astype(np.float64))).astype(np.uint8)
    return PointCloud(at_points(vertices), normals, rgb)


def write_pointcloud(cloud: PointCloud, path: Path) -> Path:
    """Writes a point cloud whole or not at all, as PLY or PCD by the path's suffix; returns the path.

    Raises:
        UserError: another suffix, or a file that cannot be written.
    """
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise UserError(f"{path}: point clouds are written as {' or '.join(_WRITERS)}")
    return write_whole(path, lambda file: write(file, cloud))


def _write_ply(file: IO[bytes], cloud: PointCloud) -> None:
    names = ["x", "y", "z", "nx", "ny", "nz"]
    colors = ["red", "green", "blue"] if cloud.colors is not None else []
    rows = np.empty(len(cloud.points), [(name, "<f4") for name in names] + [(name, "u1") for name in colors])
    _fill(rows, names, cloud)
    if cloud.colors is not None:
        for i, name in enumerate(colors):
            rows[name] = cloud.colors[:, i]
    properties = [*(f"property float {name}" for name in names), *(f"property uchar {name}" for name in colors)]
    header = ["ply", "format binary_little_endian 1.0", "comment recon3d", f"element vertex {len(rows)}", *properties]
    file.write(("\n".join([*header, "end_header"]) + "\n").encode("ascii"))
    file.write(rows.data)


def _write_pcd(file: IO[bytes], cloud: PointCloud) -> None:
    names = ["x", "y", "z", "normal_x", "normal_y", "normal_z"]
    colors = ["rgb"] if cloud.colors is not None else []
    rows = np.empty(len(cloud.points), [(name, "<f4") for name in names] + [(name, "<u4") for name in colors])
    _fill(rows, names, cloud)
    if cloud.colors is not None:
        red, green, blue = cloud.colors.astype(np.uint32).T
        rows["rgb"] = red << 16 | green << 8 | blue
    fields = names + colors
    header = [
        "# .PCD v0.7 - Point Cloud Data file format",
        "VERSION 0.7",
        f"FIELDS {' '.join(fields)}",
        f"SIZE {' '.join('4' for _ in fields)}",
        f"TYPE {' '.join('F' for _ in fields)}",
        f"COUNT {' '.join('1' for _ in fields)}",
        f"WIDTH {len(rows)}",
        "HEIGHT 1",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {len(rows)}",
        "DATA binary",
    ]
    file.write(("\n".join(header) + "\n").encode("ascii"))
    file.write(rows.data)


def _fill(rows: np.ndarray, names: list[str], cloud: PointCloud) -> None:
    for i, name in enumerate(names):
        rows[name] = (cloud.points if i < 3 else cloud.normals)[:, i % 3]


_WRITERS: dict[str, Callable[[IO[bytes], PointCloud], None]] = {".ply": _write_ply, ".pcd": _write_pcd}
