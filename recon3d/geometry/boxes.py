"""The cube that a field lives in, and the map between world and field coordinates.

A field lives on [-1, 1]^3. The :class:`Normalizer` maps world points into it by a shift and one scale, so that
directions, angles and the shape of cells are the same in both; lengths in the world are lengths in the field times
``half_size``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.geometry.cameras import Cameras, Rays


@dataclass(frozen=True)
class Normalizer:
    """x_field = (x_world - center) / half_size. ``center`` is in world units, ``half_size`` > 0 too."""

    center: tuple[float, float, float]
    half_size: float

    def to_field(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        return (points - points.new_tensor(self.center)) / self.half_size

    def to_world(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        return points * self.half_size + points.new_tensor(self.center)

    def rays_to_field(self, rays: Rays) -> Rays:
        """The same rays in field coordinates; directions keep unit length."""
        return Rays(self.to_field(rays.origins), rays.directions)

    def cameras_to_field(self, cameras: Cameras) -> Cameras:
        """The same cameras in field coordinates: so are their rays."""
        poses = cameras.poses.clone()
        poses[:, :3, 3] = self.to_field(cameras.positions)
        return replace(cameras, poses=poses)


def intersect_unit_cube(rays: Rays, near: float = 0.0) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Entry and exit distances of rays with [-1, 1]^3, not before ``near``; a ray that misses has entry >= exit."""
    inverse = 1.0 / torch.where(rays.directions.abs() < 1e-12, 1e-12, rays.directions)
    a = (-1.0 - rays.origins) * inverse
    b = (1.0 - rays.origins) * inverse
    entry = torch.minimum(a, b).amax(dim=-1).clamp_min(near)
    exit_ = torch.maximum(a, b).amin(dim=-1)
    return entry, exit_


def cube_of_cameras(cameras: Cameras) -> Normalizer:
    """The cube that cameras looking at one object see whole: around the point nearest to all viewing axes.

    Half the cube's size is what the median camera sees at that point's distance (half its narrower field of view).
    """
    origin, axis = cameras.positions.double(), cameras.forward_axes.double()
    # Least squares: sum_i |(I - a_i a_i^T)(p - o_i)|^2, with a pull to the mean position where axes are parallel.
    projector = torch.eye(3, dtype=torch.float64, device=axis.device) - axis.unsqueeze(-1) * axis.unsqueeze(-2)
    ridge = 1e-6 * torch.eye(3, dtype=torch.float64, device=axis.device)
    mean = origin.mean(0)
    lhs = projector.mean(0) + ridge
    rhs = (projector @ (origin - mean).unsqueeze(-1)).mean(0)
    center = mean + torch.linalg.solve(lhs, rhs).squeeze(-1)
    distance = ((center - origin) * axis).sum(-1).median().abs().clamp_min(1e-6)
    reach = min(
        float((cameras.width / (2 * cameras.focal[:, 0])).median()),
        float((cameras.height / (2 * cameras.focal[:, 1])).median()),
    )
    x, y, z = center.tolist()
    return Normalizer((x, y, z), float(distance) * reach)


def cube_of_depths(cameras: Cameras, near: float, far: float) -> Normalizer:
    """The cube that holds what cameras see from ``near`` to ``far`` along their axes."""
    device = cameras.poses.device
    corners = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], device=device) * torch.tensor(
        [cameras.width, cameras.height], device=device
    )
    camera = torch.arange(len(cameras), device=device).repeat_interleave(len(corners))
    rays = cameras.rays(camera, corners.repeat(len(cameras), 1).float())
    along = rays.directions / (rays.directions * cameras.forward_axes[camera]).sum(-1, keepdim=True)
    points = torch.cat([rays.origins + depth * along for depth in (near, far)])
    low, high = points.amin(0), points.amax(0)
    x, y, z = (0.5 * (low + high)).tolist()
    return Normalizer((x, y, z), 0.5 * float((high - low).max()))
