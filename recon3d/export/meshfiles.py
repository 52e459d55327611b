"""Mesh files: GLB, PLY and OBJ with vertex colours, each written whole or not at all.

PLY and OBJ hold world coordinates as they are, and colours as they are (the values of the input images).

GLB follows the glTF 2.0 specification where it differs from our world. +Y is up there and +Z is up here: the buffers
keep world coordinates and the one node carries the rotation (x, y, z) -> (x, z, -y), so the mesh stands upright in
three.js, and Blender's importer, which turns +Y up back into +Z up, shows it at the world coordinates of the input.
COLOR_0 is linear light there (section 3.7.2.1) and sRGB-coded here, like the images: the file holds the decoded
values, 16 bits each. The material is unlit (KHR_materials_unlit), since a field's colours have the light in them.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from recon3d.errors import UserError

if TYPE_CHECKING:
    import trimesh

# glTF matrices are column by column: x -> x, y -> -z, z -> y.
Z_UP_TO_Y_UP = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
_FLOAT, _UINT, _USHORT = 5126, 5125, 5123  # glTF component types
_ARRAY, _ELEMENTS = 34962, 34963  # glTF buffer view targets
_LINES_AT_ONCE = 2**16


def write_mesh(
    mesh: trimesh.Trimesh, folder: Path | str, name: str, formats: Sequence[str] = ("glb", "ply", "obj")
) -> list[Path]:
    """Writes ``folder/name.<format>`` for each format and returns the paths. Coordinates are stored as float32 in GLB
    and PLY, with 9 digits in OBJ.

    Each file is written under a temporary name beside its place and renamed, so an older one stays whole until the new
    one is. Raises UserError for an unknown format, a mesh without faces or with coordinates that are not finite, and
    where the file cannot be written.
    """
    unknown = [f for f in formats if f not in _WRITERS]
    if unknown:
        raise UserError(f"unknown mesh format {unknown[0]!r}; choose from {', '.join(_WRITERS)}")
    if len(mesh.faces) == 0:
        raise UserError(f"mesh {name!r} has no faces; nothing written")
    if not np.isfinite(mesh.vertices).all():
        raise UserError(f"mesh {name!r} has coordinates that are not finite; nothing written")
    return [_write_whole(Path(folder) / f"{name}.{f}", _WRITERS[f], mesh) for f in formats]


def _write_whole(path: Path, write: Callable[[IO[bytes], trimesh.Trimesh], None], mesh: trimesh.Trimesh) -> Path:
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            write(file, mesh)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error
        raise
    return path


def vertex_colors(mesh: trimesh.Trimesh) -> UInt8[np.ndarray, "v 4"] | None:
    """The mesh's own vertex colours as RGBA bytes, or None where it has none (trimesh would make grey ones up)."""
    if mesh.visual is None or mesh.visual.kind != "vertex":
        return None
    return np.asarray(mesh.visual.vertex_colors, np.uint8)  # type: ignore[union-attr]


