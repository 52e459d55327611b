"""The surface task: posed photographs supervise a signed distance field through the surface head."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from recon3d import distributed
from recon3d.config import OptimizerConfig, SurfaceConfig
from recon3d.data.scene import Scene
from recon3d.fields.groups import parameter_groups
from recon3d.fields.sdf import SurfaceField
from recon3d.geometry.cameras import Rays
from recon3d.geometry.hull import distance_to_cells
from recon3d.heads.surface import SurfaceRenderer, SurfaceRendering
from recon3d.tasks.photographs import PhotographsTask, color_loss

SLOPE_MARGIN = 1.5
"""A trained field's distance may change so many times faster than a true one's."""
MARGIN = 2
"""Cells of the occupancy grid around the visual hull that rays are sampled in as well."""
EXCESS = 1.3
"""Cells by which the hull's border lies outside the object even where silhouettes touch it: a cell stays while its
bounding sphere and a pixel more are not seen to be empty."""
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

    def use_training_data(self, scene: Scene) -> None:
        """Where silhouettes tell of the shape, their hull is the first guess, and rays are sampled around it too."""
        super().use_training_data(scene)
        if scene.has_alpha and self.config.head.visual_hull:
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
        self.head.blunt(1 / self.field.detail)

    def render_batch(self, count: int, rays: Rays, jitter: Float[Tensor, "n"]) -> SurfaceRendering:
        return self.head(self.field, rays, jitter, self.uniform(count) < self.config.plain_share)

    def loss_terms(
        self,
        step: int,
        rendering: SurfaceRendering,
        prediction: Float[Tensor, "n 3"],
        truth: Float[Tensor, "n 3"],
        target: UInt8[Tensor, "n c"],
    ) -> dict[str, Float[Tensor, ""]]:
        config = self.config
        terms = {"color": color_loss(config.loss, prediction, truth)}
        if config.eikonal:
            space = 2 * self.uniform(config.space_points, 3) - 1
            gradient = torch.cat([rendering.gradient, self.field.slope(space)[0]])
            terms["eikonal"] = config.eikonal * distributed.mean((gradient.norm(dim=-1) - 1).square())
        if config.curvature and distributed.total(len(rendering.laplacian)):
            weight = config.curvature * math.exp(-step / config.curvature_steps)
            terms["curvature"] = weight * distributed.mean(rendering.laplacian.abs())
        if config.mask and target.shape[-1] == 4:
            opacity, alpha = rendering.opacity.clamp(SURE, 1 - SURE), target[:, 3].float() / 255
            terms["mask"] = config.mask * distributed.mean(F.binary_cross_entropy(opacity, alpha, reduction="none"))
        penalty = self.field.geometry_network.penalty()
        if penalty is not None:
            terms["penalty"] = distributed.once(penalty)
        return terms

    def figures(self) -> dict[str, float]:
        return {"sharpness": float(self.head.sharpness.detach())}

    # --- the surface, for whoever exports it ---

    @torch.no_grad()
    def inside(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """Minus the signed distance at field coordinates, in field units: positive inside."""
        return -self.field.distance(points)

    @torch.no_grad()
    def color(self, points: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """The surface's own colour, in [0, 1]: whatever ``directions``, the mean over those it was seen from."""
        return self.field.color(points)

    @property
    def occupied(self) -> Bool[Tensor, "r r r"]:
        """Cells that rays could be sampled in: what the distance is elsewhere, no photograph has told."""
        return self.head.grid.allowed
