"""A small ReLU network without biases as one torch op; see ``reference.py`` for the conventions."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.kernels.mlp import cpu, reference
from recon3d.kernels.ops import op


@op("recon3d::mlp")
def _mlp(x: Tensor, weights: list[Tensor], compute: torch.dtype) -> Tensor:
    return reference.forward(x, weights, compute)


@_mlp.register_fake
def _(x, weights, compute):
    return x.new_empty(x.shape[0], weights[-1].shape[0], dtype=compute)


@op("recon3d::mlp_backward")
def _backward(
    grad: Tensor, x: Tensor, weights: list[Tensor], compute: torch.dtype, need_x: bool
) -> tuple[Tensor, list[Tensor]]:
    return reference.backward(grad, x, weights, compute, need_x)


@_backward.register_fake
def _(grad, x, weights, compute, need_x):
    return (torch.empty_like(x) if need_x else x.new_empty(0)), [torch.empty_like(weight) for weight in weights]


def _save(ctx, inputs, output):
    x, weights, ctx.compute = inputs
    ctx.save_for_backward(x, *weights)


def _gradient(ctx, grad):
    x, *weights = ctx.saved_tensors
    # Where derivatives of the gradient are wanted, in operations that have them.
    backward = reference.backward if torch.is_grad_enabled() else _backward
    grad_x, grad_weights = backward(grad.contiguous(), x, weights, ctx.compute, ctx.needs_input_grad[0])
    return (grad_x if ctx.needs_input_grad[0] else None), grad_weights, None


_mlp.register_autograd(_gradient, setup_context=_save)

_mlp.register_kernel("cpu", cpu.forward)
_backward.register_kernel("cpu", cpu.backward)
if torch.cuda.is_available():
    from recon3d.kernels.mlp import cuda

    _mlp.register_kernel("cuda", cuda.forward)
    _backward.register_kernel("cuda", cuda.backward)


def relu_mlp(
    x: Float[Tensor, "n i"], weights: list[Float[Tensor, "_ _"]], compute: torch.dtype | None = None
) -> Float[Tensor, "n o"]:
    """y = W_n relu(... relu(W_1 x)) for rows ``x`` (N, in) and ``weights`` of shapes (out, in).

    Products are made in ``compute`` (default: the type of ``x``), which is also the type of y.
    """
    return _mlp(x, weights, compute or x.dtype)


class _Recall(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, *weights)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, *weights = ctx.saved_tensors
        grad_x, grad_weights = _backward(grad.contiguous(), x, weights, grad.dtype, ctx.needs_input_grad[0])
        return (grad_x if ctx.needs_input_grad[0] else None), None, *grad_weights


def relu_mlp_recall(
    x: Float[Tensor, "n i"], weights: list[Float[Tensor, "_ _"]], values: Float[Tensor, "n o"]
) -> Float[Tensor, "n o"]:
    """``relu_mlp(x, weights, values.dtype)`` where its ``values`` are known: only gradients are computed, once."""
    return _Recall.apply(x, values, *weights)
