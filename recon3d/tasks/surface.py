"""The surface task: posed photographs supervise a signed distance field through the surface head."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from recon3d import distributed
from recon3d.config import OptimizerConfig, SurfaceConfig
from recon3d.data.scene import Scene
from recon3d.errors import UserError
from recon3d.fields.groups import parameter_groups
from recon3d.fields.sdf import SurfaceField
from recon3d.geometry.boxes import Normalizer
from recon3d.geometry.cameras import Rays
from recon3d.geometry.depth_views import DepthView, mean_vote, truncation_for, views_of
from recon3d.geometry.hull import cell_centers, distance_to_cells
from recon3d.heads.surface import SurfaceRenderer, SurfaceRendering
from recon3d.tasks.photographs import PhotographsTask, color_error

SLOPE_MARGIN = 1.5
"""A trained field's distance may change so many times faster than a true one's."""
MARGIN = 2
"""Cells of the occupancy grid around the visual hull that rays are sampled in as well."""
EXCESS = 1.3
"""Cells by which the hull's border lies outside the object even where silhouettes touch it: a cell stays while its
bounding sphere and a pixel more are not seen to be empty."""
SHARPEST = 2.0
"""Sharpness of the surface, at most, over one over the size of what the field can tell apart."""
FOG_SHARE = 0.65
"""Share of the run that may be fog, at most."""
MATURE = 200
"""Steps that a fog needs before its depths are worth anything, where fewer were not asked for."""
DEPTHS = 2**19
"""Depths of the fog that the surface is guessed from, about."""
GUESS_SMOOTHING = 0.5
"""Cells of the occupancy grid by which the guess is rounded off."""
SURE = 1e-3
"""Opacities are kept so far from 0 and 1 in the mask's cross-entropy."""


