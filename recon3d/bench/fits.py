"""One training of a benchmark: its curve, what was measured at the asked steps, and its seconds a step.

A finished fit is kept beside its run folder and not trained again while its configuration is the same.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from recon3d.bench.report import Curve
from recon3d.config import SignalConfig, to_plain
from recon3d.errors import Diverged
from recon3d.files import write_bytes
from recon3d.metrics.signal import mse, psnr, spectrum_cosine
from recon3d.tasks.signal import SignalTask
from recon3d.training.machine import prepare
from recon3d.training.run_folder import RunFolder
from recon3d.training.trainer import Trainer

Evaluation = Callable[[SignalTask], dict[str, float]]


@dataclass(frozen=True)
class Fit:
    """``psnr[k]`` is the PSNR of the training points after k updates, as the full-batch step k + 1 finds it;
    ``measured[k]`` what the benchmark's own evaluation gave after k updates. Both end where the fit ``diverged``."""

    psnr: list[float]
    measured: dict[int, dict[str, float]]
    seconds_per_step: float
    parameters: int
    diverged: bool = False

    def last(self, step: int) -> float:
        """PSNR after ``step`` updates; NaN where the fit had diverged by then."""
        return self.psnr[step] if step < len(self.psnr) else math.nan

    def best(self, step: int) -> float:
        """The best PSNR within ``step`` updates: what the papers record; NaN where there was none."""
        return max((value for value in self.psnr[: step + 1] if math.isfinite(value)), default=math.nan)

    def figure(self, step: int, key: str) -> float:
        """What was measured after ``step`` updates; NaN where the fit had diverged by then."""
        return self.measured.get(step, {}).get(key, math.nan)


def fit(config: SignalConfig, at: Sequence[int], evaluate: Evaluation | None = None) -> Fit:
    """Train ``config`` for max(at) updates; ``evaluate`` is called after each number of updates in ``at``."""
    # The step after the last update is the one that measures its PSNR.
    config = dataclasses.replace(config, steps=max(at) + 1, max_seconds=None, overwrite=True, log_every=1)
    config = dataclasses.replace(config, preview_every=max(at) + 1, checkpoint_every=max(at) + 1).resolved()
    assert config.name is not None
    record = config.out / config.name / "fit.json"
    asked = {"config": to_plain(dataclasses.replace(config, threads=None)), "at": list(at)}
    if record.is_file():
        saved = json.loads(record.read_text())
        if saved["asked"] == json.loads(json.dumps(asked)):
            kept = {int(step): values for step, values in saved["measured"].items()}
            return Fit(saved["psnr"], kept, saved["seconds_per_step"], saved["parameters"], saved["diverged"])
    device, precision = prepare(config)
    run = RunFolder.create(config, "bench")
    task = SignalTask.from_data(config, device, precision)
    curve: list[float] = []
    measured: dict[int, dict[str, float]] = {}

    def visit(step: int, scalars: dict[str, float]) -> None:
        curve.append(scalars["psnr"])
        if evaluate is not None and step in at:
            task.eval()
            measured[step] = evaluate(task)
            task.train()

    trainer = Trainer(task, config, config.optimizer, run, device, precision)
    diverged = False
    try:
        if trainer.train(visit)["stopped"]:
            raise KeyboardInterrupt
    except Diverged as error:
        print(f"{config.name}: {error}", file=sys.stderr)
        diverged = True
    spent = trainer.progress
    seconds = spent.seconds / spent.step if spent.step else math.nan
    result = Fit(curve, measured, seconds, task.field.parameter_count(), diverged)
    values = {"asked": asked, **dataclasses.asdict(result)}
    write_bytes(record, json.dumps(values).encode())
    return result


def mean(values: Sequence[float]) -> float:
    """The mean of what is finite."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def folder_name(*parts: object) -> str:
    """A run's name made of its parts, fit for a folder."""
    return "-".join(str(part) for part in parts).replace("/", "_").replace(" ", "_")


def whole(task: SignalTask) -> dict[str, float]:
    """Mean squared error, PSNR and rho_AG of the whole signal."""
    assert task.truth is not None
    truth = torch.from_numpy(task.truth.normalized()).to(task.device)
    prediction = task.render()
    return {
        "mse": mse(prediction, truth),
        "psnr": psnr(prediction, truth),
        "rho": spectrum_cosine(prediction, truth),
    }


def curves_of(fits: dict[str, list[Fit]]) -> dict[str, Curve]:
    """The mean curve of every model: PSNR against the number of updates, as far as none of its fits diverged."""
    lengths = {model: min(len(one.psnr) for one in found) for model, found in fits.items()}
    return {
        model: (list(map(float, range(length))), np.mean([one.psnr[:length] for one in fits[model]], axis=0).tolist())
        for model, length in lengths.items()
    }


def mean_measured(configs: Sequence[SignalConfig], steps: int, key: str) -> float:
    """Fit every configuration for ``steps`` updates; the mean of one figure of their whole signals."""
    fits = [fit(config, (steps,), whole) for config in configs]
    return mean([found.figure(steps, key) for found in fits])
