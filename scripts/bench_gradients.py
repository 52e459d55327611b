"""Add up the gradients of a hash table over processes, three ways: all of it, the rows that any process has touched,
and each process's rows with their numbers.

    torchrun --nproc-per-node=2 scripts/bench_gradients.py
    torchrun --nproc-per-node=2 scripts/bench_gradients.py --log2-sizes 19 --points 131072

Over NCCL where there are GPUs, else over Gloo. The points are samples near a surface, as those of a trained scene: four
a ray, within a fiftieth of its radius. Times are the best of four; bytes are what a process gives away (twice that goes
over the wires of a ring of many). All three make the same sums.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from recon3d import distributed
from recon3d.config import HashGridConfig
from recon3d.fields.encoders import HashGrid
from recon3d.training.machine import set_up

REPEATS = 4
A_RAY = 4
RADIUS, THICKNESS = 0.6, 0.02


def gradient_of(log2_size: int, points: int, device: torch.device) -> Tensor:
    """The gradient (rows, 2) of a table of the preset ``nerf`` on a GPU, of random gradients of its features."""
    generator = torch.Generator().manual_seed(distributed.rank())
    rays = torch.nn.functional.normalize(torch.randn(points // A_RAY, 3, generator=generator), dim=1)
    along = RADIUS * (1 + THICKNESS * torch.linspace(-0.5, 0.5, A_RAY))
    x = (rays[:, None] * along[:, None]).view(-1, 3).to(device)
    grid = HashGrid(3, HashGridConfig(levels=16, log2_size=log2_size, finest=2048)).to(device)
    features = grid(x)
    features.backward(torch.randn(features.shape, generator=generator).to(device))
    (table,) = grid.parameters()
    assert table.grad is not None
    return table.grad


def touched(gradient: Tensor) -> Tensor:
    return (gradient[:, 0] != 0) | (gradient[:, 1] != 0)


def all_rows(gradient: Tensor) -> int:
    dist.all_reduce(gradient)
    return gradient.nbytes


def rows_of_any(gradient: Tensor) -> int:
    flags = touched(gradient).to(torch.uint8)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    rows = flags.nonzero().squeeze(1)
    part = gradient[rows]
    dist.all_reduce(part)
    gradient[rows] = part
    return flags.nbytes + part.nbytes


def rows_of_each(gradient: Tensor) -> int:
    rows = touched(gradient).nonzero().squeeze(1).int()
    count = torch.tensor([len(rows)], device=gradient.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    most = max(int(each) for each in counts)
    numbers = rows.new_zeros(most)
    values = gradient.new_zeros(most, gradient.shape[1])
    numbers[: len(rows)], values[: len(rows)] = rows, gradient[rows]
    every = [(torch.empty_like(numbers), torch.empty_like(values)) for _ in counts]
    dist.all_gather([each for each, _ in every], numbers)
    dist.all_gather([each for _, each in every], values)
    gradient.zero_()
    for length, (where, what) in zip(counts, every, strict=True):
        gradient.index_add_(0, where[: int(length)], what[: int(length)])
    return numbers.nbytes + values.nbytes


def best_of(way: Callable[[Tensor], int], gradient: Tensor) -> tuple[float, int, Tensor]:
    """Milliseconds, bytes, and the sum."""
    best, sent, work = math.inf, 0, gradient
    for _ in range(REPEATS):
        work = gradient.clone()
        float(distributed.added(work.new_ones(1)))  # all begin together
        begin = time.perf_counter()
        sent = way(work)
        if work.is_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return 1e3 * best, sent, work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--log2-sizes", type=int, nargs="+", default=list(range(14, 20)))
    parser.add_argument("--points", type=int, nargs="+", default=[2**13, 2**15, 2**17], help="of each process")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    with distributed.joined():
        if distributed.processes() == 1:
            raise SystemExit("start it by torchrun --nproc-per-node=2 or more")
        device = set_up(options.device, options.threads)
        print("| T | points | table | touched | all rows | rows of any | rows of each |\n|" + "---|" * 7)
        for log2_size in options.log2_sizes:
            for points in options.points:
                gradient = gradient_of(log2_size, points, device)
                cells = []
                for way in (all_rows, rows_of_any, rows_of_each):
                    ms, sent, total = best_of(way, gradient)
                    whole = total if way is all_rows else whole
                    torch.testing.assert_close(total, whole, rtol=1e-4, atol=1e-4)
                    cells.append(f"{ms:.1f} ms, {sent / 2**20:.1f} MiB")
                size, share = f"{gradient.nbytes / 2**20:.1f} MiB", f"{float(touched(gradient).float().mean()):.0%}"
                print(f"| 2^{log2_size} | {points} | {size} | {share} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
