"""recon3d export pointcloud RUN: points of the surface with normals and colours, for whatever takes point clouds."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from recon3d.commands.meshes import checked_resolution
from recon3d.commands.opened import RunOptions, opened
from recon3d.config import NerfConfig, ShapeConfig, SurfaceConfig
from recon3d.errors import UserError


@dataclass(frozen=True)
class ExportPointcloud(RunOptions):
    """Write points spread evenly over the surface of a run, with normals and colours, in world coordinates."""

    points: int = 200_000
    """How many."""
    format: Literal["ply", "pcd"] = "ply"
    resolution: int = 256
    """Cells per side of the grid that the surface is extracted on first, as for export mesh."""
    route: Literal["auto", "level", "fusion"] = "auto"
    """As for export mesh: the level set of the field, or depths seen from the training cameras."""
    seed: int = 0
    """Seed of the places."""
    output: Path | None = None
    """File to write (default: RUN/exports/points.FORMAT)."""


def main(args: list[str]) -> dict[str, Any]:
    options = tyro.cli(ExportPointcloud, args=args, prog="recon3d export pointcloud")
    if options.points < 1:
        raise UserError(f"--points is {options.points}; give at least 1")
    checked_resolution(options.resolution)

    from tqdm import tqdm

    from recon3d.export.mesh import export_mesh
    from recon3d.export.pointcloud import points_on, write_pointcloud
    from recon3d.export.sources import fused_level_set, level_set

    began = time.perf_counter()
    with (
        opened(options, (NerfConfig, ShapeConfig, SurfaceConfig), "export pointcloud") as run,
        tqdm(total=1.0, desc="points", bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}") as bar,
    ):
        task = run.task
        route = options.route
        if route == "auto":
            route = "fusion" if isinstance(run.config, NerfConfig) else "level"
        looked = 0.0 if route == "level" else 0.5
        if route == "fusion":
            surface, _ = fused_level_set(task, options.resolution, lambda share: bar.update(looked * share - bar.n))
        else:
            surface = level_set(task)
        mesh, report = export_mesh(
            surface,
            task.normalizer,
            resolution=options.resolution,
            device=task.device,
            progress=lambda share: bar.update(looked + (1 - looked) * share - bar.n),
        )
        cloud = points_on(mesh, options.points, options.seed)
        file = write_pointcloud(cloud, options.output or run.folder.exports / f"points.{options.format}")
    figures: dict[str, Any] = {
        "run": str(run.folder.path),
        "step": run.step,
        "file": str(file),
        "points": len(cloud.points),
        "colors": cloud.colors is not None,
        "low": cloud.points.min(axis=0).tolist(),
        "high": cloud.points.max(axis=0).tolist(),
        "route": route,
        "resolution": options.resolution,
        "faces": report.faces,
        "bytes": file.stat().st_size,
        "seconds": round(time.perf_counter() - began, 3),
    }
    kind = "normals and colours" if figures["colors"] else "normals"
    print(f"{figures['points']} points with {kind}, from {report.faces} faces ({route}), {figures['seconds']:.1f} s")
    print(f"written: {file}")
    return figures
