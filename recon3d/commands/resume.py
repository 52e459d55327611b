"""recon3d resume RUN: continue a run from its newest checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from recon3d.commands.train import fit, with_budget
from recon3d.config import Device
from recon3d.errors import UserError


@dataclass(frozen=True)
class Resume:
    """Continue a run from its newest checkpoint, to the end of its budget or of a new one."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    steps: int | None = None
    """New total of steps (default: the run's)."""
    max_seconds: float | None = None
    """New total of training seconds."""
    data: Path | None = None
    """Where the data is now, if it has moved."""
    device: Device | None = None
    """Default: the run's."""
    threads: int | None = None


def main(args: list[str]) -> dict[str, Any]:
    options = tyro.cli(Resume, args=args, prog="recon3d resume")

    from recon3d import distributed
    from recon3d.tasks import new_task
    from recon3d.training import checkpoints
    from recon3d.training.machine import prepare
    from recon3d.training.run_folder import RunFolder

    run = RunFolder.open(options.run)
    config = with_budget(run.read_config(), options.steps, options.max_seconds)
    config = replace(
        config,
        data=options.data or config.data,
        device=options.device or config.device,
        threads=options.threads or config.threads,
    )
    _, header = checkpoints.load(checkpoints.newest(run.checkpoints))
    if config.steps is not None and header["step"] >= config.steps:
        raise UserError(
            f"{run.path}: already at step {header['step']} of {config.steps}: give --steps N with a larger N to go on"
        )
    if config.max_seconds is not None and header["seconds"] >= config.max_seconds:
        raise UserError(
            f"{run.path}: already trained for {header['seconds']:.0f} s of {config.max_seconds:g}: give --max-seconds S"
            " with a larger S, counted from the first step, to go on"
        )
    device, precision = prepare(config)
    task = new_task(config, device, precision)
    if distributed.is_first():
        run.write_config(config)
    return fit(task, config, run, device, precision, resume=True)
