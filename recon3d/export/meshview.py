"""Pictures of a mesh by ray casting, through any camera, without a display.

Rays are the camera's own, so distortion and principal points are as in the photographs. A pixel is the mean of
``supersample``^2 rays on a regular grid, premultiplied by coverage, as the photographs' alpha is: a picture over a
background is then one taken in front of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8

from recon3d.export.casting import Hits, RayCaster
from recon3d.export.meshfiles import linear_to_srgb, vertex_colors
from recon3d.export.texture import Textured
from recon3d.geometry.cameras import Cameras

if TYPE_CHECKING:
    import trimesh

Look = Literal["colors", "shaded"]
BACKGROUNDS = {"white": 1.0, "black": 0.0}
_RAYS = 2**18  # rays that are cast together
_PLAIN = np.array([0.72, 0.74, 0.78])  # a mesh without colours, linear light
# Directions towards the lights in the camera's frame (x right, y up, z towards the camera), and their strengths.
_LIGHTS = ((np.array([-0.45, 0.55, 0.70]), 0.70), (np.array([0.70, 0.10, 0.70]), 0.18), (np.array([0, 0, 1.0]), 0.12))
_AMBIENT = 0.10


@dataclass(frozen=True)
class MeshPicture:
    """``color``: sRGB in [0, 1], premultiplied by ``mask``; ``mask``: the share of each pixel that the mesh covers."""

    color: Float[np.ndarray, "h w 3"]
    mask: Float[np.ndarray, "h w"]

    def over(self, background: str) -> Float[np.ndarray, "h w 3"]:
        """The picture in front of a plain background, "white" or "black"."""
        return np.clip(self.color + (1 - self.mask[..., None]) * BACKGROUNDS[background], 0, 1)


class MeshView:
    """A mesh that can be looked at.

    ``look`` "colors" shows its texture or vertex colours as they are, without light, and where it has none what
    "shaded" does: plain grey under lights that go with the camera.

    Raises:
        UserError: open3d cannot be imported.
    """

    def __init__(self, mesh: trimesh.Trimesh | Textured, look: Look = "colors") -> None:
        parts = _parts(mesh)
        self._vertices, self._faces, self._normals = parts.vertices, parts.faces, parts.normals
        self._colors, self._uv, self._image = parts.colors, parts.uv, parts.image
        self.look: Look = look if self._colors is not None or self._image is not None else "shaded"
        self._caster = RayCaster(self._vertices, self._faces)

    def picture(self, cameras: Cameras, index: int, supersample: int = 2) -> MeshPicture:
        """What camera ``index`` sees."""
        one = cameras[[index]].to("cpu")
        width, height, fine = one.width, one.height, supersample
        rows_at_once = max(1, _RAYS // (width * fine * fine))
        rows = []
        u = (torch.arange(width * fine, dtype=torch.float32) + 0.5) / fine
        for top in range(0, height, rows_at_once):
            count = min(rows_at_once, height - top)
            v = top + (torch.arange(count * fine, dtype=torch.float32) + 0.5) / fine
            uv = torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1).reshape(-1, 2)
            rays = one.rays(torch.zeros(len(uv), dtype=torch.long), uv)
            samples = self._samples(rays.origins.double().numpy(), rays.directions.double().numpy(), one.poses[0])
            rows.append(samples.reshape(count, fine, width, fine, 4).mean(axis=(1, 3)))
        values = np.concatenate(rows)
        return MeshPicture(values[..., :3], values[..., 3])

    def _samples(
        self, origins: Float[np.ndarray, "n 3"], directions: Float[np.ndarray, "n 3"], pose: torch.Tensor
    ) -> Float[np.ndarray, "n 4"]:
        """Colour and coverage (0 or 1) of rays."""
        hits = self._caster.first_hits(origins, directions)
        result = np.zeros((len(origins), 4))
        if len(hits.ray):
            if self.look == "shaded":
                result[hits.ray, :3] = self._shaded(hits, directions[hits.ray], pose[:3, :3].double().numpy())
            else:
                result[hits.ray, :3] = self.colors_at(hits)
            result[hits.ray, 3] = 1.0
        return result

    def colors_at(self, hits: Hits) -> Float[np.ndarray, "m 3"]:
        """sRGB in [0, 1] of the mesh's texture, or of its vertex colours, at the points that rays hit."""
        corner = self._faces[hits.face]
        if self._image is not None:
            assert self._uv is not None
            return sampled(self._image, np.einsum("nk,nkd->nd", hits.corners, self._uv[corner]))
        assert self._colors is not None, "a mesh without colours"
        return np.einsum("nk,nkd->nd", hits.corners, self._colors[corner])

    def _shaded(
        self, hits: Hits, directions: Float[np.ndarray, "m 3"], to_world: Float[np.ndarray, "3 3"]
    ) -> Float[np.ndarray, "m 3"]:
        normals = np.einsum("nk,nkd->nd", hits.corners, self._normals[self._faces[hits.face]])
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        normals *= np.where(np.einsum("nd,nd->n", normals, directions) > 0, -1.0, 1.0)[:, None]
        light = np.full(len(normals), _AMBIENT)
        for toward, strength in _LIGHTS:
            light += strength * np.maximum(normals @ (to_world @ (toward / np.linalg.norm(toward))), 0)
        return linear_to_srgb(np.clip(light[:, None] * _PLAIN, 0, 1))


