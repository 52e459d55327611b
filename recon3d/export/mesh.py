"""From a density field to a coloured triangle mesh in the world coordinates of the input.

choose a level -> sparse marching cubes -> drop floaters and cavities -> colours seen along the normal -> world.

Marching cubes places vertices by linear interpolation along lattice edges. Density is far from linear there: the
networks give its logarithm, and it grows by factors across one cell. So the lattice holds log(density / level), whose
zero set is the same surface: on an exponential ramp of a third of a cell, normals are then off by 0.6 degrees instead
of 7.4. It is clamped to +-4, so that where density jumps from nothing to a plateau no end of the edge is preferred.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from recon3d.errors import UserError
from recon3d.export.level import choose_level
from recon3d.export.levelset import ColorFn, NoSurfaceError, ValueFn
from recon3d.export.marching import extract_surface
from recon3d.geometry.boxes import Normalizer

if TYPE_CHECKING:
    import trimesh

_LOG_RANGE = 4.0


@dataclass(frozen=True)
class MeshReport:
    """What an export did. Shares are of the surface's area before anything was removed; ``level`` in 1 / field unit."""

    level: float
    resolution: int
    vertices: int
    faces: int
    watertight: bool
    components: int
    removed_floaters: int
    removed_cavities: int
    removed_area_share: float
    evaluations: int
    dense_evaluations: int
    evaluated_share: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Cleaned:
    """Faces that stay (indices into the same vertices), how many components they make, and what was dropped."""

    faces: Int[np.ndarray, "f 3"]
    components: int
    floaters: int
    cavities: int
    removed_area_share: float


