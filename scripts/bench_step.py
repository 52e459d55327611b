#!/usr/bin/env python
"""Where the time of a NeRF training step goes, beside the floor that operations and bytes set on this machine.

    .venv/bin/python scripts/bench_step.py --data FOLDER [--warm-steps 500] [--steps 20] [--json FILE]

Trains the preset ``nerf`` for some steps, so that the occupancy grid is as in a real run, then profiles a few. Shares
are of one step. The floor of a part is the larger of its bytes over the measured copy bandwidth and its products over
the measured rate of matrix products, both measured here, before: no implementation can be faster.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from recon3d.config import NerfConfig, load_preset  # before torch: it sets how torch's threads wait

import torch  # isort: skip
from torch.profiler import ProfilerActivity, profile

from recon3d.tasks.nerf import NerfTask
from recon3d.training.machine import prepare

PARTS = {
    "march": ["recon3d::march_rays"],
    "encode": ["recon3d::hash_encode"],
    "encode, backward": ["recon3d::hash_encode_backward"],
    "networks": ["recon3d::mlp"],
    "networks, backward": ["recon3d::mlp_backward"],
    "composite": ["recon3d::composite"],
    "composite, backward": ["recon3d::composite_backward"],
    "optimiser": ["Optimizer.step#Adam.step"],
}


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
        "march": 16 * samples,
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--downscale", type=int, default=1)
    parser.add_argument("--warm-steps", type=int, default=500)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    kind = "cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu"
    config = load_preset("nerf").config(kind, args.data)
    assert isinstance(config, NerfConfig)
    config = dataclasses.replace(config, downscale=args.downscale, device=args.device).resolved()
    device, precision = prepare(config)
    bandwidth, rate = machine_limits(device, precision)
    task = NerfTask.from_data(config, device, precision)
    groups = task.parameter_groups(config.optimizer)
    optimizer = torch.optim.Adam(groups, betas=config.optimizer.betas, eps=config.optimizer.epsilon, fused=True)
    seen: list[dict[str, float]] = []

    def step(index: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        result = task.training_step(index, torch.Tensor.backward)
        optimizer.step()
        seen.append(result.scalars)

    for index in range(args.warm_steps):
        step(index)
    seen.clear()
    begin = time.perf_counter()
    for index in range(args.warm_steps, args.warm_steps + args.steps):
        step(index)
    if device.type == "cuda":
        torch.cuda.synchronize()
    whole = 1000 * (time.perf_counter() - begin) / args.steps
    samples = sum(s["samples"] for s in seen) / len(seen)
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=activities) as profiler:
        for index in range(args.warm_steps, args.warm_steps + args.steps):
            step(index)
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
    if args.json:
        result = {"device": str(device), "step_ms": whole, "samples": samples, "bandwidth": bandwidth, "rate": rate}
        args.json.write_text(json.dumps({**result, "parts": rows}, indent=2) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
