"""A UV atlas: every face of a mesh gets its own place in a square picture.

xatlas cuts the surface into charts that lie flat and packs them (the algorithm of the thekla atlas: charts grow face by
face over a cost of normal deviation, roundness and straightness, and are laid flat by least-squares conformal maps,
Levy et al. 2002). Its time grows with the square of the faces of one mesh, so the mesh is first cut into blocks along
its longest sides and each block is charted alone: of 50,000 noisy faces, two seconds instead of minutes, for a tenth
more charts. The charts are then packed together, at the scale that makes them fill the picture with the padding asked
for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from recon3d.errors import UserError

MOST_FACES = 1_000_000
_BLOCK = 2000  # faces that are charted together
_COST = 4.0  # a chart grows until its cost passes this; xatlas' 2 gives more charts, above 4 nothing changes
_PACKINGS = 10
_FULL = 0.97  # share of the side that the charts should take


@dataclass(frozen=True)
class Atlas:
    """Where the faces of a mesh lie in the picture.

    Attributes:
        source: the mesh's vertex that each vertex of the atlas is; vertices on seams are there more than once.
        faces: the mesh's faces, in their order, over the atlas' vertices.
        uv: place in [0, 1]^2, v upwards.
        charts: number of connected patches.
    """

    source: Int[np.ndarray, "v"]
    faces: Int[np.ndarray, "f 3"]
    uv: Float[np.ndarray, "v 2"]
    charts: int


def unwrap(vertices: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "f 3"], size: int, padding: int) -> Atlas:
    """Charts of a mesh, packed into a picture of ``size`` x ``size`` texels, ``padding`` texels from one another.

    Raises:
        UserError: xatlas is not installed, the mesh has too many faces, or its charts do not fit.
    """
    xatlas = _import_xatlas()
    if len(faces) > MOST_FACES:
        raise UserError(
            f"{len(faces)} faces are too many for a texture: simplify the mesh to {MOST_FACES} or fewer (--simplify)"
        )
    source, cut, flat = _charts(xatlas, vertices, faces)
    uv, charts = _packed(xatlas, flat, cut, size, padding)
    return Atlas(source, cut, uv, charts)


def _charts(
    xatlas: Any, vertices: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "f 3"]
) -> tuple[Int[np.ndarray, "v"], Int[np.ndarray, "f 3"], Float[np.ndarray, "v 2"]]:
    """Each atlas vertex' mesh vertex, the faces over atlas vertices, and flat positions in units of the mesh."""
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    extent = float((high - low).max())
    if not extent > 0:
        raise UserError("the mesh has no extent: there is nothing to lay a texture on")
    unit = ((vertices - low) / extent).astype(np.float32)
    blocks = _blocks(unit[faces].mean(axis=1), np.arange(len(faces)))
    atlas = xatlas.Atlas()
    used = []
    for block in blocks:
        corner, local = np.unique(faces[block], return_inverse=True)
        used.append(corner)
        atlas.add_mesh(unit[corner], local.reshape(-1, 3).astype(np.uint32))
    options, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    options.max_cost = _COST
    packing.resolution, packing.padding = 1024, 0
    atlas.generate(options, packing)
    scale = np.array([atlas.width, atlas.height]) / atlas.texels_per_unit
    cut = np.empty((len(faces), 3), np.int32)
    source, flat, count = [], [], 0
    for i, (block, corner) in enumerate(zip(blocks, used)):
        origin, local, uv = atlas.get_mesh(i)
        cut[block] = local.astype(np.int32) + count
        source.append(corner[origin])
        flat.append(uv * scale)
        count += len(origin)
    return np.concatenate(source), cut, np.concatenate(flat)


def _blocks(centers: Float[np.ndarray, "f 3"], faces: Int[np.ndarray, "m"]) -> list[Int[np.ndarray, "_"]]:
    """The faces halved at the median of their longest side until no block is larger than it should be."""
    if len(faces) <= _BLOCK:
        return [np.sort(faces)]
    side = int(np.ptp(centers[faces], axis=0).argmax())
    middle = len(faces) // 2
    order = faces[np.argpartition(centers[faces, side], middle)]
    return _blocks(centers, order[:middle]) + _blocks(centers, order[middle:])


def _packed(
    xatlas: Any, flat: Float[np.ndarray, "v 2"], faces: Int[np.ndarray, "f 3"], size: int, padding: int
) -> tuple[Float[np.ndarray, "v 2"], int]:
    """The charts at the largest scale found at which they fit; places in [0, 1]^2, and the number of charts.

    The side of a packing grows about linearly with the scale, from what the padding alone takes: two packings tell
    the scale of the next.
    """
    a, b, c = (flat[faces[:, i]] for i in range(3))
    area = 0.5 * np.abs(np.cross(_space(b - a), _space(c - a))[:, 2]).sum()
    scale = 0.75 * size / max(float(np.sqrt(area)), 1e-12)
    tried: list[tuple[float, int]] = []
    best: tuple[float, Any] | None = None
    for _ in range(_PACKINGS):
        atlas = xatlas.Atlas()
        atlas.add_uv_mesh(flat.astype(np.float32), faces.astype(np.uint32))
        options = xatlas.PackOptions()
        options.texels_per_unit, options.resolution, options.padding = scale, 0, padding
        atlas.generate(xatlas.ChartOptions(), options)
        side = max(atlas.width, atlas.height)
        if side <= size and (best is None or scale > best[0]):
            best = (scale, atlas)
        if _FULL * size <= side <= size:
            break
        tried.append((scale, side))
        scale = _next_scale(tried, size)
    if best is None:
        raise UserError(
            f"{atlas.chart_count} charts, {padding} texels from one another, do not fit a texture of {size}: give a "
            "larger one, or fewer faces (--simplify)"
        )
    atlas = best[1]
    origin, _, uv = atlas.get_mesh(0)
    placed = np.zeros((len(flat), 2))
    placed[origin] = uv * np.array([atlas.width, atlas.height]) / size
    return placed, int(atlas.chart_count)


def _next_scale(tried: list[tuple[float, int]], size: int) -> float:
    """The scale at which the side should be just under ``size``, by the line through the last two packings."""
    wanted = 0.5 * (1 + _FULL) * size
    (scale, side) = tried[-1]
    if len(tried) > 1:
        (before, side_before) = tried[-2]
        slope = (side - side_before) / (scale - before) if scale != before else 0.0
        if slope > 0:
            ahead = scale + (wanted - side) / slope
            return min(max(ahead, 0.25 * scale), 4 * scale)
    return scale * wanted / side


def _space(vectors: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    return np.pad(vectors, ((0, 0), (0, 1)))


def _import_xatlas() -> Any:
    try:
        import xatlas
    except ImportError:
        raise UserError("a texture's charts are made by xatlas: pip install 'recon3d[mesh]'") from None
    return xatlas
