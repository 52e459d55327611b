"""What two closed meshes enclose together, measured along parallel lines.

The lines run along z of a turned frame. A line through (x, y) crosses a face where (x, y) lies in the face's shadow.
Each edge decides for itself, from its end with the smaller index to the other, on which side of it the line passes:
faces on both sides of an edge get opposite answers, whatever rounding does, so a closed mesh is left as often as it is
entered.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy.spatial.transform import Rotation

from recon3d.kernels.threads import run_parallel, spans

Mesh = tuple[np.ndarray, np.ndarray]
_LINES_AT_ONCE = 2**14
# Both meshes are turned by this (axis times angle) first: boxes that stand along the axes, whose sides would lie on or
# beside whole rows of lines, are then measured as well as anything else.
_TURN = (0.31, -0.47, 0.73)


def overlap(first: Mesh, second: Mesh, side: int) -> tuple[float, float]:
    """Volumes of the intersection and the union; see :func:`recon3d.kernels.triangles.enclosed_volumes`."""
    turn = Rotation.from_rotvec(_TURN).as_matrix().T
    first, second = ((np.asarray(vertices, np.float64) @ turn, faces) for vertices, faces in (first, second))
    used = np.concatenate([vertices[np.unique(faces)] for vertices, faces in (first, second)])
    low, high = used.min(axis=0), used.max(axis=0)
    pitch = (high[:2] - low[:2]) / side
    starts, heights, signs = zip(*(_crossings(mesh, low, pitch, side) for mesh in (first, second)), strict=True)
    both = run_parallel(
        lambda a, b: _lengths(
            a, b, starts[0], heights[0], signs[0], starts[1], heights[1], signs[1]
        ),
        spans(side * side, -(-side * side // _LINES_AT_ONCE)),
    )  # fmt: skip
    intersection, union = np.sum(both, axis=0) * pitch[0] * pitch[1]
    return float(intersection), float(union)


def _crossings(mesh: Mesh, low: np.ndarray, pitch: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where lines cross a mesh: line k has entries starts[k] to starts[k + 1] of the heights, in order, and signs."""
    vertices, faces = np.asarray(mesh[0], np.float64), np.ascontiguousarray(mesh[1], np.int64)
    # In units of the pitch, with the middle of the first column at 0.
    place = np.ascontiguousarray((vertices[:, :2] - low[:2]) / np.where(pitch > 0, pitch, 1.0) - 0.5)
    height = np.ascontiguousarray(vertices[:, 2])
    starts = np.zeros(side * side + 1, np.int64)
    _scan(place, height, faces, side, starts[1:], np.empty(0), np.empty(0, np.int8), np.empty(0, np.int64))
    np.cumsum(starts, out=starts)
    heights, signs = np.empty(starts[-1]), np.empty(starts[-1], np.int8)
    _scan(place, height, faces, side, starts[:0], heights, signs, starts[:-1].copy())
    _sort_lines(starts, heights, signs)
    return starts, heights, signs


@njit(nogil=True, cache=True, inline="always")
def _left(place, i, j, x, y):
    """1 where (x, y) lies to the left of the way from vertex i to vertex j, else -1; exactly opposite for j to i."""
    a, b, sign = (i, j, 1) if i < j else (j, i, -1)
    area = (place[b, 0] - place[a, 0]) * (y - place[a, 1]) - (place[b, 1] - place[a, 1]) * (x - place[a, 0])
    return sign if area > 0.0 else -sign


@njit(nogil=True, cache=True)
def _scan(place, height, faces, side, counts, heights, signs, cursor):
    """Counts the crossings of each line in ``counts``, or, where that is empty, writes them at ``cursor``."""
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        x_low = max(0, int(np.ceil(min(place[a, 0], place[b, 0], place[c, 0]))))
        x_high = min(side - 1, int(np.floor(max(place[a, 0], place[b, 0], place[c, 0]))))
        y_low = max(0, int(np.ceil(min(place[a, 1], place[b, 1], place[c, 1]))))
        y_high = min(side - 1, int(np.floor(max(place[a, 1], place[b, 1], place[c, 1]))))
        for x in range(x_low, x_high + 1):
            for y in range(y_low, y_high + 1):
                turn = _left(place, a, b, x, y)
                if turn != _left(place, b, c, x, y) or turn != _left(place, c, a, x, y):
                    continue
                line = x * side + y
                if len(counts) > 0:
                    counts[line] += 1
                    continue
                heights[cursor[line]] = _height(place, height, a, b, c, x, y)
                signs[cursor[line]] = -turn  # a face that is seen counter-clockwise from above is left upwards
                cursor[line] += 1


@njit(nogil=True, cache=True)
def _height(place, height, a, b, c, x, y):
    """z of the face above (x, y), kept between its corners' where the face stands on edge."""
    ux, uy = place[b, 0] - place[a, 0], place[b, 1] - place[a, 1]
    vx, vy = place[c, 0] - place[a, 0], place[c, 1] - place[a, 1]
    px, py = x - place[a, 0], y - place[a, 1]
    area = ux * vy - uy * vx
    low, high = min(height[a], height[b], height[c]), max(height[a], height[b], height[c])
    if area == 0.0:
        return 0.5 * (low + high)
    s, r = (px * vy - py * vx) / area, (ux * py - uy * px) / area
    return min(max(height[a] + s * (height[b] - height[a]) + r * (height[c] - height[a]), low), high)


@njit(nogil=True, cache=True)
def _sort_lines(starts, heights, signs):
    for line in range(starts.shape[0] - 1):
        for i in range(starts[line] + 1, starts[line + 1]):  # by insertion: a line crosses few faces
            z, sign, j = heights[i], signs[i], i
            while j > starts[line] and heights[j - 1] > z:
                heights[j], signs[j] = heights[j - 1], signs[j - 1]
                j -= 1
            heights[j], signs[j] = z, sign


@njit(nogil=True, cache=True)
def _lengths(begin, end, starts_a, heights_a, signs_a, starts_b, heights_b, signs_b):
    """Summed over lines: the length inside both meshes, and inside either."""
    both, either = 0.0, 0.0
    for line in range(begin, end):
        i, j = starts_a[line], starts_b[line]
        i_end, j_end = starts_a[line + 1], starts_b[line + 1]
        in_a, in_b, z = 0, 0, 0.0
        while i < i_end or j < j_end:
            if j >= j_end or (i < i_end and heights_a[i] <= heights_b[j]):
                here, step_a, step_b = heights_a[i], int(signs_a[i]), 0
                i += 1
            else:
                here, step_a, step_b = heights_b[j], 0, int(signs_b[j])
                j += 1
            if in_a != 0 and in_b != 0:
                both += here - z
            if in_a != 0 or in_b != 0:
                either += here - z
            in_a, in_b, z = in_a + step_a, in_b + step_b, here
    return both, either
