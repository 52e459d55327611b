"""INCODE: a SIREN whose sines are tuned by a network that has seen the measured signal (Kazerouni et al. 2024)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from recon3d.config.fields import IncodeConfig
from recon3d.fields.activations import DampedSine
from recon3d.fields.base import Network
from recon3d.fields.precision import products_as_they_are
from recon3d.kernels import damped_sine

FEATURES = 64
HARMONIZER_BIAS = 0.312
"""Of all its layers: what a, b, c and d start from, but for the small weights."""
LARGEST_GRID = 2**18
"""Samples of a signal that the feature extractor looks at; larger signals are averaged down."""


class Incode(Network):
    """h -> exp(a) sin(exp(b) omega (W h + b') + c) + d, in a first layer and ``depth`` hidden ones, then a linear layer
    of h; weights as SIREN's.

    (a, b, c, d) are what the harmonizer makes of the ``features`` of the signal. Those are computed once, in
    :meth:`observe`, and belong to the state: a restored field needs no data. Unseen, they are 0.
    """

    features: Float[Tensor, "f"]
    penalties: Float[Tensor, "4"]

    def __init__(self, in_dim: int, out_dim: int, width: int, depth: int, config: IncodeConfig) -> None:
        super().__init__()
        self.in_dim, self.out_dim = in_dim, out_dim
        first_omega = config.first_omega or config.omega
        self.omegas = [first_omega, *[config.omega] * depth]
        sizes = [in_dim, *[width] * (depth + 1), out_dim]
        layers = [nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
        hidden = DampedSine(config.omega, gain=config.gain)
        DampedSine(first_omega).initialise(layers[0], "first")
        for layer in layers[1:-1]:
            hidden.initialise(layer, "hidden")
        hidden.initialise(layers[-1], "last")
        self.layers = nn.ModuleList(layers)
        self.harmonizer = harmonizer()
        self.register_buffer("features", torch.zeros(FEATURES))
        self.register_buffer("penalties", torch.tensor(config.penalties), persistent=False)

    def _last_layer(self) -> nn.Module:
        return self.layers[-1]

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        with products_as_they_are(x.device):
            a, b, c, d = self.harmonizer(self.features)
            h = x.to(self.features.dtype)
            for layer, omega in zip(self.layers[:-1], self.omegas, strict=True):
                h = a.exp() * damped_sine(b.exp() * omega * layer(h) + c, "none") + d
            return self.layers[-1](h)

    @torch.no_grad()
    def observe(self, signal: Float[Tensor, "c ..."]) -> None:
        self.features.copy_(pooled_features(signal.to(self.features)))

    def penalty(self) -> Float[Tensor, ""]:
        """What is negative of a, b, c and d, weighted."""
        with products_as_they_are(self.features.device):
            negative = torch.relu(-self.harmonizer(self.features))
        return (negative * self.penalties.to(negative)).sum()


def harmonizer() -> nn.Module:
    """64 features -> 64 -> 32 -> (a, b, c, d), SiLU between; weights normal with deviation 0.001, biases constant."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((FEATURES, 64), (64, 32), (32, 4)):
        layer = nn.Linear(inputs, outputs)
        nn.init.trunc_normal_(layer.weight, std=0.001)
        nn.init.constant_(layer.bias, HARMONIZER_BIAS)
        layers += [layer, nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def pooled_features(signal: Float[Tensor, "c ..."]) -> Float[Tensor, "f"]:
    """The mean of what random convolutions find in a signal (C, *grid) of 1 to 3 dimensions.

    As a residual network begins: 7 wide with stride 2, halved by pooling, then 3 wide, with ReLU; the weights are
    Kaiming-normal, from torch's generator.
    """
    dim = signal.ndim - 1
    side = int(LARGEST_GRID ** (1 / dim) + 0.5)
    grid = [min(size, side) for size in signal.shape[1:]]
    convolve = (F.conv1d, F.conv2d, F.conv3d)[dim - 1]
    halve = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dim - 1]

    def kernel(inputs: int, size: int) -> Tensor:
        weight = torch.empty(FEATURES, inputs, *[size] * dim)
        return nn.init.kaiming_normal_(weight, nonlinearity="relu").to(signal)

    h = F.interpolate(signal.unsqueeze(0), grid, mode="area")
    h = torch.relu(convolve(h, kernel(len(signal), 7), stride=2, padding=3))
    h = halve(h, kernel_size=3, stride=2, padding=1)
    for _ in range(2):
        h = torch.relu(convolve(h, kernel(FEATURES, 3), padding=1))
    return h.flatten(2).mean(dim=2)[0]
