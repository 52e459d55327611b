"""Real spherical harmonics of directions as one torch op; see ``reference.py`` for the conventions."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.kernels.ops import op
from recon3d.kernels.spherical_harmonics import cpu, reference
from recon3d.kernels.spherical_harmonics.reference import HIGHEST_DEGREE


@op("recon3d::spherical_harmonics")
def _values(directions: Tensor, degree: int) -> Tensor:
    return reference.values(directions, degree)


@_values.register_fake
def _(directions, degree):
    return directions.new_empty(directions.shape[0], degree**2)


@op("recon3d::spherical_harmonics_backward")
def _backward(grad: Tensor, directions: Tensor, degree: int) -> Tensor:
    return reference.backward(grad, directions, degree)


@_backward.register_fake
def _(grad, directions, degree):
    return torch.empty_like(directions, memory_format=torch.contiguous_format)


def _save(ctx, inputs, output):
    directions, ctx.degree = inputs
    ctx.save_for_backward(directions)


def _gradient(ctx, grad):
    return _backward(grad, *ctx.saved_tensors, ctx.degree), None


_values.register_autograd(_gradient, setup_context=_save)


def _save_backward(ctx, inputs, output):
    grad, directions, ctx.degree = inputs
    ctx.save_for_backward(grad, directions)


def _second_order(ctx, grad_of_slopes):
    """Second derivatives, through the reference: for fields of the direction that are supervised by their slopes."""
    grad, directions = (t.detach().requires_grad_() for t in ctx.saved_tensors)
    with torch.enable_grad():
        slopes = reference.backward(grad, directions, ctx.degree)
        to_grad, to_directions = torch.autograd.grad(slopes, (grad, directions), grad_of_slopes, materialize_grads=True)
    return to_grad, to_directions, None


_backward.register_autograd(_second_order, setup_context=_save_backward)

_values.register_kernel("cpu", cpu.values)
_backward.register_kernel("cpu", cpu.backward)
if torch.cuda.is_available():
    from recon3d.kernels.spherical_harmonics import cuda

    _values.register_kernel("cuda", cuda.values)
    _backward.register_kernel("cuda", cuda.backward)


def spherical_harmonics(directions: Float[Tensor, "n 3"], degree: int) -> Float[Tensor, "n k"]:
    """Real spherical harmonics (N, degree^2) of unit ``directions`` (N, 3): the bands below ``degree``, 1 to 4.

    Differentiable in ``directions``, twice. Half-precision directions are computed in float32.
    """
    if not 1 <= degree <= HIGHEST_DEGREE:
        raise ValueError(f"spherical harmonics are here of degree 1 to {HIGHEST_DEGREE}, not {degree}")
    return _values(directions, degree)
