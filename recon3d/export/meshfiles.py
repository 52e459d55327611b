"""Mesh files: GLB, PLY and OBJ with vertex colours, each written whole or not at all.

PLY and OBJ hold world coordinates as they are, and colours as they are (the values of the input images).

GLB follows the glTF 2.0 specification where it differs from our world. +Y is up there and +Z is up here: the buffers
keep world coordinates and the one node carries the rotation (x, y, z) -> (x, z, -y), so the mesh stands upright in
three.js, and Blender's importer, which turns +Y up back into +Z up, shows it at the world coordinates of the input.
COLOR_0 is linear light there (section 3.7.2.1) and sRGB-coded here, like the images: the file holds the decoded
values, 16 bits each. A texture's picture is sRGB-coded there too, and goes in as it is; its v runs downwards from the
top row, where OBJ's and ours runs upwards. The material of colours is unlit (KHR_materials_unlit), since a field's have
the light in them; a mesh without any is lit, or it would be a white patch. Both show the back of a face, since a
surface may be open.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from recon3d.errors import UserError
from recon3d.export.texture import Textured
from recon3d.files import write_whole
from recon3d.geometry.axes import Z_UP_TO_Y_UP

if TYPE_CHECKING:
    import trimesh

_FLOAT, _UINT, _USHORT = 5126, 5125, 5123  # glTF component types
_ARRAY, _ELEMENTS = 34962, 34963  # glTF buffer view targets
_LINEAR, _MIPMAPS, _CLAMP = 9729, 9987, 33071  # glTF filters (linear; linear between mipmaps) and wrapping
_LINES_AT_ONCE = 2**16


def write_mesh(
    mesh: trimesh.Trimesh, folder: Path | str, name: str, formats: Sequence[str] = ("glb", "ply", "obj")
) -> list[Path]:
    """Writes ``folder/name.<format>`` for each format and returns the paths. Coordinates are stored as float32 in GLB
    and PLY, with 9 digits in OBJ; where that is too coarse, far from the origin, as float64 in PLY and with 15 in OBJ.

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
    return [write_whole(Path(folder) / f"{name}.{f}", lambda file, f=f: _WRITERS[f](file, mesh)) for f in formats]  # type: ignore[misc]


def write_textured(
    textured: Textured, folder: Path | str, name: str, formats: Sequence[str] = ("glb", "obj")
) -> list[Path]:
    """Writes ``folder/name.glb`` with the picture in it, and ``name.obj`` with ``name.mtl`` and ``name.png`` beside it.

    Each file is written whole or not at all, as by :func:`write_mesh`; the OBJ comes after what it refers to. Raises
    UserError for an unknown format, a name that an OBJ cannot refer to, and where a file cannot be written.
    """
    writers: dict[str, list[tuple[str, Callable[[IO[bytes]], object]]]] = {
        "glb": [("glb", lambda file: _write_textured_glb(file, textured, name))],
        "obj": [
            ("png", lambda file: file.write(_png(textured.image))),
            ("mtl", lambda file: _write_mtl(file, name)),
            ("obj", lambda file: _write_textured_obj(file, textured, name)),
        ],
    }
    unknown = [f for f in formats if f not in writers]
    if unknown:
        raise UserError(f"a texture cannot be kept as {unknown[0]!r}; choose from {', '.join(writers)}")
    if not name.isascii() or " " in name:
        raise UserError(f"{name!r}: an OBJ cannot refer to files of that name: give ASCII letters without spaces")
    if not np.isfinite(textured.vertices).all():
        raise UserError(f"mesh {name!r} has coordinates that are not finite; nothing written")
    return [write_whole(Path(folder) / f"{name}.{suffix}", write) for f in formats for suffix, write in writers[f]]