def srgb_to_linear(values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Linear light in [0, 1] of sRGB-coded values in [0, 1] (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _write_ply(file: IO[bytes], mesh: trimesh.Trimesh) -> None:
    colors = vertex_colors(mesh)
    columns: list[tuple[str, str]] = [(axis, "<f4") for axis in "xyz"]
    if colors is not None:
        columns += [(channel, "u1") for channel in ("red", "green", "blue", "alpha")]
    ply_type = {"<f4": "float", "u1": "uchar"}
    properties = "".join(f"property {ply_type[kind]} {name}\n" for name, kind in columns)
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment recon3d\n"
        f"element vertex {len(mesh.vertices)}\n{properties}"
        f"element face {len(mesh.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    vertices = np.empty(len(mesh.vertices), columns)
    for i, axis in enumerate("xyz"):
        vertices[axis] = mesh.vertices[:, i]
    if colors is not None:
        for i, channel in enumerate(("red", "green", "blue", "alpha")):
            vertices[channel] = colors[:, i]
    faces = np.empty(len(mesh.faces), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, mesh.faces
    file.write(header.encode("ascii"))
    file.write(vertices.data)
    file.write(faces.data)


def _write_obj(file: IO[bytes], mesh: trimesh.Trimesh) -> None:
    colors = vertex_colors(mesh)
    rows = np.asarray(mesh.vertices, np.float64)
    line = "v %.9g %.9g %.9g\n"
    if colors is not None:
        rows = np.hstack([rows, colors[:, :3] / 255.0])
        line = "v %.9g %.9g %.9g %.4f %.4f %.4f\n"
    file.write(b"# recon3d\n")
    for text in _lines(line, rows):
        file.write(text)
    for text in _lines("f %d %d %d\n", np.asarray(mesh.faces) + 1):
        file.write(text)


def _lines(line: str, rows: np.ndarray) -> Iterator[bytes]:
    for start in range(0, len(rows), _LINES_AT_ONCE):
        some = rows[start : start + _LINES_AT_ONCE]
        yield ((line * len(some)) % tuple(some.ravel().tolist())).encode("ascii")


def _write_glb(file: IO[bytes], mesh: trimesh.Trimesh) -> None:
    vertices = np.asarray(mesh.vertices).astype("<f4")
    colors = vertex_colors(mesh)
    parts: list[tuple[np.ndarray, int, dict[str, Any]]] = []
    bounds = {"min": vertices.min(axis=0).tolist(), "max": vertices.max(axis=0).tolist()}
    parts.append((vertices, _ARRAY, {"componentType": _FLOAT, "type": "VEC3", **bounds}))
    parts.append((np.asarray(mesh.vertex_normals).astype("<f4"), _ARRAY, {"componentType": _FLOAT, "type": "VEC3"}))
    attributes = {"POSITION": 0, "NORMAL": 1}
    if colors is not None:
        attributes["COLOR_0"] = len(parts)
        kind = {"componentType": _USHORT, "type": "VEC4", "normalized": True}
        parts.append((_linear_colors(colors), _ARRAY, kind))
    indices = len(parts)
    corners = np.asarray(mesh.faces).astype("<u4").reshape(-1)
    parts.append((corners, _ELEMENTS, {"componentType": _UINT, "type": "SCALAR"}))
    views, accessors, length = [], [], 0
    for i, (data, target, kind) in enumerate(parts):  # every part is a multiple of 4 bytes, so all are aligned
        views.append({"buffer": 0, "byteOffset": length, "byteLength": data.nbytes, "target": target})
        accessors.append({"bufferView": i, "byteOffset": 0, "count": len(data), **kind})
        length += data.nbytes
    document = {
        "asset": {"version": "2.0", "generator": "recon3d"},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": "mesh", "mesh": 0, "matrix": list(Z_UP_TO_Y_UP)}],
        "meshes": [{"name": "mesh", "primitives": [{"attributes": attributes, "indices": indices, "material": 0}]}],
        "materials": [_MATERIAL],
        "buffers": [{"byteLength": length}],
        "bufferViews": views,
        "accessors": accessors,
    }
    text = json.dumps(document, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + length
    if total >= 2**32:
        raise UserError(f"the mesh needs {total / 2**30:.1f} GiB and GLB holds 4; lower the resolution or write PLY")
    file.write(struct.pack("<4sII", b"glTF", 2, total))
    file.write(struct.pack("<I4s", len(text), b"JSON") + text)
    file.write(struct.pack("<I4s", length, b"BIN\0"))
    for data, _, _ in parts:
        file.write(np.ascontiguousarray(data).data)


def _linear_colors(colors: UInt8[np.ndarray, "v 4"]) -> np.ndarray:
    table = np.rint(srgb_to_linear(np.arange(256) / 255.0) * 65535).astype("<u2")
    linear = table[colors]
    linear[:, 3] = colors[:, 3].astype("<u2") * 257
    return linear


_MATERIAL = {
    "name": "field",
    "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
    "extensions": {"KHR_materials_unlit": {}},
}
_WRITERS: dict[str, Callable[[IO[bytes], trimesh.Trimesh], None]] = {
    "glb": _write_glb,
    "ply": _write_ply,
    "obj": _write_obj,
}
