"""A field: values at coordinates, and their derivatives."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon3d.config import FieldConfig
from recon3d.fields.encoders import build_encoder
from recon3d.fields.networks import build_network
from recon3d.fields.precision import products_in


class Field(nn.Module):
    """Encoder and network of a resolved configuration: (N, d) on [-1, 1]^d to (N, c).

    The network's products are made in ``precision``, on any device; what comes out has the type of what goes in.
    """

    def __init__(self, config: FieldConfig, in_dim: int, out_dim: int, precision: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.in_dim, self.out_dim, self.precision = in_dim, out_dim, precision
        self.encoder = build_encoder(config, in_dim)
        self.network = build_network(config, self.encoder.out_dim, out_dim)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        with products_in(self.precision, x.device):
            return self.network(self.encoder(x)).to(x.dtype)

    def gradient(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n c d"]:
        """The derivative of every value in every coordinate at ``x``, by autograd; differentiable again.

        FINER's is the one its training uses, with the factor |z| + 1 held constant.
        """
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            rows = [slope_of(value, x) for value in self(x).unbind(dim=1)]
        gradient = torch.stack(rows, dim=1)
        return gradient if torch.is_grad_enabled() else gradient.detach()

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


def slope_of(value: Float[Tensor, "n"], x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """d value / d x (N, d), point by point; 0 where the value does not depend on x. Differentiable again."""
    if not value.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(value.sum(), x, create_graph=True, materialize_grads=True)[0]
