#!/usr/bin/env python
"""Where the time of a NeRF training step goes, beside the floor that operations and bytes set on this machine.

    .venv/bin/python scripts/bench_step.py --data FOLDER [--warm-steps 500] [--steps 20] [--neighbour] [--json FILE]

Trains the preset ``nerf`` for some steps, so that the occupancy grid is as in a real run, then profiles a few. Shares
are of one step. The floor of a part is the larger of its bytes over the measured copy bandwidth and its products over
the measured rate of matrix products, both measured here, before: no implementation can be faster.

It also times a whole training view. On a GPU it tells, of steps launched kernel by kernel and of recorded ones:
milliseconds a step, kernels that run, launches by the host, and the share of the time in which no kernel runs.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from recon3d.config import NerfConfig, load_preset  # before torch: it sets how torch's threads wait

import torch  # isort: skip
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from recon3d.tasks.nerf import NerfTask
from recon3d.training.adam import Adam
from recon3d.training.machine import prepare
from recon3d.training.recorded import WARM_UP, RecordedStep

PARTS = {
    "march": ["recon3d::march_rays", "recon3d::march_ahead"],
    "samples in order": ["recon3d::darken_segments", "recon3d::lay_segments"],
    "encode": ["recon3d::hash_encode"],
    "encode, backward": ["recon3d::hash_encode_backward"],
    "networks": ["recon3d::mlp"],
    "networks, backward": ["recon3d::mlp_backward"],
    "composite": ["recon3d::composite"],
    "composite, backward": ["recon3d::composite_backward"],
    "optimiser": ["Optimizer.step#Adam.step"],
}


LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")


def seconds_of(function: Callable[[], object], device: torch.device, repeats: int = 9) -> float:
    """Median seconds of a call."""
    taken = []
    for _ in range(repeats + 2):
        begin = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begin)
    return sorted(taken[2:])[repeats // 2]


def machine_limits(device: torch.device, precision: torch.dtype) -> tuple[float, float]:
    """Bytes per second of a copy that does not fit a cache, and operations per second of products."""
    source = torch.zeros(2**26, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / seconds_of(lambda: target.copy_(source), device)
    matrix = torch.randn(4096, 4096, device=device, dtype=precision)
    return bandwidth, 2 * 4096**3 / seconds_of(lambda: matrix @ matrix, device)


@contextlib.contextmanager
def neighbour() -> Iterator[None]:
    """Within it, other processes keep as many threads busy as torch has here."""
    command = [sys.executable, "-c", "while True: pass"]
    spinning = [subprocess.Popen(command) for _ in range(torch.get_num_threads())]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def floors(task: NerfTask, samples: float, bandwidth: float, rate: float) -> dict[str, float]:
    """Milliseconds of each part for ``samples`` visible samples: what must be read, written and multiplied."""
    encoder = task.field.encoder
    table = sum(p.nbytes for p in encoder.parameters())
    networks = [*task.field.density_network.parameters(), *task.field.color_network.parameters()]
    products = 2 * sum(p.numel() for p in networks) * samples
    features = 4 * encoder.out_dim * samples
    corners = 8 * features
    ends = 2 * samples * (encoder.out_dim + task.config.field.geometry_features + 3)
    bytes_ = {
        "march": 24 * samples,
        "samples in order": 2 * (24 * samples + features),
        "encode": 12 * samples + corners + features,
        "encode, backward": 12 * samples + features + 2 * corners + table,
        "networks": ends,
        "networks, backward": 2 * ends,
        "composite": 24 * samples,
        "composite, backward": 40 * samples,
        "optimiser": 7 * (table + sum(p.nbytes for p in networks)),
    }
    work = {"networks": products, "networks, backward": 2 * products}
    return {part: 1000 * max(size / bandwidth, work.get(part, 0.0) / rate) for part, size in bytes_.items()}


@dataclasses.dataclass
class Mode:
    """How steps run: one by one, or recorded."""

    name: str
    step_ms: float
    kernels: float
    launches: float
    idle_share: float


def measure(name: str, step: Callable[[int], None], first: int, steps: int, device: torch.device) -> tuple[Mode, Any]:
    """Time some steps, then profile as many."""

    def run(begin: int) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for index in range(begin, begin + steps):
            step(index)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    whole = 1000 * run(first) / steps
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=activities) as profiler:
        run(first + steps)
    kernels = [event for event in profiler.events() if event.device_type == DeviceType.CUDA]
    launches = sum(event.name.startswith(LAUNCHES) for event in profiler.events())
    spans = sorted((event.time_range.start, event.time_range.end) for event in kernels)
    busy, reached = 0.0, spans[0][0] if spans else 0.0
    for start, end in spans:
        busy, reached = busy + max(0.0, end - max(start, reached)), max(reached, end)
    idle = 1 - busy / (reached - spans[0][0]) if spans else 0.0
    return Mode(name, whole, len(kernels) / steps, launches / steps, idle), profiler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--downscale", type=int, default=1)
    parser.add_argument("--warm-steps", type=int, default=500)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--neighbour", action="store_true", help="measure beside a program that keeps the cores busy, too"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    kind = "cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu"
    config = load_preset("nerf").config(kind, args.data)
    assert isinstance(config, NerfConfig)
    config = dataclasses.replace(config, downscale=args.downscale, device=args.device).resolved()
    device, precision = prepare(config)
    bandwidth, rate = machine_limits(device, precision)
    task = NerfTask.from_data(config, device, precision)
    optimizer = Adam(task.parameter_groups(config.optimizer), config.optimizer.betas, config.optimizer.epsilon)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
    seen: list[dict[str, float]] = []

    def finish() -> None:
        scaler.step(optimizer)
        scaler.update()

    def step(index: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        result = task.training_step(index, lambda loss: scaler.scale(loss).backward())
        finish()
        seen.append(result.scalars)

    def device_step() -> None:
        optimizer.zero_grad(set_to_none=True)
        task.device_step(lambda loss: scaler.scale(loss).backward())
        finish()

    for index in range(args.warm_steps):
        step(index)
    seen.clear()
    mode, profiler = measure("one by one", step, args.warm_steps, args.steps, device)
    modes, whole = [mode], mode.step_ms
    samples = sum(s["samples"] for s in seen) / len(seen)
    beside = None
    if args.neighbour:
        with neighbour():
            beside = measure("beside a neighbour", step, args.warm_steps, args.steps, device)[0].step_ms
    if task.recordable:
        recorded = RecordedStep(device_step, task.generator)

        def silent(index: int) -> None:
            task.prepare_step(index)
            recorded()

        first = args.warm_steps + 2 * args.steps
        for index in range(first, first + WARM_UP + 2):
            silent(index)
        modes.append(measure("recorded", silent, first + WARM_UP + 2, args.steps, device)[0])

    task.eval()
    cameras = task.train_cameras
    assert cameras is not None
    view_ms = 1000 * seconds_of(lambda: task.render(cameras, 0), device, 3)
    clock = "device_time_total" if device.type == "cuda" else "cpu_time_total"
    total = {event.key: getattr(event, clock) for event in profiler.key_averages()}
    floor = floors(task, samples, bandwidth, rate)
    rows = [
        {
            "part": part,
            "ms": sum(total.get(key, 0.0) for key in keys) / 1000 / args.steps,
            "floor_ms": floor[part],
        }
        for part, keys in PARTS.items()
    ]
    rows.append({"part": "everything else", "ms": whole - sum(row["ms"] for row in rows), "floor_ms": 0.0})

    print(f"one step on {device}, {samples:.0f} visible samples, {seen[-1]['rays']:.0f} rays: {whole:.1f} ms")
    print(f"copy {bandwidth / 1e9:.1f} GB/s, products {rate / 1e9:.0f} GFLOP/s in {precision}")
    print(f"{'part':<22}{'ms':>8}{'share':>8}{'floor ms':>10}")
    for row in rows:
        print(f"{row['part']:<22}{row['ms']:>8.2f}{100 * row['ms'] / whole:>7.1f}%{row['floor_ms']:>10.2f}")
    if device.type == "cuda":
        print(f"{'steps':<22}{'ms':>8}{'kernels':>9}{'launches':>10}{'idle':>8}")
        for mode in modes:
            print(
                f"{mode.name:<22}{mode.step_ms:>8.2f}{mode.kernels:>9.0f}{mode.launches:>10.0f}{mode.idle_share:>8.1%}"
            )
    print(f"a view of {cameras.width} x {cameras.height}: {view_ms:.1f} ms")
    if beside is not None:
        print(f"beside a busy neighbour: {beside:.1f} ms, {100 * whole / beside:.0f}% of the throughput alone")
    if args.json:
        result = {
            "device": str(device),
            "step_ms": whole,
            "samples": samples,
            "bandwidth": bandwidth,
            "rate": rate,
            "neighbour_ms": beside,
            "view_ms": view_ms,
            "view_size": [cameras.width, cameras.height],
        }
        steps = [dataclasses.asdict(mode) for mode in modes]
        args.json.write_text(json.dumps({**result, "parts": rows, "steps": steps}, indent=2) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
