"""Learnable cosine (Chebyshev) series as torch ops that are closed under differentiation; see ``reference.py``."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.kernels.cosine_series import blocked, cpu
from recon3d.kernels.ops import op

__all__ = ["chebyshev_angle", "cosine_series"]


@op("recon3d::cosine_series")
def _series(theta: Tensor, weight: Tensor | None, coefficients: Tensor, order: int) -> Tensor:
    return blocked.series(theta, weight, coefficients, order)


@op("recon3d::cosine_series_coefficients")
def _coefficients(theta: Tensor, weight: Tensor | None, grad: Tensor, terms: int, order: int) -> Tensor:
    return blocked.coefficients(theta, weight, grad, terms, order)


@op("recon3d::cosine_series_angles")
def _angles(theta: Tensor, coefficients: Tensor, grad: Tensor, order: int) -> Tensor:
    return blocked.angles(theta, coefficients, grad, order)


@_series.register_fake
def _(theta, weight, coefficients, order):
    return theta.new_empty(theta.shape[0], coefficients.shape[1])


@_coefficients.register_fake
def _(theta, weight, grad, terms, order):
    return theta.new_empty(theta.shape[1], grad.shape[1], terms)


@_angles.register_fake
def _(theta, coefficients, grad, order):
    return torch.empty_like(theta, memory_format=torch.contiguous_format)


def _weighted(weight: Tensor | None, value: Tensor) -> Tensor:
    return value if weight is None else weight * value


def _save_series(ctx, inputs, output):
    theta, weight, coefficients, ctx.order = inputs
    ctx.save_for_backward(theta, weight, coefficients)


def _series_gradient(ctx, grad):
    theta, weight, coefficients = ctx.saved_tensors
    need_theta, need_weight, need_coefficients, _ = ctx.needs_input_grad
    to_theta = _weighted(weight, _angles(theta, coefficients, grad, ctx.order + 1)) if need_theta else None
    to_weight = _angles(theta, coefficients, grad, ctx.order) if need_weight else None
    terms = coefficients.shape[2]
    to_coefficients = _coefficients(theta, weight, grad, terms, ctx.order) if need_coefficients else None
    return to_theta, to_weight, to_coefficients, None


def _save_coefficients(ctx, inputs, output):
    theta, weight, grad, _, ctx.order = inputs
    ctx.save_for_backward(theta, weight, grad)


def _coefficients_gradient(ctx, outer):
    theta, weight, grad = ctx.saved_tensors
    need_theta, need_weight, need_grad, _, _ = ctx.needs_input_grad
    to_theta = _weighted(weight, _angles(theta, outer, grad, ctx.order + 1)) if need_theta else None
    to_weight = _angles(theta, outer, grad, ctx.order) if need_weight else None
    to_grad = _series(theta, weight, outer, ctx.order) if need_grad else None
    return to_theta, to_weight, to_grad, None, None


def _save_angles(ctx, inputs, output):
    theta, coefficients, grad, ctx.order = inputs
    ctx.save_for_backward(theta, coefficients, grad)


def _angles_gradient(ctx, outer):
    theta, coefficients, grad = ctx.saved_tensors
    need_theta, need_coefficients, need_grad, _ = ctx.needs_input_grad
    to_theta = outer * _angles(theta, coefficients, grad, ctx.order + 1) if need_theta else None
    terms = coefficients.shape[2]
    to_coefficients = _coefficients(theta, outer, grad, terms, ctx.order) if need_coefficients else None
    to_grad = _series(theta, outer, coefficients, ctx.order) if need_grad else None
    return to_theta, to_coefficients, to_grad, None


_series.register_autograd(_series_gradient, setup_context=_save_series)
_coefficients.register_autograd(_coefficients_gradient, setup_context=_save_coefficients)
_angles.register_autograd(_angles_gradient, setup_context=_save_angles)

_series.register_kernel("cpu", cpu.series)
_coefficients.register_kernel("cpu", cpu.coefficients)
_angles.register_kernel("cpu", cpu.angles)
if torch.cuda.is_available():
    from recon3d.kernels.cosine_series import cuda

    _series.register_kernel("cuda", cuda.series)
    _coefficients.register_kernel("cuda", cuda.coefficients)
    _angles.register_kernel("cuda", cuda.angles)


def cosine_series(
    theta: Float[Tensor, "n d"], coefficients: Float[Tensor, "d width terms"]
) -> Float[Tensor, "n width"]:
    """sum_i sum_k coefficients[i, :, k] cos(k theta[:, i]), k from 0 to K - 1; angles and coefficients of one type.

    Differentiable any number of times. Only the arguments are kept for the backward pass, and no more features than
    fit in cache exist at a time.
    """
    return _series(theta, None, coefficients, 0)


def chebyshev_angle(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """theta = arccos(tanh x), so that cos(k theta) is the Chebyshev polynomial T_k(tanh x).

    As 2 arctan(exp(-x)) its derivative is -1 / cosh(x), without the singularity of arccos where tanh saturates. The
    exponential is taken of -|x|, so that neither it nor a derivative overflows.
    """
    sign = torch.ones_like(x).copysign(x.detach())
    angle = 2 * (-x * sign).exp().atan()
    return torch.where(sign < 0, torch.pi - angle, angle)
