"""Writes the toy as a NeRF-synthetic folder with its true mesh beside the pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from tqdm import tqdm

from recon3d.data.toy.machine import build_machine
from recon3d.data.toy.render import ToyScene
from recon3d.errors import UserError
from recon3d.geometry.cameras import Cameras, focal_from_angle, look_at

LENGTH, RADIUS, ANGLE = 2.2, 4.0, 0.6911
_GENERATOR = "recon3d toy"
_MESH_EDGE = 0.03
_VIEWPOINTS = 100
# Cameras' heights over their distance: from 40 degrees below the horizon, to see the underside, to 72 above.
_LOWEST, _HIGHEST = -0.64, 0.95


@dataclass(frozen=True)
class ToySummary:
    """What :func:`make_toy` wrote: the folder, the mesh file, numbers of pictures, and faces of the mesh."""

    folder: Path
    mesh: Path
    train: int
    val: int
    test: int
    faces: int


def make_toy(
    out: Path,
    size: int = 200,
    train: int = 60,
    test: int = 20,
    seed: int = 0,
    supersample: int = 3,
    progress: bool = False,
) -> ToySummary:
    """Make the embedded scene: pictures of a toy wheel loader, its cameras and its mesh. One seed, the same bytes.

    Writes ``train/``, ``val/`` and ``test/r_000.png`` ... (RGBA, straight alpha), ``mesh.ply`` (world coordinates,
    vertex colours; the surface that can be seen from where cameras may stand) and, last, ``transforms_*.json``. The toy
    is 2.2 long, around the origin, z up; cameras look at it from 4 away. There are a quarter as many validation as
    test pictures, at least 4.

    Args:
        out: folder to write into; made if missing.
        size: width and height of the pictures in pixels.
        train, test: numbers of pictures.
        seed: turns and shifts the pattern of the cameras.
        supersample: rays a pixel along each axis.
        progress: show a progress bar on standard error.

    Raises:
        UserError: a number out of range, a folder that cannot be written or holds another scene, no open3d.
    """
    _check(size, train, test, seed, supersample)
    out = Path(out)
    counts = {"train": train, "val": max(4, test // 4), "test": test}
    _claim(out, counts)
    parts = build_machine()
    corners = np.concatenate([part.solid.vertices for part in parts])
    low, high = corners.min(axis=0), corners.max(axis=0)
    scene = ToyScene(parts, 0.5 * (low + high), LENGTH / float((high - low).max()))
    cameras = {split: _cameras(count, size, [seed, k]) for k, (split, count) in enumerate(counts.items())}
    try:
        mesh = scene.visible_surface(_viewpoints(_VIEWPOINTS, np.zeros(2)), _MESH_EDGE)
        mesh.export(out / "mesh.ply")
        with tqdm(total=sum(counts.values()), desc="toy", unit="image", disable=not progress) as bar:
            for split in counts:
                for index in range(counts[split]):
                    picture = scene.render(cameras[split], index, supersample)
                    Image.fromarray(picture).save(out / split / f"r_{index:03d}.png")
                    bar.update()
        for split in reversed(counts):
            _write_json(out / f"transforms_{split}.json", split, cameras[split])
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{out}: cannot write the scene: {reason}; free space or choose another folder") from error
    return ToySummary(out, out / "mesh.ply", train, counts["val"], test, faces=len(mesh.faces))


def _check(size: int, train: int, test: int, seed: int, supersample: int) -> None:
    for name, value, least, most in (
        ("size", size, 8, 4096),
        ("train", train, 1, 100_000),
        ("test", test, 1, 100_000),
        ("seed", seed, 0, 2**32 - 1),
        ("supersample", supersample, 1, 16),
    ):
        if not least <= value <= most:
            raise UserError(f"{name} is {value}; it must lie between {least} and {most}")


def _claim(out: Path, splits: dict[str, int]) -> None:
    """Make the folders and clear an earlier toy's JSON, so that a run cut short leaves no mixture of two.

    Raises UserError if ``out`` holds a scene that this module did not write.
    """
    files = [out / f"transforms_{split}.json" for split in splits]
    try:
        for path in files:
            if path.exists() and _GENERATOR not in path.read_text(encoding="utf-8", errors="replace"):
                raise UserError(f"{path}: belongs to another scene, which is not overwritten; choose another folder")
        for path in files:
            path.unlink(missing_ok=True)
        for split in splits:
            (out / split).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot make the folder: {error.strerror or error}; choose another one") from error


def _viewpoints(count: int, shift: Float[np.ndarray, " 2"]) -> Float[np.ndarray, "n 3"]:
    """Points on the belt of the sphere where cameras stand. Any first few of them are evenly spread.

    The additive recurrence of M. Roberts ("The unreasonable effectiveness of quasirandom sequences", 2018): multiples
    of the inverse powers of the plastic number, modulo 1, mapped to the sphere with equal areas.
    """
    plastic = 1.32471795724474602596
    unit = (shift + np.arange(count)[:, None] * [1 / plastic, 1 / plastic**2]) % 1.0
    height = _LOWEST + (_HIGHEST - _LOWEST) * unit[:, 0]
    around = 2 * np.pi * unit[:, 1]
    ring = np.sqrt(1 - height**2)
    return RADIUS * np.stack([ring * np.cos(around), ring * np.sin(around), height], axis=1)


def _cameras(count: int, size: int, seed: list[int]) -> Cameras:
    positions = torch.from_numpy(_viewpoints(count, np.random.default_rng(seed).random(2)))
    target, up = torch.zeros(3, dtype=torch.float64), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    poses = torch.stack([look_at(position, target, up) for position in positions])
    return Cameras(
        poses=poses.float(),
        focal=torch.full((count, 2), focal_from_angle(ANGLE, size)),
        center=torch.full((count, 2), 0.5 * size),
        width=size,
        height=size,
        distortion=torch.zeros(count, 4),
    )


def _write_json(path: Path, split: str, cameras: Cameras) -> None:
    frames = [
        {"file_path": f"./{split}/r_{index:03d}", "transform_matrix": pose.tolist()}
        for index, pose in enumerate(cameras.poses)
    ]
    content = {"generator": _GENERATOR, "camera_angle_x": ANGLE, "frames": frames}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
