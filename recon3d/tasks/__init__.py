"""Tasks: what a user trains. Each binds a loader, a field, a head, a loss and its previews."""

from __future__ import annotations

import dataclasses

import torch

from recon3d.config import RunConfig, task_of
from recon3d.fields import tcnn
from recon3d.tasks.ct import CtTask
from recon3d.tasks.nerf import NerfTask
from recon3d.tasks.shape import ShapeTask
from recon3d.tasks.signal import SignalTask
from recon3d.tasks.surface import SurfaceTask
from recon3d.training.run_folder import RunFolder
from recon3d.training.trainer import load_task_state

AnyTask = NerfTask | SurfaceTask | ShapeTask | SignalTask | CtTask
TASK_CLASSES: dict[str, type[AnyTask]] = {
    "nerf": NerfTask,
    "surface": SurfaceTask,
    "shape": ShapeTask,
    "image": SignalTask,
    "audio": SignalTask,
    "video": SignalTask,
    "ct": CtTask,
}


def new_task(config: RunConfig, device: torch.device, precision: torch.dtype) -> AnyTask:
    """The task of a new run; reads its data."""
    return TASK_CLASSES[task_of(config)].from_data(config, device, precision)  # type: ignore[arg-type]


def restore_task(
    config: RunConfig, run: RunFolder, device: torch.device, precision: torch.dtype, state: str = "last"
) -> tuple[AnyTask, int]:
    """The task of a run as a checkpoint has it, without its training data, and the step: the newest checkpoint, or
    with ``state`` "best" the best one where the run kept one. A run that tinycudann trained is opened without it where
    it is not installed."""
    if config.field.backend == "tcnn" and not tcnn.is_installed():  # type: ignore[attr-defined]
        field = dataclasses.replace(config.field, backend="own")  # type: ignore[attr-defined]
        config = dataclasses.replace(config, field=field)  # type: ignore[call-arg]
    task = TASK_CLASSES[task_of(config)](config, device, precision)  # type: ignore[arg-type]
    step = load_task_state(task, run, device, state)
    return task.eval(), step
