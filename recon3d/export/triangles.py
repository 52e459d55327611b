"""Facts of triangle meshes as arrays: vertices (V, 3) float, faces (F, 3) integer, outward by the right-hand rule."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


def face_normals(vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]) -> Float[np.ndarray, "f 3"]:
    """The normals of faces, as long as twice their area."""
    a = vertices[faces[:, 0]]
    return np.cross(vertices[faces[:, 1]] - a, vertices[faces[:, 2]] - a)


def vertex_normals(vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]) -> Float[np.ndarray, "v 3"]:
    """Unit normals at vertices: the normals of the faces around, weighted by area. Zero where these cancel."""
    of_face = face_normals(vertices, faces)
    normals = np.zeros_like(vertices)
    for axis in range(3):
        for corner in range(3):
            normals[:, axis] += np.bincount(faces[:, corner], of_face[:, axis], minlength=len(vertices))
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)


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
    there, back = _edges_by_direction(faces)
    there, back = np.sort(there), np.sort(back)
    return len(there) > 0 and np.array_equal(there, back) and bool((there[1:] != there[:-1]).all())


def boundary_edges(faces: Int[np.ndarray, "f 3"]) -> Int[np.ndarray, "e 2"]:
    """The edges that faces run along in one direction only, as their faces run along them."""
    there, back = _edges_by_direction(faces)
    low, high = (np.setdiff1d(a, b) for a, b in ((there, back), (back, there)))
    edges = np.concatenate([low, high])
    edges = np.stack([edges >> 32, edges & 0xFFFFFFFF], axis=1).astype(faces.dtype)
    edges[len(low) :] = edges[len(low) :, ::-1]
    return edges


def _edges_by_direction(faces: Int[np.ndarray, "f 3"]) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "m"]]:
    """The numbers (lower vertex << 32 | higher) of the edges that faces run up, and of those that they run down."""
    up, down = [], []
    for i, j in ((0, 1), (1, 2), (2, 0)):
        a, b = faces[:, i].astype(np.int64), faces[:, j].astype(np.int64)
        edge = (np.minimum(a, b) << 32) | np.maximum(a, b)
        up.append(edge[a < b])
        down.append(edge[a >= b])
    return np.concatenate(up), np.concatenate(down)


def joined(edges: Int[np.ndarray, "e 2"], vertices: int) -> Int[np.ndarray, "v"]:
    """For each vertex the number of the piece that the edges join it to."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(edges), np.float32), (edges[:, 0], edges[:, 1])), shape=(vertices, vertices))
    return connected_components(graph, directed=False)[1]


def pieces(faces: Int[np.ndarray, "f 3"], vertices: int) -> Int[np.ndarray, "f"]:
    """The connected piece (over shared vertices) that each face lies in, numbered from 0."""
    _, piece = np.unique(joined(faces[:, [0, 1, 1, 2]].reshape(-1, 2), vertices)[faces[:, 0]], return_inverse=True)
    return piece


def areas_and_volumes(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], piece: Int[np.ndarray, "f"]
) -> tuple[Float[np.ndarray, "c"], Float[np.ndarray, "c"]]:
    """Area and signed volume of each piece; the volume is positive where a closed piece's normals point outward, and
    means nothing where a piece is open."""
    normal = face_normals(vertices, faces)
    area = np.bincount(piece, np.linalg.norm(normal, axis=1)) / 2
    return area, np.bincount(piece, np.einsum("ij,ij->i", vertices[faces[:, 0]], normal)) / 6
