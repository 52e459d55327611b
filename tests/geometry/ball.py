"""A coloured ball photographed by cameras all around it: pictures whose truth is known in closed form.

The ball's colour is its normal (0.5 + 0.5 n), so that it looks the same from everywhere. Used by the tests of the
visual hull, of the NeRF task and of the command line, where the embedded scene would be too much.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from recon3d.data.scene import Scene
from recon3d.geometry.cameras import Cameras, focal_from_angle, look_at

ANGLE = 0.7
DISTANCE = 4.0
RADIUS = 0.8


def cameras_around(count, size=32, center=(0.0, 0.0, 0.0), distance=DISTANCE, angle=ANGLE, shift=0.0):
    """Cameras spread over a sphere (Fibonacci's lattice) that look at ``center``."""
    index = torch.arange(count, dtype=torch.float64) + 0.5
    height = 0.95 * (1 - 2 * index / count)
    around = math.pi * (1 + math.sqrt(5)) * index + shift
    ring = (1 - height**2).sqrt()
    target = torch.tensor(center, dtype=torch.float64)
    positions = target + distance * torch.stack([ring * around.cos(), ring * around.sin(), height], dim=-1)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    return Cameras(
        torch.stack([look_at(position, target, up) for position in positions]).float(),
        torch.full((count, 2), focal_from_angle(angle, size)),
        torch.full((count, 2), 0.5 * size),
        size,
        size,
        torch.zeros(count, 4),
    )


def hit_ball(rays, center, radius):
    """Whether rays hit the ball, and the unit normals where they do."""
    offset = rays.origins - torch.tensor(center)
    b = (offset * rays.directions).sum(-1)
    under = b * b - (offset.square().sum(-1) - radius**2)
    t = -b - under.clamp_min(0).sqrt()
    normals = (offset + t[:, None] * rays.directions) / radius
    return (under > 0) & (t > 0), normals


def photographs(cameras, center=(0.0, 0.0, 0.0), radius=RADIUS, supersample=3):
    """RGBA images (N, H, W, 4) uint8 of the ball; alpha is antialiased, colour is not premultiplied."""
    height, width = cameras.height, cameras.width
    offsets = (torch.arange(supersample) + 0.5) / supersample
    v, u = torch.meshgrid(torch.arange(height) + 0.0, torch.arange(width) + 0.0, indexing="ij")
    pictures = []
    for index in range(len(cameras)):
        alpha, color = torch.zeros(height * width), torch.zeros(height * width, 3)
        for du in offsets:
            for dv in offsets:
                uv = torch.stack([u + du, v + dv], dim=-1).reshape(-1, 2)
                rays = cameras.rays(torch.full((len(uv),), index), uv)
                hit, normals = hit_ball(rays, center, radius)
                alpha += hit
                color += hit[:, None] * (0.5 + 0.5 * normals)
        color = color / alpha.clamp_min(1)[:, None]
        rgba = torch.cat([color, alpha[:, None] / supersample**2], dim=-1)
        pictures.append((rgba.clamp(0, 1) * 255 + 0.5).to(torch.uint8).view(height, width, 4))
    return torch.stack(pictures)


def ball_scene(count, size=32, center=(0.0, 0.0, 0.0), radius=RADIUS, shift=0.0):
    cameras = cameras_around(count, size, center, shift=shift)
    names = tuple(f"r_{index:03d}.png" for index in range(count))
    return Scene(cameras, photographs(cameras, center, radius), names, Path("ball"))


def write_ball_folder(folder, train=40, test=2, size=32):
    """The ball as a NeRF-synthetic folder with a train and a test split."""
    for split, count, shift in (("train", train, 0.0), ("test", test, 0.5)):
        scene = ball_scene(count, size, shift=shift)
        (folder / split).mkdir(parents=True, exist_ok=True)
        frames = []
        for index in range(count):
            name = f"{split}/r_{index:03d}"
            Image.fromarray(np.ascontiguousarray(scene.images[index].numpy())).save(folder / f"{name}.png")
            frames.append({"file_path": f"./{name}", "transform_matrix": scene.cameras.poses[index].tolist()})
        content = {"camera_angle_x": ANGLE, "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(content))
    return folder
