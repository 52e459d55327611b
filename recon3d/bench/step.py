"""Seconds and memory of a full-batch step: in chunks, and as the straightforward formulation in plain PyTorch.

Every variant runs in a process of its own: the peak memory is its own, and the plain one has PyTorch as it comes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import recon3d.bench.step_variants as step_variants
from recon3d.bench.options import Options
from recon3d.bench.report import Report

PROCESS = "import sys; from recon3d.bench.step_variants import report; report(sys.argv[1:])"
MODELS = ("siren", "spder", "spder_arctan", "sl2a")


def signal_step(options: Options) -> Report:
    """A step of 256 x 256 points (``--size``); the gradients of both agree to 1e-5 or the bench says so."""
    names = options.chosen_models(MODELS, MODELS)
    size = options.size or 256
    (repeats,) = options.chosen_steps((5,), (15,))[-1:]
    report = Report(
        "signal-step",
        f"Seconds a full-batch step of {size} x {size} points, {repeats} steps each (median)",
        ["seconds", "plain_seconds", "times_faster", "peak_mb", "plain_peak_mb", "gradient_difference"],
    )
    for name in names:
        chunked, plain = (_run(name, kind, size, repeats, options) for kind in ("chunked", "plain"))
        report.figures[name] = {
            "seconds": chunked["seconds"],
            "plain_seconds": plain["seconds"],
            "times_faster": plain["seconds"] / chunked["seconds"],
            "peak_mb": chunked["peak_mb"],
            "plain_peak_mb": plain["peak_mb"],
            "gradient_difference": step_variants.difference(name, replace(options, size=min(size, 64))),
            "chunk": chunked["chunk"],
        }
    report.notes = ["peak_mb: what the step adds to the memory of the idle process; gradients are of 64 x 64 points"]
    return report


def _run(model: str, kind: str, size: int, repeats: int, options: Options) -> dict[str, float]:
    threads = str(options.threads or 0)
    command = [sys.executable, "-c", PROCESS, model, kind, str(size), str(repeats), threads]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(result.stdout.splitlines()[-1])
