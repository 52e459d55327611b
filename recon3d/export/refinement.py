"""Which coarse cells the surface can lie in, and on which side of it the others are.

What is known of the field decides how they are found, and what is guaranteed:

- a bound on its slope (signed distances): an interval test. Within a cell the value differs from that at the cell's
  centre by at most slope x half the cell's diagonal, so a cell whose centre is farther than that from the level is
  wholly on the centre's side. The others are halved, and so on. As far as the bound holds, nothing is missed.
- cells (densities, with the occupancy grid of the training): the surface is searched in these and nowhere else, and
  everything outside them is outside.
- signs (logits of occupancy): corners and centres of a moderate grid are evaluated; the cells in which they disagree
  and all neighbours of such cells are searched. Every sheet of the surface that separates two of these points is
  found whole as far as it stays within a cell of where it does so; a part that separates none of them (a closed piece
  smaller than a cell, a wall thinner than half a cell that lies between points) may be missed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from recon3d.errors import UserError
from recon3d.export.levelset import LevelSet, NoSurfaceError

FIRST_GRID = 32
FINEST_GRID = 256
FINE_PER_COARSE = 4
"""The lattice is at least so many times finer than the grid of cells that are searched; that grid, at most 256^3, does
not grow any further with the lattice, and so neither does its memory: two bytes a cell, 34 MB, and as much again while
it is made."""
SLOPE_MARGIN = 1.1


@dataclass(frozen=True)
class Band:
    """The cells over [-1, 1]^3, indexed [ix, iy, iz], that are searched for the surface; of the others, which are
    inside. ``evaluations``: how often the field was asked for it."""

    active: Bool[np.ndarray, "r r r"]
    inside: Bool[np.ndarray, "r r r"]
    evaluations: int = 0


def narrow_band(
    surface: LevelSet, resolution: int, *, batch_points: int = 2**18, device: torch.device | str = "cpu"
) -> Band:
    """The cells to search for the surface with a lattice of ``resolution`` cells an axis.

    No two cells that touch and are not active are on different sides, so that a surface that is extracted with them is
    closed.

    Raises:
        NoSurfaceError: no cell can have the surface in it; with the range of the values that were met.
        UserError: a value is not finite.
    """
    ask = _Asked(surface, batch_points, torch.device(device))
    finest = min(max(resolution // FINE_PER_COARSE, 1), FINEST_GRID)
    if surface.slope is not None:
        band = _by_intervals(surface, finest, ask)
    elif surface.active is not None and not surface.probed:
        band = Band(surface.active, np.zeros_like(surface.active))
    else:
        band = _by_probing(surface, finest, ask)
    if not band.active.any():
        if ask.count == 0:
            raise NoSurfaceError("no surface: the active region is empty (the occupancy grid has no occupied cell)")
        raise NoSurfaceError(
            f"no surface at level {surface.level:g}: the field's values span [{ask.low:g}, {ask.high:g}]; "
            "choose a level between them",
            (ask.low, ask.high),
        )
    return band


class _Asked:
    """The field's values less the level, in batches; keeps their count and range."""

    def __init__(self, surface: LevelSet, batch: int, device: torch.device) -> None:
        self.surface, self.batch, self.device = surface, batch, device
        self.count, self.low, self.high = 0, math.inf, -math.inf

    @torch.no_grad()
    def __call__(self, index: Int[np.ndarray, "n"], points: int, first: float) -> Float[np.ndarray, "n"]:
        """At points numbered ``index`` of a ``points``^3 grid whose points lie at first, first + 2 / cells, ..."""
        spacing = -2 * first / (points - 1) if points > 1 else 0.0
        values = np.empty(len(index), np.float32)
        for start in range(0, len(index), self.batch):
            some = torch.from_numpy(index[start : start + self.batch]).to(self.device)
            ijk = torch.stack([some // points**2, some // points % points, some % points], dim=-1)
            found = self.surface.value_fn(ijk.float() * spacing + first).float().cpu()
            values[start : start + self.batch] = found.numpy()
        if len(values):
            low, high = float(values.min()), float(values.max())
            if not (math.isfinite(low) and math.isfinite(high)):
                raise UserError("the field gives values that are not finite; is this the checkpoint of a diverged run?")
            self.count += len(values)
            self.low, self.high = min(self.low, low), max(self.high, high)
        return values - self.surface.level

    def centers(self, index: Int[np.ndarray, "n"], cells: int) -> Float[np.ndarray, "n"]:
        return self(index, cells, 1 / cells - 1)


def _by_intervals(surface: LevelSet, finest: int, ask: _Asked) -> Band:
    """Cells are kept and halved while their centre's value leaves room for the surface."""
    assert surface.slope is not None
    cells = min(FIRST_GRID, finest) if surface.active is None else surface.active.shape[0]
    allowed = np.ones((cells,) * 3, bool) if surface.active is None else surface.active
    away = _open_to_the_border(~allowed)
    index = np.flatnonzero(~away)
    values = ask.centers(index, cells)
    inside = np.zeros((cells,) * 3, bool)
    inside.reshape(-1)[index] = values > 0
    kept = np.zeros_like(inside)
    while True:
        near = np.abs(values) <= surface.slope * SLOPE_MARGIN * math.sqrt(3) / cells
        kept.reshape(-1)[index[near]] = True
        kept &= allowed
        if 2 * cells > finest:
            break
        cells *= 2
        kept, inside, allowed = (_halved(grid) for grid in (kept, inside, allowed))
        index = np.flatnonzero(kept)
        values = ask.centers(index, cells)
        inside.reshape(-1)[index] = values > 0
        kept[:] = False
    return Band(kept | _beside_the_other_side(inside, kept), inside & ~kept, ask.count)


def _halved(grid: Bool[np.ndarray, "r r r"]) -> Bool[np.ndarray, "s s s"]:
    return grid.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)


def _open_to_the_border(free: Bool[np.ndarray, "r r r"]) -> Bool[np.ndarray, "r r r"]:
    """The ``free`` cells that are joined to the border of the grid through others."""
    from scipy import ndimage

    if not free.any():
        return free
    label, _ = ndimage.label(np.pad(free, 1, constant_values=True))
    return (label == label[0, 0, 0])[1:-1, 1:-1, 1:-1]


def _beside_the_other_side(
    inside: Bool[np.ndarray, "r r r"], kept: Bool[np.ndarray, "r r r"]
) -> Bool[np.ndarray, "r r r"]:
    """The cells that are not kept and touch one that is not kept either and lies on the other side."""
    from scipy import ndimage

    touching = np.ones((3, 3, 3), bool)
    within, without = inside & ~kept, ~inside & ~kept
    return (ndimage.binary_dilation(within, touching) & without) | (ndimage.binary_dilation(without, touching) & within)


def _by_probing(surface: LevelSet, cells: int, ask: _Asked) -> Band:
    """Cells in which corners and centre disagree, and their neighbours. Points that belong to no cell where the surface
    may lie are not asked, and are outside."""
    from scipy import ndimage

    touching = np.ones((3, 3, 3), bool)
    allowed = np.ones((cells,) * 3, bool) if surface.active is None else _overlapped(surface.active, cells)
    inside = np.zeros((cells,) * 3, bool)
    index = np.flatnonzero(allowed)
    inside.reshape(-1)[index] = ask.centers(index, cells) > 0
    corner = np.zeros((cells + 1,) * 3, bool)
    index = np.flatnonzero(ndimage.binary_dilation(np.pad(allowed, (0, 1)), np.ones((2, 2, 2), bool), origin=-1))
    corner.reshape(-1)[index] = ask(index, cells + 1, -1.0) > 0
    mixed = np.zeros_like(inside)
    for i, j, k in np.ndindex(2, 2, 2):
        mixed |= corner[i : i + cells, j : j + cells, k : k + cells] != inside
    active = ndimage.binary_dilation(mixed, touching)
    return Band(active, inside & ~active, ask.count)


def _overlapped(grid: Bool[np.ndarray, "r r r"], cells: int) -> Bool[np.ndarray, "s s s"]:
    """The cells of a ``cells``^3 grid that overlap one of ``grid``."""
    first = np.arange(cells) * grid.shape[0] // cells
    last = -(-(np.arange(cells) + 1) * grid.shape[0] // cells)
    for axis in range(3):
        count = np.cumsum(grid, axis=axis, dtype=np.int32)
        count = np.concatenate([np.zeros_like(count.take([0], axis)), count], axis=axis)
        grid = count.take(last, axis) > count.take(first, axis)
    return grid
