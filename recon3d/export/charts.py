"""Cutting a surface into charts that lie flat, made for meshes of fields: many small faces, some of them crumpled.

Every face takes one of the six axis directions: the one along its normal, smoothed over the faces around, and what the
faces around have taken; never one that it faces away from. Connected faces of one direction are a chart, laid flat by
projection along its mean normal. Patches of a few faces, as folds of a noisy surface leave them, join the chart around:
they are smaller than what a texture shows. Where a chart still lies over itself (a stair, an overhang), it is cut at
the depth between its layers, until none does.

Everything is done for all faces at once, in time proportional to their number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from recon3d.export.raster import cells_under, weights_at
from recon3d.export.triangles import joined

_DIRECTIONS = np.concatenate([np.eye(3), -np.eye(3)])
_LEAST_COSINE = 0.17  # between a face and the direction along which it is laid flat: 80 degrees
_SMOOTHINGS, _VOTES = 6, 24
_WEIGHT_OF_VOTE = 1.0  # of one neighbour, against the cosine with the smoothed normal
_SMALL = 6  # faces of a patch that joins another
_FOLD = 1.0  # median edges: layers nearer than this are folds
_SPLITS = 12


@dataclass(frozen=True)
class Charts:
    """``source``: the mesh's vertex that each vertex is; ``faces``: the mesh's faces over these; ``flat``: where they
    lie, in the mesh's units, each chart for itself; ``chart``: of each face, numbered from 0."""

    source: Int[np.ndarray, "v"]
    faces: Int[np.ndarray, "f 3"]
    flat: Float[np.ndarray, "v 2"]
    chart: Int[np.ndarray, "f"]


def cut(vertices: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "f 3"]) -> Charts:
    """The charts of a mesh. Seeded: the same mesh gives the same charts."""
    surface = _Surface(vertices, faces)
    direction, willing = surface.directions()
    chart = surface.patches(direction)
    chart, axis = surface.absorbed(chart, direction)
    for _ in range(_SPLITS):
        flat, depth = surface.laid_flat(chart, axis, willing)
        layer = surface.upper_layer(chart, flat, depth)
        if not layer.any():
            break
        halves = surface.patches(2 * chart + layer)
        chart, axis = surface.absorbed(halves, axis[chart])
    flat, _ = surface.laid_flat(chart, axis, willing)
    place = chart[:, None].astype(np.int64) * len(vertices) + faces
    kept, first, corner = np.unique(place, return_index=True, return_inverse=True)
    return Charts(
        (kept % len(vertices)).astype(np.int64),
        corner.reshape(-1, 3).astype(np.int32),
        flat.reshape(-1, 2)[first],
        chart,
    )


