"""Camera paths for videos."""

from __future__ import annotations

import math

import torch

from recon3d.geometry.cameras import Cameras, look_at


def orbit(seen: Cameras, center: tuple[float, float, float], frames: int, size: int) -> Cameras:
    """``frames`` square cameras once around the vertical (z) axis through ``center``.

    Distance and height above ``center`` are the medians over the cameras ``seen``; the field of view is theirs, over
    ``size`` pixels.
    """
    target = torch.tensor(center)
    offset = seen.positions - target
    height = float(offset[:, 2].median())
    distance = float(offset.norm(dim=-1).median())
    radius = math.sqrt(max(distance**2 - height**2, (0.1 * distance) ** 2))
    up = torch.tensor([0.0, 0.0, 1.0])
    poses = []
    for frame in range(frames):
        angle = 2 * math.pi * frame / frames
        position = target + torch.tensor([radius * math.cos(angle), radius * math.sin(angle), height])
        poses.append(look_at(position, target, up))
    scale = size / min(seen.width, seen.height)
    focal = (seen.focal.median(dim=0).values * scale).expand(frames, 2).contiguous()
    middle = torch.full((frames, 2), 0.5 * size)
    return Cameras(torch.stack(poses), focal, middle, size, size, torch.zeros(frames, 4))