def read_mesh(path: Path) -> trimesh.Trimesh:
    """A mesh file in world coordinates, z up, vertices as they are in it; texture and vertex colours with it.

    glTF has y up by definition: its coordinates are turned back, as Blender's importer does, and its vertex colours,
    which are linear light, are coded as sRGB.

    Raises:
        UserError: no file, one that trimesh cannot read, no faces, faces of vertices that are not there,
            coordinates that are not finite.
    """
    import trimesh

    if not path.is_file():
        raise UserError(f"{path}: no such mesh file")
    try:
        mesh = _single(trimesh.load(path, process=False))
    except Exception as error:  # trimesh's readers raise whatever their parsers do
        raise UserError(f"{path}: cannot be read as a mesh ({' '.join(str(error).split())})") from None
    if len(getattr(mesh, "faces", ())) == 0:
        raise UserError(f"{path}: a mesh without faces")
    if mesh.faces.min() < 0 or mesh.faces.max() >= len(mesh.vertices):
        raise UserError(f"{path}: a mesh of {len(mesh.vertices)} vertices whose faces have others than these")
    if not np.isfinite(mesh.vertices).all():
        raise UserError(f"{path}: a mesh with coordinates that are not finite")
    if path.suffix.lower() in (".glb", ".gltf"):
        colors = _gltf_colors(mesh)
        if colors is not None:
            mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=colors)
        # Row by row, the matrix that is kept column by column is its transpose, which is its inverse.
        mesh.apply_transform(np.reshape(Z_UP_TO_Y_UP, (4, 4)))
    return mesh


def _single(loaded: Any) -> Any:
    """The one mesh of a scene in its place, with all that it carries; several are joined."""
    nodes = getattr(getattr(loaded, "graph", None), "nodes_geometry", None)
    if nodes is None:
        return loaded
    if len(nodes) != 1:
        return loaded.to_mesh()
    transform, geometry = loaded.graph[nodes[0]]
    return loaded.geometry[geometry].apply_transform(transform)


def _gltf_colors(mesh: trimesh.Trimesh) -> UInt8[np.ndarray, "v 4"] | None:
    """The vertex colours of a glTF mesh, sRGB-coded. trimesh keeps them as they are in the file, and beside a material
    as an attribute."""
    colors = getattr(mesh.visual, "vertex_attributes", {}).get("color")
    if getattr(mesh.visual, "uv", None) is not None:
        return None
    if colors is None:
        colors = vertex_colors(mesh)
    if colors is None:
        return None
    values = np.asarray(colors) / (np.iinfo(colors.dtype).max if colors.dtype.kind == "u" else 1.0)
    rgba = np.ones((len(values), 4))
    rgba[:, : values.shape[1]] = values
    rgba[:, :3] = linear_to_srgb(rgba[:, :3])
    return np.rint(255 * rgba).astype(np.uint8)


def vertex_colors(mesh: trimesh.Trimesh) -> UInt8[np.ndarray, "v 4"] | None:
    """The mesh's own vertex colours as RGBA bytes, or None where it has none (trimesh would make grey ones up)."""
    if mesh.visual is None or mesh.visual.kind != "vertex":
        return None
    return np.asarray(mesh.visual.vertex_colors, np.uint8)  # type: ignore[union-attr]


