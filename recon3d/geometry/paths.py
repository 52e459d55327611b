"""Camera paths for videos."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.geometry.cameras import Cameras, focal_from_angle, look_at


def orbit(seen: Cameras, center: tuple[float, float, float], frames: int, size: int) -> Cameras:
    """``frames`` square cameras once around the vertical axis through ``center``: z, unless the cameras ``seen`` agree
    on another one, more than 45 degrees from it.

    Distance and height above ``center`` are the medians over the cameras ``seen``; the field of view is theirs, over
    ``size`` pixels.
    """
    target, up = torch.tensor(center), _vertical(seen)
    side = torch.eye(3)[int(up.abs().argmin())]
    across = torch.nn.functional.normalize(side - side.dot(up) * up, dim=0)
    beside = torch.linalg.cross(up, across)
    offset = seen.positions - target
    height = float((offset @ up).median())
    distance = float(offset.norm(dim=-1).median())
    radius = math.sqrt(max(distance**2 - height**2, (0.1 * distance) ** 2))
    poses = []
    for frame in range(frames):
        angle = 2 * math.pi * frame / frames
        position = target + radius * (math.cos(angle) * across + math.sin(angle) * beside) + height * up
        poses.append(look_at(position, target, up))
    scale = size / min(seen.width, seen.height)
    focal = (seen.focal.median(dim=0).values * scale).expand(frames, 2).contiguous()
    middle = torch.full((frames, 2), 0.5 * size)
    return Cameras(torch.stack(poses), focal, middle, size, size, torch.zeros(frames, 4))


def _vertical(seen: Cameras) -> Float[Tensor, "3"]:
    z, up = torch.tensor([0.0, 0.0, 1.0]), seen.poses[:, :3, 1].mean(dim=0)
    agreement = float(up.norm())
    return z if agreement < 0.3 or float(up[2]) > agreement * math.cos(math.radians(45)) else up / agreement


def spiral(seen: Cameras, center: tuple[float, float, float], frames: int, size: int) -> Cameras:
    """``frames`` cameras on a loop in front of what forward-facing cameras ``seen`` look at, among their positions.

    It turns about their middle, as wide in each direction as nine in ten of them are, forth and back too, and looks at
    the point on the middle one's axis that is as far as ``center``. Pictures have the shape and the field of view of
    ``seen``; ``size`` is their smaller side.
    """
    middle = seen.positions.mean(dim=0)
    forward = torch.nn.functional.normalize(seen.forward_axes.mean(dim=0), dim=0)
    target = middle + (torch.tensor(center) - middle).dot(forward) * forward
    up = seen.poses[:, :3, 1].mean(dim=0)
    axes = look_at(middle, target, up)[:3, :3]
    reach = ((seen.positions - middle) @ axes).abs().quantile(0.9, dim=0)
    angle = 2 * math.pi * torch.arange(frames) / frames
    local = reach * torch.stack([angle.cos(), angle.sin(), (2 * angle).sin()], dim=1)
    poses = torch.stack([look_at(position, target, up) for position in middle + local @ axes.T])
    scale = size / min(seen.width, seen.height)
    width, height = (2 * round(0.5 * scale * pixels) for pixels in (seen.width, seen.height))
    focal = (seen.focal.median(dim=0).values * scale).expand(frames, 2).contiguous()
    principal = torch.tensor([0.5 * width, 0.5 * height]).expand(frames, 2).contiguous()
    return Cameras(poses, focal, principal, width, height, torch.zeros(frames, 4))


def turntable(
    low: tuple[float, float, float], high: tuple[float, float, float], frames: int, size: int, height: float = 0.35
) -> Cameras:
    """``frames`` square cameras once around the vertical (z) axis, from where the box ``low``..``high`` is seen whole.

    ``height``: elevation above the horizon, in radians. The field of view is 40 degrees.
    """
    corners = torch.tensor([low, high], dtype=torch.float64)
    target, radius = corners.mean(dim=0), 0.5 * float((corners[1] - corners[0]).norm())
    angle = math.radians(40.0)
    distance = radius / math.sin(0.5 * angle)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    poses = []
    for frame in range(frames):
        around = 2 * math.pi * frame / frames
        ring = math.cos(height)
        offset = torch.tensor([ring * math.cos(around), ring * math.sin(around), math.sin(height)], dtype=torch.float64)
        poses.append(look_at(target + distance * offset, target, up))
    focal = torch.full((frames, 2), focal_from_angle(angle, size))
    middle = torch.full((frames, 2), 0.5 * size)
    return Cameras(torch.stack(poses).float(), focal, middle, size, size, torch.zeros(frames, 4))
