"""A ball that cameras all around see: its depths, as a renderer gives them."""

from __future__ import annotations

import math

import torch

from recon3d.geometry.boxes import Normalizer
from recon3d.geometry.cameras import Cameras, look_at

SIZE = 96
CENTER = torch.tensor([0.3, -0.2, 1.0])
RADIUS = 0.7
HOME = Normalizer((float(CENTER[0]), float(CENTER[1]), float(CENTER[2])), 1.0)


def around(count: int, distance: float = 3.0) -> Cameras:
    """Cameras on a sphere (a Fibonacci spiral) that look at the ball; pixels are not square, centres off the middle."""
    poses = []
    for i in range(count):
        z = 1 - (2 * i + 1) / count
        angle = i * math.pi * (3 - math.sqrt(5))
        r = math.sqrt(1 - z * z)
        away = torch.tensor([r * math.cos(angle), r * math.sin(angle), z])
        poses.append(look_at(CENTER + distance * away, CENTER, torch.tensor([0.1, 0.2, 1.0])))
    focal = torch.tensor([150.0, 160.0]).expand(count, 2)
    center = torch.tensor([SIZE / 2 + 3.0, SIZE / 2 - 2.0]).expand(count, 2)
    return Cameras(torch.stack(poses), focal, center, SIZE, SIZE, torch.zeros(count, 4))


class Ball:
    """A task whose field is a solid ball, with depths along rays as a renderer gives them."""

    def __init__(self, haze: float = 0.0) -> None:
        self.haze = haze

    def surface_depth(self, cameras: Cameras, index: int):
        rays = cameras.image_rays(index)
        to_center = CENTER - rays.origins
        along = (to_center * rays.directions).sum(-1)
        inside = RADIUS**2 - (to_center.square().sum(-1) - along.square())
        hit = inside > 0
        depth = torch.where(hit, along - inside.clamp_min(0).sqrt(), 0.1)
        shape = cameras.height, cameras.width
        return depth.view(shape), torch.where(hit, 1.0, self.haze).view(shape)


class Thin(Ball):
    """The same of hardly any substance."""

    def surface_depth(self, cameras: Cameras, index: int):
        depth, opacity = super().surface_depth(cameras, index)
        return depth, 0.49 * opacity
