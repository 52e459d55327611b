"""Times every kernel in its fast implementation and in the torch reference, beside the floor set by memory traffic.

The floor is the time to read every input and write every output once at the bandwidth of a large copy, measured in the
same run. It counts neither the random order of a hash table's rows nor what caches save. Run as

    python scripts/bench_kernels.py --device cuda --json kernels.json
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from recon3d.kernels import HashLayout, spherical_harmonics
from recon3d.kernels.compositing import reference as compositing_reference
from recon3d.kernels.hash_grid import reference as hash_reference
from recon3d.kernels.marching import reference as marching_reference
from recon3d.kernels.mlp import reference as mlp_reference
from recon3d.kernels.spherical_harmonics import reference as harmonics_reference

GRID = 128
STEP = 3**0.5 / 1024 * 2
AHEAD = 8  # samples of a ray
RAYS_PER_SLICE = 1000  # The reference march tests every position of every ray: its memory grows with the rays.


@dataclass
class Row:
    op: str
    implementation: str
    shape: str
    ms: float
    gb_per_s: float
    """Bytes of the floor over the time."""
    items_per_s: float
    """Points, rays or samples."""
    floor_ms: float
    speed_up: float | None = None
    """The reference's time over this one's."""


@dataclass
class Case:
    op: str
    shape: str
    items: int
    bytes: int
    fast: Callable[[], object]
    reference: Callable[[], object]


def median_ms(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Median time of ``run`` after a warm-up, over as many runs as ``seconds`` allow, one at least.

    On CUDA it is the GPU's own time, and its second-level cache is emptied before each run.
    """
    if device.type == "cuda":
        from triton.testing import do_bench

        run()
        with torch.cuda.device(device):
            return do_bench(run, warmup=20, rep=int(1e3 * seconds), return_mode="median")
    run()
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while not times or (time.perf_counter() < deadline and len(times) < 200):
        begin = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written, of a copy of many times the cache."""
    source = torch.ones(2**28 if device.type == "cuda" else 2**26, device=device)
    target = torch.empty_like(source)
    ms = median_ms(lambda: target.copy_(source), device, 0.5)
    return 2 * source.numel() * source.element_size() / (ms * 1e-3)


def size(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def implementation(op: str, device: torch.device) -> ModuleType:
    """The module of an op for a device: it holds the functions that the op registers."""
    return importlib.import_module(f"recon3d.kernels.{op}.{device.type}")


def hash_cases(device: torch.device, points: int) -> Iterator[Case]:
    """Points along rays through the volume, 16 levels of 2 features, 2^19 rows a level."""
    hash_grid = implementation("hash_grid", device)
    layout = HashLayout.build(3, 16, 2, log2_size=19, coarsest=16, finest=2048)
    lists = list(layout.scales), list(layout.resolutions), list(layout.offsets)
    table = torch.randn(layout.rows, 2, device=device)
    ends = torch.rand(2, points // 32, 1, 3, device=device)
    x = torch.lerp(*ends, torch.linspace(0, 1, 32, device=device)[:, None]).reshape(-1, 3)
    shadows = {"float32": None}
    if device.type == "cuda":
        shadows["float16"] = table.half()
    for name, shadow in shadows.items():
        source = table if shadow is None else shadow
        shape = f"{len(x)} points x 16 x 2, {name}"
        out = hash_grid.encode(x, table, shadow, *lists)
        grad = torch.randn(out.shape, device=device).to(out.dtype)
        # A point touches 8 rows a level, but no more rows than there are.
        rows = sum(min(8 * len(x), b - a) for a, b in zip(layout.offsets[:-1], layout.offsets[1:]))
        touched = rows * 2 * source.element_size()
        yield Case(
            "hash encode",
            shape,
            len(x),
            size(x, out) + touched,
            lambda shadow=shadow: hash_grid.encode(x, table, shadow, *lists),
            lambda source=source: hash_reference.encode(x, source, *lists),
        )

        def reference(need_table: bool, need_x: bool, source: Tensor = source, grad: Tensor = grad) -> object:
            leaf, point = source.detach().requires_grad_(need_table), x.detach().requires_grad_(need_x)
            out = hash_reference.encode(point, leaf, *lists)
            return torch.autograd.grad(out, leaf if need_table else point, grad.to(out.dtype))

        yield Case(
            "hash backward, table",
            shape,
            len(x),
            size(x, grad, table) + 2 * rows * 2 * 4,
            lambda shadow=shadow, grad=grad: hash_grid.encode_backward(grad, x, table, shadow, *lists, True, False),
            lambda reference=reference: reference(True, False),
        )
        yield Case(
            "hash backward, points",
            shape,
            len(x),
            size(x, grad, x) + touched,
            lambda shadow=shadow, grad=grad: hash_grid.encode_backward(grad, x, table, shadow, *lists, False, True),
            lambda reference=reference: reference(False, True),
        )


def mlp_cases(device: torch.device, rows: int) -> Iterator[Case]:
    """The networks of instant-ngp: density and colour."""
    mlp = implementation("mlp", device)
    compute = torch.float16 if device.type == "cuda" else torch.bfloat16
    for sizes in ((32, 64, 16), (32, 64, 64, 3)):
        weights = [torch.randn(b, a, device=device) * a**-0.5 for a, b in itertools.pairwise(sizes)]
        x = torch.randn(rows, sizes[0], device=device).to(compute)
        grad = torch.randn(rows, sizes[-1], device=device).to(compute)
        shape = f"{rows} rows, {' - '.join(map(str, sizes))}, {str(compute).removeprefix('torch.')}"
        yield Case(
            "network",
            shape,
            rows,
            size(x, grad, *weights),
            lambda x=x, weights=weights: mlp.forward(x, weights, compute),
            lambda x=x, weights=weights: mlp_reference.forward(x, weights, compute),
        )
        yield Case(
            "network backward",
            shape,
            rows,
            size(x, x, grad, *weights, *weights),
            lambda x=x, weights=weights, grad=grad: mlp.backward(grad, x, weights, compute, True),
            lambda x=x, weights=weights, grad=grad: mlp_reference.backward(grad, x, weights, compute, True),
        )


def adam_cases(device: torch.device, rows: int) -> Iterator[Case]:
    """A table of 2 features of which a step touches a tenth, and all, beside torch's fused Adam on all of it."""
    adam = implementation("adam", device)
    table, mean, square = torch.rand(3, rows, 2, device=device)
    steps, one, none = torch.ones(rows, device=device), torch.ones((), device=device), torch.zeros((), device=device)
    whole = table.clone().requires_grad_()
    fused = torch.optim.Adam([whole], fused=True)
    for share in (0.1, 1.0):
        grad = torch.randn(rows, 2, device=device) * (torch.rand(rows, 1, device=device) < share)
        whole.grad = grad
        touched = int(share * rows)
        yield Case(
            "Adam on rows",
            f"{rows} rows x 2, {share:.0%} touched",
            rows,
            size(grad) + touched * 4 * 2 * (3 * 2 + 1),
            lambda grad=grad: adam.adam_rows(table, grad, mean, square, steps, one * 1e-3, 0.9, 0.99, 1e-15, one, none),
            fused.step,
        )


