"""A UV atlas: every face of a mesh gets its own place in a square picture.

Charts are cut by :mod:`recon3d.export.charts` and packed by xatlas, at the scale that makes them fill the picture with
the padding asked for. xatlas can cut charts too, but on the crumpled surfaces that fields have it makes one for every
five to ten faces, whose padding leaves a texture hardly a texel of colour, in time that grows with the square of the
faces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from recon3d.errors import UserError
from recon3d.export.charts import Charts, cut

MOST_FACES = 1_000_000
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
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    extent = float((high - low).max())
    if not extent > 0:
        raise UserError("the mesh has no extent: there is nothing to lay a texture on")
    charts = cut((vertices - low) / extent, faces)
    uv = _packed(xatlas, charts, size, padding)
    return Atlas(charts.source, charts.faces, uv, int(charts.chart.max()) + 1)


def _packed(xatlas: Any, charts: Charts, size: int, padding: int) -> Float[np.ndarray, "v 2"]:
    """The charts at the largest scale found at which they fit: places in [0, 1]^2.

    The side of a packing grows about linearly with the scale, from what the padding alone takes: two packings tell
    the scale of the next.
    """
    flat, faces = charts.flat, charts.faces
    a, b, c = (flat[faces[:, i]] for i in range(3))
    area = 0.5 * np.abs(np.cross(_space(b - a), _space(c - a))[:, 2]).sum()
    scale = 0.75 * size / max(float(np.sqrt(area)), 1e-12)
    tried: list[tuple[float, int]] = []
    best: tuple[float, Any] | None = None
    for _ in range(_PACKINGS):
        atlas = xatlas.Atlas()
        # Charts may touch before they are packed: as materials they stay apart.
        atlas.add_uv_mesh(flat.astype(np.float32), faces.astype(np.uint32), charts.chart.astype(np.uint32)[:, None])
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
    lost = np.zeros(len(flat), bool)
    lost[origin] = np.asarray(atlas.get_mesh_vertex_assignment(0)[0]) != 0
    _place_lost(placed, lost, charts)
    return placed


def _place_lost(placed: Float[np.ndarray, "v 2"], lost: Bool[np.ndarray, "v"], charts: Charts) -> None:
    """Places vertices of faces without area, which xatlas leaves out, as it placed the rest of their charts.

    It turns, shifts and scales a chart: an affine map, found by least squares. A chart of such faces alone is a point.
    """
    owner = np.empty(len(placed), np.int64)
    owner[charts.faces.reshape(-1)] = np.repeat(charts.chart, 3)
    for chart in np.unique(owner[lost]):
        mine = owner == chart
        known, unknown = np.flatnonzero(mine & ~lost), np.flatnonzero(mine & lost)
        if len(known) == 0:
            placed[unknown] = 0
            continue
        at = charts.flat[known].mean(axis=0)
        design = np.column_stack([charts.flat[known] - at, np.ones(len(known))])
        moved, *_ = np.linalg.lstsq(design, placed[known], rcond=None)
        placed[unknown] = np.column_stack([charts.flat[unknown] - at, np.ones(len(unknown))]) @ moved


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
        raise UserError("a texture's charts are packed by xatlas: pip install 'recon3d[mesh]'") from None
    return xatlas
