"""The fusion route: depths seen from the training cameras, averaged into one truncated distance field.

What a radiance field knows well is where the rays of its training cameras stop; a level set of its density also shows
what no ray ever measured. So depths are rendered from those cameras and fused as a depth sensor's would be (Curless and
Levoy, "A volumetric method for building complex models from range images", 1996). A view that saw the depth d along its
axis through a point at depth z votes for the distance d - z, cut off at the truncation to either side; views for which
the point lies farther than the truncation behind what they saw do not vote. The surface is where the mean vote is 0.

Two ways to take it:

- :func:`fused_surface` asks all views at any point. Where fewer than ``min_views`` vote, the point is outside if any
  view sees through it, and inside if none does, so the surface is closed: what no camera saw is solid, as far as the
  occupancy grid has something there or encloses it.
- :func:`fuse` keeps the votes in voxels near the surface (open3d's VoxelBlockGrid; Niessner et al., "Real-time 3D
  reconstruction at scale using voxel hashing", 2013). The surface is open where no camera looked.

A view's depth is where a ray has lost half its light. The opacity-weighted mean, which a renderer gives beside the
colour, lies between front and back wherever a pixel sees both, and puts points into the air at every silhouette.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon3d.data.ray_casting import import_open3d
from recon3d.errors import UserError
from recon3d.export.levelset import ColorFn, LevelSet, NoSurfaceError, ValueFn
from recon3d.geometry.boxes import Normalizer
from recon3d.geometry.cameras import Cameras

OPAQUE = 0.5
"""Opacity from which on a ray has a depth."""
VOXELS, FOOTPRINTS = 3.0, 2.5
"""The truncation is at least so many voxels, and at least so many pixels as large as they are at the surface."""
MIN_VIEWS = 2
_BLOCK = 16  # voxels a side of one of open3d's blocks
_BLOCK_BYTES = _BLOCK**3 * 8  # float32 distance and weight
_BUDGET_BYTES = 2 * 2**30


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
        NoSurfaceError: no view saw anything.
    """
    footprints = [
        float(np.median(view.seen[view.seen > 0])) / view.intrinsics[0, 0] for view in views if view.seen.any()
    ]
    if not footprints:
        raise NoSurfaceError(f"no surface: none of {len(views)} views sees anything that is opaque")
    return max(VOXELS * voxel, FOOTPRINTS * float(np.median(footprints)))


def fused_surface(
    views: Sequence[DepthView],
    normalizer: Normalizer,
    active: Bool[np.ndarray, "r r r"],
    truncation: float,
    *,
    min_views: int = MIN_VIEWS,
    color_fn: ColorFn | None = None,
    device: torch.device | str = "cpu",
) -> LevelSet:
    """The closed surface of the mean vote of all ``views``, for :func:`recon3d.export.mesh.extract`.

    ``active``: the cells over [-1, 1]^3 that may have something in them (the occupancy grid). What they enclose is
    searched too, and one more cell around; there, what no camera saw is empty. ``truncation`` in world units, see
    :func:`truncation_for`. The values are distances in units of the truncation, cut to -1..1, positive inside.
    Memory: the depth images.
    """
    from scipy import ndimage

    filled = ndimage.binary_fill_holes(active)
    cells = ndimage.binary_dilation(filled, np.ones((3, 3, 3)))
    unseen = torch.from_numpy(np.where(filled, np.float32(-1.0), np.float32(1.0))).to(device)
    votes = _votes(views, normalizer, truncation, min_views, unseen)
    return LevelSet(votes, 0.0, cells, color_fn=color_fn, quantity="fused distance")


def _votes(
    views: Sequence[DepthView],
    normalizer: Normalizer,
    truncation: float,
    min_views: int,
    unseen: Float[Tensor, "r r r"],
) -> ValueFn:
    """Minus the mean vote at points in field coordinates; ``unseen``: the vote where no view has one, cell by cell."""
    device, cells = unseen.device, unseen.shape[0]
    seen = [
        (
            torch.from_numpy(np.ascontiguousarray(view.depth, np.float32)).to(device),
            torch.from_numpy(view.intrinsics @ _world_to_opencv(view.pose)[:3]).float().to(device),
        )
        for view in views
    ]

    def inside(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
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
        return -torch.where(count >= min_views, mean, torch.where(through, 1.0, unseen[x, y, z]))

    return inside


def fuse(
    views: Iterable[DepthView],
    voxel: float,
    low: Sequence[float],
    high: Sequence[float],
    *,
    truncation: float | None = None,
    min_views: int = MIN_VIEWS,
    budget_bytes: int = _BUDGET_BYTES,
) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
    """The open surface that ``views`` saw inside the world box ``low``..``high``: vertices (float64) and faces.

    ``voxel``: side of a voxel, world units; ``truncation``: world units, None: four voxels; ``min_views``: places that
    fewer views voted at make no surface. The box cuts by whole blocks of 16 voxels. Normals point to the cameras.
    Memory is the voxels near the surface, 8 bytes each.

    Raises:
        UserError: nothing was seen, the blocks would take more than ``budget_bytes``, or open3d cannot be imported.
    """
    open3d = import_open3d("depths are fused")
    core, voxels = open3d.core, 4.0 if truncation is None else truncation / voxel
    grid = open3d.t.geometry.VoxelBlockGrid(
        ("tsdf", "weight"), (core.float32, core.float32), ((1), (1)), voxel, _BLOCK, 1024, core.Device("CPU:0")
    )
    first, last = (np.floor(np.asarray(corner) / (voxel * _BLOCK)) for corner in (low, high))
    count = 0
    for view in views:
        count += 1
        depth = np.ascontiguousarray(view.seen, np.float32)
        farthest = float(depth.max())
        if farthest <= 0:
            continue
        # 1.0: depths are in world units; then how far to look. open3d takes these as floats alone.
        seen = (
            open3d.t.geometry.Image(core.Tensor(depth)),
            core.Tensor(np.asarray(view.intrinsics, np.float64)),
            core.Tensor(_world_to_opencv(view.pose)),
            1.0,
            1.01 * farthest,
            float(voxels),
        )
        blocks = grid.compute_unique_block_coordinates(*seen).numpy()
        blocks = blocks[((blocks >= first) & (blocks <= last)).all(axis=1)]
        if len(blocks) == 0:
            continue
        grid.integrate(core.Tensor(np.ascontiguousarray(blocks)), *seen)
        if grid.hashmap().size() * _BLOCK_BYTES > budget_bytes:
            raise UserError(
                f"fusion with voxels of {voxel:.3g} takes more than {budget_bytes / 2**30:.1f} GiB: lower --resolution"
            )
    if grid.hashmap().size() == 0:
        raise NoSurfaceError(f"no surface: none of {count} views sees anything opaque inside the box")
    if float(grid.attribute("weight").numpy().max()) < min_views:
        raise NoSurfaceError(f"no surface: no place in the box was seen by {min_views} of {count} views")
    mesh = grid.extract_triangle_mesh(min_views - 0.5, -1)
    if "indices" not in mesh.triangle or len(mesh.triangle.indices) == 0:
        raise NoSurfaceError("no surface: the views' depths are too far apart to make one; lower --resolution")
    return mesh.vertex.positions.numpy().astype(np.float64), mesh.triangle.indices.numpy().astype(np.int32)


def _world_to_opencv(pose: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """From a camera-to-world pose with OpenGL axes to the extrinsics of OpenCV's (y down, z forward)."""
    return np.linalg.inv(np.asarray(pose, np.float64) @ np.diag([1.0, -1.0, -1.0, 1.0]))
