"""The NeRF task: posed photographs supervise a radiance field through the volume-rendering head."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from recon3d import distributed
from recon3d.config import NerfConfig, OptimizerConfig
from recon3d.fields.groups import parameter_groups
from recon3d.fields.radiance import RadianceField
from recon3d.heads.volume import Rendering, VolumeRenderer
from recon3d.tasks.photographs import PhotographsTask, color_loss


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

    def loss_terms(
        self,
        step: int,
        rendering: Rendering,
        prediction: Float[Tensor, "n 3"],
        truth: Float[Tensor, "n 3"],
        target: UInt8[Tensor, "n c"],
    ) -> dict[str, Float[Tensor, ""]]:
        terms = {"color": color_loss(self.config.loss, prediction, truth)}
        penalty = self.field.density_network.penalty()
        if penalty is not None:
            terms["penalty"] = distributed.once(penalty)
        return terms
