"""The volume-rendering head: colour, depth and opacity of rays through a radiance field."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from recon3d.config import RenderConfig
from recon3d.geometry.boxes import intersect_unit_cube
from recon3d.geometry.cameras import Rays
from recon3d.heads.occupancy import OccupancyGrid
from recon3d.kernels import composite, darken_segments, first_samples, lay_segments, march_ahead, occupied_blocks
from recon3d.kernels.compositing.reference import transmittance

FORESIGHT, LEAST, MOST, GROWTH = 3.0, 4, 64, 3
"""Samples of each ray that are evaluated before asking whether its light has run out: until the occupancy grid lets
expect so many times the optical depth that ends it, but so many at least, and at most; and how these numbers grow from
round to round."""


@runtime_checkable
class GeometryLike(Protocol):
    """What finding the samples that light reaches needs of a field: a value at each point, and features."""

    def encode(self, x: Tensor) -> Tensor: ...

    def geometry(
        self, x: Tensor, encoded: Tensor | None = None, features: Tensor | None = None
    ) -> tuple[Tensor, Tensor]: ...


@runtime_checkable
class RadianceLike(GeometryLike, Protocol):
    """What the head needs of a field: its values are densities."""

    def shade(self, features: Tensor, directions: Tensor, ray_index: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Rendering:
    """What N rays show. ``color`` is premultiplied by ``opacity``, without a background; ``depth`` is the
    opacity-weighted distance in field units; ``samples`` counts the evaluated points; ``normal`` is the unit vector
    outwards of what a ray meets (0: nothing), where the head knows surfaces."""

    color: Float[Tensor, "n 3"]
    depth: Float[Tensor, "n"]
    opacity: Float[Tensor, "n"]
    samples: int
    normal: Float[Tensor, "n 3"] | None = None


class VolumeRenderer(nn.Module):
    """Marches rays through the occupancy grid and composites the field's densities and colours.

    ``forward(field, rays, jitter)`` with rays in field coordinates; the grid is the head's only state. In evaluation
    mode (``eval()``) steps are ``eval_oversampling`` times finer.
    """

    def __init__(self, config: RenderConfig, allowed: Bool[Tensor, "r r r"] | None = None) -> None:
        super().__init__()
        self.config = config
        self.grid = OccupancyGrid(config, allowed)

    def forward(self, field: RadianceLike, rays: Rays, jitter: Float[Tensor, "n"] | None = None) -> Rendering:
        """Render rays. ``jitter`` in [0, 1) shifts each ray's samples (default: the middle of their intervals)."""
        if jitter is None:
            jitter = torch.full_like(rays.origins[:, 0], 0.5)
        return self.colors(field, rays, self._front_to_back(field, rays, jitter))

    def colors(self, field: RadianceLike, rays: Rays, seen: Seen) -> Rendering:
        """What rays show of which the samples that light reaches are known; with gradients where they are wanted."""
        values, features = seen.values, seen.features
        if torch.is_grad_enabled():
            values, features = field.geometry(seen.points, seen.encoded, features)
        rgb = field.shade(features, rays.directions, seen.ray)
        sigma = self._densities(values, seen)
        color, depth, opacity = composite(sigma, rgb, seen.t, seen.dt, seen.offsets, self.config.early_stop)
        return Rendering(color, depth, opacity, len(seen.t))

    @torch.no_grad()
    def update(self, field: GeometryLike, step: int, generator: torch.Generator) -> None:
        """Look where the field is worth marching; see :meth:`OccupancyGrid.update`."""
        self.grid.update(lambda x: field.geometry(x)[0], step, generator)

    @property
    def _darkness(self) -> float:
        """The optical depth at which a ray ends."""
        return -math.log(self.config.early_stop)

    def _densities(self, values: Float[Tensor, "k"], seen: Seen) -> Float[Tensor, "k"]:
        """The densities that the field's ``values`` stand for."""
        return values

    def _absorb(
        self,
        optical_depth: Float[Tensor, "n"],
        values: Float[Tensor, "m"],
        dt: Float[Tensor, "m"],
        taken: Int[Tensor, "n"],
    ) -> Int[Tensor, "n"]:
        """Add what the samples of a round, ``taken`` of each ray, take from its light to ``optical_depth``, in place;
        returns how many of them light reaches."""
        return darken_segments(optical_depth, values * dt, taken, self._darkness)

    @torch.no_grad()
    def mark_lit(self, field: GeometryLike, rays: Rays, lit: Bool[Tensor, "r r r"], threshold: float = 0.5) -> None:
        """Set the cells of ``lit`` (the size of the occupancy grid) where more than ``threshold`` of a ray's light is
        left at some sample."""
        seen = self._front_to_back(field, rays, torch.full_like(rays.origins[:, 0], 0.5))
        tau = self._densities(seen.values, seen) * seen.dt
        points = seen.points[transmittance(tau, seen.offsets) > threshold]
        x, y, z = self.grid.cells_of(points).unbind(-1)
        lit[x, y, z] = True

    @torch.no_grad()
    def half_light(self, field: GeometryLike, rays: Rays) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        """The distance in field units at which each ray has lost half its light, 0 where it keeps more, and the
        opacity of the whole ray.

        Unlike the opacity-weighted mean, it never floats between the front of a silhouette and what lies behind it.
        Within a sample the density is constant, so the optical depth grows linearly to ln 2.
        """
        seen = self._front_to_back(field, rays, torch.full_like(rays.origins[:, 0], 0.5))
        return half_light(self._densities(seen.values, seen), seen.t, seen.dt, seen.offsets)

    @torch.no_grad()
    def _front_to_back(self, field: GeometryLike, rays: Rays, jitter: Tensor) -> Seen:
        """Find the samples that light reaches, so that colours and gradients are computed for no others.

        In rounds: as many samples of every ray as should do by what the grid knows of densities, then more of each
        ray that still has light.
        """
        near, far = intersect_unit_cube(rays)
        finer = 1 if self.training else self.config.eval_oversampling
        spacing = self.grid.step / finer, self.config.cone / finer
        blocks = occupied_blocks(self.grid.occupied)
        ahead = first_samples(near, far, jitter, *spacing)
        optical_depth = torch.zeros_like(far)
        counts = torch.zeros_like(far, dtype=torch.int64)
        rounds: list[tuple[Tensor, Tensor, Tensor, list[Tensor]]] = []
        scale = 1
        while not rounds or bool((ahead < torch.inf).any()):
            taken, ahead, points, t, dt = march_ahead(
                rays.origins,
                rays.directions,
                ahead,
                far,
                self.grid.occupied,
                blocks,
                self.grid.density,
                scale * FORESIGHT * (self._darkness - optical_depth).clamp_min(0),
                scale * LEAST,
                scale * MOST,
                *spacing,
            )
            encoded = field.encode(points)
            values, features = field.geometry(points, encoded)
            lit = self._absorb(optical_depth, values, dt, taken)
            rounds.append((counts, lit, taken, [points, t, dt, encoded, values, features]))
            counts = counts + lit
            ahead = torch.where(optical_depth < self._darkness, ahead, torch.inf)
            scale *= GROWTH
        # Evaluated round by round, put in order ray by ray.
        visible = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        total = int(visible[-1])
        ordered = [value.new_empty(total, *value.shape[1:]) for value in rounds[0][-1]]
        for first, lit, taken, parts in rounds:
            lay_segments(ordered, parts, visible[:-1] + first, lit, taken)
        points, t, dt, *evaluated = ordered
        return Seen(torch.repeat_interleave(counts, output_size=total), points, t, dt, visible, *evaluated)