class SurfaceTask(PhotographsTask):
    """Signed distance field, surface renderer and the photographs that train them."""

    config: SurfaceConfig
    field: SurfaceField
    head: SurfaceRenderer
    has_color = True
    inside_slope = SLOPE_MARGIN

    def parts(
        self, precision: torch.dtype, allowed: Bool[Tensor, "r r r"] | None
    ) -> tuple[SurfaceField, SurfaceRenderer]:
        return SurfaceField(self.config.field, precision), SurfaceRenderer(self.config.head, allowed)

    @property
    def phase(self) -> str:  # type: ignore[override]
        return "fog" if self.head.fog else "surface"

    def use_training_data(self, scene: Scene) -> None:
        """Where silhouettes tell of the shape, their hull is the first guess, and rays are sampled around it too."""
        super().use_training_data(scene)
        self.head.fog = self.config.fog_steps > 0
        self.in_hull = scene.has_alpha and self.config.head.visual_hull
        if self.in_hull:
            hull = distance_to_cells(self.head.grid.allowed)
            self.field.start_from(lambda x: hull(x) + EXCESS * 2 / self.config.head.grid)
            self.head.grid.widen(MARGIN)

    def observe(self, picture: Float[Tensor, "3 h w"]) -> None:
        self.field.geometry_network.observe(picture)

    # --- training ---

    def parameter_groups(self, config: OptimizerConfig) -> list[dict[str, Any]]:
        """The field's, and the sharpness with a learning rate of its own."""
        field = self.field
        groups = parameter_groups([field.geometry_network, field.color_network], [field.encoder], config)
        sharpness = {"params": [self.head.log_sharpness], "lr": self.config.head.sharpness_rate, "weight_decay": 0.0}
        return [*groups, sharpness]

    def begin_step(self, step: int) -> None:
        """The surface is rendered no sharper than the levels in use can place it: while it is soft, light reaches the
        hollows behind it, and it moves."""
        self.field.show(step)
        self.head.blunt(SHARPEST / self.field.detail)
        if self.head.fog and (step >= self.config.fog_steps or self.spent >= FOG_SHARE):
            self.condense(mature=step >= min(self.config.fog_steps, MATURE))

    @torch.no_grad()
    def condense(self, mature: bool) -> None:
        """From fog to a surface: the first guess is what the training cameras see of the fog. Where they see nothing
        inside the silhouettes, or if the fog is not ``mature``, the guess is what it was.

        The fog's values v are -log of a density; that of a surface falls outwards as exp(-s f) (VolSDF). So the network
        goes on at the scale f = v / s: a step of the optimiser changes the densities no more than before.
        """
        cameras, grid = self.train_cameras, self.head.grid
        assert cameras is not None, "training needs use_training_data first"
        coarser = max(1, math.isqrt(len(cameras) * cameras.width * cameras.height // DEPTHS))
        views = list(views_of(self, cameras.downscaled(coarser)))
        if self.in_hull:
            views = [replace(view, depth=view.seen) for view in views]
        self.field.start_again(1 / float(self.head.sharpness))
        if mature and any(view.seen.any() for view in views):
            solid = fused_cells(views, self.normalizer, grid.allowed, self.field.start)
            self.field.start_from(distance_to_cells(solid, GUESS_SMOOTHING))
        self.head.fog = False
        grid.forget()
        self.head.update(self.field, 0, self.generator)

    def render_batch(self, count: int, rays: Rays, jitter: Float[Tensor, "n"]) -> SurfaceRendering:
        rendering = self.head(self.field, rays, jitter, self.uniform(count) < self.config.plain_share)
        chosen = (self.uniform(count) < self.config.slope_share)[rendering.hit]
        return replace(rendering, hit=rendering.hit[chosen], points=rendering.points[chosen])

    def loss_terms(
        self,
        step: int,
        rendering: SurfaceRendering,
        prediction: Float[Tensor, "n 3"],
        truth: Float[Tensor, "n 3"],
        target: UInt8[Tensor, "n c"],
    ) -> dict[str, Float[Tensor, ""]]:
        config = self.config
        terms = {"color": self.mean_of_pixels(color_error(config.loss, prediction, truth))}
        if config.eikonal and not self.head.fog:
            space = 2 * self.uniform(config.space_points, 3) - 1
            gradient = self.field.slope(torch.cat([rendering.points, space]))
            terms["eikonal"] = config.eikonal * distributed.mean((gradient.norm(dim=-1) - 1).square())
        if config.curvature and distributed.total(len(rendering.points)):
            weight = config.curvature * math.exp(-step / config.curvature_steps)
            terms["curvature"] = weight * distributed.mean(self.field.laplacian(rendering.points).abs())
        if config.mask and target.shape[-1] == 4:
            opacity, alpha = rendering.opacity.clamp(SURE, 1 - SURE), target[:, 3].float() / 255
            entropy = F.binary_cross_entropy(opacity, alpha, reduction="none")
            terms["mask"] = config.mask * self.mean_of_pixels(entropy)
        penalty = self.field.geometry_network.penalty()
        if penalty is not None:
            terms["penalty"] = distributed.once(penalty)
        return terms

    def figures(self) -> dict[str, float]:
        return {"sharpness": float(self.head.sharpness.detach())}

    # --- the surface, for whoever exports it ---

    @torch.no_grad()
    def inside(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """Minus the signed distance at field coordinates, in field units: positive inside.

        Raises:
            UserError: there is none yet.
        """
        if self.head.fog:
            raise UserError(
                "this run stopped while it was still a fog, before there was a surface: go on with recon3d resume, or "
                "take --route fusion"
            )
        return -self.field.distance(points)

    @torch.no_grad()
    def color(self, points: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """The surface's own colour, in [0, 1]: whatever ``directions``, the mean over those it was seen from."""
        return self.field.color(points)

    @property
    def occupied(self) -> Bool[Tensor, "r r r"]:
        """Cells that rays could be sampled in: what the distance is elsewhere, no photograph has told."""
        return self.head.grid.allowed


def fused_cells(
    views: Sequence[DepthView],
    normalizer: Normalizer,
    allowed: Bool[Tensor, "r r r"],
    guess: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]],
) -> Bool[Tensor, "r r r"]:
    """The ``allowed`` cells whose centres lie inside what ``views`` saw, or, where too few of them vote, inside the
    surface of ``guess``."""
    resolution = allowed.shape[0]
    truncation = 0.5 * truncation_for(views, 2 * normalizer.half_size / resolution)
    cells = allowed.flatten().nonzero().squeeze(1)
    every = cell_centers(resolution, allowed.device)
    centers = every[cells]
    unseen = torch.cat([guess(some).sign() for some in every.split(2**18)]).view(allowed.shape)
    vote = mean_vote(views, normalizer, truncation, unseen)
    solid = torch.zeros_like(allowed)
    solid.view(-1)[cells] = torch.cat([vote(some) < 0 for some in centers.split(2**18)])
    return solid
