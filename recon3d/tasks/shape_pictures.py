"""Pictures of a shape during training: its surface in a light, and slices of the field, truth above prediction."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from recon3d.data.shape_distance import ShapeDistance
from recon3d.geometry.grids import grid_points

SIZE = 192
"""Pixels a side of every panel."""
LATTICE = 64
"""Cells a side of the grid that the surface is looked for on."""
_BISECTIONS = 8
_CHUNK = 2**15
_SLOPE_STEP = 2e-3
_AZIMUTH, _ELEVATION = math.radians(25), math.radians(15)
_REACH = 1.15
"""Half of what the shaded view shows, in units of half the cube."""
_CLAY, _PAPER = (0.86, 0.72, 0.58), (1.0, 1.0, 1.0)
_WARM, _COOL = (0.93, 0.62, 0.32), (0.45, 0.65, 0.85)
_BAND = 0.05
"""Distance between two lines of a slice of distances."""

InsideFn = Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]]


def field_picture(inside_fn: InsideFn, is_distance: bool, device: torch.device) -> UInt8[np.ndarray, "h w 3"]:
    """A shaded view and the three middle slices of a field that is above 0 inside, side by side. Slices: warm inside,
    cool outside; of distances with lines every 0.05."""

    def batched(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        return torch.cat([inside_fn(part.to(device)).float().cpu() for part in points.split(_CHUNK)])

    return _row(shaded(*surface_hits(batched)), _slices(batched, is_distance))


def true_picture(truth: ShapeDistance, is_distance: bool) -> UInt8[np.ndarray, "h w 3"]:
    """The same of the shape itself."""

    def inside(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        if is_distance:
            return -torch.from_numpy(truth.signed(points.numpy()))
        return 20 * torch.from_numpy(truth.inside(points.numpy())).float() - 10

    return _row(shaded(*true_hits(truth)), _slices(inside, is_distance))


def _row(view: Float[Tensor, "h w 3"], slices: list[Float[Tensor, "h w 3"]]) -> UInt8[np.ndarray, "h w4 3"]:
    return (torch.cat([view, *slices], dim=1).clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()


# --- the surface ----------------------------------------------------------------------------------------------------


def view_rays(size: int) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " 3"]]:
    """Origins (row by row from the top left) and the one direction of a parallel view from the front, a little from the
    right and from above; y is up."""
    back = torch.tensor(
        [math.sin(_AZIMUTH) * math.cos(_ELEVATION), math.sin(_ELEVATION), math.cos(_AZIMUTH) * math.cos(_ELEVATION)]
    )
    right = F.normalize(torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0]), back), dim=0)
    up = torch.linalg.cross(back, right)
    plane = _REACH * grid_points((size, size))
    return -plane[:, :1] * up + plane[:, 1:] * right + 2 * back, -back


def surface_hits(inside_fn: InsideFn, cells: int = LATTICE) -> tuple[Bool[Tensor, " n"], Float[Tensor, "n 3"]]:
    """Where the rays of the view first come inside, and the unit normal there.

    Found on a coarse grid of ``cells``, then halved in on the field itself: parts thinner than a cell are missed.
    """
    origins, direction = view_rays(SIZE)
    lattice = inside_fn(grid_points((cells,) * 3)).view(1, 1, cells, cells, cells)
    # Lattice axes are x, y, z; grid_sample wants the last one first, and here samples are middles of cells.
    lattice = lattice.clamp(-1, 1)
    depth = torch.linspace(2 - math.sqrt(3), 2 + math.sqrt(3), 2 * cells)
    entry = torch.full((len(origins),), math.nan)
    previous = torch.full((len(origins),), -1.0)
    for t in depth:
        x = origins + t * direction
        value = F.grid_sample(lattice, x.flip(-1)[None, None, None], align_corners=False)[0, 0, 0, 0]
        value = torch.where((x.abs() <= 1).all(dim=1), value, -1.0)
        entry = torch.where(entry.isnan() & (value > 0) & (previous <= 0), t, entry)
        previous = value
    hit = ~entry.isnan()
    start, spacing = origins[hit], float(depth[1] - depth[0])
    far, near = entry[hit] + spacing, entry[hit] - 2 * spacing
    for _ in range(_BISECTIONS):
        middle = (near + far) / 2
        is_in = inside_fn(start + middle[:, None] * direction) > 0
        near, far = torch.where(is_in, near, middle), torch.where(is_in, middle, far)
    x = start + ((near + far) / 2)[:, None] * direction
    steps = _SLOPE_STEP * torch.eye(3)
    slope = torch.stack([inside_fn(x + step) - inside_fn(x - step) for step in steps], dim=1)
    normals = torch.zeros(len(origins), 3)
    normals[hit] = -F.normalize(slope, dim=1)
    return hit, normals


def true_hits(truth: ShapeDistance) -> tuple[Bool[Tensor, " n"], Float[Tensor, "n 3"]]:
    origins, direction = view_rays(SIZE)
    found = truth.cast(origins.numpy(), direction.expand(len(origins), 3).numpy())
    normals = torch.from_numpy(found.normal)
    return torch.from_numpy(np.isfinite(found.distance)), normals


def shaded(hit: Bool[Tensor, " n"], normals: Float[Tensor, "n 3"]) -> Float[Tensor, "h w 3"]:
    """Clay in a light from above on white paper."""
    _, direction = view_rays(2)
    normals = torch.where((normals @ direction > 0)[:, None], -normals, normals)
    key = F.normalize(torch.tensor([0.35, 0.75, 0.6]), dim=0)
    light = 0.25 + 0.2 * (0.5 + 0.5 * normals[:, 1]) + 0.6 * (normals @ key).clamp_min(0)
    color = light[:, None] * torch.tensor(_CLAY)
    return torch.where(hit[:, None], color, torch.tensor(_PAPER)).view(SIZE, SIZE, 3)


# --- slices ---------------------------------------------------------------------------------------------------------


def _slices(inside_fn: InsideFn, is_distance: bool) -> list[Float[Tensor, "h w 3"]]:
    """The middle slices across z, x and y, y (then z) upwards."""
    plane = grid_points((SIZE, SIZE))
    up, right, middle = -plane[:, 0], plane[:, 1], torch.zeros(SIZE * SIZE)
    planes = [(right, up, middle), (middle, up, -right), (right, middle, up)]
    colour = _distance_colours if is_distance else _occupancy_colours
    return [colour(inside_fn(torch.stack(axes, dim=1))).view(SIZE, SIZE, 3) for axes in planes]


def _distance_colours(inside: Float[Tensor, " n"]) -> Float[Tensor, "n 3"]:
    distance = inside.abs()[:, None]
    color = torch.where((inside > 0)[:, None], torch.tensor(_WARM), torch.tensor(_COOL))
    color = color * (1 - 0.55 * torch.exp(-5 * distance))
    line = (torch.remainder(inside / _BAND + 0.5, 1) - 0.5).abs()[:, None] * _BAND
    color = torch.where(line < 0.004, 0.75 * color, color)
    return torch.where(distance < 0.008, torch.ones(3), color)


def _occupancy_colours(inside: Float[Tensor, " n"]) -> Float[Tensor, "n 3"]:
    share = torch.sigmoid(inside)[:, None]
    return share * torch.tensor(_WARM) + (1 - share) * torch.tensor(_COOL)
