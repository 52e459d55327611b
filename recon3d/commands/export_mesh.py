"""recon3d export mesh RUN: a coloured mesh in the world coordinates of the input."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from recon3d.commands.meshes import checked_resolution
from recon3d.commands.opened import RunOptions, opened
from recon3d.config import CtConfig, NerfConfig, ShapeConfig, SurfaceConfig
from recon3d.errors import UserError

if TYPE_CHECKING:
    from recon3d.export.levelset import LevelSet
    from recon3d.export.mesh import Extracted
    from recon3d.export.postprocess import Step

TEXTURED_FACES = 100_000
"""More make a texture's patches tiny and slow to find."""
Box = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class ExportMesh(RunOptions):
    """Export the surface of a run as GLB, PLY and OBJ, in the world coordinates and units of the input.

    What is done to the mesh after it was extracted (from --keep-cavities on) is done in the order given here on the
    command line; what is on without being given comes first.
    """

    resolution: int = 512
    """Cells per side of the grid that the surface is extracted on, over the scene's box."""
    route: Literal["auto", "level", "fusion", "open-fusion"] = "auto"
    """level: the level set of the field. fusion: depths seen from the training cameras, fused; what no camera saw is
    solid. open-fusion: the same, but open where no camera looked (needs open3d). auto: fusion for radiance fields
    (level where --level is given), level for the others."""
    texture: int | None = None
    """Texels per side of a texture, in the GLB and beside the OBJ (needs xatlas; the PLY has vertex colours). The mesh
    is simplified to 100000 faces, last of all, unless --simplify says otherwise."""
    level: float | None = None
    """Where the surface is. Radiance field: its density, per unit of field length (default: chosen from the field).
    Signed distance: how far out from the field's own surface, in world units (default 0). Occupancy: the probability
    (default 0.5). CT: attenuation in 1/mm (default: Otsu's threshold)."""
    fill: bool = True
    """Radiance field: count as solid what no training camera can see into."""
    newton: int | None = None
    """Steps that move vertices onto the level of the field (default: 3 for signed distances, else 0)."""
    keep_cavities: bool = False
    """Keep closed surfaces inside the solid."""
    min_component_share: float = 0.005
    """Connected pieces below this share of the surface's area are dropped."""
    largest: bool = False
    """Keep the largest connected piece alone."""
    crop: Box | None = None
    """Cut to a box, in world units: low x, y, z, high x, y, z. The cut stays open."""
    fill_holes: float | None = None
    """Close holes that fit into a sphere of this radius, in world units."""
    smooth: int | None = None
    """Iterations of Taubin's smoothing, which does not shrink."""
    simplify: int | None = None
    """Faces that are left at most: edges are collapsed where it changes the surface least."""
    reference: Path | None = None
    """Ground-truth mesh to compare with."""
    output: Path | None = None
    """Folder (default: RUN/exports)."""


def main(args: list[str]) -> dict[str, Any]:
    options = tyro.cli(ExportMesh, args=args, prog="recon3d export mesh")
    steps = steps_in_order(options, args)
    checked_resolution(options.resolution)

    from tqdm import tqdm

    from recon3d.export.mesh import finish
    from recon3d.export.meshfiles import read_mesh, write_mesh, write_textured
    from recon3d.export.texture import check_size
    from recon3d.files import write_bytes

    if options.texture is not None:
        check_size(options.texture)
    reference = None if options.reference is None else read_mesh(options.reference)
    with (
        opened(options, (NerfConfig, ShapeConfig, SurfaceConfig, CtConfig), "export mesh", None) as run,
        tqdm(total=1.0, desc="mesh", bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}") as bar,
    ):
        task, began = run.task, time.perf_counter()

        def progress(share: float) -> None:
            bar.update(share - bar.n)

        route = options.route
        if route == "auto":
            route = "fusion" if isinstance(run.config, NerfConfig) and options.level is None else "level"
        surface, extracted = _extracted(options, route, task, progress)
        bar.set_description("texture" if options.texture else "colours")
        mesh, textured, report = finish(
            extracted,
            surface,
            task.normalizer,
            steps,
            texture_size=options.texture,
            began=began,
            device=task.device,
        )
        scores = {} if reference is None else _compare(mesh, reference)
        folder = options.output or run.folder.exports
        if textured is None:
            files = write_mesh(mesh, folder, "mesh")
        else:
            files = [*write_textured(textured, folder, "mesh"), *write_mesh(mesh, folder, "mesh", ["ply"])]
    figures: dict[str, Any] = {
        "run": str(run.folder.path),
        "route": route,
        "files": [str(path) for path in files],
        **report.as_dict(),
        "peak_memory_mb": _peak_memory_mb(),
        **scores,
    }
    _tell(figures, options.reference)
    written = folder / "mesh.json"
    write_bytes(written, (json.dumps(figures, indent=2) + "\n").encode())
    print(f"written: {', '.join(figures['files'])}, {written}")
    return figures


