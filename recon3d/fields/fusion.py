"""The fusion block of SL2A (Heidari et al. 2024, section 3.2): ReLU layers modulated by the encoder's output."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon3d.config.fields import FusionConfig
from recon3d.fields.base import Network


class Fusion(Network):
    """y_1 = Psi, then ``depth`` layers y_l = ReLU(W_l (y_{l-1} * Psi) + b_l) (equation 5) and a linear one of y * Psi.

    Psi is the network's input, as wide as its layers. With a rank every W is a product U V through so many channels,
    the last one too: the published parameter counts say so. Without skips the products are left out, and a plain ReLU
    network of Psi remains (section 4, the ablation).
    """

    def __init__(self, in_dim: int, out_dim: int, depth: int, config: FusionConfig) -> None:
        super().__init__()
        self.in_dim, self.out_dim, self.skips = in_dim, out_dim, config.skips
        self.hidden = nn.ModuleList(linear(in_dim, in_dim, config.rank) for _ in range(depth))
        self.last = linear(in_dim, out_dim, config.rank)

    def _last_layer(self) -> nn.Module:
        return self.last

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        y = x
        for layer in self.hidden:
            y = torch.relu(layer(y * x if self.skips else y))
        return self.last(y * x if self.skips else y)


def linear(in_dim: int, out_dim: int, rank: int | None) -> nn.Module:
    """A linear layer, or one of low rank: in -> rank without bias -> out (both Kaiming-uniform with a = sqrt 5)."""
    if rank is None:
        return nn.Linear(in_dim, out_dim)
    return nn.Sequential(nn.Linear(in_dim, rank, bias=False), nn.Linear(rank, out_dim))