def render_mesh(
    mesh: trimesh.Trimesh | Textured, cameras: Cameras, index: int, *, look: Look = "colors", supersample: int = 2
) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
    """One picture of a mesh: rgb over white, in [0, 1], and the share of each pixel that it covers. Who wants several
    pictures of one mesh keeps a :class:`MeshView`."""
    picture = MeshView(mesh, look).picture(cameras, index, supersample)
    return picture.over("white"), picture.mask


def sampled(image: UInt8[np.ndarray, "h w 3"], uv: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    """Bilinear samples of a picture at ``uv`` (v upwards, row 0 on top), clamped at its edges; in [0, 1]."""
    height, width = image.shape[:2]
    x = np.clip(uv[:, 0] * width - 0.5, 0, width - 1)
    y = np.clip((1 - uv[:, 1]) * height - 0.5, 0, height - 1)
    left, top = np.minimum(x.astype(int), max(width - 2, 0)), np.minimum(y.astype(int), max(height - 2, 0))
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    a, b = (x - left)[:, None], (y - top)[:, None]
    upper = (1 - a) * image[top, left] + a * image[top, right]
    lower = (1 - a) * image[bottom, left] + a * image[bottom, right]
    return ((1 - b) * upper + b * lower) / 255


def side_by_side(*pictures: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """Pictures of one height in a row, as bytes: photograph | field | mesh. Floats are sRGB in [0, 1]."""
    return np.concatenate([as_bytes(picture) for picture in pictures], axis=1)


def as_bytes(picture: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """A picture of sRGB values in [0, 1], or of bytes, as bytes."""
    if picture.dtype == np.uint8:
        return picture
    return np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)


@dataclass(frozen=True)
class _Parts:
    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    colors: np.ndarray | None = None
    uv: np.ndarray | None = None
    image: np.ndarray | None = None


def _parts(mesh: Any) -> _Parts:
    if isinstance(mesh, Textured):
        return _Parts(mesh.vertices, mesh.faces, mesh.normals, uv=mesh.uv, image=mesh.image)
    shape = (np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces), np.asarray(mesh.vertex_normals))
    colors = vertex_colors(mesh)
    if colors is not None:
        return _Parts(*shape, colors=colors[:, :3] / 255.0)
    image = _image(mesh)
    if image is not None:
        return _Parts(*shape, uv=np.asarray(mesh.visual.uv, np.float64), image=image)
    return _Parts(*shape)


def _image(mesh: Any) -> UInt8[np.ndarray, "h w 3"] | None:
    """The picture of a mesh with texture, as trimesh holds it."""
    if mesh.visual.kind != "texture" or mesh.visual.uv is None:
        return None
    material = mesh.visual.material
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    return None if image is None else np.asarray(image.convert("RGB"))
