"""What is known of attenuation besides fields: what they begin as, what variation costs, and what they left out."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from recon3d.config import CtConfig
from recon3d.geometry.voxels import VolumeGrid
from recon3d.heads.projection import total_variation
from recon3d.heads.variation import steered_variation, steering


class Prior(nn.Module):
    """Volumes beside the fields, and the fields' total variation, steered or not; a checkpoint keeps them."""

    start: Float[Tensor, "nz ny nx"] | None
    """Before the activation, on the voxels; None: fields are not added to anything."""
    rest: Float[Tensor, "nz ny nx"] | None
    """What the fields have left of the projections, in 1/mm, on the voxels; None: nothing is looked for."""
    weight: Float[Tensor, ""]
    """Of the total variation beside the mean error."""
    metric: Float[Tensor, "members d d nz ny nx"] | None
    """What steers each field's total variation."""

    def __init__(self, config: CtConfig, grid: VolumeGrid) -> None:
        super().__init__()
        self.grid, self.smoothing, self.steering = grid, config.tv_smoothing, config.steering
        started, directions = config.start != "nothing", sum(n > 1 for n in grid.shape)
        self.register_buffer("start", torch.zeros(grid.shape) if started else None)
        self.register_buffer("rest", torch.zeros(grid.shape) if config.refine else None)
        self.register_buffer("weight", torch.tensor(config.tv), persistent=started)
        steered = config.steering.edge > 0
        metric = torch.zeros(config.ensemble, directions, directions, *grid.shape) if steered else None
        self.register_buffer("metric", metric)

    def at(self, volume: Float[Tensor, "nz ny nx"], points: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """One of the volumes at points of the fields' cube: between the voxels' middles linearly."""
        cube = self.grid.normalizer()
        place = points.new_zeros(len(points), 3)
        for axis in range(points.shape[1]):
            from_middle = points[:, axis] * cube.half_size + (cube.center[axis] - self.grid.center[axis])
            place[:, axis] = from_middle * (2 / self.grid.size[axis])
        found = F.grid_sample(volume[None, None], place[None, None, None], align_corners=False, padding_mode="border")
        return found.flatten()

    def forget(self) -> None:
        """The fields are to change: what they left out is known no longer."""
        if self.rest is not None:
            self.rest.zero_()

    def variation(self, volume: Float[Tensor, "nz ny nx"], step: int, member: int) -> Float[Tensor, ""]:
        """The total variation of a field's volume, times its weight."""
        if self.metric is None:
            return self.weight * total_variation(volume, self.grid.spacing, self.smoothing)
        if step % self.steering.update_every == 0:
            self.metric[member] = steering(volume.detach(), self.grid.spacing, self.steering)
        return self.weight * steered_variation(volume, self.metric[member], self.grid.spacing, self.smoothing)
