"""Opening a run to look at it: shared by eval, render and export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from recon3d.config import Device, NerfConfig

if TYPE_CHECKING:
    from recon3d.tasks.nerf import NerfTask
    from recon3d.training.run_folder import RunFolder


@dataclass(frozen=True)
class RunOptions:
    """What every command on a run takes."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    device: Device = "auto"
    threads: int | None = None
    """CPU threads (default: one per physical core)."""


@dataclass(frozen=True)
class OpenedRun:
    folder: RunFolder
    config: NerfConfig
    task: NerfTask
    step: int


@contextmanager
def opened(options: RunOptions) -> Iterator[OpenedRun]:
    """A run with its field restored, for evaluation."""
    import torch

    from recon3d.tasks import restore_task
    from recon3d.training.machine import prepare
    from recon3d.training.run_folder import RunFolder

    folder = RunFolder.open(options.run)
    config = replace(folder.read_config(), device=options.device, threads=options.threads)
    assert isinstance(config, NerfConfig)
    device, precision = prepare(config)
    task, step = restore_task(config, folder, device, precision)
    with torch.no_grad():
        yield OpenedRun(folder, config, task, step)
