"""Ray casting of the toy: shaded, antialiased pictures, and the part of its surface that can be seen.

World coordinates; colours are linear while shading and sRGB in the pictures. Samples of a pixel are averaged after the
sRGB curve, premultiplied by coverage, so that a picture composited on a background equals one taken in front of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import trimesh
from jaxtyping import Bool, Float, Int, UInt8

from recon3d.data.ray_casting import import_open3d
from recon3d.data.toy.machine import Part
from recon3d.data.toy.solids import join
from recon3d.geometry.cameras import Cameras

_SUN = np.array([0.45, -0.55, 0.80]) / np.linalg.norm([0.45, -0.55, 0.80])
_FILL = np.array([-0.75, 0.60, 0.25]) / np.linalg.norm([-0.75, 0.60, 0.25])
_SKY, _GROUND = np.array([0.40, 0.43, 0.48]), np.array([0.30, 0.28, 0.26])
_SHININESS, _GLOSS = 40.0, 0.22
_SEAM, _STRIPE_COLOR = 0.05, np.array([0.05, 0.05, 0.055])
_OFF_SURFACE = 1e-4


class ToyScene:
    """The parts in world coordinates (studs times ``scale``, ``origin`` in studs moved to zero), ready for ray casting.

    Raises:
        UserError: open3d cannot be imported.
    """

    def __init__(self, parts: Sequence[Part], origin: Float[np.ndarray, " 3"], scale: float) -> None:
        self.origin, self.scale = origin, scale
        self.studs = join([part.solid for part in parts])
        self.part_of_face = np.repeat(np.arange(len(parts)), [len(part.solid.faces) for part in parts])
        self._color = np.array([part.color for part in parts])
        self._seams = np.array([part.finish == "seams" for part in parts])
        self._stripes = np.array([part.finish == "stripes" for part in parts])
        self._low = np.array([part.solid.vertices.min(axis=0) for part in parts])
        self._high = np.array([part.solid.vertices.max(axis=0) for part in parts])
        self.vertices = ((self.studs.vertices - self.origin) * scale).astype(np.float32)
        self._normals = self.studs.normals.astype(np.float32)
        self._open3d = import_open3d("the toy is ray-cast")
        self._caster = self._open3d.t.geometry.RaycastingScene()
        tensor = self._open3d.core.Tensor
        self._caster.add_triangles(tensor(self.vertices), tensor(self.studs.faces.astype(np.uint32)))

    def albedo(self, points: Float[np.ndarray, "n 3"], part: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
        """Linear surface colour at world ``points`` of parts ``part``, with seams and stripes."""
        color = self._color[part]
        at = points / self.scale + self.origin
        seams = np.flatnonzero(self._seams[part])
        to_side = np.minimum(at[seams] - self._low[part[seams]], self._high[part[seams]] - at[seams])
        to_edge = np.sort(to_side, axis=1)[:, 1]  # the nearest side is the one the point lies on
        color[seams[to_edge < _SEAM]] *= 0.55
        stripes = np.flatnonzero(self._stripes[part])
        diagonal = np.floor(at[stripes].sum(axis=1))  # stripes one stud apart
        color[stripes[diagonal % 2 == 0]] = _STRIPE_COLOR
        return color

    def render(self, cameras: Cameras, index: int, supersample: int) -> UInt8[np.ndarray, "h w 4"]:
        """The picture of one camera: sRGB with straight alpha, ``supersample``^2 rays a pixel on a regular grid."""
        left, top, right, bottom = self._frame(cameras, index)
        picture = np.zeros((cameras.height, cameras.width, 4), dtype=np.uint8)
        if left < right and top < bottom:
            width, height = (right - left) * supersample, (bottom - top) * supersample
            u = left + (np.arange(width) + 0.5) / supersample
            v = top + (np.arange(height) + 0.5) / supersample
            samples = self._shade(cameras.positions[index].numpy(), pixel_directions(cameras, index, u, v))
            blocks = samples.reshape(bottom - top, supersample, right - left, supersample, 4)
            mean = blocks.mean(axis=(1, 3), dtype=np.float64)
            alpha = mean[..., 3:]
            straight = np.concatenate([mean[..., :3] / np.maximum(alpha, 1e-9), alpha], axis=-1)
            picture[top:bottom, left:right] = (straight * 255 + 0.5).astype(np.uint8)
        return picture

    def _frame(self, cameras: Cameras, index: int) -> tuple[int, int, int, int]:
        """The pixels that the toy may cover (left, top, right, bottom)."""
        low, high = self.vertices.min(axis=0), self.vertices.max(axis=0)
        corners = np.stack(np.meshgrid(*zip(low, high)), axis=-1).reshape(-1, 3)
        uv, _ = cameras[[index]].project(torch.from_numpy(corners))
        left, top = uv[0].amin(dim=0).floor().int().tolist()
        right, bottom = uv[0].amax(dim=0).ceil().int().tolist()
        return max(0, left), max(0, top), min(cameras.width, right), min(cameras.height, bottom)

    def _shade(self, origin: Float[np.ndarray, " 3"], directions: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 4"]:
        """sRGB colour and coverage (0 or 1) of rays with unit directions; zeros where a ray meets nothing."""
        rays = np.concatenate([np.broadcast_to(origin, directions.shape), directions], axis=1)
        hits = self._caster.cast_rays(self._open3d.core.Tensor(rays))
        distance = hits["t_hit"].numpy()
        hit = np.flatnonzero(np.isfinite(distance))
        result = np.zeros((len(directions), 4), dtype=np.float32)
        if len(hit) == 0:
            return result
        view = directions[hit]
        points = origin + distance[hit, None] * view
        face = hits["primitive_ids"].numpy()[hit].astype(np.int64)
        normals = self._smooth_normals(face, hits["primitive_uvs"].numpy()[hit])
        normals *= np.where(np.einsum("ij,ij->i", normals, view) > 0, -1, 1)[:, None]
        lit = self._light(points, normals, view, self.albedo(points, self.part_of_face[face]))
        result[hit, :3] = _to_srgb(lit)
        result[hit, 3] = 1.0
        return result

    def _smooth_normals(self, face: Int[np.ndarray, " n"], uv: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
        a, b, c = (self._normals[self.studs.faces[face, corner]] for corner in range(3))
        normals = a * (1 - uv[:, :1] - uv[:, 1:]) + b * uv[:, :1] + c * uv[:, 1:]
        return _unit(normals)

    def _light(
        self,
        points: Float[np.ndarray, "n 3"],
        normals: Float[np.ndarray, "n 3"],
        view: Float[np.ndarray, "n 3"],
        albedo: Float[np.ndarray, "n 3"],
    ) -> Float[np.ndarray, "n 3"]:
        """Blinn-Phong under a sun that casts shadows, a fill light that does not, and sky above dim ground."""
        up = 0.5 + 0.5 * normals[:, 2:]
        light = _SKY * up + _GROUND * (1 - up)
        gloss = np.zeros(len(points))
        sunlit = ~self._blocked(points + _OFF_SURFACE * normals, np.broadcast_to(_SUN, points.shape))
        for direction, strength, reaches in ((_SUN, 0.85, sunlit), (_FILL, 0.28, True)):
            facing = np.maximum(normals @ direction, 0.0) * reaches
            light = light + strength * facing[:, None]
            half = _unit(direction - view)
            shine = np.maximum(np.einsum("ij,ij->i", normals, half), 0.0) ** _SHININESS
            gloss += strength * _GLOSS * shine * (facing > 0)
        return albedo * light + gloss[:, None]

    def _blocked(
        self, origins: Float[np.ndarray, "n 3"], directions: Float[np.ndarray, "n 3"], reach: float = np.inf
    ) -> Bool[np.ndarray, " n"]:
        """Whether a ray meets the toy within ``reach`` lengths of its direction."""
        rays = np.concatenate([origins, directions], axis=1).astype(np.float32)
        return self._caster.test_occlusions(self._open3d.core.Tensor(rays), tfar=reach).numpy()

    def visible_surface(self, viewpoints: Float[np.ndarray, "k 3"], edge: float) -> trimesh.Trimesh:
        """The surface that can be seen from at least one of ``viewpoints``, with vertex colours (sRGB of the albedo).

        Parts overlap and touch, so much of their surface lies inside others. Faces are divided until no edge is longer
        than ``edge`` and a piece is kept if nothing lies between its centroid and some viewpoint in front of it: the
        border of what is kept is true to about ``edge`` / 2.
        """
        pieces, parts = _subdivide(self.vertices[self.studs.faces].astype(np.float64), self.part_of_face, edge)
        a, b, c = (pieces[:, corner] for corner in range(3))
        normals = _unit(np.cross(b - a, c - a))
        centroids = pieces.mean(axis=1) + _OFF_SURFACE * normals
        plane = np.einsum("ij,ij->i", centroids, normals)
        hidden = np.arange(len(pieces))
        for viewpoint in viewpoints:
            facing = normals[hidden] @ viewpoint > plane[hidden]
            ask = hidden[facing]
            blocked = self._blocked(centroids[ask], viewpoint - centroids[ask], reach=1.0)
            hidden = np.concatenate([hidden[~facing], ask[blocked]])
        seen = np.ones(len(pieces), dtype=bool)
        seen[hidden] = False
        corners = pieces[seen].reshape(-1, 3)
        color = _to_srgb(self.albedo(corners, np.repeat(parts[seen], 3)))
        faces = np.arange(len(corners)).reshape(-1, 3)
        colors = (color * 255 + 0.5).astype(np.uint8)
        mesh = trimesh.Trimesh(corners, faces, vertex_colors=colors, process=False)
        mesh.merge_vertices(merge_tex=False, merge_norm=True)
        return mesh


def pixel_directions(
    cameras: Cameras, index: int, u: Float[np.ndarray, " w"], v: Float[np.ndarray, " h"]
) -> Float[np.ndarray, "n 3"]:
    """Unit directions through the image points (u, v) of a camera without distortion, row by row."""
    right, up, back = cameras.poses[index, :3, :3].numpy().T
    (fx, fy), (cx, cy) = cameras.focal[index].tolist(), cameras.center[index].tolist()
    x = ((u - cx) / fx).astype(np.float32)[None, :, None]
    y = ((cy - v) / fy).astype(np.float32)[:, None, None]
    return _unit((x * right + y * up - back).reshape(-1, 3))


def _unit(vectors: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    return vectors / np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]


def _subdivide(
    triangles: Float[np.ndarray, "f 3 3"], labels: Int[np.ndarray, " f"], edge: float
) -> tuple[Float[np.ndarray, "p 3 3"], Int[np.ndarray, " p"]]:
    """Triangles (as corner points) halved across their longest edge until none is longer than ``edge``, and labels."""
    todo, todo_labels = triangles, labels
    done, done_labels = [], []
    while len(todo):
        lengths = np.linalg.norm(np.roll(todo, -1, axis=1) - todo, axis=2)
        long = lengths.max(axis=1) > edge
        done.append(todo[~long])
        done_labels.append(todo_labels[~long])
        todo, todo_labels = todo[long], np.repeat(todo_labels[long], 2)
        start = lengths[long].argmax(axis=1)
        row = np.arange(len(todo))
        a, b, c = (todo[row, (start + k) % 3] for k in range(3))
        middle = 0.5 * (a + b)
        halves = np.stack([np.stack([a, middle, c], axis=1), np.stack([middle, b, c], axis=1)], axis=1)
        todo = halves.reshape(-1, 3, 3)
    return np.concatenate(done), np.concatenate(done_labels)


def _to_srgb(linear: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    x = np.clip(linear, 0.0, 1.0)
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-9) ** (1 / 2.4) - 0.055)