def _extracted(
    options: ExportMesh, route: str, task: Any, progress: Callable[[float], None]
) -> tuple[LevelSet, Extracted]:
    """The surface that ``route`` takes, and its mesh."""
    from recon3d.export.mesh import extract, extract_open
    from recon3d.export.sources import fused_level_set, level_set

    if route == "level":
        surface = level_set(task, options.level, fill=options.fill)
    elif options.level is not None:
        raise UserError(f"--level is for --route level; {route} has no level to choose")
    else:
        surface, views = fused_level_set(task, options.resolution, lambda share: progress(0.5 * share))
        if route == "open-fusion":
            return surface, extract_open(views, task.normalizer, options.resolution)
    begun = 0.0 if route == "level" else 0.5
    return surface, extract(
        surface,
        task.normalizer,
        options.resolution,
        newton=options.newton,
        device=task.device,
        progress=lambda share: progress(begun + (1 - begun) * share),
    )


def steps_in_order(options: ExportMesh, args: list[str]) -> list[Step]:
    """What is done to the mesh, in the order of the first mention of each option among ``args``."""
    from recon3d.export.postprocess import Crop, DropCavities, DropPieces, FillHoles, KeepLargest, Simplify, Smooth

    crop, budget = options.crop, options.simplify
    if budget is None and options.texture is not None:
        budget = TEXTURED_FACES
    asked: dict[str, Step | None] = {
        "keep-cavities": None if options.keep_cavities else DropCavities(),
        "min-component-share": DropPieces(options.min_component_share),
        "largest": KeepLargest() if options.largest else None,
        "crop": None if crop is None else Crop(crop[:3], crop[3:]),
        "fill-holes": None if options.fill_holes is None else FillHoles(options.fill_holes),
        "smooth": None if options.smooth is None else Smooth(options.smooth),
        "simplify": None if budget is None else Simplify(budget),
    }
    flags = [arg.split("=")[0].replace("_", "-").removeprefix("--").removeprefix("no-") for arg in args]
    unasked = {"simplify": len(flags)}  # the one that comes last
    order = sorted(asked, key=lambda name: flags.index(name) if name in flags else unasked.get(name, -1))
    return [step for name in order if (step := asked[name]) is not None]


def _tell(figures: dict[str, Any], reference: Path | None) -> None:
    share = f", {100 * figures['evaluated_share']:.2f}% of the dense grid evaluated" if "level" in figures else ""
    made = f"at level {figures['level']:.3g}" if figures["route"] == "level" else f"by {figures['route']}"
    print(
        f"mesh {made}: {figures['vertices']} vertices, {figures['faces']} faces, "
        f"{'watertight' if figures['watertight'] else 'open'}, {figures['components']} "
        f"{'piece' if figures['components'] == 1 else 'pieces'}, {figures['seconds']:.1f} s{share}"
    )
    if "newton" in figures:
        newton = figures["newton"]
        print(
            f"vertices moved onto the level by {newton['moved']:.2g} cells: mean distance in value "
            f"{newton['residual_before']:.2g} -> {newton['residual_after']:.2g}"
        )
    for step in figures["steps"]:
        print(f"{step['step']}: {step['did']} ({step['faces_before']} -> {step['faces_after']} faces)")
    if reference is not None:
        print(
            f"against {reference}: F-score {figures['f_score']:.4f} at 1% of the diagonal, "
            f"Chamfer {100 * figures['chamfer_share']:.3f}% of it, "
            f"normal consistency {figures['normal_consistency']:.3f}"
        )


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