@dataclass(frozen=True)
class Seen:
    """The K samples that light reaches, packed ray after ray as ``offsets`` (N + 1,) has it, and what the field is
    there: what :meth:`GeometryLike.encode` and :meth:`GeometryLike.geometry` gave."""

    ray: Int[Tensor, "k"]
    points: Float[Tensor, "k 3"]
    t: Float[Tensor, "k"]
    dt: Float[Tensor, "k"]
    offsets: Int[Tensor, "starts"]
    encoded: Float[Tensor, "k e"]
    values: Float[Tensor, "k"]
    features: Float[Tensor, "k f"]


def half_light(
    sigma: Float[Tensor, "k"], t: Float[Tensor, "k"], dt: Float[Tensor, "k"], offsets: Int[Tensor, "starts"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Of N rays of packed samples with densities ``sigma``: where half the light is lost (0: more is left), and the
    opacity; see :meth:`VolumeRenderer.half_light`."""
    tau = (sigma * dt).double()
    total = torch.nn.functional.pad(tau.cumsum(0), (1, 0))
    before, after = total.index_select(0, offsets[:-1]), total.index_select(0, offsets[1:])
    wanted = before + math.log(2.0)
    reached = wanted <= after
    depth = t.new_zeros(len(offsets) - 1)
    if bool(reached.any()):
        sample = torch.where(reached, torch.searchsorted(total, wanted) - 1, 0)
        within = (wanted - total.index_select(0, sample)) / tau.index_select(0, sample).clamp_min(1e-12)
        distance = t.index_select(0, sample) + dt.index_select(0, sample) * (within.to(depth.dtype) - 0.5)
        depth = torch.where(reached, distance, depth)
    return depth, -torch.expm1(before - after).to(depth.dtype)