def harmonics_cases(device: torch.device, rows: int) -> Iterator[Case]:
    """The directions of rays; the reference is also what the CPU has."""
    directions = torch.nn.functional.normalize(torch.randn(rows, 3, device=device), dim=1)
    grad = torch.randn(rows, 16, device=device)
    leaf = directions.clone().requires_grad_()
    known = spherical_harmonics(leaf, 4)
    shape = f"{rows} directions, 16 functions"
    yield Case(
        "harmonics",
        shape,
        rows,
        size(directions, grad),
        lambda: spherical_harmonics(directions, 4),
        lambda: harmonics_reference.values(directions, 4),
    )
    yield Case(
        "harmonics backward",
        shape,
        rows,
        size(directions, directions, grad),
        lambda: torch.autograd.grad(known, leaf, grad, retain_graph=True),
        lambda: harmonics_reference.backward(grad, directions, 4),
    )


def march_cases(device: torch.device, rays: int) -> Iterator[Case]:
    """Rays from a sphere of radius 3 through a grid of which a shell is occupied: all of their samples, and the first
    ones of each ray."""
    marching = implementation("marching", device)
    axis = (torch.arange(GRID, device=device) + 0.5) / GRID * 2 - 1
    radius = torch.cartesian_prod(axis, axis, axis).norm(dim=-1).reshape(GRID, GRID, GRID)
    occupancy = (radius > 0.5) & (radius < 0.53)
    origins = torch.nn.functional.normalize(torch.randn(rays, 3, device=device), dim=-1) * 3
    directions = torch.nn.functional.normalize(torch.rand(rays, 3, device=device) * 1.2 - 0.6 - origins, dim=-1)
    planes = torch.stack([(-1 - origins) / directions, (1 - origins) / directions])
    near, far = planes.amin(0).amax(-1), planes.amax(0).amin(-1)
    inputs = [origins, directions, near, far, occupancy, torch.rand(rays, device=device)]
    outputs = marching.march(*inputs, STEP, 0.0)

    def reference() -> None:
        for begin in range(0, rays, RAYS_PER_SLICE):
            cut = slice(begin, begin + RAYS_PER_SLICE)
            part = [v if v is occupancy else v[cut] for v in inputs]
            marching_reference.march(*part, STEP, 0.0)

    shape = f"{rays} rays, {GRID}^3 cells, {len(outputs[1])} samples"
    moved = size(*inputs, *outputs)
    yield Case("march", shape, rays, moved, lambda: marching.march(*inputs, STEP, 0.0), reference)

    start = marching_reference.first_samples(near, far, inputs[-1], STEP, 0.0)
    blocks, density = marching_reference.occupied_blocks(occupancy), torch.ones_like(radius)
    ahead = [origins, directions, start, far, occupancy, blocks, density, torch.full_like(far, torch.inf)]
    outputs = marching.march_ahead(*ahead, 1, AHEAD, STEP, 0.0)

    def reference_ahead() -> None:
        for begin in range(0, rays, RAYS_PER_SLICE):
            cut = slice(begin, begin + RAYS_PER_SLICE)
            part = [v[cut] if len(v) == rays else v for v in ahead]
            marching_reference.march_ahead(*part, 1, AHEAD, STEP, 0.0)

    shape = f"{rays} rays, {GRID}^3 cells, {len(outputs[2])} samples"
    moved = size(*ahead, *outputs)
    yield Case(
        "march ahead", shape, rays, moved, lambda: marching.march_ahead(*ahead, 1, AHEAD, STEP, 0.0), reference_ahead
    )


