"""The occupancy grid: where along a ray a radiance field is worth evaluating.

Source: Müller et al., "Instant Neural Graphics Primitives" (2022), appendix E.1. State of the head, not of the field.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from recon3d import distributed
from recon3d.config import RenderConfig
from recon3d.errors import UserError

CHUNK = 2**18
ONE_IN = 4
"""After the first steps an update draws one in so many of the allowed cells, and as many of the occupied ones: a number
that does not depend on how many are occupied, which the device alone knows."""


class OccupancyGrid(nn.Module):
    """(R, R, R) cells over [-1, 1]^3, indexed [ix, iy, iz].

    Attributes:
        density: the largest density seen lately in each cell, fading by ``decay`` at each update.
        occupied: cells that rays are sampled in.
        occupied_share: share of all cells that is occupied.
        allowed: cells that may be occupied at all (seen by a camera, inside the visual hull).
    """

    density: Float[Tensor, "r r r"]
    occupied: Bool[Tensor, "r r r"]
    allowed: Bool[Tensor, "r r r"]
    occupied_share: Float[Tensor, ""]
    cells: Int[Tensor, "m"] | None

    def __init__(self, config: RenderConfig, allowed: Bool[Tensor, "r r r"] | None = None) -> None:
        super().__init__()
        self.config = config
        shape = (config.grid,) * 3
        allowed = torch.ones(shape, dtype=torch.bool) if allowed is None else allowed
        self.register_buffer("allowed", allowed.clone())
        self.register_buffer("occupied", allowed.clone())
        self.register_buffer("density", torch.zeros(shape, device=allowed.device))
        self.register_buffer("occupied_share", allowed.float().mean())
        self.register_buffer("cells", None, persistent=False)  # numbers of the allowed ones, once they are asked for

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.cells = None

    @torch.no_grad()
    def widen(self, cells: int) -> None:
        """Allow, and count as occupied until the next update, what lies within so many cells of what is allowed."""
        size = 2 * cells + 1
        wider = F.max_pool3d(self.allowed[None, None].float(), size, stride=1, padding=cells)[0, 0] > 0
        self.allowed.copy_(wider)
        self.cells = None
        self.occupied.copy_(wider)
        self.occupied_share.copy_(wider.float().mean())

    def forget(self) -> None:
        """Count every allowed cell as occupied until the next update, whatever was seen in it."""
        self.density.zero_()
        self.occupied.copy_(self.allowed)
        self.occupied_share.copy_(self.occupied.float().mean())

    @property
    def step(self) -> float:
        """Marching step in field units."""
        return 2 * 3**0.5 / self.config.samples_per_diagonal

    @torch.no_grad()
    def update(
        self,
        density_fn: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]],
        step: int,
        generator: torch.Generator,
    ) -> None:
        """Look at random points of some cells: of all allowed ones at first, then of a share of them and of the
        occupied. But for the first time, when the allowed cells are counted, no host waits for the device."""
        cells = self._cells_to_update(step, generator)
        seen = torch.empty(len(cells), device=cells.device)
        for begin in range(0, len(cells), CHUNK):
            part = cells[begin : begin + CHUNK]
            points = self._points_in(part, generator)
            seen[begin : begin + CHUNK] = distributed.mapped(lambda x: density_fn(x).float(), points)
        # A density that is not a number keeps its cell, so that the loss shows it and the trainer says so.
        seen.nan_to_num_(nan=torch.inf)
        density = self.density.view(-1)
        density[cells] = density[cells] * self.config.decay  # once, however often a cell was looked at
        density.scatter_reduce_(0, cells, seen, "amax")
        assert self.cells is not None
        opacity = density[self.cells] * self.step
        found = opacity > opacity.mean().clamp_max(self.config.threshold)
        self.occupied.view(-1)[self.cells] = found
        self.occupied_share.copy_(found.sum() / len(density))

    def require_occupied(self, step: int) -> None:
        """Ask the device whether there is anything left to march through.

        Raises:
            UserError: no cell is occupied any more.
        """
        if float(self.occupied_share) == 0:
            raise UserError(
                f"occupancy: nothing left at step {step}: the field is empty everywhere; check the poses, the "
                "background and that the images are not blank"
            )

    def _cells_to_update(self, step: int, generator: torch.Generator) -> Int[Tensor, "m"]:
        if self.cells is None:
            self.cells = self.allowed.view(-1).nonzero().squeeze(1)
        if step < self.config.warmup_steps:
            return self.cells
        count = len(self.cells) // ONE_IN + 1
        place = (self._evenly(count, generator) * len(self.cells)).long().clamp_max(len(self.cells) - 1)
        return torch.cat([self.cells[place], self._some_occupied(count, generator)])

    def _evenly(self, count: int, generator: torch.Generator) -> Float[Tensor, "count"]:
        """A random number in each of ``count`` equal parts of [0, 1]: what is drawn by them comes in its order."""
        places = torch.arange(count, device=self.density.device)
        return (places + torch.rand(count, device=places.device, generator=generator)) / count

    def _some_occupied(self, count: int, generator: torch.Generator) -> Int[Tensor, "m"]:
        """``count`` occupied cells, evenly spread over their order: where there are fewer, each of them several times.
        (Where there are none, any cell.)"""
        assert self.cells is not None
        occupied = self.occupied.view(-1)[self.cells]
        rank = occupied.cumsum(0)
        in_order = rank.new_zeros(len(rank) + 1)  # by rank, from 1 on; others are written to place 0
        in_order.scatter_(0, torch.where(occupied, rank, 0), torch.arange(len(rank), device=rank.device))
        wanted = 1 + (self._evenly(count, generator) * rank[-1]).long()
        return self.cells[in_order[torch.minimum(wanted, rank[-1].clamp_min(1))]]

    def cells_of(self, points: Float[Tensor, "m 3"]) -> Int[Tensor, "m 3"]:
        """The cell of each point of [-1, 1]^3."""
        r = self.config.grid
        return ((points + 1) * (0.5 * r)).long().clamp(0, r - 1)

    def _points_in(self, cells: Int[Tensor, "m"], generator: torch.Generator) -> Float[Tensor, "m 3"]:
        r = self.config.grid
        index = torch.stack([cells // (r * r), cells // r % r, cells % r], dim=-1)
        offset = torch.rand(len(cells), 3, device=cells.device, generator=generator)
        return (index + offset) * (2 / r) - 1
