"""From the surface of a field to a coloured triangle mesh in the world coordinates of the input.

cells to search -> sparse marching cubes -> vertices onto the level -> world -> the steps asked for -> normals, colours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from recon3d.export.levelset import ColorFn, LevelSet, NoSurfaceError
from recon3d.export.marching import extract_surface
from recon3d.export.postprocess import DropCavities, DropPieces, Smooth, Step, StepReport, apply_steps
from recon3d.export.refine import normals, onto_level
from recon3d.export.refinement import narrow_band
from recon3d.export.triangles import is_closed, pieces, vertex_normals
from recon3d.geometry.boxes import Normalizer

if TYPE_CHECKING:
    import trimesh

CLEANING: tuple[Step, ...] = (DropCavities(), DropPieces(0.005))
"""What is done to every mesh unless asked otherwise."""
NEWTON_STEPS = 3


@dataclass(frozen=True)
class Extracted:
    """A mesh as it came from the field. ``vertices`` in world units; ``cell``: the spacing of the lattice, in field
    units; ``figures``: how it was made."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    cell: float
    figures: dict[str, Any]


@dataclass(frozen=True)
class MeshReport:
    """What an export did. ``extraction``: figures of the route; ``steps``: of what was done to the mesh afterwards."""

    vertices: int
    faces: int
    watertight: bool
    components: int
    extraction: dict[str, Any]
    steps: list[StepReport]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Flat, for JSON: the figures of the extraction beside the others."""
        values = asdict(self)
        return {**values.pop("extraction"), **values}


def export_mesh(
    surface: LevelSet,
    normalizer: Normalizer,
    *,
    resolution: int = 512,
    steps: Sequence[Step] = CLEANING,
    newton: int | None = None,
    batch_points: int = 2**18,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> tuple[trimesh.Trimesh, MeshReport]:
    """The surface of a field as a mesh, with vertex colours where the field has colours.

    :func:`extract` and :func:`finish`, one after the other; see these.
    """
    options: dict[str, Any] = {"batch_points": batch_points, "device": device}
    began = time.perf_counter()
    extracted = extract(surface, normalizer, resolution, newton=newton, progress=progress, **options)
    return finish(extracted, surface, normalizer, steps, began=began, **options)


def extract(
    surface: LevelSet,
    normalizer: Normalizer,
    resolution: int,
    *,
    newton: int | None = None,
    batch_points: int = 2**18,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> Extracted:
    """The closed surface on a lattice of ``resolution`` cells an axis over the field's cube.

    ``newton``: steps that move vertices onto the level (None: 3 for a distance, none otherwise). ``progress`` is called
    with the share done, 0..1. The fields' functions are called with at most ``batch_points`` points, on ``device``.

    Raises:
        UserError: there is no surface.
    """
    options: dict[str, Any] = {"batch_points": batch_points, "device": device}
    try:
        band = narrow_band(surface, resolution, **options)
        found = extract_surface(
            surface.value_fn, surface.level, resolution, band.active, band.inside, progress=progress, **options
        )
    except NoSurfaceError as error:
        raise surface.no_surface(error) from error
    cell = 2.0 / resolution
    evaluations = found.evaluations + band.evaluations
    figures: dict[str, Any] = {
        "route": "level",
        "level": surface.given_level,
        "resolution": resolution,
        "evaluations": evaluations,
        "dense_evaluations": found.dense_evaluations,
        "evaluated_share": evaluations / found.dense_evaluations,
    }
    vertices = found.vertices
    wanted = newton if newton is not None else NEWTON_STEPS if surface.slope is not None else 0
    if wanted:
        vertices, moved = onto_level(surface, vertices, found.faces, cell, steps=wanted, **options)
        figures["newton"] = asdict(moved)
    return Extracted(to_world(vertices, normalizer), found.faces, cell, figures)


def finish(
    extracted: Extracted,
    surface: LevelSet,
    normalizer: Normalizer,
    steps: Sequence[Step] = CLEANING,
    *,
    began: float | None = None,
    batch_points: int = 2**18,
    device: torch.device | str = "cpu",
) -> tuple[trimesh.Trimesh, MeshReport]:
    """The mesh after ``steps``, with normals, and with vertex colours where ``surface`` has colours.

    ``began``: when the export did, by ``time.perf_counter``, for the report. Normals are the field's where these are
    better than the triangles' (:class:`LevelSet`) and no step has smoothed the triangles.
    """
    import trimesh

    began = time.perf_counter() if began is None else began
    options: dict[str, Any] = {"batch_points": batch_points, "device": device}
    vertices, faces, done = apply_steps(extracted.vertices, extracted.faces, steps)
    in_field = to_field(vertices, normalizer)
    if surface.normals_from_field and not any(isinstance(step, Smooth) for step in steps):
        outward = normals(surface, in_field, faces, extracted.cell, **options)
    else:
        outward = vertex_normals(vertices, faces)
    colors = None
    if surface.color_fn is not None:
        colors = colors_along_normals(surface.color_fn, in_field, outward, **options)
    mesh = trimesh.Trimesh(vertices, faces, vertex_normals=outward, vertex_colors=colors, process=False, validate=False)
    report = MeshReport(
        vertices=len(vertices),
        faces=len(faces),
        watertight=is_closed(faces),
        components=int(pieces(faces, len(vertices)).max()) + 1,
        extraction=extracted.figures,
        steps=done,
        seconds=time.perf_counter() - began,
    )
    return mesh, report


def to_world(points: Float[np.ndarray, "n 3"], normalizer: Normalizer) -> Float[np.ndarray, "n 3"]:
    return points * normalizer.half_size + np.asarray(normalizer.center)


def to_field(points: Float[np.ndarray, "n 3"], normalizer: Normalizer) -> Float[np.ndarray, "n 3"]:
    return (points - np.asarray(normalizer.center)) / normalizer.half_size


@torch.no_grad()
def colors_along_normals(
    color_fn: ColorFn,
    vertices: Float[np.ndarray, "v 3"],
    normals: Float[np.ndarray, "v 3"],
    *,
    batch_points: int = 2**18,
    device: torch.device | str = "cpu",
) -> UInt8[np.ndarray, "v 4"]:
    """RGBA bytes: the colour that a camera looking straight at the surface sees (it looks along minus the normal)."""
    colors = np.full((len(vertices), 4), 255, np.uint8)
    for start in range(0, len(vertices), batch_points):
        some = slice(start, start + batch_points)
        points = torch.from_numpy(vertices[some]).float().to(device)
        directions = torch.from_numpy(-normals[some]).float().to(device)
        rgb = color_fn(points, directions).float().clamp(0, 1)
        colors[some, :3] = (rgb * 255).round().byte().cpu().numpy()
    return colors
