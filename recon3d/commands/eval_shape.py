"""recon3d eval RUN for shapes: the field against its mesh, on a grid, near the surface, and as a mesh of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from recon3d.commands.opened import OpenedRun, RunOptions, opened
from recon3d.config import ShapeConfig
from recon3d.errors import UserError, require

if TYPE_CHECKING:
    from recon3d.tasks.shape_evaluation import Reference


@dataclass(frozen=True)
class EvalShape(RunOptions):
    """Measure the field of a shape against its file: IoU on a grid, errors of the distance, and the mesh that is
    extracted from it (Chamfer distance, F-scores, normal consistency)."""

    grid: int = 256
    """Points a side of the grid that IoU is measured on (the papers' protocol: 512; 0: not measured)."""
    resolution: int = 512
    """Cells a side of the grid that the mesh is extracted on (0: no mesh)."""
    samples: int = 100_000
    """Points on each mesh when the two are compared."""
    data: Path | None = None
    """Where the shape's file is now, if it has moved."""

    def __post_init__(self) -> None:
        for name in ("grid", "resolution"):
            value = getattr(self, name)
            require(value == 0 or 8 <= value <= 4096, f"--{name} is {value}: give 8 to 4096, or 0 to leave it out")
        require(self.samples >= 1, f"--samples is {self.samples}: give 1 or more")


def main(args: list[str]) -> dict[str, Any]:
    options = tyro.cli(EvalShape, args=args, prog="recon3d eval")

    from recon3d.data.shape_files import read_shape
    from recon3d.tasks.shape_evaluation import Reference, distance_errors, surface_errors

    begin = time.perf_counter()
    with opened(options, ShapeConfig, "eval") as run:
        task, config = run.task, run.config
        reference = Reference.of(task, read_shape(options.data or config.data))
        figures: dict[str, Any] = {
            "run": str(run.folder.path),
            "task": "shape",
            "supervision": config.supervision,
            "step": run.step,
            "shape": _described(reference),
            "parameters": task.field.parameter_count(),
        }
        if options.grid and reference.tells_sides(config):
            figures.update(grid=options.grid, iou=_iou(run, reference, options.grid))
        if config.supervision == "sdf":
            figures.update(distance_errors(task, reference))
        elif config.is_distance:
            figures.update(surface_errors(task, reference))
        if options.resolution:
            figures.update(_as_mesh(run, reference, options))
        figures["picture"] = str(run.folder.write_image("eval/shape.png", task.picture(reference.distance)))
        figures["seconds"] = round(time.perf_counter() - begin, 3)
        metrics = run.folder.write_json("eval/metrics.json", figures)
    print(told(figures))
    print(f"written: {metrics}, {figures['picture']}")
    return {**figures, "metrics": str(metrics)}


def _described(reference: Reference) -> dict[str, Any]:
    """What the file held, and how inside is told from outside."""
    shape = reference.shape
    rule = None if reference.distance is None else reference.distance.rule
    return {
        "file": str(shape.path),
        **vars(shape.report),
        "watertight": shape.report.watertight,
        "sign": rule,
        "diagonal": shape.diagonal,
    }


def _iou(run: OpenedRun[ShapeConfig], reference: Reference, grid: int) -> float:
    from tqdm import tqdm

    from recon3d.tasks.shape_evaluation import grid_overlap

    assert reference.distance is not None
    with tqdm(total=grid**3, unit="point", unit_scale=True, desc="IoU") as bar:
        return grid_overlap(run.task, reference.distance, grid, bar.update).iou


def _as_mesh(run: OpenedRun[ShapeConfig], reference: Reference, options: EvalShape) -> dict[str, Any]:
    """The mesh extracted from the field, as it comes, against the file's."""
    from tqdm import tqdm

    from recon3d.export.mesh import export_mesh
    from recon3d.export.sources import level_set
    from recon3d.metrics.mesh import compare_meshes

    task, shape = run.task, reference.shape
    try:
        with tqdm(total=1.0, desc="mesh", bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}") as bar:
            mesh, report = export_mesh(
                level_set(task),
                task.normalizer,
                resolution=options.resolution,
                steps=(),
                device=task.device,
                progress=lambda share: bar.update(share - bar.n),
            )
    except UserError as error:
        return {"mesh": None, "no_mesh": str(error)}
    figures: dict[str, Any] = {"mesh": {"resolution": options.resolution, "faces": report.faces,
                                        "components": report.components, "watertight": report.watertight}}  # fmt: skip
    if not shape.is_mesh:
        return figures
    import trimesh

    truth = trimesh.Trimesh(shape.vertices, shape.faces, process=False)
    scores = compare_meshes(mesh, truth, samples=options.samples)
    return {**figures, **scores.as_dict()}


def told(figures: dict[str, Any]) -> str:
    """The figures in lines to read."""
    lines = [f"step {figures['step']}, {figures['supervision']}, {figures['parameters']} parameters"]
    if "iou" in figures:
        lines[0] += f": IoU {figures['iou']:.5f} on {figures['grid']}^3 points"
    if "near_error" in figures:
        share = 100 / figures["shape"]["diagonal"]
        lines.append(
            f"distance: mean |error| {figures['near_error']:.3g} near the surface "
            f"({figures['near_error'] * share:.4f}% of the diagonal), {figures['far_error']:.3g} anywhere; "
            f"right side near the surface: {100 * figures['near_sign_accuracy']:.2f}%"
        )
    if "surface_error" in figures:
        lines.append(f"mean |value| on the surface: {figures['surface_error']:.3g}")
    if "no_mesh" in figures:
        lines.append(f"no mesh: {figures['no_mesh']}")
    elif "chamfer_share" in figures:
        mesh = figures["mesh"]
        lines.append(
            f"mesh at {mesh['resolution']} cells: Chamfer {100 * figures['chamfer_share']:.4f}% of the diagonal, "
            f"normal consistency {figures['normal_consistency']:.4f}, F-score {figures['f_score_0.005']:.4f} at 0.5%; "
            f"{mesh['components']} pieces, {'watertight' if mesh['watertight'] else 'open'}"
        )
    return "\n".join(lines)
