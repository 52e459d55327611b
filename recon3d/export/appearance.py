"""The colour of a surface point as the training cameras saw it: what a texture or vertex colours are baked from.

A radiance field's colour depends on where one looks from, and a texture holds one colour a point. Straight down the
normal is often a direction from which no camera ever looked, where the field may answer anything. So the colour is
averaged over the cameras that did see the point:

    c(x) = sum_k w_k c(x, d_k) / sum_k w_k,    d_k = (x - o_k) / |x - o_k|,    w_k = max(0, -n . d_k) v_k(x)

with o_k the camera's position, n the surface's normal and v_k 1 where x lies inside the image and nothing stands
between, else 0. A highlight that wanders over the surface with the camera is averaged away, as in an albedo.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from recon3d.export.casting import RayCaster
from recon3d.export.levelset import ColorFn
from recon3d.geometry.boxes import Normalizer
from recon3d.geometry.cameras import Cameras

Visibility = Callable[[Float[Tensor, "n 3"], Float[Tensor, "n 3"], Float[Tensor, "n 3"]], Bool[Tensor, "n"]]
"""Surface points, their normals and one viewpoint for each: whether the way between them is free."""

BEST = 8
"""Cameras that a point's colour is averaged over, at most: the ones that look at it most squarely."""
_PAIRS = 2**22  # (point, camera) pairs that are weighed at once: some 100 MB


class SeenColor:
    """The colour of surface points averaged over the directions from which cameras saw them.

    ``color_fn``, ``cameras`` and points share one coordinate system (the field's, see :func:`field_cameras`). A point's
    colour is averaged over the ``best`` cameras of largest cosine among those that see it, weighted by cosine; a point
    that no camera sees gets the colour along its normal. Memory is bounded whatever the number of points.
    """

    def __init__(self, color_fn: ColorFn, cameras: Cameras, visible: Visibility, *, best: int = BEST) -> None:
        if best < 1:
            raise ValueError(f"best is {best}: at least one camera")
        self.color_fn, self.cameras, self.visible, self.best = color_fn, cameras, visible, best

    @torch.no_grad()
    def __call__(self, points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """rgb in [0, 1] of surface ``points`` with unit ``normals``."""
        at_once = max(64, _PAIRS // max(len(self.cameras), 1))
        parts = [self._batch(p, n) for p, n in zip(points.split(at_once), normals.split(at_once))]
        return torch.cat(parts) if parts else points.new_zeros(0, 3)

    def _batch(self, points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        point, camera, weight = self._views(points, normals)
        toward = points[point] - self.cameras.positions[camera]
        colors = self.color_fn(points[point], F.normalize(toward, dim=1)).float()
        total = torch.zeros_like(points).index_add_(0, point, colors * weight[:, None])
        weights = torch.zeros_like(points[:, 0]).index_add_(0, point, weight)
        result = total / weights.clamp_min(1e-12)[:, None]
        unseen = weights == 0
        if bool(unseen.any()):
            result[unseen] = self.color_fn(points[unseen], -normals[unseen]).float()
        return result.clamp(0, 1)

    def _views(
        self, points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]
    ) -> tuple[Int[Tensor, "m"], Int[Tensor, "m"], Float[Tensor, "m"]]:
        """Point, camera and weight of the views that count: for each point the ``best`` that see it.

        Cameras are asked in the order of their cosines, ``best`` at a time, until a point has its views: most ways are
        then never looked along.
        """
        cosine = self._cosines(points, normals)
        order = cosine.argsort(dim=1, descending=True)
        found = torch.zeros(len(points), dtype=torch.long, device=points.device)
        views: list[tuple[Tensor, Tensor, Tensor]] = []
        for first in range(0, order.shape[1], self.best):
            asked = torch.nonzero(found < self.best).squeeze(1)
            camera = order[asked, first : first + self.best]
            weight = cosine[asked].gather(1, camera)
            row, column = torch.nonzero(weight > 0, as_tuple=True)
            if len(row) == 0:
                break
            point = asked[row]
            free = self.visible(points[point], normals[point], self.cameras.positions[camera[row, column]])
            seen = torch.zeros_like(weight, dtype=torch.bool)
            seen[row, column] = free
            seen &= seen.cumsum(dim=1) <= (self.best - found[asked])[:, None]
            row, column = torch.nonzero(seen, as_tuple=True)
            views.append((asked[row], camera[row, column], weight[row, column]))
            found[asked] += seen.sum(dim=1)
        if not views:
            none = torch.zeros(0, dtype=torch.long, device=points.device)
            return none, none, points.new_zeros(0)
        point, camera, weight = (torch.cat(part) for part in zip(*views))
        return point, camera, weight

    def _cosines(self, points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n k"]:
        """Cosine between each normal and the way to each camera; 0 where the point is not in the camera's image."""
        cameras = self.cameras
        uv, depth = cameras.project(points)
        inside = (depth > 0) & (uv >= 0).all(dim=-1) & (uv[..., 0] < cameras.width) & (uv[..., 1] < cameras.height)
        toward = F.normalize(cameras.positions[:, None] - points[None], dim=-1)
        cosine = (toward * normals[None]).sum(dim=-1).clamp_min(0)
        return torch.where(inside, cosine, 0.0).T


class MeshOcclusion:
    """Which ways to a surface point are free, by casting rays at the surface itself.

    Rays start ``offset`` off the surface, along the normal, so that a face does not stand in its own light.

    Raises:
        UserError: open3d cannot be imported.
    """

    def __init__(self, vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], offset: float = 2e-3) -> None:
        self._caster, self._offset = RayCaster(vertices, faces), offset

    def __call__(
        self, points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"], viewpoints: Float[Tensor, "n 3"]
    ) -> Bool[Tensor, "n"]:
        origins = (points + self._offset * normals).double()
        ways = viewpoints.double() - origins
        blocked = self._caster.blocked(origins.cpu().numpy(), ways.cpu().numpy())
        return torch.from_numpy(~blocked).to(points.device)


def field_cameras(cameras: Cameras, normalizer: Normalizer) -> Cameras:
    """World ``cameras`` placed in field coordinates; what their images show stays as it is."""
    poses = cameras.poses.clone()
    poses[:, :3, 3] = normalizer.to_field(poses[:, :3, 3])
    return replace(cameras, poses=poses)
