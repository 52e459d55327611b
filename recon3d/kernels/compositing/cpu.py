"""Compositing in numba, one pass over the samples of each ray; see ``reference.py`` for the conventions."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recon3d.kernels.threads import kernel_threads, run_parallel, spans

CHUNKS_PER_THREAD = 4


@njit(nogil=True, cache=True, fastmath={"contract", "arcp", "nsz"})
def _forward(first, last, sigma, rgb, t, dt, offsets, early_stop, color, depth, opacity):
    channels = rgb.shape[1]
    for ray in range(first, last):
        optical_depth = 0.0
        light = 1.0
        for c in range(channels):
            color[ray, c] = 0
        total_depth = 0.0
        total = 0.0
        for i in range(offsets[ray], offsets[ray + 1]):
            if light < early_stop:
                break
            optical_depth += sigma[i] * dt[i]
            after = np.exp(-optical_depth)
            weight = light - after
            for c in range(channels):
                color[ray, c] += weight * rgb[i, c]
            total_depth += weight * t[i]
            total += weight
            light = after
        depth[ray] = total_depth
        opacity[ray] = total


@njit(nogil=True, cache=True, fastmath={"contract", "arcp", "nsz"})
def _backward(
    first, last, grad_color, grad_depth, grad_opacity, sigma, rgb, t, dt, offsets, early_stop, grad_sigma, grad_rgb
):
    channels = rgb.shape[1]
    for ray in range(first, last):
        start, end = offsets[ray], offsets[ray + 1]
        optical_depth = 0.0
        light = 1.0
        sum_behind = 0.0
        seen = start
        # Forward: the weights, and the sum of w_j g_j over the whole ray.
        while seen < end and light >= early_stop:
            optical_depth += sigma[seen] * dt[seen]
            after = np.exp(-optical_depth)
            weight = light - after
            g = grad_depth[ray] * t[seen] + grad_opacity[ray]
            for c in range(channels):
                g += grad_color[ray, c] * rgb[seen, c]
                grad_rgb[seen, c] = weight * grad_color[ray, c]
            sum_behind += weight * g
            grad_sigma[seen] = g
            light = after
            seen += 1
        for i in range(seen, end):
            grad_sigma[i] = 0
            for c in range(channels):
                grad_rgb[i, c] = 0
        optical_depth = 0.0
        light = 1.0
        for i in range(start, seen):
            optical_depth += sigma[i] * dt[i]
            after = np.exp(-optical_depth)
            g = grad_sigma[i]
            sum_behind -= (light - after) * g
            grad_sigma[i] = dt[i] * (after * g - sum_behind)
            light = after


def _ray_spans(offsets: Tensor) -> list[tuple[int, int]]:
    return spans(len(offsets) - 1, CHUNKS_PER_THREAD * kernel_threads())


def composite(
    sigma: Tensor, rgb: Tensor, t: Tensor, dt: Tensor, offsets: Tensor, early_stop: float
) -> tuple[Tensor, Tensor, Tensor]:
    rays = len(offsets) - 1
    outputs = rgb.new_empty(rays, rgb.shape[1]), t.new_empty(rays), t.new_empty(rays)
    inputs = [v.detach().contiguous().numpy() for v in (sigma, rgb, t, dt, offsets)]
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
    tensors = (grad_color, grad_depth, grad_opacity, sigma, rgb, t, dt, offsets)
    inputs = [v.detach().contiguous().numpy() for v in tensors]
    arrays = [v.numpy() for v in outputs]
    run_parallel(_backward, [(a, b, *inputs, early_stop, *arrays) for a, b in _ray_spans(offsets)])
    return outputs
