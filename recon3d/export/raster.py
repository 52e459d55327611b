"""Triangles on a grid of cells: which cell centres lie in them, how far others are, and where in the triangle."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

_PAIRS = 2**20  # (face, cell) pairs that are looked at together


def cells_under(
    corners: Float[np.ndarray, "f 3 2"], extent: Int[np.ndarray, "f 2"], reach: float = 0.0
) -> Iterator[tuple[Int[np.ndarray, "p"], Int[np.ndarray, "p"], Int[np.ndarray, "p"]]]:
    """Faces, each with column and row of the cells whose centre lies in its bounding box or within ``reach`` of it.

    ``corners`` in cells; only cells from 0 up to each face's ``extent`` (columns, rows) are given. In portions.
    """
    first = np.clip(np.ceil(corners.min(axis=1) - reach - 0.5), 0, extent).astype(np.int64)
    last = np.clip(np.floor(corners.max(axis=1) + reach - 0.5), -1, extent - 1).astype(np.int64)
    sides = np.maximum(last - first + 1, 0)
    count = sides.prod(axis=1)
    ends = np.cumsum(count)
    start = 0
    while start < len(count):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _PAIRS, side="right")))
        face = np.repeat(np.arange(start, stop), count[start:stop])
        within = np.arange(len(face)) - np.repeat(ends[start:stop] - count[start:stop] - done, count[start:stop])
        row, column = np.divmod(within, sides[face, 0])
        yield face, first[face, 0] + column, first[face, 1] + row
        start = stop


def weights_at(
    points: Float[np.ndarray, "n 2"], corners: Float[np.ndarray, "n 3 2"]
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n"]]:
    """Weights of the corners at the point of each triangle that is nearest to its point, and the distance to it, which
    is 0 inside. A triangle without area has no inside."""
    weights = np.zeros((len(points), 3))
    nearest = np.full(len(points), np.inf)
    areas = np.empty((len(points), 3))
    for k in range(3):
        after = (k + 1) % 3
        ax, ay = corners[:, k].T
        x, y = (corners[:, after] - corners[:, k]).T
        px, py = points[:, 0] - ax, points[:, 1] - ay
        areas[:, k - 1] = x * py - y * px  # twice the area between the point and the side opposite to corner k - 1
        share = np.clip((px * x + py * y) / np.maximum(x * x + y * y, 1e-30), 0, 1)
        square = np.square(px - share * x) + np.square(py - share * y)
        closer = square < nearest
        nearest[closer] = square[closer]
        weights[closer] = 0
        weights[closer, k], weights[closer, after] = 1 - share[closer], share[closer]
    total = areas.sum(axis=1)
    inside = ((areas >= 0).all(axis=1) | (areas <= 0).all(axis=1)) & (total != 0)
    weights[inside] = areas[inside] / total[inside, None]
    nearest[inside] = 0
    return weights, np.sqrt(nearest)
