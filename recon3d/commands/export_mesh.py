"""recon3d export mesh RUN: a coloured mesh in the world coordinates of the input."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from recon3d.commands.opened import RunOptions, opened
from recon3d.config import NerfConfig
from recon3d.errors import UserError


@dataclass(frozen=True)
class ExportMesh(RunOptions):
    """Export the surface of a run as GLB, PLY and OBJ, in the world coordinates and units of the input."""

    resolution: int = 512
    """Cells per side of the grid that the surface is extracted on, over the scene's box."""
    level: float | None = None
    """Density of the surface, per unit of field length (default: chosen from the field)."""
    min_component_share: float = 0.005
    """Connected pieces below this share of the surface's area are dropped."""
    fill: bool = True
    """Count as solid what no training camera can see into."""
    keep_cavities: bool = False
    """Keep closed surfaces inside the solid."""
    reference: Path | None = None
    """Ground-truth mesh to compare with."""
    output: Path | None = None
    """Folder (default: RUN/exports)."""


def main(args: list[str]) -> dict[str, Any]:
    options = tyro.cli(ExportMesh, args=args, prog="recon3d export mesh")

    import torch
    from tqdm import tqdm

    from recon3d.export.marching import ValueFn
    from recon3d.export.mesh import export_mesh
    from recon3d.export.meshfiles import write_mesh
    from recon3d.export.solid import filled, solid_cells

    reference = None if options.reference is None else _read_mesh(options.reference)
    with (
        opened(options, NerfConfig, "export mesh") as run,
        tqdm(total=1.0, desc="mesh", bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}") as bar,
    ):
        task = run.task
        occupied = task.head.grid.occupied
        density_fn: ValueFn = task.field.density
        if options.fill:
            solid = solid_cells(occupied.cpu().numpy(), task.lit_cells().cpu().numpy())
            density_fn = filled(density_fn, torch.from_numpy(solid).to(task.device))
            occupied = occupied | torch.from_numpy(solid).to(task.device)
        mesh, report = export_mesh(
            density_fn,
            task.field.color,
            task.normalizer,
            occupied.cpu().numpy(),
            resolution=options.resolution,
            level=options.level,
            min_component_share=options.min_component_share,
            keep_cavities=options.keep_cavities,
            device=task.device,
            progress=lambda share: bar.update(share - bar.n),
        )
        files = write_mesh(mesh, options.output or run.folder.exports, "mesh")
    figures: dict[str, Any] = {
        "run": str(run.folder.path),
        "files": [str(path) for path in files],
        **report.as_dict(),
        "peak_memory_mb": _peak_memory_mb(),
    }
    print(
        f"mesh at level {report.level:.3g}: {report.vertices} vertices, {report.faces} faces, "
        f"{'watertight' if report.watertight else 'open'}, {report.seconds:.1f} s, "
        f"{100 * report.evaluated_share:.2f}% of the dense grid evaluated"
    )
    if reference is not None:
        figures.update(_compare(mesh, reference))
        print(
            f"against {options.reference}: F-score {figures['f_score']:.4f} at 1% of the diagonal, "
            f"Chamfer {100 * figures['chamfer_share']:.3f}% of it, "
            f"normal consistency {figures['normal_consistency']:.3f}"
        )
    written = run.folder.write_json("exports/mesh.json", figures)
    print(f"written: {', '.join(figures['files'])}, {written}")
    return figures


def _read_mesh(path: Path) -> Any:
    import trimesh

    try:
        mesh = trimesh.load(path, force="mesh", process=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a mesh ({error})") from None
    return mesh


def _compare(mesh: Any, truth: Any) -> dict[str, Any]:
    from recon3d.metrics.mesh import compare_meshes

    scores = compare_meshes(mesh, truth)
    at = {f"{score.threshold:g}": score.f_score for score in scores.thresholds}
    return {
        "f_score": at["0.01"],
        "f_scores": at,
        "chamfer": scores.chamfer,
        "chamfer_share": scores.chamfer_share,
        "normal_consistency": scores.normal_consistency,
    }


def _peak_memory_mb() -> float:
    """Peak resident memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1)
