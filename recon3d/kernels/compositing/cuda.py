"""Compositing in Triton; see ``reference.py`` for the conventions.

One warp per ray: its lanes take ``LANES`` consecutive samples at a time, and the sums along the ray are prefix sums
over the lanes plus what the samples in front have left. The backward pass walks a ray twice: for the sum of w_j g_j
over the whole ray, and for the gradients. Both leave a ray as soon as too little light is left.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LANES = 32


@triton.jit
def _absorbed(tau):
    """1 - exp(-tau), by its series where the difference would cancel."""
    series = 1 - tau * (1 / 4) * (1 - tau * (1 / 5) * (1 - tau * (1 / 6)))
    series = tau * (1 - tau * (1 / 2) * (1 - tau * (1 / 3) * series))
    return tl.where(tau < 0.03, series, 1 - tl.exp(-tau))


@triton.jit
def _optical(sigma_ptr, dt_ptr, sample, wanted, dtype: tl.constexpr):
    sigma = tl.load(sigma_ptr + sample, mask=wanted, other=0.0).to(dtype)
    return sigma * tl.load(dt_ptr + sample, mask=wanted, other=0.0).to(dtype)


@triton.jit
def _weights(sigma_ptr, dt_ptr, sample, last, in_front, EARLY_STOP: tl.constexpr, LANES: tl.constexpr):
    """For the next samples of a ray: optical depth, light that arrives, whether it counts, and weight, (LANES,) each.

    ``in_front`` is the optical depth in front of the first. The depth in front of the others is summed from their
    predecessors' and not by subtracting their own, which may be so large as to swallow it.
    """
    inside = sample < last
    lane = tl.arange(0, LANES)
    tau = _optical(sigma_ptr, dt_ptr, sample, inside, in_front.dtype)
    before = _optical(sigma_ptr, dt_ptr, sample - 1, inside & (lane > 0), in_front.dtype)
    light = tl.exp(-(in_front + tl.cumsum(before, axis=0)))
    seen = inside & (light >= EARLY_STOP)
    return tau, light, seen, tl.where(seen, light * _absorbed(tau), 0.0)


@triton.jit
def _colors(rgb_ptr, sample, seen, CHANNELS: tl.constexpr, WIDTH: tl.constexpr, dtype: tl.constexpr):
    """Colours (LANES, WIDTH) of samples, and where they lie; the unseen are zero."""
    channel = tl.arange(0, WIDTH)
    place = sample[:, None] * CHANNELS + channel[None, :]
    return tl.load(rgb_ptr + place, mask=seen[:, None] & (channel < CHANNELS)[None, :], other=0.0).to(dtype), place


@triton.jit
def _forward(
    sigma_ptr,
    rgb_ptr,
    t_ptr,
    dt_ptr,
    offsets_ptr,
    color_ptr,
    depth_ptr,
    opacity_ptr,
    EARLY_STOP: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    DTYPE: tl.constexpr,
    LANES: tl.constexpr,
):
    ray = tl.program_id(0).to(tl.int64)
    begin = tl.load(offsets_ptr + ray)
    last = tl.load(offsets_ptr + ray + 1)
    in_front = tl.full((), 0, DTYPE)
    depth = tl.full((), 0, DTYPE)
    opacity = tl.full((), 0, DTYPE)
    color = tl.zeros((WIDTH,), DTYPE)
    while (begin < last) & (tl.exp(-in_front) >= EARLY_STOP):
        sample = begin + tl.arange(0, LANES)
        tau, _, seen, weight = _weights(sigma_ptr, dt_ptr, sample, last, in_front, EARLY_STOP, LANES)
        rgb, _ = _colors(rgb_ptr, sample, seen, CHANNELS, WIDTH, DTYPE)
        color += tl.sum(weight[:, None] * rgb, axis=0)
        depth += tl.sum(weight * tl.load(t_ptr + sample, mask=seen, other=0.0).to(DTYPE), axis=0)
        opacity += tl.sum(weight, axis=0)
        in_front += tl.sum(tau, axis=0)
        begin += LANES
    channel = tl.arange(0, WIDTH)
    tl.store(color_ptr + ray * CHANNELS + channel, color.to(color_ptr.dtype.element_ty), mask=channel < CHANNELS)
    tl.store(depth_ptr + ray, depth.to(depth_ptr.dtype.element_ty))
    tl.store(opacity_ptr + ray, opacity.to(opacity_ptr.dtype.element_ty))


@triton.jit
def _backward(
    grad_color_ptr,
    grad_depth_ptr,
    grad_opacity_ptr,
    sigma_ptr,
    rgb_ptr,
    t_ptr,
    dt_ptr,
    offsets_ptr,
    grad_sigma_ptr,
    grad_rgb_ptr,
    EARLY_STOP: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    DTYPE: tl.constexpr,
    LANES: tl.constexpr,
):
    """Writes the gradients of the samples that light reaches; the others' are zero beforehand."""
    ray = tl.program_id(0).to(tl.int64)
    first = tl.load(offsets_ptr + ray)
    last = tl.load(offsets_ptr + ray + 1)
    channel = tl.arange(0, WIDTH)
    grad_color = tl.load(grad_color_ptr + ray * CHANNELS + channel, mask=channel < CHANNELS, other=0.0).to(DTYPE)
    grad_depth = tl.load(grad_depth_ptr + ray).to(DTYPE)
    grad_opacity = tl.load(grad_opacity_ptr + ray).to(DTYPE)

    begin = first
    in_front = tl.full((), 0, DTYPE)
    behind = tl.full((), 0, DTYPE)
    while (begin < last) & (tl.exp(-in_front) >= EARLY_STOP):
        sample = begin + tl.arange(0, LANES)
        tau, _, seen, weight = _weights(sigma_ptr, dt_ptr, sample, last, in_front, EARLY_STOP, LANES)
        rgb, _ = _colors(rgb_ptr, sample, seen, CHANNELS, WIDTH, DTYPE)
        t = tl.load(t_ptr + sample, mask=seen, other=0.0).to(DTYPE)
        g = tl.sum(grad_color[None, :] * rgb, axis=1) + grad_depth * t + grad_opacity
        behind += tl.sum(weight * g, axis=0)
        in_front += tl.sum(tau, axis=0)
        begin += LANES

    begin = first
    in_front = tl.full((), 0, DTYPE)
    while (begin < last) & (tl.exp(-in_front) >= EARLY_STOP):
        sample = begin + tl.arange(0, LANES)
        tau, light, seen, weight = _weights(sigma_ptr, dt_ptr, sample, last, in_front, EARLY_STOP, LANES)
        rgb, place = _colors(rgb_ptr, sample, seen, CHANNELS, WIDTH, DTYPE)
        t = tl.load(t_ptr + sample, mask=seen, other=0.0).to(DTYPE)
        dt = tl.load(dt_ptr + sample, mask=seen, other=0.0).to(DTYPE)
        g = tl.sum(grad_color[None, :] * rgb, axis=1) + grad_depth * t + grad_opacity
        through = weight * g
        grad_sigma = dt * (light * tl.exp(-tau) * g - (behind - tl.cumsum(through, axis=0)))
        tl.store(grad_sigma_ptr + sample, grad_sigma.to(grad_sigma_ptr.dtype.element_ty), mask=seen)
        grad_rgb = weight[:, None] * grad_color[None, :]
        colored = seen[:, None] & (channel < CHANNELS)[None, :]
        tl.store(grad_rgb_ptr + place, grad_rgb.to(grad_rgb_ptr.dtype.element_ty), mask=colored)
        behind -= tl.sum(through, axis=0)
        in_front += tl.sum(tau, axis=0)
        begin += LANES


