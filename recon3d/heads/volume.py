"""The volume-rendering head: colour, depth and opacity of rays through a radiance field."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from recon3d.config import RenderConfig
from recon3d.geometry.boxes import intersect_unit_cube
from recon3d.geometry.cameras import Rays
from recon3d.heads.occupancy import OccupancyGrid
from recon3d.kernels import composite, march_rays

FIRST_ROUND = 8
"""Samples of each ray that are evaluated before asking whether its light has run out."""


class RadianceLike(Protocol):
    """What the head needs of a field."""

    def geometry(self, x: Tensor) -> tuple[Tensor, Tensor]: ...

    def shade(self, features: Tensor, directions: Tensor, ray_index: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Rendering:
    """What N rays show. ``color`` is premultiplied by ``opacity``, without a background; ``depth`` is the
    opacity-weighted distance in field units; ``samples`` counts the evaluated points."""

    color: Float[Tensor, "n 3"]
    depth: Float[Tensor, "n"]
    opacity: Float[Tensor, "n"]
    samples: int


class VolumeRenderer(nn.Module):
    """Marches rays through the occupancy grid and composites the field's densities and colours.

    ``forward(field, rays, jitter)`` with rays in field coordinates; the grid is the head's only state.
    """

    def __init__(self, config: RenderConfig, allowed: Bool[Tensor, "r r r"] | None = None) -> None:
        super().__init__()
        self.config = config
        self.grid = OccupancyGrid(config, allowed)

    def march(
        self, rays: Rays, jitter: Float[Tensor, "n"]
    ) -> tuple[Int[Tensor, "n+1"], Int[Tensor, "m"], Float[Tensor, "m"], Float[Tensor, "m"]]:
        """Packed samples in occupied cells; see :func:`recon3d.kernels.march_rays`."""
        near, far = intersect_unit_cube(rays)
        return march_rays(
            rays.origins, rays.directions, near, far, self.grid.occupied, jitter, self.grid.step, self.config.cone
        )

    def forward(self, field: RadianceLike, rays: Rays, jitter: Float[Tensor, "n"] | None = None) -> Rendering:
        """Render rays. ``jitter`` in [0, 1) shifts each ray's samples (default: the middle of their intervals)."""
        if jitter is None:
            jitter = torch.full_like(rays.origins[:, 0], 0.5)
        offsets, ray_index, t, dt = self.march(rays, jitter)
        visible, sigma, features = self._evaluate_visible(field, rays, offsets, ray_index, t, dt)
        offsets, ray_index, t, dt = _subset(visible, offsets, ray_index, t, dt)
        rgb = field.shade(features, rays.directions, ray_index)
        color, depth, opacity = composite(sigma, rgb, t, dt, offsets, self.config.early_stop)
        return Rendering(color, depth, opacity, len(t))

    def _evaluate_visible(
        self, field: RadianceLike, rays: Rays, offsets: Tensor, ray_index: Tensor, t: Tensor, dt: Tensor
    ) -> tuple[Bool[Tensor, "m"], Float[Tensor, "k"], Float[Tensor, "k f"]]:
        """Evaluate the field's geometry front to back and stop where no light is left.

        In rounds: the first samples of every ray, then twice as many of each ray that still has light, and so on.
        Returns the mask (M,) of the K samples that were evaluated, their densities and their features, in their order.
        """
        rank = torch.arange(len(t), device=t.device) - offsets[ray_index]
        optical_depth = torch.zeros(len(rays), device=t.device)
        darkness = -math.log(self.config.early_stop)
        end = FIRST_ROUND
        taken: list[Tensor] = []
        sigmas: list[Tensor] = []
        features: list[Tensor] = []
        pending = torch.arange(len(t), device=t.device)
        while len(pending) or not taken:
            now = rank[pending] < end
            index = pending[now]
            ray = ray_index[index]
            points = rays.origins[ray] + t[index, None] * rays.directions[ray]
            sigma, feature = field.geometry(points)
            optical_depth.index_add_(0, ray, sigma.detach() * dt[index])
            taken.append(index)
            sigmas.append(sigma)
            features.append(feature)
            pending = pending[~now]
            pending = pending[optical_depth[ray_index[pending]] < darkness]
            end *= 3
        visible = torch.zeros(len(t), dtype=torch.bool, device=t.device)
        index = torch.cat(taken)
        visible[index] = True
        if len(taken) == 1:
            return visible, sigmas[0], features[0]
        place = visible.cumsum(0) - 1
        order = torch.empty_like(index)
        order[place[index]] = torch.arange(len(index), device=index.device)
        return visible, torch.cat(sigmas)[order], torch.cat(features)[order]


def _subset(keep: Tensor, offsets: Tensor, *packed: Tensor) -> tuple[Tensor, ...]:
    """Offsets and packed arrays of the samples where ``keep`` is True."""
    kept_before = torch.cat([offsets.new_zeros(1), keep.cumsum(0)])
    return kept_before[offsets], *(values[keep] for values in packed)