class _Surface:
    """A mesh, its faces' normals and areas, and which faces are neighbours."""

    def __init__(self, vertices: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "f 3"]) -> None:
        self.vertices, self.faces = vertices, faces
        a = vertices[faces[:, 0]]
        normals = np.cross(vertices[faces[:, 1]] - a, vertices[faces[:, 2]] - a)
        length = np.linalg.norm(normals, axis=1)
        self.area = 0.5 * length
        self.normals = normals / np.maximum(length, 1e-30)[:, None]
        edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1).astype(np.int64)
        number = edges[:, 0] * len(vertices) + edges[:, 1]
        order = np.argsort(number, kind="stable")
        _, start, count = np.unique(number[order], return_index=True, return_counts=True)
        shared = start[count == 2]
        self.neighbours = np.stack([order[shared], order[shared + 1]], axis=1) // 3
        self.edge = float(np.median(np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1)))

    def directions(self) -> tuple[Int[np.ndarray, "f"], Bool[np.ndarray, "f"]]:
        """The number of the direction that each face takes, and whether it can be seen along it."""
        from scipy.sparse import coo_array

        one, other = self.neighbours.T
        count = len(self.faces)
        both = (np.concatenate([one, other]), np.concatenate([other, one]))
        around = coo_array((np.ones(2 * len(one), np.float32), both), shape=(count, count)).tocsr()
        smooth = self.normals * self.area[:, None]
        for _ in range(_SMOOTHINGS):
            smooth = smooth + around @ smooth
            smooth *= (self.area / np.maximum(np.linalg.norm(smooth, axis=1), 1e-30))[:, None]
        smooth /= np.maximum(np.linalg.norm(smooth, axis=1, keepdims=True), 1e-30)
        possible = self.normals @ _DIRECTIONS.T >= _LEAST_COSINE
        possible[~possible.any(axis=1)] = True  # faces without area
        fit = np.where(possible, smooth @ _DIRECTIONS.T, -np.inf)
        taken = fit.argmax(axis=1)
        rng = np.random.default_rng(0)
        for _ in range(_VOTES):
            votes = around @ np.eye(len(_DIRECTIONS), dtype=np.float32)[taken]
            # Half of the faces at a time, or two neighbours would swap their directions for ever.
            taken = np.where(rng.random(count) < 0.5, (fit + _WEIGHT_OF_VOTE * votes).argmax(axis=1), taken)
        return taken, possible[np.arange(count), taken] & (self.area > 0)

    def patches(self, label: Int[np.ndarray, "f"]) -> Int[np.ndarray, "f"]:
        """The connected patch of one label that each face lies in, numbered from 0."""
        one, other = self.neighbours.T
        _, patch = np.unique(joined(self.neighbours[label[one] == label[other]], len(self.faces)), return_inverse=True)
        return patch

    def absorbed(
        self, chart: Int[np.ndarray, "f"], direction: Int[np.ndarray, "f"]
    ) -> tuple[Int[np.ndarray, "f"], Int[np.ndarray, "c"]]:
        """Charts after small patches have joined the one that they share most edges with, from the smallest on, and
        the direction of each chart."""
        one, other = self.neighbours.T
        axis = np.zeros(int(chart.max()) + 1, np.int64)
        axis[chart] = direction
        for limit in (2, _SMALL, _SMALL):
            size = np.bincount(chart, minlength=len(axis))
            a, b = chart[one], chart[other]
            pair = np.concatenate([np.stack([a, b]), np.stack([b, a])], axis=1)
            pair = pair[:, (size[pair[0]] < limit) & (size[pair[1]] >= limit) & (pair[0] != pair[1])]
            if pair.shape[1] == 0:
                continue
            pairs, edges = np.unique(pair[0] * len(axis) + pair[1], return_counts=True)
            ascending = pairs[np.argsort(edges, kind="stable")]
            into = np.arange(len(axis))
            into[ascending // len(axis)] = ascending % len(axis)  # of several the last, which has most edges
            chart = into[chart]
        kept, chart = np.unique(chart, return_inverse=True)
        return chart, axis[kept]

    def laid_flat(
        self, chart: Int[np.ndarray, "f"], axis: Int[np.ndarray, "c"], willing: Bool[np.ndarray, "f"]
    ) -> tuple[Float[np.ndarray, "f 3 2"], Float[np.ndarray, "f 3"]]:
        """The corners of each face projected along its chart's mean normal, or along its axis where some face that
        was to be seen could not be; and their depths along it."""
        count = len(axis)
        weighted = self.normals * (self.area * willing)[:, None]
        mean = np.stack([np.bincount(chart, weighted[:, k], minlength=count) for k in range(3)], axis=1)
        length = np.linalg.norm(mean, axis=1, keepdims=True)
        mean = np.where(length > 0, mean / np.maximum(length, 1e-30), _DIRECTIONS[axis])
        cosine = np.einsum("fk,fk->f", self.normals, mean[chart])
        refused = np.zeros(count, bool)
        refused[chart[willing & (cosine < _LEAST_COSINE)]] = True
        along = np.where(refused[:, None], _DIRECTIONS[axis], mean)
        aside = np.roll(np.eye(3)[np.abs(along).argmax(axis=1)], 1, axis=1)
        right = np.cross(aside, along)
        right /= np.linalg.norm(right, axis=1, keepdims=True)
        up = np.cross(along, right)
        corners = self.vertices[self.faces]
        frame = np.stack([right, up, along], axis=1)[chart]
        local = np.einsum("fkd,fed->fke", corners, frame)
        return local[..., :2], local[..., 2]

    def upper_layer(
        self, chart: Int[np.ndarray, "f"], flat: Float[np.ndarray, "f 3 2"], depth: Float[np.ndarray, "f 3"]
    ) -> Bool[np.ndarray, "f"]:
        """Faces of charts that lie over themselves which are above the middle between their layers."""
        count = int(chart.max()) + 1
        low = np.full((count, 2), np.inf)
        np.minimum.at(low, np.repeat(chart, 3), flat.reshape(-1, 2))
        spacing = 0.7 * self.edge
        corners = (flat - low[chart][:, None]) / spacing
        high = np.zeros((count, 2))
        np.maximum.at(high, np.repeat(chart, 3), corners.reshape(-1, 2))
        extent = np.ceil(high).astype(np.int64) + 1
        cells = extent.prod(axis=1)
        offset = np.cumsum(cells) - cells
        lowest = np.full(int(cells.sum()), np.inf, np.float32)
        highest = np.full(int(cells.sum()), -np.inf, np.float32)
        for face, column, row in cells_under(corners, extent[chart]):
            weights, distance = weights_at(np.stack([column, row], axis=1) + 0.5, corners[face])
            inside = distance == 0
            face, column, row = face[inside], column[inside], row[inside]
            there = np.einsum("nk,nk->n", weights[inside], depth[face])
            cell = offset[chart[face]] + row * extent[chart[face], 0] + column
            np.minimum.at(lowest, cell, there)
            np.maximum.at(highest, cell, there)
        folded = np.flatnonzero(highest - lowest > _FOLD * self.edge)
        of = np.searchsorted(offset, folded, side="right") - 1
        number = np.bincount(of, minlength=count)
        middle = np.bincount(of, 0.5 * (lowest[folded] + highest[folded]), minlength=count) / np.maximum(number, 1)
        return (number > 0)[chart] & (depth.mean(axis=1) > middle[chart])
