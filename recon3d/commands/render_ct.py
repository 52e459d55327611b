"""recon3d render RUN for CT: slices of the field, one as a picture or all of them as a video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from recon3d.commands.opened import RunOptions, State, opened
from recon3d.config import CtConfig
from recon3d.errors import UserError, require

if TYPE_CHECKING:
    import torch

    from recon3d.geometry.voxels import VolumeGrid


@dataclass(frozen=True)
class RenderCt(RunOptions):
    """Slices of the field: through a volume along an axis as a video, or a single one as a picture."""

    axis: Literal["x", "y", "z"] = "z"
    """Slices are square to it."""
    at: float | None = None
    """Where along the axis, in mm: this slice alone, as a PNG (a scan of one slice: always that)."""
    scale: float = 1.0
    """So many times the voxels along every axis."""
    window: tuple[float, float] | None = None
    """Attenuation in 1/mm that is black, and that is white (default: 0, and 1.3 times the scan's scale)."""
    fps: float = 24.0
    """Slices a second of the video."""
    state: State | None = None
    """Which state of the run (default: the best, where the run kept one)."""
    output: Path | None = None
    """File (default: RUN/exports/slice.png, or slices.mp4)."""

    def __post_init__(self) -> None:
        require(0 < self.scale <= 64, f"--scale is {self.scale}: give more than 0, at most 64")
        require(self.fps > 0, f"--fps is {self.fps}: give more than 0")
        require(
            self.window is None or self.window[0] < self.window[1],
            f"--window is {self.window}: give the attenuation of black, then the larger one of white",
        )


def main(args: list[str]) -> dict[str, Any]:
    options = tyro.cli(RenderCt, args=args, prog="recon3d render")

    from tqdm import tqdm

    from recon3d.export.video import VideoWriter
    from recon3d.tasks import ct_data, ct_pictures

    with opened(options, CtConfig, "render", options.state) as run:
        task = run.task
        grid = ct_data.scaled(task.header.grid, options.scale)
        single = options.at is not None or grid.shape[0] == 1
        if grid.shape[0] == 1 and options.axis != "z":
            raise UserError(f"{run.folder.path}: a scan of one slice has no others along {options.axis}: give --axis z")
        path = options.output or run.folder.exports / ("slice.png" if single else "slices.mp4")
        suffix = ".png" if single else ".mp4"
        require(path.suffix.lower() == suffix, f"{path}: {'a slice' if single else 'slices'} are written as {suffix}")
        low, high = options.window or (0.0, ct_pictures.BRIGHT * task.header.scale)
        layers = list(slices(grid, options.axis, options.at))
        if single:
            picture = ct_pictures.grey(flat(task.volume(layers[0]), options.axis), low, high, None)
            write_png(path, picture)
        else:
            with VideoWriter(path, options.fps) as video, tqdm(total=len(layers), unit="slice", desc="render") as bar:
                for layer in layers:
                    picture = ct_pictures.grey(flat(task.volume(layer), options.axis), low, high, None)
                    video.add(even(picture))
                    bar.update()
    size = f"{picture.shape[1]} x {picture.shape[0]}"
    print(
        f"{run.state} state, step {run.step}: {len(layers)} slice{'s' * (len(layers) > 1)} of {size}; written: {path}"
    )
    return {
        "run": str(run.folder.path),
        "state": run.state,
        "step": run.step,
        "file": str(path),
        "slices": len(layers),
        "size": [picture.shape[0], picture.shape[1]],
        "window": [low, high],
    }


def slices(grid: VolumeGrid, axis: str, at: float | None) -> Iterator[VolumeGrid]:
    """The layers of a grid one after the other, or the one through ``at``.

    Raises:
        UserError: a place outside the volume.
    """
    from recon3d.geometry.voxels import VolumeGrid

    place = "xyz".index(axis)
    if at is not None:
        low, high = grid.low[place], grid.high[place]
        if not low <= at <= high:
            raise UserError(f"--at is {at:g} mm, but the volume reaches from {low:.4g} to {high:.4g} along {axis}")
    shape = [n if 2 - i != place else 1 for i, n in enumerate(grid.shape)]
    for where in grid.axis(place).tolist() if at is None else [at]:
        x, y, z = (where if i == place else c for i, c in enumerate(grid.center))
        yield VolumeGrid((shape[0], shape[1], shape[2]), grid.spacing, (x, y, z))


def flat(volume: torch.Tensor, axis: str) -> torch.Tensor:
    """A layer as a picture: the later of the two axes up."""
    return volume.squeeze("zyx".index(axis)).flip(0)


def even(picture: Any) -> Any:
    """A picture of even width and height, as videos want it."""
    import numpy as np

    return np.pad(picture, ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)))


def write_png(path: Path, picture: Any) -> None:
    import imageio.v3 as iio

    from recon3d.files import write_bytes

    write_bytes(path, iio.imwrite("<bytes>", picture, extension=".png"))
