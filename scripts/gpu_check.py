#!/usr/bin/env python
"""The parts of scripts/gpu_check.sh, what is most owed first: tests of the kernels, the parts of a NeRF's step, Lego
after 10 and 30 seconds, the kernels one by one, image fitting by number types, the projector; then the rest.

OUT gets summary.json (of every part its exit status, its seconds and the figures that it printed, written anew after
each part), log.txt, tests.xml, step.json, kernels.json, precision.json, projection.json and curves.png. A part that
fails, or that takes longer than it may, does not stop the others; what no time is left for is told.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LEGO = ROOT / "carry" / "lego"
BUDGET = 570
"""Seconds for all parts together."""
GRACE = 8
"""Seconds that a part has to end when its time is over."""
REHEARSAL = 10
"""How many times as long a part may take on a CPU."""
FOR_A_GPU = re.compile(r"\bmark\.gpu\b|\bDEVICES\b|\bimplementation\b")
NEEDED = (
    *("torch", "triton", "numba", "scipy", "jaxtyping", "safetensors", "yaml", "tqdm", "imageio", "PIL"),
    *("tensorboard", "tyro", "typeguard", "docstring_parser", "pytest", "hypothesis", "beartype"),
)


@dataclass(frozen=True)
class Part:
    """A command, and the seconds that it may take. ``run`` names the run folder whose curve it makes."""

    name: str
    limit: int
    command: list[str]
    run: Path | None = None
    tests: Path | None = None


@dataclass
class Outcome:
    status: int
    seconds: float
    figures: dict[str, Any] = field(default_factory=dict)


def files_with_gpu_tests(*folders: str) -> list[Path]:
    """Of some folders of tests those that have tests for a GPU: others may need packages that a bare machine lacks."""
    files = [path for folder in folders for path in sorted((ROOT / "tests" / folder).rglob("test_*.py"))]
    return [path for path in files if FOR_A_GPU.search(path.read_text())]


def parts(out: Path, work: Path, device: str) -> Iterator[Part]:
    """All parts in their order. On a CPU at their smallest, with time enough for any machine."""
    gpu = device == "cuda"
    marked = ["-m", "gpu"] if gpu else ["-k", "nothing or harmonics"]
    workers = ["-n", "8"] if gpu and importlib.util.find_spec("xdist") else []

    def python(*arguments: object) -> list[str]:
        return [sys.executable, *map(str, arguments)]

    def tests(name: str, limit: int, report: Path, *folders: str) -> Part:
        options = ["-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", f"--junitxml={report}"]
        command = python("-m", "pytest", *options, *marked, *workers, *files_with_gpu_tests(*folders))
        return Part(name, limit, command, tests=report)

    def lego(name: str, seconds: int, *options: object) -> Iterator[Part]:
        """Train for so long, and measure the held-out views."""
        small = [] if gpu else ["--downscale", 16, "--steps", 4, "--samples", 2048]
        run = work / "runs" / name
        train = python(
            *("-m", "recon3d.cli", "train", "nerf_lego", "--data", LEGO, "--max-seconds", seconds),
            *("--out", work / "runs", "--name", name, "--device", device, *small, *options, "--json"),
        )
        yield Part(f"train_{name}", seconds + 40, train, run=run)
        yield Part(f"eval_{name}", 45, python("-m", "recon3d.cli", "eval", run, "--json"))

    def script(name: str, limit: int, *options: object) -> Part:
        path = ROOT / "scripts" / f"bench_{name}.py"
        return Part(name, limit, python(path, "--device", device, "--json", out / f"{name}.json", *options))

    yield tests("tests", 110, out / "tests.xml", "kernels", "training")
    if LEGO.is_dir():
        # Before the trainings: it compiles the kernels that they need.
        small = [] if gpu else ["--downscale", 16, "--warm-steps", 2, "--steps", 1]
        yield script("step", 75, "--data", LEGO, *small)
        yield from lego("10", 10)
        yield from lego("30", 30)
    yield script("kernels", 80, "--seconds", 0.2 if gpu else 0.01, *([] if gpu else ["--points", 2048]))
    yield script("precision", 90, *([] if gpu else ["--size", 16, "--steps", 20]))
    yield script("projection", 40, *(["--seconds", 1] if gpu else ["--seconds", 0.01, "--voxels", 16]))
    yield tests("tests_of_tasks", 60, work / "tests.xml", "fields", "heads", "tasks")
    if LEGO.is_dir():
        yield from lego("touched_10", 10, "--optimizer.touched-rows")
        if gpu and importlib.util.find_spec("tinycudann"):
            yield from lego("tcnn_10", 10, "--field.backend", "tcnn")
        yield from lego("60", 60)
    models = ["spder", "ours", "hash_grid"]
    steps = ["25", "100", "500"] if gpu else ["2", "--size", "16"]
    bench = ("-m", "recon3d.cli", "bench", "spder-image", "--models", *models, "--device", device)
    yield Part("signals", 90, python(*bench, "--out", work / "bench", "--json", "--steps", *steps))


def run_part(part: Part, limit: float, log: Path, work: Path) -> Outcome:
    """Run a part for at most ``limit`` seconds, with all processes that it starts; its output goes to the log too."""
    begin = time.monotonic()
    with log.open("a") as file:
        file.write(f"== {part.name}\n")
    answers, errors = work / "stdout", work / "stderr"
    with answers.open("w") as answer, errors.open("w") as error:
        process = subprocess.Popen(
            part.command, stdout=answer, stderr=error, stdin=subprocess.DEVNULL, start_new_session=True, cwd=ROOT
        )
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = 124
            os.killpg(process.pid, signal.SIGINT)  # tests write their report, and a training its figures
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    said, told = answers.read_text(errors="replace"), _without_bars(errors.read_text(errors="replace"))
    outcome = Outcome(status, round(time.monotonic() - begin, 1))
    lines = said.splitlines()
    if lines and lines[-1].startswith("{"):
        with contextlib.suppress(json.JSONDecodeError):
            outcome.figures = json.loads(lines[-1])
    if part.tests is not None:
        outcome.figures = _counts(part.tests)
    with log.open("a") as file:
        file.write(f"{said}{told}== {part.name}: status {status} after {outcome.seconds} s\n")
    print("\n".join([f"== {part.name}", *lines[-12:], *(told.splitlines()[-12:] if status else [])]))
    print(f"== {part.name}: status {status} after {outcome.seconds} s", flush=True)
    return outcome


def _without_bars(text: str) -> str:
    """Of what was overwritten on a line, the last."""
    return "".join(f"{line.rsplit(chr(13), 1)[-1]}\n" for line in text.splitlines(keepends=False) if line.strip())


def _counts(report: Path) -> dict[str, Any]:
    """Tests, failures and their names, of a JUnit file; nothing where the tests were cut off."""
    if not report.is_file():
        return {}
    cases = list(ElementTree.parse(report).iter("testcase"))
    wrong = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    names = [f"{case.get('classname')}::{case.get('name')}" for case in wrong]
    return {"tests": len(cases), "skipped": skipped, "failed": len(wrong), "names": names[:50]}


def draw(curves: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """PSNR of training rays against seconds; nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), label=name)
    axes.set(xlabel="seconds of training", ylabel="PSNR of training rays, dB")
    axes.legend()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def curve_of(run: Path) -> list[tuple[float, float]]:
    """(seconds, PSNR) of a run, as far as it got."""
    metrics = run / "metrics.jsonl"
    entries = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.is_file() else []
    return [(entry["seconds"], entry["psnr"]) for entry in entries if "psnr" in entry and "seconds" in entry]


