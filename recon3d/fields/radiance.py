"""The radiance field: density at a point, colour at a point seen along a direction."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from recon3d.config import RadianceFieldConfig
from recon3d.fields.encoders import build_encoder
from recon3d.fields.networks import build_network
from recon3d.fields.precision import products_in
from recon3d.fields.tcnn import small_network
from recon3d.kernels import spherical_harmonics


class TruncatedExp(torch.autograd.Function):
    """exp(x) whose gradient is that of exp(min(x, 15)), so that one hot sample cannot blow up the step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        value = torch.exp(x)
        ctx.save_for_backward(value)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (value,) = ctx.saved_tensors
        return grad * TruncatedExp.slope(value)

    @staticmethod
    def slope(value: Tensor) -> Tensor:
        """The gradient where exp is ``value``."""
        return value.clamp(max=math.exp(15.0))


class _DensityAmong(torch.autograd.Function):
    """The density exp(h_0 - 1) that the first of features h (N, F) stands for, as :class:`TruncatedExp` has it, and the
    features: their gradients are added where they lie."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> tuple[Tensor, Tensor]:
        density = (h[:, 0].float() - 1.0).exp_()
        ctx.save_for_backward(density)
        return density, h.view_as(h)

    @staticmethod
    def backward(ctx: Any, of_density: Tensor, of_features: Tensor) -> Tensor:  # type: ignore[override]
        (density,) = ctx.saved_tensors
        total = of_features.clone(memory_format=torch.contiguous_format)
        total[:, 0] += TruncatedExp.slope(density) * of_density
        return total


class RadianceField(nn.Module):
    """Encoder -> density network -> (log density, features); direction and features -> colour network -> RGB.

    Lives on [-1, 1]^3; densities are per unit of field length, colours in [0, 1]. Architecture: Müller et al. 2022,
    section 5.4; with the frequency encoder and its 8 x 256 network, Mildenhall et al. 2020. The colour network is a
    ReLU network, whatever the density network is. The networks' products are made in ``precision``, on any device;
    what comes out is float32.
    """

    def __init__(self, config: RadianceFieldConfig, precision: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.precision = precision
        assert config.width and config.depth and config.color_width and config.color_depth
        self.degree = config.direction_degree
        self.encoder = build_encoder(config, 3)
        self.density_network = build_network(config, self.encoder.out_dim, config.geometry_features)
        self.color_network = small_network(
            config,
            self.degree**2 + config.geometry_features,
            3,
            config.color_width,
            config.color_depth,
            bias=config.depth > 2,
        )

    def encode(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n e"]:
        """What the density network sees of ``x``."""
        with products_in(self.precision, x.device):
            return self.encoder(x)

    def geometry(
        self,
        x: Float[Tensor, "n 3"],
        encoded: Float[Tensor, "n e"] | None = None,
        features: Float[Tensor, "n f"] | None = None,
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n f"]]:
        """Density (N,) at field coordinates ``x``, and the features (N, F) that :meth:`shade` makes colours of.

        ``encoded`` and ``features``, where they are known, are what :meth:`encode` and this gave for ``x``; gradients
        of the weights flow all the same.
        """
        with products_in(self.precision, x.device):
            seen = self.encoder(x) if encoded is None else self.encoder.recall(x, encoded)
            h = self.density_network(seen) if features is None else self.density_network.recall(seen, features)
        return _DensityAmong.apply(h)

    def shade(
        self,
        features: Float[Tensor, "n f"],
        directions: Float[Tensor, "r 3"],
        ray_index: Int[Tensor, "n"] | None = None,
    ) -> Float[Tensor, "n 3"]:
        """Colour (N, 3) in [0, 1] of points with ``features``.

        ``directions`` are unit viewing directions, one a point or, with ``ray_index``, one a ray: point i lies on
        ray ``ray_index[i]``.
        """
        view = spherical_harmonics(directions, self.degree).to(features.dtype)
        if ray_index is not None:
            view = view.index_select(0, ray_index)
        with products_in(self.precision, features.device):
            h = self.color_network(torch.cat([view, features], dim=-1))
        return torch.sigmoid(h.float())

    def density(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """Density (N,) at ``x``, per unit of field length."""
        return self.geometry(x)[0]

    def color(self, x: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Colour (N, 3) at ``x`` seen along unit ``directions``."""
        return self.shade(self.geometry(x)[1], directions)

    def forward(
        self, x: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n 3"]]:
        """Density (N,) and colour (N, 3) at ``x`` seen along unit ``directions``."""
        sigma, features = self.geometry(x)
        return sigma, self.shade(features, directions)
