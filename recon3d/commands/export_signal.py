"""recon3d export signal RUN: an image, a sound or a video as one file of weights; recon3d decode is the way back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from recon3d.commands.opened import RunOptions, State, opened
from recon3d.commands.rendered import BLOCK, checked
from recon3d.config import SignalConfig
from recon3d.errors import UserError

if TYPE_CHECKING:
    from recon3d.data.signal import Signal
    from recon3d.tasks.evaluation import Rendering


@dataclass(frozen=True)
class ExportSignal(RunOptions):
    """Write the weights of a run's field, and what decodes them, to one file."""

    precision: Literal["float16", "float32"] = "float16"
    """Type of the weights in the file."""
    state: State | None = None
    """Which state of the run (default: the best, where the run kept one)."""
    data: Path | None = None
    """Where the run's file is now, if it has moved; without it nothing is compared with it."""
    output: Path | None = None
    """File to write (default: RUN/exports/signal.safetensors)."""


def main(args: list[str]) -> dict[str, Any]:
    options = tyro.cli(ExportSignal, args=args, prog="recon3d export signal")

    from recon3d.export.weights import SUFFIX, read_weights, write_weights
    from recon3d.tasks.evaluation import Rendering, alignment

    with opened(options, SignalConfig, "export signal", options.state) as run:
        task, header = run.task, run.task.header
        path = checked(options.output or run.folder.exports / f"signal{SUFFIX}", (SUFFIX,), "weights")
        original = options.data or run.config.data
        truth = _truth(run.config, original)
        if truth is not None and truth.grid != header.grid:
            raise UserError(
                f"{original}: {truth.grid} samples, but the run was trained on {header.grid}: another file?"
            )
        rendering = Rendering(task, None if truth is None else alignment(task, truth))
        written = write_weights(rendering, path, options.precision)
        against = _compared(read_weights(path, task.device), rendering, truth)
    raw = math.prod(header.grid) * header.channels * header.bits // 8
    figures: dict[str, Any] = {
        "run": str(run.folder.path),
        "state": run.state,
        "step": run.step,
        "file": str(path),
        "precision": options.precision,
        "parameters": task.field.parameter_count(),
        "bytes": written.size,
        "raw_bytes": raw,
        "original_bytes": original.stat().st_size if original.is_file() else None,
        "ratio": raw / written.size,
        **against,
    }
    print(_told(figures))
    print(f"written: {path}; back with: recon3d decode {path}")
    return figures


def _truth(config: SignalConfig, data: Path) -> Signal | None:
    from recon3d.tasks.measurements import read_signal

    return read_signal(replace(config, data=data)) if data.is_file() else None


def _compared(decoded: Rendering, rendering: Rendering, truth: Signal | None) -> dict[str, float]:
    """PSNR of the decoded file against the run's own rendering, and of both against the original."""
    import numpy as np
    import torch

    from recon3d.tasks.signal import decibels

    header = rendering.task.header
    points, numbers = math.prod(header.grid), math.prod(header.grid) * header.channels
    errors = {"psnr_to_rendering": 0.0, "psnr": 0.0, "psnr_undecoded": 0.0}
    for begin in range(0, points, BLOCK):
        end = min(begin + BLOCK, points)
        back, own = (each.values(header.grid, begin, end).double() for each in (decoded, rendering))
        errors["psnr_to_rendering"] += float((back - own).square().sum())
        if truth is not None:
            target = torch.from_numpy(truth.normalized(np.arange(begin, end)))
            errors["psnr"] += float((back - target).square().sum())
            errors["psnr_undecoded"] += float((own - target).square().sum())
    known = errors if truth is not None else ["psnr_to_rendering"]
    return {name: decibels(errors[name] / numbers) for name in known}


def _told(figures: dict[str, Any]) -> str:
    file = "not here" if figures["original_bytes"] is None else f"{figures['original_bytes']} bytes"
    lines = [
        f"{figures['state']} state, step {figures['step']}: {figures['parameters']} parameters in "
        f"{figures['precision']}: {figures['bytes']} bytes (original file {file}, raw samples "
        f"{figures['raw_bytes']} bytes: ratio {figures['ratio']:.2f})",
        f"decoded against the run's own rendering: {figures['psnr_to_rendering']:.2f} dB",
    ]
    if "psnr" in figures:
        lines[1] += f"; against the original: {figures['psnr']:.2f} dB (before: {figures['psnr_undecoded']:.2f} dB)"
    return "\n".join(lines)
