"""Which density is the surface: the level taken from where light is lost, not from a number that fits one scene.

Density is optical depth per unit length in field coordinates: light that travels a length s through density sigma
keeps exp(-sigma s). A radiance field is trained on what rays see, so what it knows of a surface is the place where
rays stop. Absolute densities tell nothing: they depend on scene size, training time and regularisation.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon3d.errors import UserError
from recon3d.export.levelset import ValueFn

HALF_LIGHT = math.log(2.0)
_RAYS_AT_ONCE = 1024


def choose_level(
    density_fn: ValueFn,
    active: Bool[np.ndarray, "r r r"],
    *,
    rays: int = 4096,
    steps_per_cell: int = 4,
    batch_points: int = 2**18,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> float:
    """The density, in 1 / field unit, whose level set lies where a ray from outside has lost half its light.

    Random straight rays run through random active cells, from one side of the cube to the other; each is stopped where
    its optical depth reaches ln 2, and the median of the densities there is taken. Where density grows exponentially
    into an object with e-folding length w (what a truncated-exponential field does across a surface), that density is
    ln 2 / w at perpendicular incidence, whose level set is the half-light surface itself, at any scale (over all
    incidences the median is 0.7 of it). The result is half the median: in a field that jumps to a plateau, rays stop
    on the plateau, and the level must lie under it (half of it is where linear interpolation puts the jump in the
    right place); on an exponential ramp the half moves the surface out by 0.7 w, less than the ramp is wide.

    Where no ray loses half its light (a faint field), half of the largest optical depth met takes the place of ln 2.
    Raises UserError where the density is zero along all rays. Seeded: the same field gives the same level.
    """
    if not active.any():
        raise UserError("no surface: the active region is empty (the occupancy grid has no occupied cell)")
    generator = torch.Generator().manual_seed(seed)
    cells = active.shape[0]
    centers = (torch.from_numpy(np.argwhere(active)).float() + 0.5) * (2.0 / cells) - 1.0
    step = 2.0 / cells / steps_per_cell
    grid = torch.from_numpy(np.ascontiguousarray(active))
    profiles = []
    for start in range(0, rays, _RAYS_AT_ONCE):
        count = min(_RAYS_AT_ONCE, rays - start)
        through = centers[torch.randint(len(centers), (count,), generator=generator)]
        direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
        jitter = torch.rand(count, 1, generator=generator)
        profiles.append(
            _profile(density_fn, grid, through, direction, jitter, step, batch_points, torch.device(device))
        )
    stopped, largest = _densities_at_depth(profiles, HALF_LIGHT, step)
    if largest <= 0:
        raise UserError("no surface: the density is zero everywhere in the active region; train longer")
    if len(stopped) == 0:
        stopped, _ = _densities_at_depth(profiles, largest / 2, step)
    return float(stopped.median()) / 2


@torch.no_grad()
def _profile(
    density_fn: ValueFn,
    active: Bool[Tensor, "r r r"],
    through: Float[Tensor, "n 3"],
    direction: Float[Tensor, "n 3"],
    jitter: Float[Tensor, "n 1"],
    step: float,
    batch_points: int,
    device: torch.device,
) -> Float[Tensor, "n s"]:
    """Densities met along each ray, in order, at ``step`` from one another; zero outside the active cells.

    Packed to the left: the steps outside active cells add nothing to the optical depth and are left out.
    """
    reach = math.sqrt(12.0)  # the cube's diagonal: from any point in the cube, this far is outside
    along = (torch.arange(math.ceil(2 * reach / step)) + jitter) * step - reach
    cell = active.shape[0]
    density = torch.zeros(len(through), 0)
    packed, place = _active_steps(active, through, direction, along, cell)
    if len(packed) == 0:
        return density
    points = through[packed] + direction[packed] * along[packed, place].unsqueeze(-1)
    values = torch.cat([density_fn(some.to(device)).float().cpu() for some in points.split(batch_points)])
    count = torch.bincount(packed, minlength=len(through))
    column = torch.arange(len(packed)) - (count.cumsum(0) - count)[packed]
    density = torch.zeros(len(through), int(count.max()))
    density[packed, column] = values
    return density


def _active_steps(
    active: Bool[Tensor, "r r r"],
    through: Float[Tensor, "n 3"],
    direction: Float[Tensor, "n 3"],
    along: Float[Tensor, "n s"],
    cells: int,
) -> tuple[Int[Tensor, "m"], Int[Tensor, "m"]]:
    """Ray and step index of the steps that lie in an active cell, ray by ray in the order of travel."""
    rows, columns = [], []
    for some in torch.arange(len(through)).split(128):
        points = through[some, None] + direction[some, None] * along[some].unsqueeze(-1)
        cell = ((points + 1) * (cells / 2)).floor().long()
        within = ((cell >= 0) & (cell < cells)).all(dim=-1)
        x, y, z = cell.clamp(0, cells - 1).unbind(-1)
        row, column = (active[x, y, z] & within).nonzero(as_tuple=True)
        rows.append(some[row])
        columns.append(column)
    return torch.cat(rows), torch.cat(columns)


def _densities_at_depth(
    profiles: list[Float[Tensor, "_ _"]], depth: float, step: float
) -> tuple[Float[Tensor, "m"], float]:
    """The density where each ray's optical depth reaches ``depth`` (rays that do), and the largest depth of all."""
    found, largest = [], 0.0
    for density in profiles:
        if density.shape[1] == 0:
            continue
        depths = (density * step).cumsum(-1)
        largest = max(largest, float(depths[:, -1].max()))
        reached = depths[:, -1] >= depth
        first = (depths[reached] >= depth).int().argmax(dim=-1, keepdim=True)
        found.append(density[reached].gather(1, first).squeeze(1))
    return (torch.cat(found) if found else torch.zeros(0)), largest