def composite_cases(device: torch.device, samples: int) -> Iterator[Case]:
    """Rays of 0 to 63 samples, of which many become opaque."""
    compositing = implementation("compositing", device)
    counts = torch.randint(0, 64, (samples // 32,))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).to(device)
    samples, rays = int(offsets[-1]), len(counts)
    sigma, rgb = torch.rand(samples, device=device) ** 3 * 40, torch.rand(samples, 3, device=device)
    t, dt = torch.rand(samples, device=device), torch.full((samples,), 0.01, device=device)
    inputs = [sigma, rgb, t, dt, offsets]
    gradients = [torch.rand(rays, 3, device=device), torch.rand(rays, device=device), torch.rand(rays, device=device)]
    shape = f"{samples} samples, {rays} rays"
    yield Case(
        "composite",
        shape,
        samples,
        size(*inputs, *gradients),
        lambda: compositing.composite(*inputs, 1e-4),
        lambda: compositing_reference.composite(*inputs, 1e-4),
    )
    yield Case(
        "composite backward",
        shape,
        samples,
        size(*inputs, *gradients, sigma, rgb),
        lambda: compositing.composite_backward(*gradients, *inputs, 1e-4),
        lambda: compositing_reference.composite_backward(*gradients, *inputs, 1e-4),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="where to write the table as JSON")
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long to time each row")
    parser.add_argument("--points", type=int, help="points or samples (default: 2^18 on a GPU, 2^17 on a CPU)")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    name = "triton" if device.type == "cuda" else "cpu"
    bandwidth = copy_bandwidth(device)
    machine = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    )
    print(f"{machine}, torch {torch.__version__}, {torch.get_num_threads()} threads, copy {bandwidth / 1e9:.0f} GB/s\n")
    print(f"{'op':22}{'implementation':16}{'ms':>9}{'floor ms':>10}{'GB/s':>8}{'M items/s':>11}{'speed-up':>10}  shape")

    def cases() -> Iterator[Case]:
        points = options.points or (2**18 if device.type == "cuda" else 2**17)
        yield from hash_cases(device, points)
        yield from mlp_cases(device, points)
        yield from adam_cases(device, (24 if device.type == "cuda" else 8) * points)
        yield from harmonics_cases(device, points)
        yield from march_cases(device, points // 5)
        yield from composite_cases(device, points)

    head = {
        "machine": machine,
        "device": device.type,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "copy_gb_per_s": bandwidth / 1e9,
    }
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for case in cases():
        slow = median_ms(case.reference, device, options.seconds)
        fast = median_ms(case.fast, device, options.seconds)
        floor = 1e3 * case.bytes / bandwidth
        for implementation, ms in ((name, fast), ("reference", slow)):
            row = Row(
                op=case.op,
                implementation=implementation,
                shape=case.shape,
                ms=ms,
                gb_per_s=case.bytes / ms / 1e6,
                items_per_s=case.items / ms * 1e3,
                floor_ms=floor,
                speed_up=slow / ms,
            )
            rows.append(row)
            print(
                f"{row.op:22}{row.implementation:16}{row.ms:9.3f}{row.floor_ms:10.3f}{row.gb_per_s:8.1f}"
                f"{row.items_per_s / 1e6:11.2f}{row.speed_up:10.1f}  {row.shape}",
                flush=True,
            )
        if options.json:  # row by row, so that those before one that fails are kept
            options.json.write_text(json.dumps({**head, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
