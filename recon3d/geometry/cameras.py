"""Pinhole cameras with lens distortion, and the rays through their pixels.

Conventions, used everywhere in the project:

- World and camera axes follow Blender/OpenGL: in the camera frame x points right, y up, and the camera looks along -z.
  A pose is the 4x4 camera-to-world matrix.
- Pixel (column u, row v) covers [u, u+1] x [v, v+1]; its centre is (u + 0.5, v + 0.5). Row 0 is the top of the image.
- Intrinsics are in pixels. Distortion follows OpenCV (k1, k2, p1, p2), where y points down and z forward.
- Ray directions have unit length, so that distances along a ray are in world units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Rays:
    """Rays with unit directions. ``origins`` and ``directions`` are (N, 3), in world or in field coordinates."""

    origins: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]

    def __len__(self) -> int:
        return self.origins.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Rays:
        return Rays(self.origins[index], self.directions[index])

    def to(self, device: torch.device | str) -> Rays:
        return Rays(self.origins.to(device), self.directions.to(device))


@dataclass(frozen=True)
class Cameras:
    """N cameras that share an image size.

    Attributes:
        poses: camera-to-world matrices (N, 4, 4), OpenGL axes.
        focal: focal lengths (fx, fy) in pixels (N, 2).
        center: principal points (cx, cy) in pixels (N, 2).
        width, height: image size in pixels.
        distortion: OpenCV coefficients (k1, k2, p1, p2) (N, 4); zeros for a perfect lens.
    """

    poses: Float[Tensor, "n 4 4"]
    focal: Float[Tensor, "n 2"]
    center: Float[Tensor, "n 2"]
    width: int
    height: int
    distortion: Float[Tensor, "n 4"]

    def __len__(self) -> int:
        return self.poses.shape[0]

    def __getitem__(self, index: slice | Tensor | list[int]) -> Cameras:
        return replace(
            self,
            poses=self.poses[index],
            focal=self.focal[index],
            center=self.center[index],
            distortion=self.distortion[index],
        )

    def to(self, device: torch.device | str) -> Cameras:
        return replace(
            self,
            poses=self.poses.to(device),
            focal=self.focal.to(device),
            center=self.center.to(device),
            distortion=self.distortion.to(device),
        )

    def downscaled(self, factor: int) -> Cameras:
        """The same cameras with images ``factor`` times smaller (sizes are rounded down)."""
        return replace(
            self,
            focal=self.focal / factor,
            center=self.center / factor,
            width=self.width // factor,
            height=self.height // factor,
        )

    def packed(self) -> Float[Tensor, "n 26"]:
        """All of it as one tensor (N, 26), to be kept in a checkpoint."""
        size = self.focal.new_tensor([self.width, self.height]).expand(len(self), 2)
        return torch.cat([self.poses.flatten(1), self.focal, self.center, self.distortion, size], dim=1)

    @staticmethod
    def unpacked(values: Float[Tensor, "n 26"]) -> Cameras:
        """The inverse of :meth:`packed`."""
        poses, focal, center, distortion, size = values.split([16, 2, 2, 4, 2], dim=1)
        width, height = (int(pixels) for pixels in size[0])
        return Cameras(poses.reshape(-1, 4, 4), focal, center, width, height, distortion)

    @cached_property
    def is_distorted(self) -> bool:
        """Whether any lens is not perfect."""
        return bool((self.distortion != 0).any())

    @property
    def positions(self) -> Float[Tensor, "n 3"]:
        return self.poses[:, :3, 3]

    @property
    def forward_axes(self) -> Float[Tensor, "n 3"]:
        """Unit viewing directions (N, 3)."""
        return -torch.nn.functional.normalize(self.poses[:, :3, 2], dim=-1)

    def rays(self, camera: Int[Tensor, "m"], uv: Float[Tensor, "m 2"]) -> Rays:
        """World-space rays of camera ``camera[i]`` through image point ``uv[i]`` (pixels; centres are at +0.5)."""
        xy = (uv - self.center[camera]) / self.focal[camera]
        if self.is_distorted:
            xy = undistort(xy, self.distortion[camera])
        local = torch.stack([xy[:, 0], -xy[:, 1], -torch.ones_like(xy[:, 0])], dim=-1)
        local = torch.nn.functional.normalize(local, dim=-1)
        poses = self.poses[camera]
        # Not a matrix product: autocast would make it in half precision.
        directions = (poses[:, :3, :3] * local.unsqueeze(1)).sum(dim=-1)
        return Rays(poses[:, :3, 3].contiguous(), directions)

    def image_rays(self, camera: int, rows: slice = slice(None)) -> Rays:
        """Rays through every pixel centre of ``rows`` of one image, row by row: (rows * width) rays."""
        device = self.poses.device
        v = torch.arange(self.height, device=device, dtype=torch.float32)[rows] + 0.5
        u = torch.arange(self.width, device=device, dtype=torch.float32) + 0.5
        uv = torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1).reshape(-1, 2)
        index = torch.full((uv.shape[0],), camera, device=device, dtype=torch.long)
        return self.rays(index, uv)

    def project(self, points: Float[Tensor, "m 3"]) -> tuple[Float[Tensor, "n m 2"], Float[Tensor, "n m"]]:
        """Image points (pixels) of world ``points`` in every camera, and their depths along the viewing axis.

        Points with a depth <= 0 lie behind the camera; their image points mean nothing.
        """
        rotation = self.poses[:, :3, :3]
        local = (points[None] - self.positions[:, None]) @ rotation
        depth = -local[..., 2]
        safe = depth.clamp_min(1e-9).unsqueeze(-1)
        xy = local[..., :2] * local.new_tensor([1.0, -1.0]) / safe
        if self.is_distorted:
            xy = distort(xy, self.distortion[:, None].expand(*xy.shape[:2], 4))
        return xy * self.focal[:, None] + self.center[:, None], depth


def distort(xy: Float[Tensor, "... 2"], coefficients: Float[Tensor, "... 4"]) -> Float[Tensor, "... 2"]:
    """Apply OpenCV's radial (k1, k2) and tangential (p1, p2) distortion to normalised image points."""
    x, y = xy.unbind(-1)
    k1, k2, p1, p2 = coefficients.unbind(-1)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * k2)
    return torch.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        ],
        dim=-1,
    )


def undistort(
    xy: Float[Tensor, "... 2"], coefficients: Float[Tensor, "... 4"], iterations: int = 10
) -> Float[Tensor, "... 2"]:
    """The inverse of :func:`distort` by fixed-point iteration (converges for the mild distortion of real lenses)."""
    guess = xy
    for _ in range(iterations):
        guess = guess + (xy - distort(guess, coefficients))
    return guess


def look_at(position: Float[Tensor, "3"], target: Float[Tensor, "3"], up: Float[Tensor, "3"]) -> Float[Tensor, "4 4"]:
    """Camera-to-world pose of a camera at ``position`` that looks at ``target`` with ``up`` upwards in the image."""
    back = torch.nn.functional.normalize(position - target, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(up, back), dim=0)
    pose = torch.eye(4, dtype=position.dtype)
    pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = right, torch.linalg.cross(back, right), back, position
    return pose


def focal_from_angle(angle: float, size: int) -> float:
    """Focal length in pixels of a field of view of ``angle`` radians over ``size`` pixels."""
    return 0.5 * size / math.tan(0.5 * angle)
