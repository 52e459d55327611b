"""Rays against a triangle mesh, by open3d; no display is needed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from recon3d.data.ray_casting import import_open3d


@dataclass(frozen=True)
class Hits:
    """What the rays that meet the mesh meet first.

    Attributes:
        ray: which rays, ascending.
        distance: from the origin, in lengths of the ray's direction.
        face: index of the face.
        corners: weights of the face's three corners at the point that was hit; they sum to 1.
    """

    ray: Int[np.ndarray, "m"]
    distance: Float[np.ndarray, "m"]
    face: Int[np.ndarray, "m"]
    corners: Float[np.ndarray, "m 3"]


class RayCaster:
    """Casts rays at a mesh. open3d works in float32: coordinates are taken from the middle of the mesh.

    Raises:
        UserError: open3d cannot be imported.
    """

    def __init__(self, vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]) -> None:
        open3d = import_open3d("rays are cast at a mesh")
        self._tensor = open3d.core.Tensor
        self._scene = open3d.t.geometry.RaycastingScene()
        self._middle = 0.5 * (vertices.min(axis=0) + vertices.max(axis=0))
        self._scene.add_triangles(
            self._tensor((vertices - self._middle).astype(np.float32)),
            self._tensor(np.ascontiguousarray(faces, np.uint32)),
        )

    def first_hits(self, origins: Float[np.ndarray, "n 3"], directions: Float[np.ndarray, "n 3"]) -> Hits:
        """Where rays first meet the mesh, from either side."""
        found = self._scene.cast_rays(self._rays(origins, directions))
        distance = found["t_hit"].numpy()
        ray = np.flatnonzero(np.isfinite(distance))
        uv = found["primitive_uvs"].numpy()[ray]
        corners = np.concatenate([1 - uv.sum(axis=1, keepdims=True), uv], axis=1)
        return Hits(ray, distance[ray], found["primitive_ids"].numpy()[ray].astype(np.int64), corners)

    def blocked(self, origins: Float[np.ndarray, "n 3"], ways: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, "n"]:
        """Whether something of the mesh lies between ``origins`` and ``origins + ways``."""
        return self._scene.test_occlusions(self._rays(origins, ways), tnear=0.0, tfar=1.0).numpy()

    def _rays(self, origins: Float[np.ndarray, "n 3"], directions: Float[np.ndarray, "n 3"]) -> object:
        rays = np.empty((len(origins), 6), np.float32)
        rays[:, :3] = origins - self._middle
        rays[:, 3:] = directions
        return self._tensor(rays)