def srgb_to_linear(values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Linear light in [0, 1] of sRGB-coded values in [0, 1] (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """The inverse of :func:`srgb_to_linear`."""
    return np.where(values <= 0.0031308, 12.92 * values, 1.055 * np.maximum(values, 1e-9) ** (1 / 2.4) - 0.055)


def _write_ply(file: IO[bytes], mesh: trimesh.Trimesh) -> None:
    colors = vertex_colors(mesh)
    columns: list[tuple[str, str]] = [(axis, "<f8" if _far_away(mesh.vertices) else "<f4") for axis in "xyz"]
    if colors is not None:
        columns += [(channel, "u1") for channel in ("red", "green", "blue", "alpha")]
    ply_type = {"<f4": "float", "<f8": "double", "u1": "uchar"}
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
    line = _obj_place(rows)
    if colors is not None:
        rows = np.hstack([rows, colors[:, :3] / 255.0])
        line = f"{line} %.4f %.4f %.4f"
    file.write(_OBJ_HEAD.encode("ascii"))
    for text in _lines(f"{line}\n", rows):
        file.write(text)
    for text in _lines("f %d %d %d\n", np.asarray(mesh.faces) + 1):
        file.write(text)


def _obj_place(vertices: Float[np.ndarray, "v 3"]) -> str:
    """The beginning of a vertex's line."""
    return "v %.15g %.15g %.15g" if _far_away(vertices) else "v %.9g %.9g %.9g"


def _far_away(vertices: Float[np.ndarray, "v 3"]) -> bool:
    """Whether float32 moves vertices by over a millionth of the mesh's size: a land survey's coordinates, say."""
    return bool(np.spacing(np.float32(np.abs(vertices).max())) > 1e-6 * np.ptp(vertices, axis=0).max())


def _lines(line: str, rows: np.ndarray) -> Iterator[bytes]:
    for start in range(0, len(rows), _LINES_AT_ONCE):
        some = rows[start : start + _LINES_AT_ONCE]
        yield ((line * len(some)) % tuple(some.ravel().tolist())).encode("ascii")


def _write_glb(file: IO[bytes], mesh: trimesh.Trimesh) -> None:
    glb = _Glb()
    attributes = _shape(glb, np.asarray(mesh.vertices), np.asarray(mesh.vertex_normals))
    colors = vertex_colors(mesh)
    if colors is not None:
        kind = {"componentType": _USHORT, "type": "VEC4", "normalized": True}
        attributes["COLOR_0"] = glb.accessor(_linear_colors(colors), _ARRAY, kind)
    glb.write(file, attributes, np.asarray(mesh.faces), _MATERIAL if colors is None else _MATERIAL | _UNLIT)


def _write_textured_glb(file: IO[bytes], textured: Textured, name: str) -> None:
    glb = _Glb()
    attributes = _shape(glb, textured.vertices, textured.normals)
    downwards = np.stack([textured.uv[:, 0], 1 - textured.uv[:, 1]], axis=1).astype("<f4")
    attributes["TEXCOORD_0"] = glb.accessor(downwards, _ARRAY, {"componentType": _FLOAT, "type": "VEC2"})
    picture = glb.view(np.frombuffer(_png(textured.image), np.uint8))
    material = {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}, **_MATERIAL["pbrMetallicRoughness"]}}
    pictures = {
        "textures": [{"sampler": 0, "source": 0}],
        "images": [{"name": name, "mimeType": "image/png", "bufferView": picture}],
        "samplers": [{"magFilter": _LINEAR, "minFilter": _MIPMAPS, "wrapS": _CLAMP, "wrapT": _CLAMP}],
    }
    glb.write(file, attributes, textured.faces, _MATERIAL | material | _UNLIT, pictures)


