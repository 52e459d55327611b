"""Multiplicative filter networks (Fathony et al. 2021): products of filters instead of compositions of layers."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon3d.config.fields import MfnConfig
from recon3d.fields.base import Network
from recon3d.fields.precision import products_as_they_are


class MultiplicativeFilterNetwork(Network):
    """z_0 = g_0(x), z_i = g_i(x) * (W_i z_{i-1} + b_i) for i = 1 .. ``depth``, and a linear layer (equation 3).

    The frequencies of the ``depth`` + 1 filters add up, so each has its share of ``input_scale``. W_i start in
    U(-1/sqrt width, 1/sqrt width), as torch makes them.
    """

    def __init__(self, in_dim: int, out_dim: int, width: int, depth: int, config: MfnConfig) -> None:
        super().__init__()
        self.in_dim, self.out_dim = in_dim, out_dim
        filters: list[nn.Module] = []
        for _ in range(depth + 1):
            scale = config.input_scale / math.sqrt(depth + 1)
            if config.filter == "fourier":
                filters.append(FourierFilter(in_dim, width, scale))
            else:
                filters.append(GaborFilter(in_dim, width, scale, config.alpha / (depth + 1), config.beta))
        self.filters = nn.ModuleList(filters)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = nn.Linear(width, out_dim)

    def _last_layer(self) -> nn.Module:
        return self.last

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        with products_as_they_are(x.device):
            x = x.to(self.last.weight.dtype)
            z = self.filters[0](x)
            for filter_, layer in zip(self.filters[1:], self.hidden, strict=True):
                z = filter_(x) * layer(z)
            return self.last(z)


class FourierFilter(nn.Module):
    """sin(A x + p), p in U(-pi, pi); A as torch makes it times ``scale`` (section 3.1)."""

    def __init__(self, in_dim: int, width: int, scale: float | Float[Tensor, "w 1"]) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, width)
        with torch.no_grad():
            self.linear.weight.mul_(scale)
        nn.init.uniform_(self.linear.bias, -math.pi, math.pi)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n w"]:
        return torch.sin(self.linear(x))


class GaborFilter(nn.Module):
    """exp(-gamma/2 |x - mu|^2) sin(A x + p): mu in U(-1, 1), gamma from Gamma(``alpha``, ``beta``), A as the Fourier
    filter's times sqrt gamma, so that narrow filters have high frequencies (section 3.2)."""

    def __init__(self, in_dim: int, width: int, scale: float, alpha: float, beta: float) -> None:
        super().__init__()
        self.mu = nn.Parameter(2 * torch.rand(width, in_dim) - 1)
        self.gamma = nn.Parameter(torch.distributions.Gamma(alpha, beta).sample((width,)))
        self.wave = FourierFilter(in_dim, width, scale * self.gamma.detach().sqrt().unsqueeze(-1))

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n w"]:
        distance = x.square().sum(-1, keepdim=True) + self.mu.square().sum(-1) - 2 * x @ self.mu.t()
        return torch.exp(-0.5 * self.gamma * distance) * self.wave(x)
