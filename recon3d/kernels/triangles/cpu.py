"""The tree of boxes in numba: building it, nearest places, crossing pairs. See the package for what is meant.

Triangles are in the order of the leaves: leaf k holds triangles 4 k .. 4 k + 3. Node n has the children 2 n + 1 and
2 n + 2; with L leaves (a power of two, the last ones empty), leaf k is node L - 1 + k. A node's box is a row
(low x, y, z, high x, y, z); an empty one has low = inf, which nothing touches.
"""

from __future__ import annotations

import numpy as np
from numba import njit

LEAF = 4
_DEPTH = 64
# Shewchuk, "Adaptive precision floating-point arithmetic and fast robust geometric predicates" (1997), section 4.4:
# the sign of a 3 x 3 determinant of differences is right where its size exceeds this share of its permanent.
_ROUNDING = (7.0 + 56.0 * 2.0**-53) * 2.0**-53


@njit(nogil=True, cache=True)
def curve_place(corners):
    """Place (F,) of each triangle's centre along a Morton curve of 2^20 steps an axis through the box of all."""
    n = corners.shape[0]
    center = np.empty((n, 3))
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for i in range(n):
        for axis in range(3):
            c = (corners[i, 0, axis] + corners[i, 1, axis] + corners[i, 2, axis]) / 3.0
            center[i, axis] = c
            low[axis], high[axis] = min(low[axis], c), max(high[axis], c)
    extent = max(high[0] - low[0], high[1] - low[1], high[2] - low[2])
    scale = (2.0**20 - 1.0) / extent if extent > 0 else 0.0
    place = np.empty(n, np.int64)
    for i in range(n):
        code = np.int64(0)
        for axis in range(3):
            cell = np.int64((center[i, axis] - low[axis]) * scale)
            for bit in range(20):
                code |= ((cell >> bit) & 1) << (3 * bit + axis)
        place[i] = code
    return place


@njit(nogil=True, cache=True)
def boxes(corners):
    """Boxes (nodes, 6) of all nodes over triangles (F, 3, 3) in the order of the leaves."""
    n = corners.shape[0]
    leaves = 1
    while leaves * LEAF < n:
        leaves *= 2
    box = np.empty((2 * leaves - 1, 6))
    box[:, :3], box[:, 3:] = np.inf, -np.inf
    for i in range(n):
        node = leaves - 1 + i // LEAF
        for k in range(3):
            for axis in range(3):
                c = corners[i, k, axis]
                box[node, axis] = min(box[node, axis], c)
                box[node, 3 + axis] = max(box[node, 3 + axis], c)
    for node in range(leaves - 2, -1, -1):
        for axis in range(3):
            box[node, axis] = min(box[2 * node + 1, axis], box[2 * node + 2, axis])
            box[node, 3 + axis] = max(box[2 * node + 1, 3 + axis], box[2 * node + 2, 3 + axis])
    return box


@njit(nogil=True, cache=True, inline="always")
def _to_box(box, node, x, y, z):
    """Squared distance of a point to a node's box, 0 inside; infinite for an empty box."""
    dx = max(box[node, 0] - x, 0.0, x - box[node, 3])
    dy = max(box[node, 1] - y, 0.0, y - box[node, 4])
    dz = max(box[node, 2] - z, 0.0, z - box[node, 5])
    return dx * dx + dy * dy + dz * dz


@njit(nogil=True, cache=True)
def _to_triangle(t, x, y, z):
    """Squared distance of a point to a triangle (3, 3), of any shape, degenerate ones too.

    Ericson, Real-Time Collision Detection (2005), section 5.1.5: by the region of the plane that the foot lies in.
    """
    ax, ay, az = t[0, 0], t[0, 1], t[0, 2]
    ux, uy, uz = t[1, 0] - ax, t[1, 1] - ay, t[1, 2] - az
    vx, vy, vz = t[2, 0] - ax, t[2, 1] - ay, t[2, 2] - az
    px, py, pz = x - ax, y - ay, z - az
    d1, d2 = ux * px + uy * py + uz * pz, vx * px + vy * py + vz * pz
    uu, uv, vv = ux * ux + uy * uy + uz * uz, ux * vx + uy * vy + uz * vz, vx * vx + vy * vy + vz * vz
    d3, d4 = d1 - uu, d2 - uv  # of the second corner
    d5, d6 = d1 - uv, d2 - vv  # of the third
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    if d1 <= 0.0 and d2 <= 0.0:
        s, r = 0.0, 0.0
    elif d3 >= 0.0 and d4 <= d3:
        s, r = 1.0, 0.0
    elif d6 >= 0.0 and d5 <= d6:
        s, r = 0.0, 1.0
    elif vc <= 0.0 and d1 >= 0.0 and d3 <= 0.0:
        s, r = (d1 / uu if uu > 0.0 else 0.0), 0.0
    elif vb <= 0.0 and d2 >= 0.0 and d6 <= 0.0:
        s, r = 0.0, (d2 / vv if vv > 0.0 else 0.0)
    elif va <= 0.0 and d4 - d3 >= 0.0 and d5 - d6 >= 0.0:
        along = (d4 - d3) + (d5 - d6)
        r = (d4 - d3) / along if along > 0.0 else 0.0
        s = 1.0 - r
    else:
        total = va + vb + vc
        s, r = vb / total, vc / total
    dx, dy, dz = px - s * ux - r * vx, py - s * uy - r * vy, pz - s * uz - r * vz
    return dx * dx + dy * dy + dz * dz