def _constants(rgb: Tensor, t: Tensor, early_stop: float) -> dict[str, object]:
    channels = rgb.shape[1]
    return {
        "EARLY_STOP": float(early_stop),
        "CHANNELS": channels,
        "WIDTH": triton.next_power_of_2(channels),
        "DTYPE": tl.float64 if t.dtype == torch.float64 else tl.float32,
        "LANES": LANES,
        "num_warps": 1,
        "enable_fp_fusion": True,
    }


def composite(
    sigma: Tensor, rgb: Tensor, t: Tensor, dt: Tensor, offsets: Tensor, early_stop: float
) -> tuple[Tensor, Tensor, Tensor]:
    rays = len(offsets) - 1
    outputs = rgb.new_empty(rays, rgb.shape[1]), t.new_empty(rays), t.new_empty(rays)
    if rays:
        inputs = [v.contiguous() for v in (sigma, rgb, t, dt, offsets)]
        with torch.cuda.device_of(t):
            _forward[(rays,)](*inputs, *outputs, **_constants(rgb, t, early_stop))
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
    outputs = sigma.new_zeros(sigma.shape), rgb.new_zeros(rgb.shape)
    rays = len(offsets) - 1
    if rays:
        tensors = (grad_color, grad_depth, grad_opacity, sigma, rgb, t, dt, offsets)
        inputs = [v.contiguous() for v in tensors]
        with torch.cuda.device_of(t):
            _backward[(rays,)](*inputs, *outputs, **_constants(rgb, t, early_stop))
    return outputs
