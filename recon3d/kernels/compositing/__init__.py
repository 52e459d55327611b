"""Compositing of packed samples along rays as one torch op; see ``reference.py`` for the conventions."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon3d.kernels.compositing import cpu, reference
from recon3d.kernels.ops import op


@op("recon3d::composite")
def _composite(
    sigma: Tensor, rgb: Tensor, t: Tensor, dt: Tensor, offsets: Tensor, early_stop: float
) -> tuple[Tensor, Tensor, Tensor]:
    return reference.composite(sigma, rgb, t, dt, offsets, early_stop)


@_composite.register_fake
def _(sigma, rgb, t, dt, offsets, early_stop):
    rays = offsets.shape[0] - 1
    return rgb.new_empty(rays, rgb.shape[1]), t.new_empty(rays), t.new_empty(rays)


@op("recon3d::composite_backward")
def _backward(
    grad_color: Tensor,
    grad_depth: Tensor,
    grad_opacity: Tensor,
    sigma: Tensor,
    rgb: Tensor,
    t: Tensor,
    dt: Tensor,
    offsets: Tensor,
    early_stop: float,
) -> tuple[Tensor, Tensor]:
    return reference.composite_backward(grad_color, grad_depth, grad_opacity, sigma, rgb, t, dt, offsets, early_stop)


@_backward.register_fake
def _(grad_color, grad_depth, grad_opacity, sigma, rgb, t, dt, offsets, early_stop):
    return torch.empty_like(sigma), torch.empty_like(rgb)


def _save(ctx, inputs, output):
    *tensors, ctx.early_stop = inputs
    ctx.save_for_backward(*tensors)


def _gradient(ctx, grad_color, grad_depth, grad_opacity):
    grads = [grad.contiguous() for grad in (grad_color, grad_depth, grad_opacity)]
    grad_sigma, grad_rgb = _backward(*grads, *ctx.saved_tensors, ctx.early_stop)
    return grad_sigma, grad_rgb, None, None, None, None


_composite.register_autograd(_gradient, setup_context=_save)

_composite.register_kernel("cpu", cpu.composite)
_backward.register_kernel("cpu", cpu.composite_backward)
if torch.cuda.is_available():
    from recon3d.kernels.compositing import cuda

    _composite.register_kernel("cuda", cuda.composite)
    _backward.register_kernel("cuda", cuda.composite_backward)


def composite(
    sigma: Float[Tensor, "m"],
    rgb: Float[Tensor, "m c"],
    t: Float[Tensor, "m"],
    dt: Float[Tensor, "m"],
    offsets: Int[Tensor, "n+1"],
    early_stop: float = 1e-4,
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Colour (N, C), depth (N,) and opacity (N,) of N rays from their M packed samples.

    Nothing is composited behind the samples: colour is premultiplied by opacity, and depth is the opacity-weighted sum
    of distances. Differentiable once, in ``sigma`` and ``rgb``. Samples that less than ``early_stop`` of the light
    reaches count for nothing, and so do those behind the last ray's.
    """
    return _composite(sigma, rgb, t, dt, offsets, early_stop)
