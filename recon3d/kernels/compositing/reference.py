"""Emission-absorption compositing of packed samples in plain torch.

Source: Max, "Optical models for direct volume rendering" (1995); Mildenhall et al., NeRF (2020), equation 3.

Symbols: ray r owns samples offsets[r] to offsets[r + 1] in the order of their distance. For sample i with density
sigma_i over the length dt_i,

    tau_i = sigma_i dt_i,   T_i = exp(-sum_{j<i} tau_j),   w_i = T_i (1 - exp(-tau_i)),

and samples that less than ``early_stop`` of the light reaches, T_i < early_stop, have weight 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def ray_indices(offsets: Tensor) -> Tensor:
    """Ray (M,) of each packed sample."""
    counts = offsets[1:] - offsets[:-1]
    return torch.repeat_interleave(torch.arange(len(counts), device=offsets.device), counts)


def transmittance(tau: Tensor, offsets: Tensor) -> Tensor:
    """T_i (M,): the share of light that reaches each sample. Summed in float64, so that long packs stay exact."""
    total = tau.double().cumsum(0)
    before = torch.cat([total.new_zeros(1), total])[:-1]
    counts = offsets[1:] - offsets[:-1]
    first = torch.cat([total.new_zeros(1), total])[offsets[:-1]]
    return torch.exp(torch.repeat_interleave(first, counts) - before).to(tau.dtype)


def composite(
    sigma: Tensor, rgb: Tensor, t: Tensor, dt: Tensor, offsets: Tensor, early_stop: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`recon3d.kernels.composite`."""
    sigma, rgb, t, dt = (values[: int(offsets[-1])] for values in (sigma, rgb, t, dt))
    tau = sigma * dt
    light = transmittance(tau, offsets)
    weight = torch.where(light < early_stop, 0.0, light * -torch.expm1(-tau))
    ray = ray_indices(offsets)
    rays = len(offsets) - 1
    color = rgb.new_zeros(rays, rgb.shape[1]).index_add(0, ray, weight[:, None] * rgb)
    depth = t.new_zeros(rays).index_add(0, ray, weight * t)
    opacity = t.new_zeros(rays).index_add(0, ray, weight)
    return color, depth, opacity


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
    """Analytic gradients of sigma and rgb.

    With g_i = dL/dw_i = grad_color . rgb_i + grad_depth t_i + grad_opacity,

        dL/dsigma_i = dt_i (T_{i+1} g_i - sum_{j>i} w_j g_j),   dL/drgb_i = w_i grad_color.
    """
    behind_all = len(sigma) - int(offsets[-1])
    sigma, rgb, t, dt = (values[: int(offsets[-1])] for values in (sigma, rgb, t, dt))
    tau = sigma * dt
    light = transmittance(tau, offsets)
    seen = light >= early_stop
    weight = torch.where(seen, light * -torch.expm1(-tau), 0.0)
    ray = ray_indices(offsets)
    g = (grad_color[ray] * rgb).sum(-1) + grad_depth[ray] * t + grad_opacity[ray]
    through = (weight * g).double().cumsum(0)
    last = torch.cat([through.new_zeros(1), through])[offsets[1:]]
    behind = (last[ray] - through).to(g.dtype)
    grad_sigma = torch.where(seen, dt * (light * torch.exp(-tau) * g - behind), 0.0)
    grad_rgb = weight[:, None] * grad_color[ray]
    return F.pad(grad_sigma, (0, behind_all)), F.pad(grad_rgb, (0, 0, 0, behind_all))