def machine(device: str) -> dict[str, str]:
    """What runs here.

    Raises:
        SystemExit: a package is missing, or there is no such device.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"gpu_check: Python does not find {', '.join(missing)}: put wheels into carry/wheels")
    import torch
    import triton

    told = {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__}
    if device == "cuda":
        if not torch.cuda.is_available():
            sys.exit("gpu_check: torch finds no CUDA device")
        told["device"] = torch.cuda.get_device_name()
        told["capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="a folder for runs, which is not kept")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all parts together")
    args = parser.parse_args()
    begin = time.monotonic()
    summary: dict[str, Any] = {"machine": machine(args.device), "parts": {}}
    print(summary["machine"], flush=True)
    log = args.out / "log.txt"
    log.write_text("")
    curves: dict[str, list[tuple[float, float]]] = {}
    patience = 1 if args.device == "cuda" else REHEARSAL
    for part in parts(args.out, args.work, args.device):
        left = patience * args.budget - (time.monotonic() - begin)
        if left < 2 * GRACE:
            outcome = Outcome(124, 0.0, {"cut": "no time was left"})
        else:
            outcome = run_part(part, min(left - GRACE, patience * part.limit), log, args.work)
        summary["parts"][part.name] = asdict(outcome)
        (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        if part.run is not None and (points := curve_of(part.run)):
            curves[part.run.name] = points
            draw(curves, args.out / "curves.png")
    return int(summary["parts"]["tests"]["status"] != 0)


if __name__ == "__main__":
    sys.exit(main())
