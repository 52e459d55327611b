"""Compositing in numba, one pass over the samples of each ray; see ``reference.py`` for the conventions.

The share of light that each sample takes is computed for all of them at once, in vectors.
"""

from __future__ import annotations

import torch
from numba import njit
from torch import Tensor

from recon3d.kernels.threads import kernel_threads, run_parallel, spans

CHUNKS_PER_THREAD = 4


@njit(nogil=True, cache=True, fastmath={"contract", "arcp", "nsz"})
def _forward(first, last, alpha, rgb, t, offsets, early_stop, color, depth, opacity):
    channels = rgb.shape[1]
    for ray in range(first, last):
        light = 1.0
        for c in range(channels):
            color[ray, c] = 0
        total_depth = 0.0
        total = 0.0
        for i in range(offsets[ray], offsets[ray + 1]):
            if light < early_stop:
                break
            weight = light * alpha[i]
            for c in range(channels):
                color[ray, c] += weight * rgb[i, c]
            total_depth += weight * t[i]
            total += weight
            light -= weight
        depth[ray] = total_depth
        opacity[ray] = total


@njit(nogil=True, cache=True, fastmath={"contract", "arcp", "nsz"})
def _backward(
    first, last, grad_color, grad_depth, grad_opacity, alpha, rgb, t, dt, offsets, early_stop, grad_sigma, grad_rgb
):
    channels = rgb.shape[1]
    for ray in range(first, last):
        start, end = offsets[ray], offsets[ray + 1]
        light = 1.0
        sum_behind = 0.0
        seen = start
        # Forward: the weights, and the sum of w_j g_j over the whole ray.
        while seen < end and light >= early_stop:
            weight = light * alpha[seen]
            g = grad_depth[ray] * t[seen] + grad_opacity[ray]
            for c in range(channels):
                g += grad_color[ray, c] * rgb[seen, c]
                grad_rgb[seen, c] = weight * grad_color[ray, c]
            sum_behind += weight * g
            grad_sigma[seen] = g
            light -= weight
            seen += 1
        for i in range(seen, end):
            grad_sigma[i] = 0
            for c in range(channels):
                grad_rgb[i, c] = 0
        light = 1.0
        for i in range(start, seen):
            weight, g = light * alpha[i], grad_sigma[i]
            sum_behind -= weight * g
            light -= weight
            grad_sigma[i] = dt[i] * (light * g - sum_behind)


def _ray_spans(offsets: Tensor) -> list[tuple[int, int]]:
    return spans(len(offsets) - 1, CHUNKS_PER_THREAD * kernel_threads())


def _alpha(sigma: Tensor, dt: Tensor) -> Tensor:
    """The share of the light that each sample takes."""
    return torch.expm1(-sigma * dt).neg_()


def composite(
    sigma: Tensor, rgb: Tensor, t: Tensor, dt: Tensor, offsets: Tensor, early_stop: float
) -> tuple[Tensor, Tensor, Tensor]:
    rays = len(offsets) - 1
    outputs = rgb.new_empty(rays, rgb.shape[1]), t.new_empty(rays), t.new_empty(rays)
    inputs = [v.detach().contiguous().numpy() for v in (_alpha(sigma, dt), rgb, t, offsets)]
    arrays = [v.numpy() for v in outputs]
    run_parallel(_forward, [(a, b, *inputs, early_stop, *arrays) for a, b in _ray_spans(offsets)])
    return outputs


def composite_backward(
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
    outputs = (
        torch.empty_like(sigma, memory_format=torch.contiguous_format),
        torch.empty_like(rgb, memory_format=torch.contiguous_format),
    )
    for output in outputs:
        output[int(offsets[-1]) :] = 0  # of no ray
    tensors = (grad_color, grad_depth, grad_opacity, _alpha(sigma, dt), rgb, t, dt, offsets)
    inputs = [v.detach().contiguous().numpy() for v in tensors]
    arrays = [v.numpy() for v in outputs]
    run_parallel(_backward, [(a, b, *inputs, early_stop, *arrays) for a, b in _ray_spans(offsets)])
    return outputs
