"""The visual hull: which cells of space the silhouettes of posed images leave room for.

Source: Laurentini, "The visual hull concept for silhouette-based image understanding" (1994).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from recon3d.geometry.boxes import Normalizer
from recon3d.geometry.cameras import Cameras


def cell_centers(resolution: int, device: torch.device | str = "cpu") -> Float[Tensor, "n 3"]:
    """Centres (R^3, 3) of the cells of an R^3 grid over [-1, 1]^3, in the order of a (R, R, R) array's memory."""
    axis = (torch.arange(resolution, device=device, dtype=torch.float32) + 0.5) * (2 / resolution) - 1
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)


def visual_hull(
    masks: Bool[Tensor, "n h w"] | None, cameras: Cameras, normalizer: Normalizer, resolution: int
) -> Bool[Tensor, "r r r"]:
    """Cells over the field's cube that at least one camera sees and no camera sees as empty.

    A cell is seen as empty by a camera if its whole bounding sphere falls on pixels where the mask is False; what
    falls outside an image proves nothing. Without masks, only cells that no camera sees are removed. Works from a
    coarse grid to the fine one and looks at the children of surviving cells only.
    """
    size = resolution
    while size % 2 == 0 and size > 16:
        size //= 2
    counts = None if masks is None else _integral_images(masks)
    cells = cell_centers(size, cameras.poses.device)
    while True:
        cells = cells[_survives(cells, size, counts, cameras, normalizer, finest=size == resolution)]
        if size == resolution:
            break
        size *= 2
        axis = torch.tensor([-0.5, 0.5], device=cells.device) * (2 / size)
        shifts = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(1, 8, 3)
        cells = (cells[:, None] + shifts).reshape(-1, 3)
    grid = torch.zeros((resolution,) * 3, dtype=torch.bool, device=cells.device)
    index = ((cells + 1) * (0.5 * resolution)).long()
    grid[index[:, 0], index[:, 1], index[:, 2]] = True
    return grid


def _integral_images(masks: Bool[Tensor, "n h w"]) -> Tensor:
    """(N, H + 1, W + 1): True pixels above and left of each pixel corner, so that any window is counted at once."""
    counts = masks.to(torch.int32).cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)
    return F.pad(counts, (1, 0, 1, 0))


def _survives(
    cells: Tensor, size: int, counts: Tensor | None, cameras: Cameras, normalizer: Normalizer, finest: bool
) -> Bool[Tensor, "n"]:
    """Whether some camera sees each cell and none sees it as empty; what is ruled out is not looked at again.

    A cell is seen if its centre is; on the coarser levels, if any of its bounding sphere may be.
    """
    points = normalizer.to_world(cells)
    radius = normalizer.half_size / size * 3**0.5
    width, height = cameras.width, cameras.height
    seen = torch.zeros(len(cells), dtype=torch.bool, device=cells.device)
    alive = torch.arange(len(cells), device=cells.device)
    for index in range(len(cameras)):
        uv, depth = (part[0] for part in cameras[index : index + 1].project(points[alive]))
        u, v = uv.unbind(-1)
        reach = _reach(points[alive], depth, radius, cameras, index)
        ahead = depth > 2 * radius
        if finest:
            seen[alive] |= (u >= 0) & (u < width) & (v >= 0) & (v < height) & (depth > 0)
        else:
            touches = (u > -reach) & (u < width + reach) & (v > -reach) & (v < height + reach)
            seen[alive] |= torch.where(ahead, touches, depth > -radius)
        if counts is None:
            continue
        whole = ahead & (u >= reach) & (u + reach < width) & (v >= reach) & (v + reach < height)
        left, right = (u - reach).clamp(0, width).long(), (u + reach).clamp(0, width - 1).long() + 1
        top, bottom = (v - reach).clamp(0, height).long(), (v + reach).clamp(0, height - 1).long() + 1
        table = counts[index].view(-1)
        stride = width + 1
        found = (
            table[bottom * stride + right]
            - table[top * stride + right]
            - table[bottom * stride + left]
            + table[top * stride + left]
        )
        alive = alive[~(whole & (found == 0))]
    survives = torch.zeros_like(seen)
    survives[alive] = True
    return survives & seen


