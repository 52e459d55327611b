"""The small ReLU network without biases in plain torch: the truth that the fast implementations are tested against.

y = W_n relu(W_{n-1} ... relu(W_1 x)); weights are (out, in), products are made in ``compute``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def forward(x: Tensor, weights: list[Tensor], compute: torch.dtype) -> Tensor:
    """Outputs (N, out) of inputs ``x`` (N, in), in the type ``compute``."""
    small = [weight.to(compute) for weight in weights]
    return layer_inputs(x.to(compute), small)[-1] @ small[-1].t()


def layer_inputs(x: Tensor, weights: list[Tensor]) -> list[Tensor]:
    """What each layer gets: x and the hidden activations."""
    inputs = [x]
    for weight in weights[:-1]:
        inputs.append(torch.relu(inputs[-1] @ weight.t()))
    return inputs


def backward(
    grad: Tensor, x: Tensor, weights: list[Tensor], compute: torch.dtype, need_x: bool
) -> tuple[Tensor, list[Tensor]]:
    """Gradients of x (empty if not needed) and of the weights, each in its own type. The activations are made again."""
    small = [weight.to(compute) for weight in weights]
    inputs = layer_inputs(x.to(compute), small)
    grad = grad.to(compute)
    grad_weights = []
    for layer in reversed(range(len(small))):
        grad_weights.append((grad.t() @ inputs[layer]).to(weights[layer].dtype))
        if layer > 0:
            grad = (grad @ small[layer]) * (inputs[layer] > 0)
    grad_x = (grad @ small[0]).to(x.dtype) if need_x else x.new_empty(0)
    return grad_x, grad_weights[::-1]
