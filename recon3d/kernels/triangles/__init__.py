"""Questions about many triangles at once: which is nearest to a point, which cross one another, how much they enclose.

All of them are asked of a tree of boxes over the triangles, in float64, on the CPU, without gradients: they measure
meshes, and train nothing. There is one implementation, in numba; the tests compare it with brute force.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from recon3d.kernels.threads import run_parallel, spans
from recon3d.kernels.triangles import columns, cpu

_POINTS_AT_ONCE = 2**13
_FACES_AT_ONCE = 2**14


class TriangleTree:
    """A tree of boxes over F >= 1 triangles, for any number of questions.

    Leaves hold four triangles, neighbours along a space-filling curve; inner nodes are numbered like a heap's, so the
    tree is a table of boxes and nothing else. It takes about 120 bytes a face.

    Args:
        corners: the triangles' corners (F, 3, 3), finite.
    """

    def __init__(self, corners: Float[np.ndarray, "f 3 3"]) -> None:
        corners = np.ascontiguousarray(corners, np.float64)
        # Near the origin differences lose least, and the crossing test's bounds are tight.
        self.origin = (corners.min(axis=(0, 1)) + corners.max(axis=(0, 1))) / 2
        corners = corners - self.origin
        order = np.argsort(cpu.curve_place(corners), kind="stable")
        self.order, self.corners = order, corners[order]
        self.boxes = cpu.boxes(self.corners)

    def nearest(self, points: Float[np.ndarray, "n 3"]) -> tuple[Float[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        """Distance of each point to the nearest place on any triangle, and that triangle's index.

        Points that follow one another should be near one another: each starts from its predecessor's triangle.
        """
        points = np.ascontiguousarray(points, np.float64) - self.origin
        distance, face = np.empty(len(points)), np.empty(len(points), np.int64)
        run_parallel(
            lambda a, b: cpu.nearest(points[a:b], self.corners, self.boxes, distance[a:b], face[a:b]),
            spans(len(points), -(-len(points) // _POINTS_AT_ONCE)),
        )
        return distance, self.order[face]

    def crossings(self, faces: Int[np.ndarray, "f 3"]) -> tuple[int, Bool[np.ndarray, "f"]]:
        """How many pairs of triangles cross, and which triangles do; ``faces`` tells which corners are one vertex.

        Two triangles cross where an edge of one passes through the inside of the other. Mere touching is no crossing
        (an end on a face, an edge through an edge), nor is overlapping within one plane. Signs that rounding could have
        turned count as touching.
        """
        of_leaf = np.ascontiguousarray(np.asarray(faces, np.int64)[self.order])
        crossing = np.zeros(len(of_leaf), np.uint8)
        parts = spans(len(of_leaf), -(-len(of_leaf) // _FACES_AT_ONCE))
        pairs = sum(run_parallel(lambda a, b: cpu.crossings(a, b, self.corners, of_leaf, self.boxes, crossing), parts))
        result = np.zeros(len(of_leaf), bool)
        result[self.order] = crossing.astype(bool)
        return int(pairs), result


def enclosed_volumes(
    first: tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]],
    second: tuple[Float[np.ndarray, "w 3"], Int[np.ndarray, "g 3"]],
    side: int,
) -> tuple[float, float]:
    """Volumes of the intersection and of the union of what two closed meshes (vertices, faces) enclose.

    ``side`` x ``side`` parallel lines go through the box around both; on each line the lengths are exact, from the
    places where it crosses a face. Inside is where the faces wind around a place at all (either way), so a body that
    is inside out has the volume of its mirror image, and overlapping parts count once.
    """
    return columns.overlap(first, second, side)
