"""Depths that cameras see, and the signed distance that they vote for.

A view that saw the depth d along its axis through a point at depth z votes for the distance d - z, cut off at the
truncation to either side; views for which the point lies farther than the truncation behind what they saw do not vote.
The surface is where the mean vote is 0 (Curless and Levoy, "A volumetric method for building complex models from range
images", 1996).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.errors import UserError
from recon3d.geometry.boxes import Normalizer
from recon3d.geometry.cameras import Cameras

OPAQUE = 0.5
"""Opacity from which on a ray has a depth."""
VOXELS, FOOTPRINTS = 3.0, 2.5
"""The truncation is at least so many voxels, and at least so many pixels as large as they are at the surface."""
MIN_VIEWS = 2
"""Fewer votes count as none."""


@dataclass(frozen=True)
class DepthView:
    """What one pinhole camera saw. ``depth``: along the viewing axis (not the ray), world units, infinite where it saw
    nothing, 0 where that is not known; ``intrinsics``: 3 x 3, pixels, the middle of the first pixel at (0.5, 0.5);
    ``pose``: camera-to-world, OpenGL axes."""

    depth: Float[np.ndarray, "h w"]
    intrinsics: Float[np.ndarray, "3 3"]
    pose: Float[np.ndarray, "4 4"]

    @property
    def seen(self) -> Float[np.ndarray, "h w"]:
        """The depths, with 0 where nothing was seen."""
        return np.where(np.isfinite(self.depth), self.depth, np.float32(0.0))


@runtime_checkable
class SeesDepth(Protocol):
    """A task that renders depths: distances along rays in world units (H, W), and opacities (H, W)."""

    def surface_depth(self, cameras: Cameras, index: int) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]: ...


def views_of(
    task: SeesDepth,
    cameras: Cameras,
    indices: Sequence[int] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Iterator[DepthView]:
    """Depths of a task's field from ``cameras`` (all of them, or ``indices``), one after the other.

    Lenses with distortion are rendered as pinhole cameras of the same focal length. ``progress`` is called with the
    share done, 0..1.
    """
    cameras = replace(cameras, distortion=torch.zeros_like(cameras.distortion))
    chosen = range(len(cameras)) if indices is None else indices
    for done, index in enumerate(chosen):
        distance, opacity = task.surface_depth(cameras, index)
        depth = torch.where(opacity >= OPAQUE, distance * along_axis(cameras, index), math.inf)
        pose = cameras.poses[index].double().cpu().numpy()
        yield DepthView(depth.float().cpu().numpy(), _intrinsics(cameras, index), pose)
        if progress is not None:
            progress((done + 1) / len(chosen))


def _intrinsics(cameras: Cameras, index: int) -> Float[np.ndarray, "3 3"]:
    (fx, fy), (cx, cy) = cameras.focal[index].tolist(), cameras.center[index].tolist()
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def along_axis(cameras: Cameras, index: int) -> Float[Tensor, "h w"]:
    """What a distance along each pixel's ray is multiplied by to give the depth along the viewing axis."""
    device = cameras.poses.device
    u = (torch.arange(cameras.width, device=device) + 0.5 - cameras.center[index, 0]) / cameras.focal[index, 0]
    v = (torch.arange(cameras.height, device=device) + 0.5 - cameras.center[index, 1]) / cameras.focal[index, 1]
    return (1 + u.square()[None, :] + v.square()[:, None]).rsqrt()


def truncation_for(views: Sequence[DepthView], voxel: float) -> float:
    """The half width of the band that votes count in, world units, for a lattice of that ``voxel``.

    Wide enough for the band to have several voxels, and for depths of neighbouring pixels to overlap in it.

    Raises:
        UserError: no view saw anything.
    """
    footprints = [
        float(np.median(view.seen[view.seen > 0])) / view.intrinsics[0, 0] for view in views if view.seen.any()
    ]
    if not footprints:
        raise UserError(f"no surface: none of {len(views)} views sees anything that is opaque")
    return max(VOXELS * voxel, FOOTPRINTS * float(np.median(footprints)))


def mean_vote(
    views: Sequence[DepthView],
    normalizer: Normalizer,
    truncation: float,
    unseen: Float[Tensor, "r r r"],
    min_views: int = MIN_VIEWS,
) -> Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]]:
    """The mean vote of all ``views`` at points in field coordinates: a distance in units of the truncation, cut to
    -1..1, negative inside.

    ``truncation`` in world units, see :func:`truncation_for`. Where fewer than ``min_views`` vote, the point is outside
    (1) if any view sees through it, and else what ``unseen`` says of its cell. Memory: the depth images.
    """
    device, cells = unseen.device, unseen.shape[0]
    seen = [
        (
            torch.from_numpy(np.ascontiguousarray(view.depth, np.float32)).to(device),
            torch.from_numpy(view.intrinsics @ world_to_opencv(view.pose)[:3]).float().to(device),
        )
        for view in views
    ]

    def vote(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        world = normalizer.to_world(points)
        total, count = torch.zeros_like(world[:, 0]), torch.zeros_like(world[:, 0])
        through = torch.zeros(len(world), dtype=torch.bool, device=device)
        for depth, projection in seen:
            u, v, z = (world @ projection[:, :3].T + projection[:, 3]).unbind(-1)
            # A point behind the camera gets a column left of the image.
            column = torch.where(z > 0, u / z, -1.0).floor().clamp(-1, depth.shape[1]).long()
            row = torch.where(z > 0, v / z, -1.0).floor().clamp(-1, depth.shape[0]).long()
            within = (column >= 0) & (column < depth.shape[1]) & (row >= 0) & (row < depth.shape[0])
            met = depth[row.clamp(0, depth.shape[0] - 1), column.clamp(0, depth.shape[1] - 1)]
            distance = (met - z) / truncation
            votes = within & (met > 0) & met.isfinite() & (distance > -1)
            total += torch.where(votes, distance.clamp_max(1.0), 0.0)
            count += votes
            through |= within & met.isinf()
        mean = total / count.clamp_min(1)
        x, y, z = ((points + 1) * (0.5 * cells)).long().clamp(0, cells - 1).unbind(-1)
        return torch.where(count >= min_views, mean, torch.where(through, 1.0, unseen[x, y, z]))

    return vote


def world_to_opencv(pose: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """From a camera-to-world pose with OpenGL axes to the extrinsics of OpenCV's (y down, z forward)."""
    return np.linalg.inv(np.asarray(pose, np.float64) @ np.diag([1.0, -1.0, -1.0, 1.0]))
