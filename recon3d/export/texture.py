"""A texture baked from a field: one colour function, asked at the surface point of every texel.

Texel (column i, row j) of a W x H picture has its centre at u = (i + 0.5) / W, v = 1 - (j + 0.5) / H: row 0 is the top,
v points upwards as in OBJ. A texel whose centre lies outside all charts, but so near one that bilinear sampling of the
chart reads it, is asked at the nearest point of the chart; all others repeat the nearest of those, so that coarser
mipmaps see no background.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from recon3d.errors import UserError
from recon3d.export.atlas import unwrap
from recon3d.export.raster import cells_under, weights_at
from recon3d.training.machine import free_memory

SurfaceColor = Callable[[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]], Float[np.ndarray, "n 3"]]
"""World points and unit normals to rgb in [0, 1], coded as in the photographs (sRGB)."""

SMALLEST, LARGEST = 16, 16384
"""Texels a side; graphics cards show no larger ones."""
_REACH = 1.5  # texels: bilinear sampling at a chart's border reads centres up to sqrt(2) outside it
_TEXELS = 2**18  # texels that are coloured together
_NOBODY = np.iinfo(np.uint64).max
_BYTES = 20
"""Memory for every texel of the picture, at the most."""


@dataclass(frozen=True)
class Textured:
    """A mesh with a texture. Vertices on seams are there once for every chart that they belong to.

    Attributes:
        vertices, normals: world coordinates, unit normals.
        faces: over these vertices.
        uv: places in the picture, v upwards.
        image: sRGB, row 0 on top.
        source: the vertex of the mesh without seams that each vertex is.
        charts: patches of the atlas.
        covered: share of the picture that charts cover.
    """

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    normals: Float[np.ndarray, "v 3"]
    uv: Float[np.ndarray, "v 2"]
    image: UInt8[np.ndarray, "h w 3"]
    source: Int[np.ndarray, "v"]
    charts: int
    covered: float


def check_size(size: int) -> None:
    """Raises UserError where no texture of ``size`` x ``size`` texels can be made, or the memory does not hold it."""
    if not SMALLEST <= size <= LARGEST:
        raise UserError(f"a texture of {size} texels a side: give {SMALLEST} to {LARGEST}")
    need, free = _BYTES * size**2, free_memory()
    if free is not None and need > free:
        raise UserError(
            f"a texture of {size} texels a side takes {need / 2**30:.2g} GiB of memory, and {free / 2**30:.2g} are "
            f"free: give {math.isqrt(free // _BYTES)} or less"
        )


def texture(
    vertices: Float[np.ndarray, "n 3"],
    faces: Int[np.ndarray, "f 3"],
    normals: Float[np.ndarray, "n 3"],
    color: SurfaceColor,
    size: int,
    padding: int = 2,
    *,
    progress: Callable[[float], None] | None = None,
) -> Textured:
    """Unwraps a mesh and bakes ``color`` into a picture of ``size`` x ``size`` texels.

    Args:
        vertices, faces, normals: the mesh, in world coordinates, with unit normals at the vertices.
        color: asked for at most 2^18 points at once.
        size: side of the picture.
        padding: texels between charts, at least.
        progress: called with the share of the texels that have their colour, 0..1.

    Raises:
        UserError: a size out of range, no faces, too many of them, charts that do not fit, xatlas is not installed.
    """
    check_size(size)
    if padding < 1:
        raise UserError(f"the padding is {padding} texels: give 1 or more")
    if len(faces) == 0:
        raise UserError("the mesh has no faces: there is nothing to lay a texture on")
    atlas = unwrap(vertices, faces, size, padding)
    place = atlas.uv * size
    place[:, 1] = size - place[:, 1]
    face = nearest_faces(place, atlas.faces, size)
    picture, empty = np.zeros((size * size, 3), np.uint8), face < 0
    texel = np.flatnonzero(~empty)
    face = face[texel]
    for start in range(0, len(texel), _TEXELS):
        some = slice(start, start + _TEXELS)
        corners = atlas.faces[face[some]]
        mesh_corners = atlas.source[corners]
        weights, _ = weights_at(_centers(texel[some], size), place[corners])
        points = np.einsum("nk,nkd->nd", weights, vertices[mesh_corners].astype(np.float64))
        normal = np.einsum("nk,nkd->nd", weights, normals[mesh_corners].astype(np.float64))
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
        picture[texel[some]] = np.rint(255 * np.clip(color(points, normal), 0, 1)).astype(np.uint8)
        if progress is not None:
            progress(min(1.0, (start + _TEXELS) / len(texel)))
    del texel, face  # of a large picture every array counts
    image = picture.reshape(size, size, 3)
    _fill(image, empty.reshape(size, size))
    return Textured(
        vertices=vertices[atlas.source],
        faces=atlas.faces,
        normals=normals[atlas.source],
        uv=atlas.uv,
        image=image,
        source=atlas.source,
        charts=atlas.charts,
        covered=float(_areas(place[atlas.faces]).sum() / size**2),
    )


def nearest_faces(
    place: Float[np.ndarray, "v 2"], faces: Int[np.ndarray, "f 3"], size: int, reach: float = _REACH
) -> Int[np.ndarray, "t"]:
    """The face nearest to the centre of each texel of a ``size`` x ``size`` picture, row by row; -1 where none is
    within ``reach`` texels. ``place``: (column, row) coordinates in texels, row downwards."""
    owner = np.full(size * size, _NOBODY, np.uint64)
    corners = place[faces]
    extent = np.full((len(faces), 2), size)
    for face, column, row in cells_under(corners, extent, reach):
        _, distance = weights_at(np.stack([column, row], axis=1) + 0.5, corners[face])
        near = distance <= reach
        # Distances are not negative, so their bits sort as they do; of equal ones the face of lower number wins.
        key = distance[near].astype(np.float32).view(np.uint32).astype(np.uint64) << np.uint64(32)
        np.minimum.at(owner, (row * size + column)[near], key | face[near].astype(np.uint64))
    return owner.astype(np.uint32).view(np.int32)  # the lower half; nobody's is -1


def _centers(texel: Int[np.ndarray, "n"], size: int) -> Float[np.ndarray, "n 2"]:
    return np.stack([texel % size, texel // size], axis=1) + 0.5


def _areas(corners: Float[np.ndarray, "f 3 2"]) -> Float[np.ndarray, "f"]:
    ab, ac = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return 0.5 * np.abs(ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0])


def _fill(picture: UInt8[np.ndarray, "h w 3"], empty: Bool[np.ndarray, "h w"]) -> None:
    """Gives every empty texel, in place, the colour of the nearest one that is not."""
    from scipy import ndimage

    row, column = ndimage.distance_transform_edt(empty, return_distances=False, return_indices=True)
    for line, unknown in enumerate(empty):
        picture[line, unknown] = picture[row[line, unknown], column[line, unknown]]
