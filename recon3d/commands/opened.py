"""Opening a run to look at it: shared by eval, render and export."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

import tyro

from recon3d.config import TASKS, Device, RunConfig, read_yaml, task_of
from recon3d.errors import UserError

if TYPE_CHECKING:
    from recon3d.training.run_folder import RunFolder

C = TypeVar("C", bound=RunConfig)
State = Literal["best", "last"]
KINDS = {
    "nerf": "nerf",
    "surface": "nerf",
    "shape": "shape",
    "image": "signal",
    "audio": "signal",
    "video": "signal",
    "ct": "ct",
}
"""Which of a command's modules serves the runs of a task."""


@dataclass(frozen=True)
class RunOptions:
    """What every command on a run takes."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    device: Device = "auto"
    threads: int | None = None
    """CPU threads (default: one per physical core)."""


@dataclass(frozen=True)
class OpenedRun(Generic[C]):
    """A run and its task, restored as it was after ``step`` steps: in its best state, or in its last."""

    folder: RunFolder
    config: C
    task: Any
    step: int
    state: State


@contextmanager
def opened(
    options: RunOptions, kind: type[C] | tuple[type[C], ...], command: str, state: State | None = "last"
) -> Iterator[OpenedRun[C]]:
    """A run of one of the kinds with its field restored, for evaluation; ``state`` None is the best where the run kept
    one, else the last.

    Raises:
        UserError: no run, one of another task than ``command`` is for, or without a best state where that is asked for.
    """
    import torch

    from recon3d.tasks import restore_task
    from recon3d.training import checkpoints
    from recon3d.training.machine import prepare
    from recon3d.training.run_folder import RunFolder

    folder = RunFolder.open(options.run)
    config = folder.read_config()
    if not isinstance(config, kind):
        fitting = ", ".join(name for name, known in TASKS.items() if issubclass(known, kind))
        raise UserError(f"{folder.path}: this is a run of {task_of(config)}; recon3d {command} takes runs of {fitting}")
    config = replace(config, device=options.device, threads=options.threads)
    has_best = (folder.checkpoints / checkpoints.BEST).is_file()
    if state == "best" and not has_best:
        raise UserError(f"{folder.path}: the run kept no best state: give --state last")
    chosen: State = "best" if has_best and state != "last" else "last"
    device, precision = prepare(config)
    task, step = restore_task(config, folder, device, precision, chosen)
    with torch.no_grad():
        yield OpenedRun(folder, config, task, step, chosen)


def for_the_run(command: str, args: list[str]) -> dict[str, Any]:
    """Do ``command`` by the module for the task of the run that is among ``args``.

    Without a run there is only help to give, for every kind of run, or a mistake to tell.
    """
    kinds = list(dict.fromkeys(KINDS.values()))
    if set(args) & {"-h", "--help"} and _task_among(args) is None:
        for kind in kinds:
            print(f"--- runs of {', '.join(task for task in KINDS if KINDS[task] == kind)} ---")
            try:
                _module(command, kind).main(["--help"])
            except SystemExit as left:
                if left.code:
                    raise
        raise SystemExit(0)
    return _module(command, KINDS[_task_among(args) or "nerf"]).main(args)


def _module(command: str, kind: str) -> Any:
    return importlib.import_module(f"recon3d.commands.{command}_{kind}")


def _task_among(args: list[str]) -> str | None:
    """The task of the first argument that is a run folder."""
    for arg in args:
        file = Path(arg) / "config.yaml"
        if not arg.startswith("-") and file.is_file():
            task = read_yaml(file).get("task")
            return task if isinstance(task, str) and task in KINDS else None
    return None
