"""The surface head: colour, depth, opacity and normals of rays that meet the zero set of a signed distance field.

Symbols: f is the signed distance, negative inside; s the sharpness, learned; a ray's sample i stands for the interval
[t_i - dt_i / 2, t_i + dt_i / 2], at whose ends f has the values a_i and b_i. Either kind of weights is written as a
density, so that marching, rounds and compositing are those of :class:`VolumeRenderer`:

- NeuS (Wang et al. 2021, equations 10 and 13), with the logistic function L(x) = 1 / (1 + exp(-x)):
  alpha_i = max(1 - L(s b_i) / L(s a_i), 0), that is, an optical depth of max(log L(s a_i) - log L(s b_i), 0). While
  f falls, the light that is left behind sample i is L(s b_i) over its value where the ray came in: the weight is
  largest on the surface itself, and a surface behind another gets none.
- VolSDF (Yariv et al. 2021, equations 2 and 3), with beta = 1 / s: the density is s Psi(-f), Psi the distribution
  function of Laplace's distribution of scale beta.

A run may begin as a fog: then the values are read as -log of a density that is free to be anything, as a radiance
field's. It finds hollows that a surface would be long in carving, and what it found is the surface's first guess.

The distance is taken to be linear between samples, which costs no evaluations: the values at the ends of an interval
are the means of neighbouring samples, the first and the last of a run of samples are extrapolated, and NeuS's optical
depth is that of both halves of an interval. So a ray that passes an edge loses the light that it has lost at the sample
nearest to it. A sample without neighbours tells nothing of its slope and weighs nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from recon3d.config import SurfaceRenderConfig
from recon3d.fields.radiance import TruncatedExp
from recon3d.geometry.cameras import Rays
from recon3d.heads.volume import Rendering, Seen, VolumeRenderer, half_light
from recon3d.kernels import composite, darken_segments

GAP = 1.5
"""Samples further apart than so many steps are no neighbours."""


@runtime_checkable
class SurfaceLike(Protocol):
    """What the head needs of a field; see :class:`recon3d.fields.sdf.SurfaceField`."""

    def encode(self, x: Tensor) -> Tensor: ...

    def geometry(
        self, x: Tensor, encoded: Tensor | None = None, features: Tensor | None = None
    ) -> tuple[Tensor, Tensor]: ...

    def slope(self, x: Tensor) -> Tensor: ...

    def shade(
        self,
        features: Tensor,
        directions: Tensor,
        ray_index: Tensor | None = None,
        plain: Tensor | None = None,
    ) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class SurfaceRendering(Rendering):
    """``hit``: the H rays that meet the surface, none in a fog; ``points``: where they lose half their light. There
    ``normal`` is taken, in evaluation mode alone."""

    hit: Int[Tensor, "h"]
    points: Float[Tensor, "h 3"]


class SurfaceRenderer(VolumeRenderer):
    """Composites the colours of a field of signed distance with weights around its surface; ``sharpness`` is learned.

    Attributes:
        fog: whether the field's values are, for now, -log of a density instead of distances.
    """

    config: SurfaceRenderConfig

    def __init__(self, config: SurfaceRenderConfig, allowed: Bool[Tensor, "r r r"] | None = None) -> None:
        super().__init__(config, allowed)
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(config.sharpness)))
        self.fog = False

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.fog)

    def set_extra_state(self, state: Tensor) -> None:
        self.fog = bool(state)

    @property
    def sharpness(self) -> Float[Tensor, ""]:
        """s, one over VolSDF's beta, per field unit."""
        return self.log_sharpness.exp()

    @torch.no_grad()
    def blunt(self, limit: float) -> None:
        """Let the sharpness be ``limit`` at most."""
        self.log_sharpness.clamp_(max=math.log(limit))

    def forward(  # type: ignore[override]
        self,
        field: SurfaceLike,
        rays: Rays,
        jitter: Float[Tensor, "n"] | None = None,
        plain: Bool[Tensor, "n"] | None = None,
    ) -> SurfaceRendering:
        """Render rays; see :class:`VolumeRenderer`. ``plain`` rays are coloured without regard to their direction."""
        if jitter is None:
            jitter = torch.full_like(rays.origins[:, 0], 0.5)
        seen = self._front_to_back(field, rays, jitter)
        grad = torch.is_grad_enabled()
        distance, features = (
            field.geometry(seen.points, seen.encoded, seen.features) if grad else (seen.values, seen.features)
        )
        sigma = self._densities(distance, seen)
        half, _ = half_light(sigma.detach(), seen.t, seen.dt, seen.offsets)
        hit = (half[:0] if self.fog else half).nonzero().squeeze(1)
        points = rays.origins[hit] + half[hit, None] * rays.directions[hit]
        normal = None
        if not self.training:
            normal = torch.zeros_like(rays.origins).index_copy(0, hit, F.normalize(field.slope(points), dim=-1))
        rgb = field.shade(features, rays.directions, seen.ray, plain)
        color, depth, opacity = composite(sigma, rgb, seen.t, seen.dt, seen.offsets, self.config.early_stop)
        return SurfaceRendering(color, depth, opacity, len(seen.t), normal, hit=hit, points=points)

    @torch.no_grad()
    def update(self, field: SurfaceLike, step: int, generator: torch.Generator) -> None:  # type: ignore[override]
        """Occupied is where the density of a surface that faces the ray would count, anywhere in the cell, but not so
        deep inside that no light gets there; in a fog, where the density counts."""
        if self.fog:
            self.grid.update(lambda x: fog_density(field.geometry(x)[0]), step, generator)
            return
        cell = math.sqrt(3) / self.config.grid
        deepest = -math.log(self.config.early_stop) / float(self.sharpness) + cell

        def density(x: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
            distance = field.geometry(x)[0]
            return torch.where(distance > -deepest, self._facing_density(distance - cell), 0.0)

        self.grid.update(density, step, generator)

    def _facing_density(self, distance: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Density at so far from a surface, on a ray along its normal."""
        s = self.sharpness
        if self.config.weights == "neus":
            return s * torch.sigmoid(-s * distance)
        return laplace_density(distance, s)

    def _densities(self, values: Float[Tensor, "k"], seen: Seen) -> Float[Tensor, "k"]:
        distance = values
        if self.fog:
            return fog_density(distance)
        if self.config.weights == "volsdf":
            return laplace_density(distance, self.sharpness)
        begin, end = interval_ends(distance, seen.t, seen.dt, seen.offsets)
        s = self.sharpness
        return (neus_optical_depth(begin, distance, s) + neus_optical_depth(distance, end, s)) / seen.dt

    def _absorb(
        self,
        optical_depth: Float[Tensor, "n"],
        values: Float[Tensor, "m"],
        dt: Float[Tensor, "m"],
        taken: Int[Tensor, "n"],
    ) -> Int[Tensor, "n"]:
        if self.fog:
            return super()._absorb(optical_depth, fog_density(values), dt, taken)
        if self.config.weights == "volsdf":
            return super()._absorb(optical_depth, laplace_density(values, self.sharpness), dt, taken)
        lost = -F.logsigmoid(self.sharpness * values)  # by a ray that came here straight from far away
        before = F.pad(lost[:-1], (1, 0))
        has = taken > 0
        before[(taken.cumsum(0) - taken)[has]] = optical_depth[has]
        lit = darken_segments(optical_depth, (lost - before).clamp_min(0), taken, self._darkness)
        return torch.minimum(lit + 1, taken)  # the last one's slope needs the next


def fog_density(values: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
    """exp(-value): above 1 per field unit where a distance would be inside."""
    return TruncatedExp.apply(-values)


def neus_optical_depth(
    begin: Float[Tensor, "k"], end: Float[Tensor, "k"], sharpness: Float[Tensor, ""]
) -> Float[Tensor, "k"]:
    """-log(1 - alpha) of intervals from distance ``begin`` to ``end`` (NeuS, equation 13)."""
    return (F.logsigmoid(sharpness * begin) - F.logsigmoid(sharpness * end)).clamp_min(0)


def laplace_density(distance: Float[Tensor, "k"], sharpness: Float[Tensor, ""]) -> Float[Tensor, "k"]:
    """s Psi(-f) (VolSDF, equations 2 and 3, alpha = 1 / beta)."""
    tail = 0.5 * torch.exp(-sharpness * distance.abs())
    return sharpness * torch.where(distance > 0, tail, 1 - tail)


def interval_ends(
    distance: Float[Tensor, "k"], t: Float[Tensor, "k"], dt: Float[Tensor, "k"], offsets: Int[Tensor, "starts"]
) -> tuple[Float[Tensor, "k"], Float[Tensor, "k"]]:
    """The distance at both ends of each sample's interval: halfway to its neighbours; where one is missing, as far on
    the other side."""
    linked = (t[1:] - t[:-1]) < GAP * torch.maximum(dt[1:], dt[:-1])
    inner = offsets[1:-1]
    linked[inner[(inner > 0) & (inner < len(t))] - 1] = False
    middle = 0.5 * (distance[1:] + distance[:-1])
    after, before = F.pad(linked, (0, 1)), F.pad(linked, (1, 0))
    to_next, to_last = F.pad(middle, (0, 1)), F.pad(middle, (1, 0))
    begin = torch.where(before, to_last, torch.where(after, 2 * distance - to_next, distance))
    end = torch.where(after, to_next, torch.where(before, 2 * distance - to_last, distance))
    return begin, end
