"""Marching cubes that goes only where a coarse grid says that something may be.

Conventions. The fine lattice has ``resolution`` cells an axis over [-1, 1]^3, so lattice point i lies at
-1 + 2 i / resolution. A value above the level is inside. A ring of outside points is laid around the cube, and every
lattice point that the coarse grid does not ask for is on the side of its coarse cell, so the surface is always closed.

How. The lattice is walked in slabs along x; a slab holds its values densely (some tens of MB), evaluates just the
corners of those fine cells that overlap an active coarse cell, each once, and hands its blocks to PyMCubes. PyMCubes
sees only signs (its tables use nothing else): every vertex then comes back at the exact middle of a lattice edge, which
names that edge by integers. The position on the edge is interpolated here, and seams are welded by edge number, so the
result has no duplicate vertices and is the same surface for every block size. Memory goes with the surface and one
slab.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon3d.errors import UserError
from recon3d.export.levelset import NoSurfaceError, ValueFn

# A vertex keeps this share of an edge's length from the edge's ends: where a value equals the level, the vertices of
# all edges that meet there would coincide and give faces without area. At 64^3 it is 6e-6 of the cube's half size.
_END_MARGIN = 2e-4
_SLAB_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Surface:
    """Closed, welded triangles in field coordinates, normals (right-hand rule) towards lower values.

    ``evaluations``: how often the field was asked; ``dense_evaluations``: how often a dense lattice would have been;
    ``blocks``: how many blocks PyMCubes ran on.
    """

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    evaluations: int
    dense_evaluations: int
    blocks: int


def extract_surface(
    value_fn: ValueFn,
    level: float,
    resolution: int,
    active: Bool[np.ndarray, "r r r"],
    inside: Bool[np.ndarray, "r r r"] | None = None,
    *,
    block: int = 32,
    batch_points: int = 2**18,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> Surface:
    """The level set of ``value_fn`` inside the active cells, as PyMCubes on the dense lattice would give it.

    ``value_fn`` takes at most ``batch_points`` points in field coordinates, float32 on ``device``. The cells of
    ``active[ix, iy, iz]`` divide [-1, 1]^3 evenly; of the others, those of ``inside`` (None: none) count as inside.
    ``progress`` is called with the share done, 0..1. Raises UserError where there is no surface, or where a value is
    not finite.
    """
    if resolution < 1 or block < 1 or batch_points < 1:
        raise UserError(f"resolution {resolution}, block {block} and batch {batch_points} must be at least 1")
    if not math.isfinite(level):
        raise UserError(f"the surface's level is {level}; give a finite number")
    if active.ndim != 3 or len(set(active.shape)) != 1:
        raise ValueError(f"active grid of shape {active.shape}, not a cube")
    if not active.any():
        raise NoSurfaceError("no surface: the active region is empty (the occupancy grid has no occupied cell)")
    lattice = _Lattice(resolution, active, inside)
    welder = _Welder()
    sample = _Sampler(value_fn, resolution, batch_points, torch.device(device))
    for share, slab in _slabs(lattice, sample, block):
        _march_slab(slab, level, block, lattice, welder)
        if progress is not None:
            progress(share)
    if progress is not None:
        progress(1.0)
    if welder.count == 0:
        raise NoSurfaceError(
            f"no surface at level {level:g}: the values in the active region span [{sample.low:g}, {sample.high:g}]; "
            "choose a level between them",
            (sample.low, sample.high),
        )
    vertices, faces = welder.vertices_and_faces()
    vertices *= 2.0 / resolution
    vertices -= 1.0
    return Surface(vertices, faces, sample.count, (resolution + 1) ** 3, welder.blocks)


class _Lattice:
    """Which points of the padded lattice are evaluated, and on which side the others are. Padded index p = i + 1,
    0 <= p < ``size`` = resolution + 3."""

    def __init__(
        self, resolution: int, active: Bool[np.ndarray, "r r r"], inside: Bool[np.ndarray, "r r r"] | None
    ) -> None:
        coarse = active.shape[0]
        i = np.arange(-1, resolution + 2)
        # The coarse cells that overlap one of the two fine cells beside point i: first[i] <= c < last[i].
        self.first = np.clip((i - 1) * coarse // resolution, 0, coarse)
        self.last = np.clip(-(-(i + 1) * coarse // resolution), 0, coarse)
        self.last[[0, -1]] = self.first[[0, -1]]  # the padding is never evaluated
        self.active, self.resolution, self.size = active, resolution, resolution + 3
        self.inside = None if inside is None or not inside.any() else inside
        self.cell = np.clip(i * coarse // resolution, 0, coarse - 1)  # a coarse cell that point i lies in
        self._plane_of: tuple[tuple[int, int], np.ndarray] | None = None
        self._sides_of: tuple[int, np.ndarray] | None = None

    def plane(self, p: int) -> Bool[np.ndarray, "size size"]:
        """The points of plane x = p that are corners of a fine cell which overlaps an active coarse cell."""
        cells = (int(self.first[p]), int(self.last[p]))
        if self._plane_of is None or self._plane_of[0] != cells:
            wanted = np.logical_or.reduce(self.active[cells[0] : cells[1]], axis=0)
            for axis in (0, 1):
                wanted = self._spread(wanted, axis)
            self._plane_of = (cells, wanted)
        return self._plane_of[1]

    def sides(self, p: int) -> Float[np.ndarray, "size size"] | float:
        """The values of the points of plane x = p until they are evaluated: +inf inside, -inf outside."""
        if self.inside is None or p in (0, self.size - 1):
            return -np.inf
        cell = int(self.cell[p])
        if self._sides_of is None or self._sides_of[0] != cell:
            sides = np.full((self.size, self.size), -np.inf, np.float32)
            within = self.cell[1:-1]
            sides[1:-1, 1:-1][self.inside[cell][np.ix_(within, within)]] = np.inf
            self._sides_of = (cell, sides)
        return self._sides_of[1]

    def _spread(self, wanted: np.ndarray, axis: int) -> np.ndarray:
        """Along one axis, from coarse cells to the lattice points that need them (a running count, differenced)."""
        shape = list(wanted.shape)
        shape[axis] += 1
        count = np.zeros(shape, np.int32)
        np.cumsum(wanted, axis=axis, out=count[1:] if axis == 0 else count[:, 1:])
        return np.take(count, self.last, axis) > np.take(count, self.first, axis)


class _Sampler:
    """Evaluates the field at lattice points, in batches, and keeps count and range of the values."""

    def __init__(self, value_fn: ValueFn, resolution: int, batch: int, device: torch.device) -> None:
        self.value_fn, self.resolution, self.batch, self.device = value_fn, resolution, batch, device
        self.count, self.low, self.high = 0, math.inf, -math.inf

    def fill(self, values: Float[np.ndarray, "t size size"], wanted: Bool[np.ndarray, "t size size"], p: int) -> None:
        """Writes the field's values into ``values`` where ``wanted``; plane 0 of both is plane x = p of the lattice."""
        size = values.shape[1]
        flat, index = values.reshape(-1), np.flatnonzero(wanted).astype(np.int32)  # a slab is small: half the bytes
        for start in range(0, len(index), self.batch):
            some = index[start : start + self.batch]
            flat[some] = self._evaluate(torch.from_numpy(some).to(self.device), size, p)

    @torch.no_grad()
    def _evaluate(self, index: Int[Tensor, "n"], size: int, p: int) -> Float[np.ndarray, "n"]:
        yz = index % (size * size)
        ijk = torch.stack([index // (size * size) + p, yz // size, yz % size], dim=-1)
        values = self.value_fn((ijk - 1).float() * (2.0 / self.resolution) - 1.0).float()
        low, high = (float(v) for v in torch.aminmax(values))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise UserError("the field gives values that are not finite; is this the checkpoint of a diverged run?")
        self.count += len(index)
        self.low, self.high = min(self.low, low), max(self.high, high)
        return values.cpu().numpy()


@dataclass
class _Slab:
    """Values on planes p .. p + t of the padded lattice (infinite where not evaluated), and where any was evaluated,
    seen along x."""

    p: int
    values: Float[np.ndarray, "t size size"]
    wanted: Bool[np.ndarray, "size size"]


def _slabs(lattice: _Lattice, sample: _Sampler, block: int) -> Iterator[tuple[float, _Slab]]:
    """Walks the lattice along x; neighbours share one plane, which is evaluated once. Empty slabs are skipped."""
    size = lattice.size
    thick = max(2, min(block, _SLAB_BYTES // (4 * size * size)))
    values = np.empty((thick + 1, size, size), np.float32)
    wanted = np.empty((thick + 1, size, size), bool)
    filled = False
    for p in range(0, size - 1, thick):
        planes = min(thick, size - 1 - p)
        values[0], wanted[0] = (values[thick], wanted[thick]) if filled else (lattice.sides(p), lattice.plane(p))
        for t in range(1, planes + 1):
            wanted[t] = lattice.plane(p + t)
        wanted[planes + 1 :] = False
        seen = np.logical_or.reduce(wanted, axis=0)
        filled = bool(seen.any())
        if filled:
            for t in range(1, planes + 1):
                values[t] = lattice.sides(p + t)
            sample.fill(values[1:], wanted[1:], p + 1)
            yield (p + planes) / (size - 1), _Slab(p, values[: planes + 1], seen)


class _Welder:
    """Collects vertices and faces slab by slab; a vertex is known by the number of its lattice edge.

    Neighbouring slabs share the edges in one plane, so only those of the last plane are kept to be found again.
    """

    def __init__(self) -> None:
        self.places: list[np.ndarray] = []
        self.faces: list[np.ndarray] = []
        self.count, self.blocks = 0, 0
        self._shared, self._shared_vertex = np.zeros(0, np.int64), np.zeros(0, np.int32)

    def add(
        self, keys: Int[np.ndarray, "n"], places: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "f 3"], last: int
    ) -> None:
        """Vertices (with repetitions) and the faces over them; edges numbered ``last`` or more are the next slab's."""
        keys, chosen, inverse = np.unique(keys, return_index=True, return_inverse=True)
        known, vertex = self._find(keys)
        fresh = ~known
        vertex[fresh] = np.arange(self.count, self.count + int(fresh.sum()), dtype=np.int32)
        self.places.append(places[chosen[fresh]])
        self.faces.append(vertex[inverse][faces])
        self.count += len(self.places[-1])
        begin = int(np.searchsorted(keys, last))
        self._shared, self._shared_vertex = keys[begin:], vertex[begin:]

    def _find(self, keys: Int[np.ndarray, "n"]) -> tuple[Bool[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        """Which edges already have a vertex, and which one."""
        vertex = np.zeros(len(keys), np.int32)
        if len(self._shared) == 0:
            return np.zeros(len(keys), bool), vertex
        place = np.searchsorted(self._shared, keys).clip(max=len(self._shared) - 1)
        known = self._shared[place] == keys
        vertex[known] = self._shared_vertex[place[known]]
        return known, vertex

    def vertices_and_faces(self) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
        places = np.concatenate(self.places)
        self.places = []
        faces = np.concatenate(self.faces)
        self.faces = []
        return places, faces


def _march_slab(slab: _Slab, level: float, block: int, lattice: _Lattice, welder: _Welder) -> None:
    """PyMCubes on each block of the slab that has both inside and outside points."""
    import mcubes

    inside = slab.values > level
    middles, faces, count = [], [], 0
    for y, z in _touched_blocks(slab.wanted, block):
        part = inside[:, y : y + block + 1, z : z + block + 1]
        if part.all() or not part.any():
            continue
        vertices, triangles = mcubes.marching_cubes(np.ascontiguousarray(part).view(np.int8), 0.5)
        vertices += (0, y, z)
        middles.append(vertices)
        faces.append(triangles.astype(np.int32) + np.int32(count))
        count += len(vertices)
        welder.blocks += 1
    if not middles:
        return
    keys, places = _interpolate(slab, np.concatenate(middles), level, lattice.size)
    last = (slab.p + len(slab.values) - 1) * lattice.size**2 * 3
    welder.add(keys, places, np.concatenate(faces), last)


def _touched_blocks(wanted: Bool[np.ndarray, "size size"], block: int) -> list[tuple[int, int]]:
    """Corners (y, z) of the blocks with an evaluated point. A point on a block's far side is the next one's too."""
    starts = np.arange(0, wanted.shape[0] - 1, block)
    near = np.logical_or.reduceat(np.logical_or.reduceat(wanted, starts, axis=0), starts, axis=1)
    touched = near.copy()
    touched[:-1] |= near[1:]
    touched[:, :-1] |= near[:, 1:]
    touched[:-1, :-1] |= near[1:, 1:]
    return [(int(starts[a]), int(starts[b])) for a, b in np.argwhere(touched)]


def _interpolate(
    slab: _Slab, middles: Float[np.ndarray, "n 3"], level: float, size: int
) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n 3"]]:
    """From edge middles (slab indices) to edge numbers and to where the level is crossed (unpadded indices)."""
    doubled = np.rint(2 * middles).astype(np.int64)
    near, step = doubled >> 1, doubled & 1
    far = near + step
    a = slab.values[near[:, 0], near[:, 1], near[:, 2]].astype(np.float64) - level
    b = slab.values[far[:, 0], far[:, 1], far[:, 2]].astype(np.float64) - level
    known = np.isfinite(a) & np.isfinite(b)  # where one end was not evaluated, the surface closes half-way
    share = np.full(len(a), 0.5)
    np.divide(a, a - b, out=share, where=known)
    share = share.clip(_END_MARGIN, 1 - _END_MARGIN)
    near[:, 0] += slab.p
    axis = step[:, 1] + 2 * step[:, 2]
    keys = ((near[:, 0] * size + near[:, 1]) * size + near[:, 2]) * 3 + axis
    return keys, near + step * share[:, None] - 1.0