def export_mesh(
    density_fn: ValueFn,
    color_fn: ColorFn | None,
    normalizer: Normalizer,
    active: Bool[np.ndarray, "r r r"],
    *,
    resolution: int = 512,
    level: float | None = None,
    min_component_share: float = 0.005,
    keep_cavities: bool = False,
    batch_points: int = 2**18,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> tuple[trimesh.Trimesh, MeshReport]:
    """The surface of a density field as a closed mesh, with vertex colours where ``color_fn`` is given.

    ``density_fn`` and ``color_fn(points, directions)`` take field coordinates, float32 on ``device``; colours are rgb
    in [0, 1]. ``active`` is the occupancy grid over [-1, 1]^3, dilated by one cell, indexed [ix, iy, iz]. ``level`` is
    a density in 1 / field unit; None: :func:`recon3d.export.level.choose_level`. For ``min_component_share`` and
    ``keep_cavities`` see :func:`drop_components`. ``progress`` is called with the share done, 0..1. Raises UserError
    where there is no surface.
    """
    import trimesh

    began = time.perf_counter()
    if level is None:
        level = choose_level(density_fn, active, batch_points=batch_points, device=device)
    if not level > 0:
        raise UserError(f"the surface's density is {level:g}, but must be above 0")
    log_density = _LogDensity(density_fn, level)
    try:
        surface = extract_surface(
            log_density, 0.0, resolution, active, batch_points=batch_points, device=device, progress=progress
        )
    except NoSurfaceError as error:
        raise UserError(
            f"no surface at density {level:g}: the densities in the active region span [{log_density.low:g}, "
            f"{log_density.high:g}]; choose a level between them"
        ) from error
    cleaned = drop_components(surface.vertices, surface.faces, min_component_share, keep_cavities)
    vertices, faces = without_unused(surface.vertices, cleaned.faces)
    normals = vertex_normals(vertices, faces)
    colors = None
    if color_fn is not None:
        colors = colors_along_normals(color_fn, vertices, normals, batch_points=batch_points, device=device)
    world = vertices * normalizer.half_size + np.asarray(normalizer.center)
    mesh = trimesh.Trimesh(world, faces, vertex_normals=normals, vertex_colors=colors, process=False, validate=False)
    report = MeshReport(
        level=level,
        resolution=resolution,
        vertices=len(vertices),
        faces=len(faces),
        watertight=is_closed(faces),
        components=cleaned.components,
        removed_floaters=cleaned.floaters,
        removed_cavities=cleaned.cavities,
        removed_area_share=cleaned.removed_area_share,
        evaluations=surface.evaluations,
        dense_evaluations=surface.dense_evaluations,
        evaluated_share=surface.evaluations / surface.dense_evaluations,
        seconds=time.perf_counter() - began,
    )
    return mesh, report


class _LogDensity:
    """log(density / level), clamped; remembers the range of the densities."""

    def __init__(self, density_fn: ValueFn, level: float) -> None:
        self.density_fn, self.level = density_fn, level
        self.low, self.high = math.inf, -math.inf

    def __call__(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        density = self.density_fn(points).float()
        low, high = (float(value) for value in torch.aminmax(density))
        self.low, self.high = min(self.low, low), max(self.high, high)
        return (density / self.level).log().clamp(-_LOG_RANGE, _LOG_RANGE)


def drop_components(
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    min_share: float = 0.005,
    keep_cavities: bool = False,
) -> Cleaned:
    """Removes floaters and, unless ``keep_cavities``, cavities, from closed, outward-oriented triangles.

    A cavity is a connected component whose normals point inward (negative signed volume): the inside of a hollow body,
    which no camera outside saw. A floater is a component with less than ``min_share`` of the area of all components
    that are no cavities; the largest always stays. Cavities that are kept are subject to the same share.
    """
    if not 0 <= min_share <= 1:
        raise UserError(f"the least share of a component is {min_share}, but must lie in 0..1")
    label = _component_of_faces(faces, len(vertices))
    area, volume = _areas_and_volumes(vertices, faces, label)
    cavity = volume < 0
    if cavity.all():  # not what marching cubes gives, but an inside-out mesh must not vanish
        cavity[:] = False
    floater = area < min_share * area[~cavity].sum()
    floater[np.where(cavity, -1.0, area).argmax()] = False
    dropped_cavity = cavity & (not keep_cavities)
    dropped_floater = floater & ~dropped_cavity
    keep = ~(dropped_cavity | dropped_floater)
    return Cleaned(
        faces[keep[label]],
        int(keep.sum()),
        int(dropped_floater.sum()),
        int(dropped_cavity.sum()),
        float(area[~keep].sum() / area.sum()),
    )


def _component_of_faces(faces: Int[np.ndarray, "f 3"], vertices: int) -> Int[np.ndarray, "f"]:
    """The connected component (over shared vertices) that each face lies in, numbered from 0."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    starts, ends = [], []
    for a, b in ((0, 1), (1, 2), (2, 0)):  # a closed mesh has each edge once in either direction: one is enough
        once = faces[:, a] < faces[:, b]
        starts.append(faces[once, a])
        ends.append(faces[once, b])
    start, end = np.concatenate(starts), np.concatenate(ends)
    graph = coo_array((np.ones(len(start), np.float32), (start, end)), shape=(vertices, vertices))
    _, of_vertex = connected_components(graph, directed=False)
    _, label = np.unique(of_vertex[faces[:, 0]], return_inverse=True)
    return label


def _areas_and_volumes(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], label: Int[np.ndarray, "f"]
) -> tuple[Float[np.ndarray, "c"], Float[np.ndarray, "c"]]:
    """Area and signed volume of each component; the volume is positive where normals point outward."""
    a = vertices[faces[:, 0]]
    normal = np.cross(vertices[faces[:, 1]] - a, vertices[faces[:, 2]] - a)
    area = np.bincount(label, np.linalg.norm(normal, axis=1)) / 2
    return area, np.bincount(label, np.einsum("ij,ij->i", a, normal)) / 6


def without_unused(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
) -> tuple[Float[np.ndarray, "u 3"], Int[np.ndarray, "f 3"]]:
    """The same faces over just the vertices that they use, in the old order."""
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    if used.all():
        return vertices, faces
    return vertices[used], (np.cumsum(used, dtype=faces.dtype) - 1)[faces]


def is_closed(faces: Int[np.ndarray, "f 3"]) -> bool:
    """Whether every edge lies in just two faces, which run along it in opposite directions."""
    one_way, other_way = [], []
    for i, j in ((0, 1), (1, 2), (2, 0)):
        a, b = faces[:, i].astype(np.int64), faces[:, j].astype(np.int64)
        edge = (np.minimum(a, b) << 32) | np.maximum(a, b)
        one_way.append(edge[a < b])
        other_way.append(edge[a >= b])
    there, back = np.sort(np.concatenate(one_way)), np.sort(np.concatenate(other_way))
    return len(there) > 0 and np.array_equal(there, back) and bool((there[1:] != there[:-1]).all())


def vertex_normals(vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]) -> Float[np.ndarray, "v 3"]:
    """Unit normals at vertices: the normals of the faces around, weighted by area. Zero where these cancel."""
    a = vertices[faces[:, 0]]
    of_face = np.cross(vertices[faces[:, 1]] - a, vertices[faces[:, 2]] - a)
    normals = np.zeros_like(vertices)
    for axis in range(3):
        for corner in range(3):
            normals[:, axis] += np.bincount(faces[:, corner], of_face[:, axis], minlength=len(vertices))
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)


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