def _reach(
    points: Float[Tensor, "n 3"], depth: Float[Tensor, "n"], radius: float, cameras: Cameras, index: int
) -> Float[Tensor, "n"]:
    """A bound, in pixels, on how far from its centre's the image of a sphere of this radius extends in one camera that
    is further than two radii away: f r D / (d (d - 2 r)) at distance D and depth d, and a pixel for rounding."""
    distance = (points - cameras.positions[index]).norm(dim=-1)
    return cameras.focal[index].max() * radius * distance / (depth * (depth - 2 * radius)).clamp_min(1e-6) + 1


def shadow(cells: Bool[Tensor, "r r r"], cameras: Cameras, normalizer: Normalizer) -> Bool[Tensor, "n h w"]:
    """Pixels whose rays may pass a True cell of a grid over the field's cube: no other pixel's does.

    Every ray comes in through the outermost cells, so the windows of these cells' bounding spheres are laid over each
    other; where a camera is among the cells, all of its pixels may.
    """
    resolution = cells.shape[0]
    padded = F.pad(cells.float()[None], (1,) * 6)
    outer = cells & (-F.max_pool3d(-padded, 3, stride=1)[0] == 0)
    points = normalizer.to_world(cell_centers(resolution, cells.device)[outer.flatten()])
    radius = normalizer.half_size / resolution * 3**0.5
    width, height = cameras.width, cameras.height
    seen = torch.zeros(len(cameras), height, width, dtype=torch.bool, device=cells.device)
    for index in range(len(cameras)):
        uv, depth = (part[0] for part in cameras[index : index + 1].project(points))
        near = depth <= 2 * radius
        if bool((near & (depth > -radius)).any()):
            seen[index] = True
            continue
        u, v = uv[~near].unbind(-1)
        reach = _reach(points[~near], depth[~near], radius, cameras, index)
        left, right = (u - reach).clamp(0, width).long(), (u + reach + 1).clamp(0, width).long()
        top, bottom = (v - reach).clamp(0, height).long(), (v + reach + 1).clamp(0, height).long()
        # Each window is +1 and -1 at its corners; the sums from above and from the left count the windows at a pixel.
        corners = torch.zeros((height + 1) * (width + 1), dtype=torch.int32, device=cells.device)
        one = torch.ones_like(left, dtype=torch.int32)
        for row, column, sign in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
            corners.index_add_(0, row * (width + 1) + column, sign * one)
        counts = corners.view(height + 1, width + 1).cumsum(0).cumsum(1)
        seen[index] = counts[:height, :width] > 0
    return seen


def bounding_cube(grid: Bool[Tensor, "r r r"], normalizer: Normalizer, margin: float = 0.02) -> Normalizer:
    """The smallest cube, in world units, around the True cells of a grid over ``normalizer``'s cube."""
    resolution = grid.shape[0]
    index = grid.nonzero()
    low = index.amin(0) * (2 / resolution) - 1
    high = (index.amax(0) + 1) * (2 / resolution) - 1
    half = 0.5 * float((high - low).amax()) * (1 + margin)
    x, y, z = normalizer.to_world((0.5 * (low + high)).unsqueeze(0))[0].tolist()
    return Normalizer((x, y, z), half * normalizer.half_size)


def distance_to_cells(
    cells: Bool[Tensor, "r r r"], smoothing: float = 1.0
) -> Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]]:
    """The signed distance, in field units and negative inside, from the True cells of a grid over [-1, 1]^3.

    Made between cell centres, blurred by a Gaussian of ``smoothing`` cells to round the steps off, and interpolated.
    """
    from scipy import ndimage

    resolution, inside = cells.shape[0], cells.cpu().numpy()
    # From a cell's centre to the nearest centre on the other side, and half a cell less to the face between.
    outward = ndimage.distance_transform_edt(~inside) - 0.5
    inward = ndimage.distance_transform_edt(inside) - 0.5
    signed = ndimage.gaussian_filter(np.where(inside, -inward, outward), smoothing, mode="nearest")
    grid = torch.from_numpy(signed.astype(np.float32) * (2 / resolution)).to(cells.device)

    def distance(x: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        at = x.flip(-1).view(1, 1, 1, -1, 3)  # the last axis of the grid comes first
        return F.grid_sample(grid[None, None], at, padding_mode="border", align_corners=False).view(-1)

    return distance
