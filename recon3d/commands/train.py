"""recon3d train PRESET DATA: train a field into a run folder."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from recon3d.config import RunConfig, load_preset, preset_names
from recon3d.errors import UserError


def main(args: list[str]) -> dict[str, Any]:
    names = ", ".join(preset_names())
    tuned, args = "--tune" in args, [arg for arg in args if arg != "--tune"]
    if not args or args[0] in ("-h", "--help"):
        print(f"usage: recon3d train PRESET DATA [options]\n\nPRESET is one of: {names}; or the path of a YAML file.")
        print("recon3d train PRESET --help shows the options; --tune does recon3d tune first.")
        raise SystemExit(0)
    if args[0].startswith("-"):
        raise UserError(f"train: name a preset first: recon3d train PRESET DATA [options] (there are: {names})")
    preset, config = named(args)

    from recon3d import distributed
    from recon3d.tasks import new_task
    from recon3d.training.machine import prepare
    from recon3d.training.run_folder import RunFolder

    config = config.resolved()
    RunFolder.planned(config, preset)
    device, precision = prepare(config)
    if tuned:
        from recon3d.tuning.report import sentence
        from recon3d.tuning.tune import tune

        tuning = distributed.from_first(lambda: tune(config, device))
        config = tuning.apply(config)
        print(f"tuned {sentence(tuning)}", file=sys.stderr)
    task = new_task(config, device, precision)
    config = task.config  # with what the data tell
    run = RunFolder.create(config, preset)
    print(f"training into {run.path} on {device} ({str(precision).removeprefix('torch.')})", file=sys.stderr)
    return fit(task, config, run, device, precision, resume=False)


def named(args: list[str]) -> tuple[str, RunConfig]:
    """The preset's name and the configuration of ``PRESET DATA [options]``, or of ``PRESET --data DATA [options]``."""
    return parse([args[0], "--data", *args[1:]] if len(args) > 1 and not args[1].startswith("-") else args)


def parse(args: list[str]) -> tuple[str, RunConfig]:
    """The preset's name and the configuration that the preset and the options make together."""
    import tyro

    preset = load_preset(args[0])
    given = {arg.split("=")[0].replace("_", "-") for arg in args[1:]}
    if not {"--data", "-h", "--help"} & given and "data" not in preset.values:
        raise UserError(f"train: name the data: recon3d train {args[0]} DATA [options]")
    default = preset.config(_device(args[1:]), data=Path())
    # A budget given on the command line, be it in steps or in seconds, stands in for the preset's.
    if "--max-seconds" in given and "--steps" not in given:
        default = dataclasses.replace(default, steps=None, max_seconds=default.max_seconds or 1.0)
    if "--steps" in given and "--max-seconds" not in given:
        default = dataclasses.replace(default, steps=default.steps or 1, max_seconds=None)
    config = tyro.cli(type(default), default=default, args=args[1:], prog=f"recon3d train {args[0]}")
    return preset.name, config


def _device(args: list[str]) -> str:
    """Which of the preset's device sections applies; --help shows the CPU's values without asking torch."""
    if "-h" in args or "--help" in args:
        return "cpu"
    name = "auto"
    for position, arg in enumerate(args):
        if arg == "--device" and position + 1 < len(args):
            name = args[position + 1]
        elif arg.startswith("--device="):
            name = arg.split("=", 1)[1]
    if name in ("cpu", "cuda"):
        return name
    from recon3d.training.machine import select_device

    return select_device("auto").type


def fit(task: Any, config: RunConfig, run: Any, device: Any, precision: Any, resume: bool) -> dict[str, Any]:
    """Train and say what came of it."""
    from recon3d.training.trainer import Trainer

    optimizer = config.optimizer  # type: ignore[attr-defined]
    trainer = Trainer(task, config, optimizer, run, device, precision, resume=resume)
    figures = {"run": str(run.path), "device": str(device), **trainer.train()}
    state = "stopped" if figures["stopped"] else "finished"
    print(f"{state} at step {figures['steps']} after {figures['seconds']:.0f} s of training: {run.path}")
    if figures["stopped"]:
        print(f"continue with: recon3d resume {run.path}")
    else:
        print(f"measure it with: recon3d eval {run.path}")
    return figures


def with_budget(config: RunConfig, steps: int | None, max_seconds: float | None) -> RunConfig:
    """The configuration with another budget, where one is given."""
    if steps is None and max_seconds is None:
        return config
    return dataclasses.replace(config, steps=steps, max_seconds=max_seconds)