@njit(nogil=True, cache=True)
def nearest(points, corners, box, distance, face):
    """Fills ``distance`` (N,) and ``face`` (N,), an index in the order of the leaves, for points (N, 3)."""
    stack, far = np.empty(_DEPTH, np.int64), np.empty(_DEPTH)
    first_leaf, count = (box.shape[0] - 1) // 2, corners.shape[0]
    last = 0
    for i in range(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        best = _to_triangle(corners[last], x, y, z)
        stack[0], far[0], top = 0, _to_box(box, 0, x, y, z), 1
        while top > 0:
            top -= 1
            node = stack[top]
            if far[top] >= best:
                continue
            if node >= first_leaf:
                start = (node - first_leaf) * LEAF
                for j in range(start, min(start + LEAF, count)):
                    d = _to_triangle(corners[j], x, y, z)
                    if d < best:
                        best, last = d, j
                continue
            a, b = 2 * node + 1, 2 * node + 2
            da, db = _to_box(box, a, x, y, z), _to_box(box, b, x, y, z)
            if da < db:
                a, b, da, db = b, a, db, da
            if da < best:
                stack[top], far[top] = a, da
                top += 1
            if db < best:  # the nearer child is looked at first
                stack[top], far[top] = b, db
                top += 1
        distance[i], face[i] = np.sqrt(best), last


@njit(nogil=True, cache=True)
def _side(a, b, c, d):
    """On which side of the plane through a, b, c the point d lies: 1, -1, or 0 where rounding leaves it open."""
    ax, ay, az = a[0] - d[0], a[1] - d[1], a[2] - d[2]
    bx, by, bz = b[0] - d[0], b[1] - d[1], b[2] - d[2]
    cx, cy, cz = c[0] - d[0], c[1] - d[1], c[2] - d[2]
    p, q, r = bx * cy, cx * by, cx * ay
    s, t, u = ax * cy, ax * by, bx * ay
    det = az * (p - q) + bz * (r - s) + cz * (t - u)
    bound = abs(az) * (abs(p) + abs(q)) + abs(bz) * (abs(r) + abs(s)) + abs(cz) * (abs(t) + abs(u))
    if det > _ROUNDING * bound:
        return 1
    if det < -_ROUNDING * bound:
        return -1
    return 0


@njit(nogil=True, cache=True)
def _pierces(p, q, t, side_p, side_q):
    """Whether the segment p q passes through the inside of t, given the sides of its plane that its ends lie on."""
    if side_p * side_q >= 0:
        return False
    turn = _side(p, q, t[0], t[1])
    return turn != 0 and turn == _side(p, q, t[1], t[2]) and turn == _side(p, q, t[2], t[0])


@njit(nogil=True, cache=True)
def _cross(s, t):
    """Whether an edge of one triangle passes through the other."""
    s0, s1, s2 = _side(t[0], t[1], t[2], s[0]), _side(t[0], t[1], t[2], s[1]), _side(t[0], t[1], t[2], s[2])
    if min(s0, s1, s2) >= 0 or max(s0, s1, s2) <= 0:
        return False  # then no edge of s changes sides; and if one of t pierces s, then one of s pierces t or touches
    t0, t1, t2 = _side(s[0], s[1], s[2], t[0]), _side(s[0], s[1], s[2], t[1]), _side(s[0], s[1], s[2], t[2])
    return (
        _pierces(s[0], s[1], t, s0, s1)
        or _pierces(s[1], s[2], t, s1, s2)
        or _pierces(s[2], s[0], t, s2, s0)
        or _pierces(t[0], t[1], s, t0, t1)
        or _pierces(t[1], t[2], s, t1, t2)
        or _pierces(t[2], t[0], s, t2, t0)
    )


@njit(nogil=True, cache=True)
def crossings(begin, end, corners, faces, box, crossing):
    """Pairs of crossing triangles (i, j), begin <= i < end, i < j; sets ``crossing`` (F,) at both.

    ``faces``: vertices of each triangle, in the order of the leaves. Two that share an edge can only fold onto one
    another, and are passed over.
    """
    stack = np.empty(_DEPTH, np.int64)
    first_leaf, count, pairs = (box.shape[0] - 1) // 2, corners.shape[0], 0
    low, high = np.empty(3), np.empty(3)
    for i in range(begin, end):
        for axis in range(3):
            low[axis] = min(corners[i, 0, axis], corners[i, 1, axis], corners[i, 2, axis])
            high[axis] = max(corners[i, 0, axis], corners[i, 1, axis], corners[i, 2, axis])
        stack[0], top = 0, 1
        while top > 0:
            top -= 1
            node = stack[top]
            apart = False
            for axis in range(3):
                apart = apart or box[node, axis] > high[axis] or box[node, 3 + axis] < low[axis]
            if apart:
                continue
            if node < first_leaf:
                stack[top], stack[top + 1] = 2 * node + 1, 2 * node + 2
                top += 2
                continue
            start = (node - first_leaf) * LEAF
            for j in range(max(start, i + 1), min(start + LEAF, count)):
                if _shared(faces[i], faces[j]) < 2 and _meet(corners[j], low, high) and _cross(corners[i], corners[j]):
                    pairs += 1
                    crossing[i], crossing[j] = 1, 1
    return pairs


@njit(nogil=True, cache=True, inline="always")
def _shared(a, b):
    """How many vertices two faces share."""
    count = 0
    for k in range(3):
        if a[k] == b[0] or a[k] == b[1] or a[k] == b[2]:
            count += 1
    return count


@njit(nogil=True, cache=True, inline="always")
def _meet(t, low, high):
    """Whether a triangle's box meets the box low..high."""
    for axis in range(3):
        if min(t[0, axis], t[1, axis], t[2, axis]) > high[axis] or max(t[0, axis], t[1, axis], t[2, axis]) < low[axis]:
            return False
    return True
