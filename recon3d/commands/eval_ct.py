"""recon3d eval RUN for CT: the volume against the projections, a reference, a mask."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from recon3d.commands import volumes
from recon3d.commands.opened import RunOptions, State, opened
from recon3d.config import CtConfig


@dataclass(frozen=True)
class EvalCt(RunOptions):
    """Measure the volume of a CT run: what it leaves of the projections, of those held out too, and how near it is to a
    reference and a mask. Writes the volume (and, of an ensemble, its spread), pictures and figures to RUN/eval."""

    reference: Path | None = None
    """Volume of the same grid to measure against (PSNR, SSIM, RMSE)."""
    peak: float | None = None
    """Range in 1/mm that PSNR and SSIM are stated for (default: the reference's)."""
    mask: Path | None = None
    """Mask of the same grid: the volume is cut at Otsu's threshold and compared (MCC, IoU)."""
    state: State | None = None
    """Which state of the run (default: the best, where the run kept one)."""
    data: Path | None = None
    """Where the scan is now, if it has moved."""


def main(args: list[str]) -> dict[str, Any]:
    options = tyro.cli(EvalCt, args=args, prog="recon3d eval")
    begin = time.perf_counter()

    from recon3d.classical import Projector
    from recon3d.tasks import ct_data, ct_evaluation, ct_pictures

    with opened(options, CtConfig, "eval", options.state) as run:
        task, config = run.task, run.config
        parts = ct_data.Parts.of(config, options.data)
        scan = parts.load()
        ct_data.check_grid(scan, task.header.grid)
        reference, mask = (ct_evaluation.read_like(path, scan.grid.shape) for path in (options.reference, options.mask))
        projections, geometry = ct_data.tensor_of(scan, task.device), scan.geometry.to(task.device)
        volume = task.volume()
        predicted = Projector(geometry, scan.grid).forward(volume)
        held = ct_data.held_out(config, projections.shape, task.device, parts.places(0))
        figures: dict[str, Any] = {
            "run": str(run.folder.path),
            "task": "ct",
            "state": run.state,
            "step": run.step,
            "views": len(scan),
            "views_of_the_scan": len(parts.scan),
            "shape_zyx": list(scan.grid.shape),
            "spacing_xyz": list(scan.grid.spacing),
            "parameters": sum(field.parameter_count() for field in task.members),
            **ct_evaluation.residuals(predicted, projections, scan.counts, held),
        }
        if reference is not None:
            figures |= ct_evaluation.against(volume, reference, options.peak)
        if mask is not None:
            figures |= ct_evaluation.overlap(volume, mask)
        folder = run.folder.path / "eval"
        files = [volumes.write(folder / "volume.npz", volume, scan.grid)]
        if len(task.members) > 1:
            spread = task.volume(spread=True)
            figures["mean_spread"] = float(spread.mean())
            files.append(volumes.write(folder / "spread.npz", spread, scan.grid, "standard deviation of attenuation"))
        slices = ct_pictures.compared(volume, ct_pictures.analytic(projections, geometry, scan.grid), task.header.scale)
        files.append(run.folder.write_image("eval/slices.png", slices))
        files.append(run.folder.write_image("eval/sinogram.png", ct_pictures.sinograms(projections, predicted)))
        figures["seconds"] = round(time.perf_counter() - begin, 3)
        files.append(run.folder.write_json("eval/metrics.json", figures))
    print(told(figures))
    print(f"written: {', '.join(map(str, files))}")
    return {**figures, "files": [str(path) for path in files]}


def told(figures: dict[str, Any]) -> str:
    """The figures in lines to read."""
    size = " x ".join(str(n) for n in reversed(figures["shape_zyx"]))
    first = f"{figures['state']} state, step {figures['step']}: {size} voxels of {figures['views']} views"
    if figures["views"] < figures["views_of_the_scan"]:
        first += f" (measured on these of {figures['views_of_the_scan']}: --rays.memory)"
    if "mean_spread" in figures:
        first += f", spread of the ensemble {figures['mean_spread']:.3g} per mm"
    return "\n".join([first, *volumes.lines(figures)])
