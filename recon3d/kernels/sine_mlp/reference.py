"""The network of damped sines in plain torch: the truth that the fast implementation is tested against.

h_0 = x, h_l = s(omega_l (W_l h_{l-1} + b_l)) for the hidden layers, y = W h + b for the last one, with
s(z) = sin(z) d(z) of :mod:`recon3d.kernels.sine`. Weights are (out, in). What a backward pass wants to know of the
hidden layers is ``kept`` (2, layers, N, width): h_l, and its slope omega_l s'(z_l), in the order of the layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recon3d.kernels.sine import damped_sine


def forward(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], omegas: list[float], damping: str
) -> tuple[Tensor, Tensor]:
    """Outputs (N, out) of inputs ``x`` (N, in), and what is kept."""
    values, slopes = layers(x, weights, biases, omegas, damping)
    out = torch.addmm(biases[-1], values[-1], weights[-1].t())
    return out, torch.stack([torch.stack(values), torch.stack(slopes)])


def layers(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], omegas: list[float], damping: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Values and slopes of the hidden layers."""
    values, slopes, h = [], [], x
    for weight, bias, omega in zip(weights[:-1], biases[:-1], omegas, strict=True):
        z = omega * torch.addmm(bias, h, weight.t())
        h = damped_sine(z, damping)
        values.append(h)
        slopes.append(omega * damped_sine(z, damping, 1))
    return values, slopes


def backward(
    grad: Tensor, x: Tensor, values: list[Tensor], slopes: list[Tensor], weights: list[Tensor], need_x: bool
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Gradients of x (empty if not needed), the weights and the biases."""
    inputs = [x, *values]
    grad_weights, grad_biases = [], []
    for layer in reversed(range(len(weights))):
        if layer < len(slopes):
            grad = grad * slopes[layer]
        grad_weights.append(grad.t() @ inputs[layer])
        grad_biases.append(grad.sum(0))
        if layer > 0 or need_x:
            grad = grad @ weights[layer]
    return (grad if need_x else x.new_empty(0)), grad_weights[::-1], grad_biases[::-1]
