"""WIRE: a network of complex Gabor wavelets (Saragadam et al. 2023)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from recon3d.config.fields import WireConfig
from recon3d.fields.activations import falling_exp
from recon3d.fields.base import Network
from recon3d.fields.precision import products_as_they_are


class Wire(Network):
    """exp(i omega z - |scale z|^2) of z = W h + b: a real first layer, ``depth`` complex hidden ones, a complex linear
    last one, of which the real part comes out.

    ``width`` / sqrt 2 complex units have about as many parameters as ``width`` real ones. All layers start as torch
    makes them.
    """

    def __init__(self, in_dim: int, out_dim: int, width: int, depth: int, config: WireConfig) -> None:
        super().__init__()
        self.in_dim, self.out_dim = in_dim, out_dim
        self.omega, self.first_omega, self.scale = config.omega, config.first_omega or config.omega, config.scale
        units = max(1, int(width / math.sqrt(2)))
        self.first = nn.Linear(in_dim, units)
        self.hidden = nn.ModuleList(ComplexLinear(units, units) for _ in range(depth))
        self.last = ComplexLinear(units, out_dim)

    def _last_layer(self) -> nn.Module:
        return self.last

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        with products_as_they_are(x.device):
            z = self.first(x.to(self.first.weight.dtype))
            h = gabor_wavelet(torch.complex(z, torch.zeros_like(z)), self.first_omega, self.scale)
            for layer in self.hidden:
                h = gabor_wavelet(layer(h), self.omega, self.scale)
            return self.last(h).real


class ComplexLinear(nn.Module):
    """W h + b of complex numbers, kept as pairs (real, imaginary); all start in U(-1/sqrt n, 1/sqrt n) for n inputs, as
    torch's complex linear layers do."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_dim)
        self.weight = nn.Parameter(torch.empty(out_dim, in_dim, 2).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_dim, 2).uniform_(-bound, bound))

    def forward(self, h: Complex[Tensor, "n i"]) -> Complex[Tensor, "n o"]:
        return torch.addmm(torch.view_as_complex(self.bias), h, torch.view_as_complex(self.weight).t())


def gabor_wavelet(z: Complex[Tensor, "n w"], omega: float, scale: float) -> Complex[Tensor, "n w"]:
    """exp(i omega z - |scale z|^2), as modulus and angle: |z| itself has no derivative at 0."""
    real, imaginary = z.real, z.imag
    modulus = falling_exp(omega * imaginary + scale**2 * (real * real + imaginary * imaginary))
    angle = omega * real
    return torch.complex(modulus * torch.cos(angle), modulus * torch.sin(angle))
