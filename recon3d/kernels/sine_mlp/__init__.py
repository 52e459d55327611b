"""A network of damped sines, SIREN's and SPDER's, as one torch op; see ``reference.py`` for the conventions."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.kernels.ops import op
from recon3d.kernels.sine_mlp import cpu, reference


@op("recon3d::sine_mlp")
def _mlp(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], omegas: list[float], damping: str, keep: bool
) -> tuple[Tensor, Tensor]:
    out, kept = reference.forward(x, weights, biases, omegas, damping)
    return out, kept if keep else kept[:, :, :0].clone()


@_mlp.register_fake
def _(x, weights, biases, omegas, damping, keep):
    rows = x.shape[0] if keep else 0
    kept = x.new_empty(2, len(omegas), rows, weights[0].shape[0])
    return x.new_empty(x.shape[0], weights[-1].shape[0]), kept


@op("recon3d::sine_mlp_backward")
def _backward(
    grad: Tensor, x: Tensor, kept: Tensor, weights: list[Tensor], need_x: bool
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    return reference.backward(grad, x, list(kept[0]), list(kept[1]), weights, need_x)


@_backward.register_fake
def _(grad, x, kept, weights, need_x):
    biases = [weight.new_empty(weight.shape[0]) for weight in weights]
    return (torch.empty_like(x) if need_x else x.new_empty(0)), [torch.empty_like(w) for w in weights], biases


def _save(ctx, inputs, output):
    x, weights, biases, ctx.omegas, ctx.damping, _ = inputs
    ctx.layers = len(weights)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, output[1], *weights, *biases)


def _gradient(ctx, grad, _):
    x, kept, *parameters = ctx.saved_tensors
    weights, biases = parameters[: ctx.layers], parameters[ctx.layers :]
    need_x = ctx.needs_input_grad[0]
    if grad is None:  # of an output that nobody uses
        nothing = [None] * ctx.layers
        return None, nothing, nothing, None, None, None
    if torch.is_grad_enabled():  # derivatives of the gradient are wanted: in operations that have them
        values, slopes = reference.layers(x, weights, biases, ctx.omegas, ctx.damping)
        grad_x, grad_weights, grad_biases = reference.backward(grad, x, values, slopes, weights, need_x)
    else:
        grad_x, grad_weights, grad_biases = _backward(grad.contiguous(), x, kept, weights, need_x)
    return (grad_x if need_x else None), grad_weights, grad_biases, None, None, None


_mlp.register_autograd(_gradient, setup_context=_save)

_mlp.register_kernel("cpu", cpu.forward)
_backward.register_kernel("cpu", cpu.backward)


def sine_mlp(
    x: Float[Tensor, "n i"],
    weights: list[Float[Tensor, "_ _"]],
    biases: list[Float[Tensor, "_"]],
    omegas: list[float],
    damping: str,
) -> Float[Tensor, "n o"]:
    """y = W h + b of the last of the hidden layers h_l = s(omega_l (W_l h_{l-1} + b_l)) of rows h_0 = ``x`` (N, in).

    ``weights`` are (out, in); the hidden layers, one for each of ``omegas``, have one width; s is
    :func:`recon3d.kernels.damped_sine` with ``damping``. Derivatives can be taken up to the third.
    """
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *weights, *biases))
    return _mlp(x, weights, biases, omegas, damping, keep)[0]
