"""recon3d render RUN --path orbit for radiance fields: a video of a camera path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from recon3d.commands.opened import RunOptions, opened
from recon3d.config import PhotographsConfig
from recon3d.errors import UserError


@dataclass(frozen=True)
class Render(RunOptions):
    """Render a camera path of a run to an MP4."""

    path: Literal["orbit"] = "orbit"
    """orbit: around the scene, at the distance and height of the training cameras."""
    frames: int = 120
    fps: int = 30
    size: int | None = None
    """Width and height of the video in pixels (default: the smaller side of the photographs, even)."""
    background: Literal["white", "black"] | None = None
    """Default: the run's eval_background."""
    output: Path | None = None
    """Default: RUN/exports/orbit.mp4."""


def main(args: list[str]) -> dict[str, Any]:
    options = tyro.cli(Render, args=args, prog="recon3d render")
    if options.frames < 1 or options.fps < 1:
        raise UserError(f"frames is {options.frames}, fps is {options.fps}: give 1 or more")

    from tqdm import tqdm

    from recon3d.export.video import VideoWriter
    from recon3d.geometry.paths import orbit
    from recon3d.tasks.photographs import to_uint8

    with opened(options, PhotographsConfig, "render") as run:
        config = run.config
        seen = run.task.train_cameras
        assert seen is not None
        size = options.size or min(seen.width, seen.height)
        if size < 16:
            raise UserError(f"size is {size}: give 16 pixels or more")
        cameras = orbit(seen.to("cpu"), run.task.normalizer.center, options.frames, size - size % 2).to(run.task.device)
        output = options.output or run.folder.exports / "orbit.mp4"
        background = options.background or config.eval_background
        with VideoWriter(output, options.fps) as video:
            for index in tqdm(range(len(cameras)), unit="frame", desc="render"):
                video.add(to_uint8(run.task.render_view(cameras, index, background)["color"]))
    print(f"written: {output}")
    return {"run": str(run.folder.path), "video": str(output), "frames": len(cameras), "size": cameras.width}
