"""From the surface of a field to a coloured triangle mesh in the world coordinates of the input.

:func:`extract`: cells to search -> sparse marching cubes -> vertices onto the level -> world; or :func:`extract_open`
:func:`finish`: the steps asked for -> normals -> colours -> texture
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from recon3d.errors import UserError
from recon3d.export.appearance import MeshOcclusion, SeenColor
from recon3d.export.fusion import fuse
from recon3d.export.levelset import LevelSet, NoSurfaceError
from recon3d.export.marching import extract_surface
from recon3d.export.postprocess import DropCavities, DropPieces, Smooth, Step, StepReport, apply_steps
from recon3d.export.refine import normals, onto_level
from recon3d.export.refinement import narrow_band
from recon3d.export.texture import Textured, texture
from recon3d.export.triangles import is_closed, pieces, vertex_normals
from recon3d.geometry.boxes import Normalizer
from recon3d.geometry.depth_views import DepthView

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
    mesh, _, report = finish(extracted, surface, normalizer, steps, began=began, **options)
    return mesh, report


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
    vertices *= normalizer.half_size  # to world coordinates, in place: of a large mesh every copy counts
    vertices += np.asarray(normalizer.center)
    return Extracted(vertices, found.faces, cell, figures)


def extract_open(views: Sequence[DepthView], normalizer: Normalizer, resolution: int) -> Extracted:
    """The surface that ``views`` saw, fused in voxels of the size of the lattice's cells; open where no view looked.

    Raises:
        UserError: the views saw nothing; open3d is not installed.
    """
    center, half = np.asarray(normalizer.center), normalizer.half_size
    voxel = 2 * half / resolution
    vertices, faces = fuse(views, voxel, (center - half).tolist(), (center + half).tolist())
    return Extracted(vertices, faces, 2 / resolution, {"resolution": resolution, "voxel": voxel})


def finish(
    extracted: Extracted,
    surface: LevelSet,
    normalizer: Normalizer,
    steps: Sequence[Step] = CLEANING,
    *,
    texture_size: int | None = None,
    began: float | None = None,
    batch_points: int = 2**18,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> tuple[trimesh.Trimesh, Textured | None, MeshReport]:
    """The mesh after ``steps``, with normals, and with vertex colours where ``surface`` has colours.

    Normals are the field's where these are better than the triangles' (:class:`LevelSet`) and no step has smoothed the
    triangles. With ``texture_size``, the same mesh with a texture of that many texels a side comes beside it.
    ``began``: when the export did, by ``time.perf_counter``, for the report.

    Raises:
        UserError: a step leaves nothing of the mesh; a texture is asked for, and the field has no colours or the
            texture cannot be made.
    """
    import trimesh

    began = time.perf_counter() if began is None else began
    if texture_size is not None and surface.color_fn is None:
        raise UserError("a texture needs colours, and this run has learned none; leave out --texture")
    vertices, faces, done = apply_steps(extracted.vertices, extracted.faces, steps)
    in_field = to_field(vertices, normalizer)
    if surface.normals_from_field and not any(isinstance(step, Smooth) for step in steps):
        outward = normals(surface, in_field, faces, extracted.cell, batch_points=batch_points, device=device)
    else:
        outward = vertex_normals(vertices, faces)
    colors, textured, figures = None, None, dict(extracted.figures)
    if surface.color_fn is not None:
        paint = _Paint(surface, in_field, faces, normalizer, device, batch_points)
        colors = paint.bytes_at(vertices, outward)
        figures["colors"] = paint.told
        if texture_size is not None:
            textured = texture(vertices, faces, outward, paint, texture_size, progress=progress)
            figures["texture"] = {"size": texture_size, "charts": textured.charts, "covered": textured.covered}
    mesh = trimesh.Trimesh(vertices, faces, vertex_normals=outward, vertex_colors=colors, process=False, validate=False)
    report = MeshReport(
        vertices=len(vertices),
        faces=len(faces),
        watertight=is_closed(faces),
        components=int(pieces(faces, len(vertices)).max()) + 1,
        extraction=figures,
        steps=done,
        seconds=time.perf_counter() - began,
    )
    return mesh, textured, report


class _Paint:
    """The colours of a mesh at world points with unit normals, in [0, 1].

    Where the cameras are known that the colours were learned from, a point has the mean over those that saw it
    (:class:`SeenColor`, which needs open3d); else what a camera sees that looks straight at the surface.
    """

    def __init__(
        self,
        surface: LevelSet,
        vertices: Float[np.ndarray, "v 3"],
        faces: Int[np.ndarray, "f 3"],
        normalizer: Normalizer,
        device: torch.device | str,
        batch_points: int,
    ) -> None:
        assert surface.color_fn is not None
        self.normalizer, self.device, self.batch = normalizer, device, batch_points
        color_fn = surface.color_fn
        self._color: Callable[[Tensor, Tensor], Tensor] = lambda points, normals: color_fn(points, -normals)
        self.told = "seen along the normal"
        if surface.cameras is not None and find_spec("open3d") is not None:
            self._color = SeenColor(color_fn, surface.cameras, MeshOcclusion(vertices, faces))
            self.told = "mean over the cameras that see it"

    @torch.no_grad()
    def __call__(self, points: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        at = torch.from_numpy(to_field(points, self.normalizer)).float().to(self.device)
        outward = torch.from_numpy(normals).float().to(self.device)
        return self._color(at, outward).float().clamp(0, 1).cpu().numpy()

    def bytes_at(self, points: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"]) -> UInt8[np.ndarray, "n 4"]:
        """RGBA, of any number of points."""
        colors = np.full((len(points), 4), 255, np.uint8)
        for start in range(0, len(points), self.batch):
            some = slice(start, start + self.batch)
            colors[some, :3] = np.rint(255 * self(points[some], normals[some]))
        return colors


def to_field(points: Float[np.ndarray, "n 3"], normalizer: Normalizer) -> Float[np.ndarray, "n 3"]:
    return (points - np.asarray(normalizer.center)) / normalizer.half_size
