"""recon3d export volume RUN: the density, signed distance or occupancy of a run on a grid, for other programs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from recon3d.commands.opened import RunOptions, State, opened
from recon3d.config import CtConfig, NerfConfig, ShapeConfig, SurfaceConfig

Box = tuple[float, float, float, float, float, float]
RESOLUTION = 256


@dataclass(frozen=True)
class ExportVolume(RunOptions):
    """Write a run's field as an array [z, y, x] of float32 with its origin and spacing in world units.

    Radiance field: density per world unit of length, 0 where training found nothing. Shape or surface: signed distance
    in world units, negative inside, or the probability of being inside. CT: attenuation in 1/mm and, of an ensemble,
    its standard deviation in a second file.
    """

    resolution: int | None = None
    """Samples per side of the field's cube (default: 256). CT: voxels along the longest side (default: the scan's)."""
    format: Literal["npz", "nrrd", "vti", "tif", "nii", "nii.gz", "h5", "mha"] = "npz"
    crop: Box | None = None
    """Only what lies in a box, in world units: low x, y, z, high x, y, z. The spacing stays."""
    state: State | None = None
    """Which state of the run (default: the best, where the run kept one)."""
    output: Path | None = None
    """File to write (default: RUN/exports/volume.FORMAT)."""


def main(args: list[str]) -> dict[str, Any]:
    options = tyro.cli(ExportVolume, args=args, prog="recon3d export volume")

    from tqdm import tqdm

    from recon3d.export.volumes import field_values, lattice_of_voxels, lattice_over, sampled, spread_of, write_volume
    from recon3d.tasks.ct import CtTask

    began = time.perf_counter()
    with (
        opened(options, (CtConfig, NerfConfig, ShapeConfig, SurfaceConfig), "export volume", options.state) as run,
        tqdm(total=1.0, desc="volume", bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}") as bar,
    ):
        quantity, values = field_values(run.task)
        normalizer = run.task.normalizer
        crop = None if options.crop is None else (options.crop[:3], options.crop[3:])
        if isinstance(run.task, CtTask):
            lattice = lattice_of_voxels(run.task.header.grid, options.resolution, crop)
        else:
            lattice = lattice_over(normalizer, options.resolution or RESOLUTION, crop)
        path = options.output or run.folder.exports / f"volume.{options.format}"
        seen = _Range()
        slabs = sampled(
            values, lattice, normalizer, device=run.task.device, progress=lambda share: bar.update(share - bar.n)
        )
        write_volume(path, seen.of(slabs), lattice, quantity=quantity)
        spread = spread_of(run.task)
        if spread is not None:
            beside = path.with_name(path.name.replace(".", "_spread.", 1))
            slabs = sampled(spread, lattice, normalizer, device=run.task.device)
            write_volume(beside, slabs, lattice, quantity=f"standard deviation of {quantity}")
    figures: dict[str, Any] = {
        "run": str(run.folder.path),
        "state": run.state,
        "step": run.step,
        "file": str(path),
        "spread": None if spread is None else str(beside),
        "quantity": quantity,
        "shape_zyx": list(lattice.shape),
        "origin_xyz": list(lattice.origin),
        "spacing_xyz": list(lattice.spacing),
        "range": [seen.low, seen.high],
        "bytes": path.stat().st_size,
        "seconds": round(time.perf_counter() - began, 3),
    }
    size = " x ".join(str(n) for n in reversed(lattice.shape))
    print(f"{quantity}: {size} samples (x, y, z) at {lattice.spacing[0]:.4g} from one another, {seen.low:.4g} to "
          f"{seen.high:.4g}, {figures['seconds']:.1f} s")  # fmt: skip
    print(f"written: {path}" + ("" if spread is None else f", {beside}"))
    return figures


class _Range:
    """The least and the largest value of the slabs that pass through."""

    def __init__(self) -> None:
        self.low, self.high = float("inf"), float("-inf")

    def of(self, slabs: Any) -> Any:
        for slab in slabs:
            self.low, self.high = min(self.low, float(slab.min())), max(self.high, float(slab.max()))
            yield slab
