"""Time the projector and its transpose, beside ASTRA's on the CPU (2D) in the same run.

    python scripts/bench_projection.py
    python scripts/bench_projection.py --threads 2 --json projection.json --voxels 256

A slice of 256 x 256 pixels in 180 views of 363 columns, parallel and fan, and a cubic volume in 50 cone views. ASTRA's
CPU projectors run in 2D only, with its "linear" (Joseph's, as ours) for parallel rays and "line_fanflat" for fans.
Times are medians; memory is the process's peak, so the volume goes last.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.voxels import VolumeGrid
from recon3d.kernels import back_project, project

SIDE, VIEWS, COLUMNS, CONE_VIEWS = 256, 180, 363, 50


@dataclass(frozen=True)
class Row:
    case: str
    implementation: str
    project_ms: float
    back_project_ms: float
    peak_mb: float


def median_ms(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Median over about ``seconds``, after one run to warm up."""

    def timed() -> float:
        begin = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begin

    timed()
    first = timed()
    times = [first] + [timed() for _ in range(min(50, max(2, round(seconds / first))))]
    return 1e3 * statistics.median(times)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ours(case: str, geometry: ScanGeometry, grid: VolumeGrid, device: torch.device, seconds: float) -> Row:
    volume: Tensor = torch.rand(grid.shape, device=device)
    vectors = geometry.vectors.to(device)
    rest = grid.spacing, grid.center, geometry.divergent, geometry.curved
    image = project(volume, vectors, geometry.rows, geometry.columns, *rest)
    forward = median_ms(lambda: project(volume, vectors, geometry.rows, geometry.columns, *rest), device, seconds)
    back = median_ms(lambda: back_project(image, vectors, grid.shape, *rest), device, seconds)
    return Row(case, "recon3d", forward, back, peak_mb())


def astra_row(case: str, geometry: ScanGeometry, seconds: float) -> Row | None:
    """ASTRA's CPU time of the 2D cases, or None where it is not installed."""
    try:
        import astra
    except ImportError:
        return None
    from recon3d.geometry.scanner_formats import to_astra

    cpu = torch.device("cpu")
    written = to_astra(geometry)
    volume = astra.create_vol_geom(SIDE, SIDE)
    projector = astra.create_projector("line_fanflat" if geometry.divergent else "linear", written, volume)
    image = astra.data2d.create("-vol", volume, np.random.default_rng(0).random((SIDE, SIDE)))
    sinogram = astra.data2d.create("-sino", written, 0)
    times = []
    for kind, key in (("FP", "VolumeDataId"), ("BP", "ReconstructionDataId")):
        algorithm = astra.algorithm.create(
            astra.astra_dict(kind) | {"ProjectorId": projector, key: image, "ProjectionDataId": sinogram}
        )
        times.append(median_ms(lambda number=algorithm: astra.algorithm.run(number), cpu, seconds))  # type: ignore[misc]
    return Row(case, f"ASTRA {astra.__version__}, CPU", times[0], times[1], peak_mb())


def cases(voxels: int) -> Iterator[tuple[str, ScanGeometry, VolumeGrid]]:
    half = torch.arange(VIEWS, dtype=torch.float64) * (math.pi / VIEWS)
    slice_ = VolumeGrid((1, SIDE, SIDE), (1.0, 1.0, 1.0))
    yield f"parallel {SIDE}^2 x {VIEWS}", ScanGeometry.parallel(half, COLUMNS, 1.0), slice_
    yield f"fan {SIDE}^2 x {VIEWS}", ScanGeometry.fan(2 * half, COLUMNS, 1.5, 500.0, 250.0), slice_
    turn = torch.arange(CONE_VIEWS, dtype=torch.float64) * (2 * math.pi / CONE_VIEWS)
    cone = ScanGeometry.cone(turn, voxels, voxels, 2.0, 4.0 * voxels, 4.0 * voxels)
    yield f"cone {voxels}^3 x {CONE_VIEWS}", cone, VolumeGrid((voxels,) * 3, (1.0, 1.0, 1.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2, help="torch's threads")
    parser.add_argument("--voxels", type=int, default=256, help="side of the cone's volume")
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long to time each figure")
    parser.add_argument("--json", type=Path, help="where to write the table as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    machine = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    )
    print(f"{machine}, torch {torch.__version__}, {options.threads} threads\n")
    print(f"{'case':22}{'implementation':20}{'project ms':>12}{'back ms':>12}{'peak MB':>10}")
    head = {"machine": machine, "device": device.type, "torch": torch.__version__, "threads": options.threads}
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for case, geometry, grid in cases(options.voxels):
        found = [ours(case, geometry, grid, device, options.seconds)]
        if grid.shape[0] == 1:
            theirs = astra_row(case, geometry, options.seconds)
            found += [] if theirs is None else [theirs]
        for row in found:
            rows.append(row)
            print(
                f"{row.case:22}{row.implementation:20}{row.project_ms:12.1f}{row.back_project_ms:12.1f}{row.peak_mb:10.0f}",
                flush=True,
            )
        if options.json:
            options.json.write_text(json.dumps({**head, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
