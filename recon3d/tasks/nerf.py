"""The NeRF task: posed photographs supervise a radiance field through the volume-rendering head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from recon3d import distributed
from recon3d.config import NerfConfig, OptimizerConfig
from recon3d.fields.groups import parameter_groups
from recon3d.fields.radiance import RadianceField
from recon3d.heads.fixed import Capacity, FixedRendering, render_within
from recon3d.heads.volume import Rendering, VolumeRenderer
from recon3d.tasks.photographs import PhotographsTask, color_error, composite_pixels

MARCHED = 4
"""Room for samples in occupied cells, in units of the samples a step aims at; most of them no light reaches."""
ROOM = 1.25
"""Room for those that light reaches: their number varies from step to step."""


class NerfTask(PhotographsTask):
    """Radiance field, volume renderer and the photographs that train them."""

    config: NerfConfig
    field: RadianceField
    head: VolumeRenderer

    def parts(
        self, precision: torch.dtype, allowed: Bool[Tensor, "r r r"] | None
    ) -> tuple[RadianceField, VolumeRenderer]:
        return RadianceField(self.config.field, precision), VolumeRenderer(self.config.head, allowed)

    def observe(self, picture: Float[Tensor, "3 h w"]) -> None:
        self.field.density_network.observe(picture)

    def parameter_groups(self, config: OptimizerConfig) -> list[dict[str, Any]]:
        field = self.field
        return parameter_groups([field.density_network, field.color_network], [field.encoder], config)

    @property
    def recordable(self) -> bool:
        """Whether :meth:`device_step` can stand in for a training step: on a GPU that this process has for itself."""
        alone = self.device.type == "cuda" and distributed.processes() == 1
        return alone and self.config.field.backend == "own"

    def device_step(self, backward: Callable[[Tensor], None]) -> None:
        """A training step after :meth:`prepare_step`, without a word to the host: all sizes are fixed.

        It draws as many rays as there may be, of which the first ``rays_per_step`` count, but for those that do not
        fit into the buffers.
        """
        config, count = self.config, self.config.max_rays
        rays, target = self._batch(count)
        background = self._background(count)
        wanted = torch.arange(count, device=self.device) < self.rays_per_step
        capacity = Capacity(MARCHED * config.samples, int(ROOM * config.samples))
        fixed = render_within(self.head, self.field, rays, wanted, self.uniform(count), capacity)
        rendering, counts = fixed.rendering, fixed.whole.unsqueeze(1)
        prediction = rendering.color + (1 - rendering.opacity)[:, None] * background
        truth = composite_pixels(target, background)
        # Rays that do not count are right, and the mean is over those that do.
        share = count / fixed.whole.sum().clamp_min(1)
        loss = share * self.mean_of_pixels(color_error(config.loss, torch.where(counts, prediction, truth), truth))
        penalty = self.field.density_network.penalty()
        backward(loss if penalty is None else loss + penalty)
        self._adapt_on_device(fixed, capacity)

    def _adapt_on_device(self, fixed: FixedRendering, capacity: Capacity) -> None:
        """As :meth:`_adapt_batch`, and such that the samples along all rays fit."""
        rays = self.rays_per_step.clone()
        fill = torch.maximum(fixed.lit / self.config.samples, fixed.marched / (0.9 * capacity.marched))
        wanted = (rays / fill.clamp_min(1e-6)).clamp(0.5 * rays, 2.0 * rays)
        self.rays_per_step.copy_(wanted.clamp(64.0, float(self.config.max_rays)).floor())

    def loss_terms(
        self,
        step: int,
        rendering: Rendering,
        prediction: Float[Tensor, "n 3"],
        truth: Float[Tensor, "n 3"],
        target: UInt8[Tensor, "n c"],
    ) -> dict[str, Float[Tensor, ""]]:
        terms = {"color": self.mean_of_pixels(color_error(self.config.loss, prediction, truth))}
        penalty = self.field.density_network.penalty()
        if penalty is not None:
            terms["penalty"] = distributed.once(penalty)
        return terms
