"""The fusion route: depths seen from the training cameras, averaged into one truncated distance field.

What a radiance field knows well is where the rays of its training cameras stop; a level set of its density also shows
what no ray ever measured. So depths are rendered from those cameras and fused as a depth sensor's would be
(:mod:`recon3d.geometry.depth_views`).

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

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from recon3d.data.ray_casting import import_open3d
from recon3d.errors import UserError
from recon3d.export.levelset import ColorFn, LevelSet, NoSurfaceError
from recon3d.geometry.boxes import Normalizer
from recon3d.geometry.depth_views import MIN_VIEWS, DepthView, mean_vote, world_to_opencv

_BLOCK = 16  # voxels a side of one of open3d's blocks
_BLOCK_BYTES = _BLOCK**3 * 8  # float32 distance and weight
_BUDGET_BYTES = 2 * 2**30


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
    :func:`~recon3d.geometry.depth_views.truncation_for`. The values are distances in units of the truncation, cut to
    -1..1, positive inside. Memory: the depth images.
    """
    from scipy import ndimage

    filled = ndimage.binary_fill_holes(active)
    cells = ndimage.binary_dilation(filled, np.ones((3, 3, 3)))
    unseen = torch.from_numpy(np.where(filled, np.float32(-1.0), np.float32(1.0))).to(device)
    vote = mean_vote(views, normalizer, truncation, unseen, min_views)
    return LevelSet(lambda points: -vote(points), 0.0, cells, color_fn=color_fn, quantity="fused distance")


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
            core.Tensor(world_to_opencv(view.pose)),
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
