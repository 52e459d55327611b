"""Periodic activations sin(x) d(x) as one torch op; see ``reference.py`` for the conventions."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.kernels.ops import op
from recon3d.kernels.sine import cpu, reference
from recon3d.kernels.sine.reference import DAMPINGS, HIGHEST_ORDER

__all__ = ["DAMPINGS", "damped_sine"]


@op("recon3d::damped_sine")
def _sine(x: Tensor, damping: str, order: int) -> Tensor:
    return reference.damped_sine(x, damping, order)


@op("recon3d::damped_sine_backward")
def _backward(grad: Tensor, x: Tensor, damping: str, order: int) -> Tensor:
    return reference.sine_backward(grad, x, damping, order)


@_sine.register_fake
def _(x, damping, order):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_backward.register_fake
def _(grad, x, damping, order):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save(ctx, inputs, output):
    x, ctx.damping, ctx.order = inputs
    ctx.save_for_backward(x)


def _gradient(ctx, grad):
    (x,) = ctx.saved_tensors
    return _differentiate(grad, x, ctx.damping, ctx.order), None, None


def _differentiate(grad: Tensor, x: Tensor, damping: str, order: int) -> Tensor:
    if order >= HIGHEST_ORDER:
        raise NotImplementedError(f"damped_sine has derivatives up to order {HIGHEST_ORDER}, not {order + 1}")
    return _backward(grad, x, damping, order)


_sine.register_autograd(_gradient, setup_context=_save)


def _save_backward(ctx, inputs, output):
    grad, x, ctx.damping, ctx.order = inputs
    ctx.save_for_backward(grad, x)


def _second_order(ctx, grad_of_grad_x):
    """The gradient of x is grad * s^(order + 1)(x): linear in grad, and one order higher in x."""
    grad, x = ctx.saved_tensors
    need_grad, need_x = ctx.needs_input_grad[:2]
    to_grad = _backward(grad_of_grad_x, x, ctx.damping, ctx.order) if need_grad else None
    to_x = _differentiate(grad_of_grad_x * grad, x, ctx.damping, ctx.order + 1) if need_x else None
    return to_grad, to_x, None, None


_backward.register_autograd(_second_order, setup_context=_save_backward)

_sine.register_kernel("cpu", cpu.damped_sine)
_backward.register_kernel("cpu", cpu.sine_backward)
if torch.cuda.is_available():
    from recon3d.kernels.sine import cuda

    _sine.register_kernel("cuda", cuda.damped_sine)
    _backward.register_kernel("cuda", cuda.sine_backward)


def damped_sine(x: Float[Tensor, "*shape"], damping: str, order: int = 0) -> Float[Tensor, "*shape"]:
    """The derivative of ``order`` (0: the function itself) of sin(x) d(x), elementwise.

    The gradient is this function of the next order, so x is all that is kept for the backward pass, and derivatives
    can be taken up to the third: beyond, differentiating raises ``NotImplementedError``. NaN gives NaN.

    Args:
        x: any shape. Half-precision types are computed in float32.
        damping: "none" (d = 1), "sqrt" (√|x|), "log" (log|x|), "arctan" (arctan x), "sqrt_relu" (√max(x, 0)),
            "identity" (x), "relu" (max(x, 0)) or "square" (x²).
        order: 0 to 3.
    """
    if damping not in DAMPINGS:
        raise ValueError(f"no damping {damping!r}; there are {', '.join(DAMPINGS)}")
    if not 0 <= order <= HIGHEST_ORDER:
        raise NotImplementedError(f"damped_sine has derivatives of order 0 to {HIGHEST_ORDER}, not {order}")
    return _sine(x, damping, order)
