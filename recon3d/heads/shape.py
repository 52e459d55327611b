"""Shape heads: what a field of space is asked at points where a shape is known.

Signed distances are negative inside. All losses are sums over points, so that the parts of a batch add up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from recon3d.config.shapes import ImplicitConfig
from recon3d.heads.points import DifferentiableField

MAPE_FLOOR = 0.01
"""Distance (field units) below which errors no longer weigh more (Müller et al. 2022, their public code)."""
BALL = 0.5
"""Radius of the ball that fields without normals start as."""

SampleLoss = Callable[[Float[Tensor, " n"], Float[Tensor, " n"]], Float[Tensor, ""]]


def occupancy_loss(kind: Literal["bce", "mse"]) -> SampleLoss:
    """Of values against occupancies 0 or 1: binary cross-entropy of logits, or squared error of the values."""
    if kind == "mse":
        return lambda value, occupancy: (value - occupancy).square().sum()
    return lambda value, occupancy: F.binary_cross_entropy_with_logits(value, occupancy, reduction="sum")


def distance_loss(kind: Literal["mape", "l1"], truncation: float | None) -> SampleLoss:
    """Of values against signed distances: |error|, with mape over |distance| + 0.01 (Müller et al. 2022, section 5.2).

    Where a distance is beyond ``truncation``, a value of its sign that is as large or larger has no error: what a
    truncated signed distance says, without a value that is cut off and then has no gradient to come back by.
    """

    def loss(value: Float[Tensor, " n"], distance: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        error = (value - distance).abs()
        scale = distance.abs()
        if truncation is not None:
            short = F.relu(truncation - distance.sign() * value)
            error = torch.where(scale > truncation, short, error)
            scale = scale.clamp_max(truncation)
        return (error / (scale + MAPE_FLOOR) if kind == "mape" else error).sum()

    return loss


def on_surface_terms(
    field: DifferentiableField,
    x: Float[Tensor, "n 3"],
    normals: Float[Tensor, "n 3"] | None,
    weights: ImplicitConfig,
) -> dict[str, Float[Tensor, ""]]:
    """At points of the surface: |f|, the eikonal term and, with normals, 1 - cosine of gradient and normal; weighted
    (Sitzmann et al. 2020, equation 6). The eikonal term counts half: the other half is off the surface."""
    value, slope = _with_gradient(field, x)
    terms = {
        "surface": weights.surface * value.abs().sum(),
        "eikonal": 0.5 * weights.eikonal * _eikonal(slope),
    }
    if normals is not None:
        terms["normal"] = weights.normal * (1 - F.cosine_similarity(slope, normals, dim=-1)).sum()
    return terms


def off_surface_terms(
    field: DifferentiableField, x: Float[Tensor, "n 3"], weights: ImplicitConfig
) -> dict[str, Float[Tensor, ""]]:
    """At points anywhere: the eikonal term, and exp(-a |f|), which keeps f away from 0; weighted."""
    value, slope = _with_gradient(field, x)
    return {
        "eikonal": 0.5 * weights.eikonal * _eikonal(slope),
        "off_surface": weights.off_surface * torch.exp(-weights.off_sharpness * value.abs()).sum(),
    }


def outside_term(
    field: Callable[[Tensor], Tensor], x: Float[Tensor, "n 3"], weights: ImplicitConfig
) -> dict[str, Float[Tensor, ""]]:
    """At points that are known to be outside: how far f is below 0, weighted."""
    return {"outside": weights.outside * F.relu(-field(x)[:, 0]).sum()}


def ball_loss(field: Callable[[Tensor], Tensor], x: Float[Tensor, "n 3"]) -> Float[Tensor, ""]:
    """|error| of the field as the distance to a ball: a start for fields that points alone then bend (what the initial
    weights of Gropp et al. 2020 do for one kind of network)."""
    return (field(x)[:, 0] - (torch.linalg.vector_norm(x, dim=1) - BALL)).abs().sum()


def _with_gradient(
    field: DifferentiableField, x: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
    """A field's value and its gradient, differentiable again, from one pass."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = field(x)[:, 0]
        slope = torch.autograd.grad(value.sum(), x, create_graph=True, materialize_grads=True)[0]
    return value, slope


def _eikonal(slope: Float[Tensor, "n 3"]) -> Float[Tensor, ""]:
    """The sum of | |slope| - 1 |; where the slope is 0, its length has no direction to grow in, and none is given."""
    length = (slope.square().sum(dim=1) + 1e-12).sqrt()
    return (length - 1).abs().sum()
