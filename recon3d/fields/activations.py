"""Activations: functions of a layer's pre-activation z = W x + b that know how such a layer is initialised.

Periodic activations owe their success to the initial weights as much as to the function, so the two are kept together.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from recon3d.config.fields import Damping
from recon3d.fields.precision import products_as_they_are
from recon3d.kernels import damped_sine

Place = Literal["first", "hidden", "last"]
"""Where a layer stands: the first makes the first pre-activation, the last makes the network's output."""


class Activation(nn.Module):
    """Base of the activations.

    ``exact``: the places of layers that are not made in less than float32, whatever the precision of the products
    around them. Where the function magnifies errors of z, that is all of them.
    """

    exact: tuple[Place, ...] = ("first", "hidden", "last")

    def forward(self, z: Float[Tensor, "n w"]) -> Float[Tensor, "n w"]:
        raise NotImplementedError

    def after(self, layer: nn.Linear, x: Float[Tensor, "n v"]) -> Float[Tensor, "n w"]:
        """The activation of ``layer(x)``; overridden where the two together cost less."""
        return self(layer(x))

    def products(self, place: Place, device: torch.device) -> AbstractContextManager[Any]:
        """Inside, a layer at ``place`` is made as ``exact`` says."""
        return products_as_they_are(device) if place in self.exact else nullcontext()

    def initialise(self, layer: nn.Linear, place: Place) -> None:
        """Initial weights and biases of a network's ``layer`` at ``place``."""
        raise NotImplementedError


class Relu(Activation):
    """max(0, z); weights from N(0, 2 / n) of a layer with n inputs (He et al. 2015), biases 0.

    The last layer, which no ReLU follows, has PyTorch's uniform weights, of variance 1 / (3 n), where it has a bias:
    with 2 / n the field would begin as a constant as large as the data, another one for every draw, and the first steps
    would go into undoing it. The small networks without biases keep 2 / n: most see features of a hash grid, which
    begin near 0, and so do they.
    """

    exact = ()

    def forward(self, z: Float[Tensor, "n w"]) -> Float[Tensor, "n w"]:
        return torch.relu(z)

    def initialise(self, layer: nn.Linear, place: Place) -> None:
        if place == "last" and layer.bias is not None:
            bound = layer.in_features**-0.5
            nn.init.uniform_(layer.weight, -bound, bound)
        else:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class DampedSine(Activation):
    """sin(omega z) d(omega z): SIREN's without damping (Sitzmann et al. 2020), SPDER's with (equation 3).

    The damping sees the multiplied argument: the reading of SPDER's text that reproduces its figures. Arguments of
    hidden layers are of size 1, and may be rounded; those of the first are coordinates times omega.
    """

    exact = ("first", "last")

    def __init__(self, omega: float, damping: Damping = "none", gain: float = 1.0) -> None:
        super().__init__()
        self.omega, self.damping, self.gain = omega, damping, gain

    def forward(self, z: Float[Tensor, "n w"]) -> Float[Tensor, "n w"]:
        return damped_sine(self.omega * z, self.damping)

    def after(self, layer: nn.Linear, x: Float[Tensor, "n v"]) -> Float[Tensor, "n w"]:
        # omega times the weights instead of the activations: a few thousand products instead of millions.
        bias = None if layer.bias is None else self.omega * layer.bias
        return damped_sine(functional.linear(x, self.omega * layer.weight, bias), self.damping)

    def initialise(self, layer: nn.Linear, place: Place) -> None:
        initialise_for_sine(layer, place, self.omega, self.gain)


class Finer(Activation):
    """sin(omega (|z| + 1) z), the factor |z| + 1 without a gradient (Liu et al. 2024).

    Weights as SIREN's; the first layer's biases are drawn from U(-first_bias, first_bias) where that is given.
    """

    def __init__(self, omega: float, gain: float = 1.0, first_bias: float | None = None) -> None:
        super().__init__()
        self.omega, self.gain, self.first_bias = omega, gain, first_bias

    def forward(self, z: Float[Tensor, "n w"]) -> Float[Tensor, "n w"]:
        return damped_sine(self.omega * (z.detach().abs() + 1) * z, "none")

    def initialise(self, layer: nn.Linear, place: Place) -> None:
        initialise_for_sine(layer, place, self.omega, self.gain)
        if place == "first" and self.first_bias is not None:
            nn.init.uniform_(layer.bias, -self.first_bias, self.first_bias)


class Gauss(Activation):
    """exp(-(scale z)^2) (Ramasinghe and Lucey 2022); layers start as torch makes them."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, z: Float[Tensor, "n w"]) -> Float[Tensor, "n w"]:
        return falling_exp((self.scale * z).square())

    def initialise(self, layer: nn.Linear, place: Place) -> None:
        pass


def falling_exp(x: Float[Tensor, "n w"]) -> Float[Tensor, "n w"]:
    """exp(-x), never below exp(-80), where its derivative is 0.

    What is smaller soon leaves the normal range of float32, and a CPU then takes ten times as long for a step.
    """
    return torch.exp(-x.clamp_max(80.0))


def initialise_for_sine(layer: nn.Linear, place: Place, omega: float, gain: float = 1.0) -> None:
    """Weights of a layer with n inputs as SIREN's (Sitzmann et al. 2020, section 3.2): U(-1/n, 1/n) in the first layer,
    U(-r, r) with r = sqrt(6/n) / omega after it, the hidden ones times ``gain``. Biases stay as torch makes them."""
    inputs = layer.in_features
    bound = 1 / inputs if place == "first" else math.sqrt(6 / inputs) / omega
    bound *= gain if place == "hidden" else 1.0
    nn.init.uniform_(layer.weight, -bound, bound)