class _Glb:
    """The parts of a binary glTF file with one mesh."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self._views: list[dict[str, Any]] = []
        self._accessors: list[dict[str, Any]] = []
        self._length = 0

    def view(self, data: np.ndarray, target: int | None = None) -> int:
        """Adds bytes to the buffer, at a multiple of 4, and returns the number of their view."""
        gap = -self._length % 4
        if gap:
            self._parts.append(np.zeros(gap, np.uint8))
        place = {"buffer": 0, "byteOffset": self._length + gap, "byteLength": data.nbytes}
        self._views.append(place if target is None else {**place, "target": target})
        self._parts.append(np.ascontiguousarray(data))
        self._length += gap + data.nbytes
        return len(self._views) - 1

    def accessor(self, data: np.ndarray, target: int, kind: dict[str, Any]) -> int:
        view = self.view(data, target)
        self._accessors.append({"bufferView": view, "byteOffset": 0, "count": len(data), **kind})
        return len(self._accessors) - 1

    def write(
        self,
        file: IO[bytes],
        attributes: dict[str, int],
        faces: np.ndarray,
        material: dict[str, Any],
        pictures: dict[str, Any] | None = None,
    ) -> None:
        corners = faces.astype("<u4").reshape(-1)
        indices = self.accessor(corners, _ELEMENTS, {"componentType": _UINT, "type": "SCALAR"})
        document = {
            "asset": {"version": "2.0", "generator": "recon3d"},
            **({"extensionsUsed": list(material["extensions"])} if "extensions" in material else {}),
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"name": "mesh", "mesh": 0, "matrix": list(Z_UP_TO_Y_UP)}],
            "meshes": [{"name": "mesh", "primitives": [{"attributes": attributes, "indices": indices, "material": 0}]}],
            "materials": [material],
            **(pictures or {}),
            "buffers": [{"byteLength": self._length}],
            "bufferViews": self._views,
            "accessors": self._accessors,
        }
        text = json.dumps(document, separators=(",", ":")).encode("ascii")
        text += b" " * (-len(text) % 4)
        tail = -self._length % 4
        total = 12 + 8 + len(text) + 8 + self._length + tail
        if total >= 2**32:
            raise UserError(
                f"the mesh needs {total / 2**30:.1f} GiB and GLB holds 4; lower the resolution or write PLY"
            )
        file.write(struct.pack("<4sII", b"glTF", 2, total))
        file.write(struct.pack("<I4s", len(text), b"JSON") + text)
        file.write(struct.pack("<I4s", self._length + tail, b"BIN\0"))
        for data in self._parts:
            file.write(data.data)
        file.write(bytes(tail))


def _shape(glb: _Glb, vertices: np.ndarray, normals: np.ndarray) -> dict[str, int]:
    """Adds positions and normals; the attributes that they are."""
    place = vertices.astype("<f4")
    kind = {"componentType": _FLOAT, "type": "VEC3"}
    bounds = {"min": place.min(axis=0).tolist(), "max": place.max(axis=0).tolist()}
    return {
        "POSITION": glb.accessor(place, _ARRAY, {**kind, **bounds}),
        "NORMAL": glb.accessor(normals.astype("<f4"), _ARRAY, kind),
    }


def _write_textured_obj(file: IO[bytes], textured: Textured, name: str) -> None:
    """Positions once for every vertex of the mesh without seams, so that the mesh stays closed."""
    first = np.full(int(textured.source.max()) + 1, -1)
    first[textured.source[::-1]] = np.arange(len(textured.source))[::-1]
    used = np.flatnonzero(first >= 0)
    place = np.zeros(len(first), np.int64)
    place[used] = np.arange(1, len(used) + 1)
    file.write(f"{_OBJ_HEAD}mtllib {name}.mtl\nusemtl {_MATERIAL['name']}\n".encode("ascii"))
    for line, rows in (
        (f"{_obj_place(textured.vertices)}\n", np.asarray(textured.vertices[first[used]], np.float64)),
        ("vt %.8g %.8g\n", textured.uv),
        ("vn %.6g %.6g %.6g\n", textured.normals[first[used]]),
    ):
        for text in _lines(line, rows):
            file.write(text)
    position = place[textured.source[textured.faces]]
    corner = np.stack([position, textured.faces + 1, position], axis=-1).reshape(-1, 9)
    for text in _lines("f %d/%d/%d %d/%d/%d %d/%d/%d\n", corner):
        file.write(text)


def _write_mtl(file: IO[bytes], name: str) -> None:
    """Illumination model 0: the colour as it is, without light."""
    lines = ["# recon3d", f"newmtl {_MATERIAL['name']}", "Ka 0 0 0", "Kd 1 1 1", "Ks 0 0 0", "illum 0"]
    file.write("\n".join([*lines, f"map_Kd {name}.png", ""]).encode("ascii"))


def _png(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def _linear_colors(colors: UInt8[np.ndarray, "v 4"]) -> np.ndarray:
    table = np.rint(srgb_to_linear(np.arange(256) / 255.0) * 65535).astype("<u2")
    linear = table[colors]
    linear[:, 3] = colors[:, 3].astype("<u2") * 257
    return linear


_MATERIAL: dict[str, Any] = {
    "name": "field",
    "doubleSided": True,
    "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
}
_OBJ_HEAD = "# recon3d, in the axes of the input (+Z up: import with forward Y, up Z)\n"
_UNLIT: dict[str, Any] = {"extensions": {"KHR_materials_unlit": {}}}
_WRITERS: dict[str, Callable[[IO[bytes], trimesh.Trimesh], None]] = {
    "glb": _write_glb,
    "ply": _write_ply,
    "obj": _write_obj,
}
