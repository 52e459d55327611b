"""recon3d render RUN for images, audio and video: the field sampled anew, at any size or rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from recon3d.commands.opened import RunOptions, State, opened
from recon3d.commands.rendered import Sampling, checked, rendered
from recon3d.config import SignalConfig
from recon3d.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from recon3d.tasks.signal import SignalTask

EDGE_BLOCK = 2**14
"""Points whose gradient is made at once."""
BRIGHTEST = 99.9
"""Percentile of the gradient's norm that is white."""


@dataclass(frozen=True)
class RenderSignal(Sampling, RunOptions):
    """Sample the field of an image, a sound or a video, and write it to a file (default: RUN/exports)."""

    edges: bool = False
    """Image: the norm of the field's gradient instead of its values, a grey PNG."""
    state: State | None = None
    """Which state of the run (default: the best, where the run kept one)."""


def main(args: list[str]) -> dict[str, Any]:
    options = tyro.cli(RenderSignal, args=args, prog="recon3d render")
    with opened(options, SignalConfig, "render", options.state) as run:
        header = run.task.header
        grid, rate = options.grid(header)
        default = run.folder.exports / ("edges" if options.edges else "render")
        path = options.target(header, default)
        if options.edges:
            if header.kind != "image":
                raise UserError(f"--edges is for images, not for {header.kind}")
            checked(path, (".png",), "edges")
            _write_edges(run.task, grid, path)
        else:
            _write_values(run.task, grid, rate, path)
    size = " x ".join(map(str, grid))
    at = "" if rate is None else f" at {rate:g} per second"
    print(f"{run.state} state, step {run.step}: {size}{at}; written: {path}")
    return {
        "run": str(run.folder.path),
        "state": run.state,
        "step": run.step,
        "file": str(path),
        "size": list(grid),
        "rate": rate,
    }


def _write_values(task: SignalTask, grid: tuple[int, ...], rate: float | None, path: Path) -> None:
    from recon3d.export.signals import write_signal
    from recon3d.tasks.evaluation import Rendering, alignment, trained_on_derivatives
    from recon3d.tasks.measurements import read_signal

    shift = None
    if trained_on_derivatives(task.config):
        # What derivatives leave open only the file can tell.
        shift = alignment(task, read_signal(task.config))
    write_signal(rendered(Rendering(task, shift), grid, rate), path)


def _write_edges(task: SignalTask, grid: tuple[int, ...], path: Path) -> None:
    import numpy as np

    from recon3d.data.signal import Signal
    from recon3d.export.signals import write_signal

    norm = edge_strength(task, grid)
    white = float(np.percentile(norm, BRIGHTEST)) or 1.0
    write_signal(Signal("image", norm, 0.0, white, 8, None, path), path)


def edge_strength(task: SignalTask, grid: tuple[int, ...]) -> np.ndarray:
    """Norm of the field's gradient over channels and axes, (H, W, 1)."""
    import numpy as np
    import torch
    from tqdm import tqdm

    from recon3d.geometry.grids import grid_points

    points = math.prod(grid)
    norm = np.empty((points, 1), np.float32)
    with tqdm(total=points, unit="point", unit_scale=True, desc="edges") as bar:
        for begin in range(0, points, EDGE_BLOCK):
            end = min(begin + EDGE_BLOCK, points)
            x = grid_points(grid, torch.arange(begin, end, device=task.device), task.device)
            norm[begin:end, 0] = task.field.gradient(x).detach().flatten(1).norm(dim=1).cpu().numpy()
            bar.update(end - begin)
    return norm.reshape(*grid, 1)
