"""recon3d eval RUN for images, audio and video: the field against its file, all of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from recon3d.commands.opened import OpenedRun, RunOptions, State, opened
from recon3d.commands.rendered import SUFFIXES, Canvas
from recon3d.config import SignalConfig, task_of
from recon3d.errors import UserError

if TYPE_CHECKING:
    from recon3d.data.signal import Signal
    from recon3d.tasks.evaluation import Rendering


@dataclass(frozen=True)
class EvalSignal(RunOptions):
    """Measure the field of an image, a sound or a video against its file, and write figures, prediction, comparison."""

    state: State | None = None
    """Which state of the run (default: the best, where the run kept one)."""
    data: Path | None = None
    """Where the file is now, if it has moved."""


def main(args: list[str]) -> dict[str, Any]:
    options = tyro.cli(EvalSignal, args=args, prog="recon3d eval")
    with opened(options, SignalConfig, "eval", options.state) as run:
        figures = measured(run, options.data)
    print(told(figures))
    print(f"written: {figures['metrics']}, {figures['prediction']}, {figures['comparison']}")
    return figures


def measured(run: OpenedRun[Any], data: Path | None = None) -> dict[str, Any]:
    """The figures of a run's state; they, the prediction and a comparison are written to RUN/eval."""
    from recon3d.export.signals import write_signal
    from recon3d.tasks.evaluation import evaluate

    begin = time.perf_counter()
    rendering, truth = _with_its_file(run, data)
    canvas = Canvas(run.task.header, truth.grid, truth.rate)
    evaluation = evaluate(rendering, truth, canvas.put)
    seconds = time.perf_counter() - begin
    folder = run.folder.path / "eval"
    picture = run.folder.write_image("eval/comparison.png", evaluation.picture)
    prediction = write_signal(canvas.signal(), folder / f"prediction{SUFFIXES[truth.kind][0]}")
    figures = {
        "run": str(run.folder.path),
        "task": task_of(run.config),
        "state": run.state,
        "step": run.step,
        "size": list(truth.grid),
        "channels": truth.channels,
        "bits": truth.bits,
        **evaluation.figures,
        "seconds": round(seconds, 3),
        "prediction": str(prediction),
        "comparison": str(picture),
    }
    return {**figures, "metrics": str(run.folder.write_json("eval/metrics.json", figures))}


def psnr_of(run: OpenedRun[Any], data: Path | None = None) -> float:
    """Only the PSNR of a run's state; nothing is written."""
    from recon3d.tasks.evaluation import evaluate

    return float(evaluate(*_with_its_file(run, data)).figures["psnr"])


def _with_its_file(run: OpenedRun[Any], data: Path | None) -> tuple[Rendering, Signal]:
    """What the run's field shows, and the signal of its file."""
    from recon3d.tasks.evaluation import Rendering, alignment
    from recon3d.tasks.measurements import read_signal

    run.task.config = replace(run.config, data=data or run.config.data)
    truth = read_signal(run.task.config)
    if (truth.grid, truth.channels) != (run.task.header.grid, run.task.header.channels):
        raise UserError(f"{truth.path}: not the file of this run, which had {run.task.header.grid} samples and "
                        f"{run.task.header.channels} channels: this has {truth.grid} and {truth.channels}")  # fmt: skip
    return Rendering(run.task, alignment(run.task, truth)), truth


def told(figures: dict[str, Any]) -> str:
    """The figures in lines to read."""
    size = " x ".join(str(n) for n in figures["size"])
    parts = [f"PSNR {figures['psnr']:.2f} dB, MSE {figures['mse']:.3g}"]
    if "ssim" in figures:
        parts.append(f"SSIM {figures['ssim']:.4f}")
    if "rho_ag" in figures:
        parts.append(f"rho_AG {figures['rho_ag']:.5f}")
    if "exact_share" in figures:
        parts.append(f"{100 * figures['exact_share']:.2f}% exact in {figures['bits']} bits")
    lines = [
        f"{figures['state']} state, step {figures['step']}: {size}, {figures['channels']} channels, "
        f"{figures['parameters']} parameters: {', '.join(parts)}"
    ]
    if "aligned" in figures:
        lines.append(f"trained on derivatives: the prediction was aligned to the file by a {figures['aligned']} term")
    if "psnr_trained" in figures and "psnr_hidden" in figures:
        seen, hidden = figures["psnr_trained"], figures["psnr_hidden"]
        lines.append(f"points trained on: {seen:.2f} dB; hidden from training: {hidden:.2f} dB")
    for name, what in (("bicubic", "bicubic upsampling of the training image"), ("noisy", "the noisy input itself")):
        if f"psnr_{name}" in figures:
            beside = f", SSIM {figures[f'ssim_{name}']:.4f}" if f"ssim_{name}" in figures else ""
            lines.append(f"{what}: {figures[f'psnr_{name}']:.2f} dB{beside}")
    return "\n".join(lines)
