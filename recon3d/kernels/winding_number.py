"""Generalised winding numbers of triangle soups (Jacobson et al. 2013), by a hierarchy (Barill et al. 2018).

w(p) = (1 / 4 pi) sum over the faces of the solid angle that a face covers as seen from p, positive where its outer side
faces away from p. It is 1 inside a closed mesh whose faces look outwards and 0 outside; where a mesh has holes it goes
over from one to the other, and 1/2 is the best guess of where the surface would go on.

Faces are ordered along a Morton curve, so that every node of a complete binary tree is a stretch of them. A node that
is further away than ``REACH`` times its radius counts as one dipole: the sum of its faces' area vectors, at the mean of
their centroids weighted by area.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numba import njit

from recon3d.kernels.threads import run_parallel, spans

REACH = 2.0
LEAF = 4
_BLOCK = 4096


class WindingNumber:
    """Callable: points (N, 3) to winding numbers (N,), on torch's number of threads."""

    def __init__(self, vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]) -> None:
        corners = vertices[faces].astype(np.float64)
        corners = corners[_morton_order(corners.mean(axis=1))]
        levels = max(0, int(np.ceil(np.log2(max(1, len(corners) / LEAF)))))
        self.corners, self.levels = np.ascontiguousarray(corners), levels
        self.starts, self.centers, self.dipoles, self.radii = _nodes(corners, levels)

    def __call__(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
        points = np.ascontiguousarray(points, np.float64)
        out = np.empty(len(points))
        tree = self.corners, self.levels, self.starts, self.centers, self.dipoles, self.radii
        pieces = spans(len(points), max(1, len(points) // _BLOCK))
        run_parallel(_winding, [(points[a:b], *tree, out[a:b]) for a, b in pieces])
        return out


def _morton_order(points: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, " n"]:
    low, high = points.min(axis=0), points.max(axis=0)
    cell = ((points - low) / max(float((high - low).max()), 1e-300) * (2**20 - 1)).astype(np.uint64)
    code = np.zeros(len(points), np.uint64)
    for bit in range(20):
        for axis in range(3):
            code |= ((cell[:, axis] >> np.uint64(bit)) & np.uint64(1)) << np.uint64(3 * bit + axis)
    return np.argsort(code, kind="stable")


def _nodes(
    corners: Float[np.ndarray, "f 3 3"], levels: int
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, "k 3"], Float[np.ndarray, "k 3"], Float[np.ndarray, " k"]]:
    """Where the leaves begin (and the last ends); centre, dipole and radius of every node, numbered as in a heap."""
    count = len(corners)
    starts = np.arange(2**levels + 1) * count // 2**levels
    vector = 0.5 * np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(vector, axis=1) + 1e-300
    moment = area[:, None] * corners.mean(axis=1)
    centers, dipoles, radii = [], [], []
    for level in range(levels + 1):
        first = starts[: -1 : 2 ** (levels - level)]
        weight = np.add.reduceat(area, first)
        center = np.add.reduceat(moment, first) / weight[:, None]
        face_node = np.repeat(np.arange(len(first)), np.diff(np.append(first, count)))
        reach = np.linalg.norm(corners - center[face_node, None], axis=2).max(axis=1)
        centers.append(center)
        dipoles.append(np.add.reduceat(vector, first))
        radii.append(np.maximum.reduceat(reach, first))
    return starts, np.concatenate(centers), np.concatenate(dipoles), np.concatenate(radii)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def _winding(points, corners, levels, starts, centers, dipoles, radii, out):
    first_leaf = (1 << levels) - 1
    stack = np.empty(2 * levels + 2, np.int64)
    for i in range(len(points)):
        px, py, pz = points[i, 0], points[i, 1], points[i, 2]
        total = 0.0
        stack[0] = 0
        depth = 1
        while depth > 0:
            depth -= 1
            node = stack[depth]
            dx, dy, dz = centers[node, 0] - px, centers[node, 1] - py, centers[node, 2] - pz
            squared = dx * dx + dy * dy + dz * dz
            if squared > (REACH * radii[node]) ** 2:
                along = dipoles[node, 0] * dx + dipoles[node, 1] * dy + dipoles[node, 2] * dz
                total += along / (squared * np.sqrt(squared))
            elif node < first_leaf:
                stack[depth] = 2 * node + 1
                stack[depth + 1] = 2 * node + 2
                depth += 2
            else:
                for face in range(starts[node - first_leaf], starts[node - first_leaf + 1]):
                    total += _solid_angle(corners[face], px, py, pz)
        out[i] = total / (4.0 * np.pi)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def _solid_angle(corners, px, py, pz):
    """Of one triangle as seen from p (Van Oosterom and Strackee 1983)."""
    ax, ay, az = corners[0, 0] - px, corners[0, 1] - py, corners[0, 2] - pz
    bx, by, bz = corners[1, 0] - px, corners[1, 1] - py, corners[1, 2] - pz
    cx, cy, cz = corners[2, 0] - px, corners[2, 1] - py, corners[2, 2] - pz
    a = np.sqrt(ax * ax + ay * ay + az * az)
    b = np.sqrt(bx * bx + by * by + bz * bz)
    c = np.sqrt(cx * cx + cy * cy + cz * cz)
    volume = ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)
    ab, bc, ca = ax * bx + ay * by + az * bz, bx * cx + by * cy + bz * cz, cx * ax + cy * ay + cz * az
    return 2.0 * np.arctan2(volume, a * b * c + ab * c + bc * a + ca * b)
