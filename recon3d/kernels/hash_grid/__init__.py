"""Multiresolution hash-grid encoding as one torch op; see ``reference.py`` for the conventions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.kernels.hash_grid import cpu, reference
from recon3d.kernels.ops import op


@dataclass(frozen=True)
class HashLayout:
    """Where the levels of a hash grid lie in its table.

    Level l interpolates between lattice points ``1 / scales[l]`` apart and owns rows ``offsets[l]`` to
    ``offsets[l + 1]``; it is dense where ``resolutions[l] ** dim`` rows fit, else hashed.
    """

    dim: int
    features: int
    scales: tuple[float, ...]
    resolutions: tuple[int, ...]
    offsets: tuple[int, ...]

    @staticmethod
    def build(dim: int, levels: int, features: int, log2_size: int, coarsest: int, finest: int) -> HashLayout:
        """Geometric levels from ``coarsest`` to ``finest`` cells per side of [0, 1]^dim, ``2**log2_size`` rows at most.

        The layout is instant-ngp's: scale_l = coarsest * b^l - 1, resolution_l = ceil(scale_l) + 1, rows of a level
        rounded up to a multiple of 8.
        """
        growth = math.exp(math.log(finest / coarsest) / (levels - 1)) if levels > 1 else 1.0
        scales = tuple(coarsest * growth**level - 1.0 for level in range(levels))
        resolutions = tuple(math.ceil(scale) + 1 for scale in scales)
        offsets = [0]
        for resolution in resolutions:
            offsets.append(offsets[-1] + min(-(-(resolution**dim) // 8) * 8, 2**log2_size))
        return HashLayout(dim, features, scales, resolutions, tuple(offsets))

    def first(self, levels: int) -> HashLayout:
        """The ``levels`` coarsest levels alone: the same rows from the start of the table."""
        return replace(
            self,
            scales=self.scales[:levels],
            resolutions=self.resolutions[:levels],
            offsets=self.offsets[: levels + 1],
        )

    @property
    def levels(self) -> int:
        return len(self.scales)

    @property
    def rows(self) -> int:
        return self.offsets[-1]


@op("recon3d::hash_encode")
def _encode(
    x: Tensor,
    table: Tensor,
    shadow: Tensor | None,
    scales: list[float],
    resolutions: list[int],
    offsets: list[int],
) -> Tensor:
    source = table if shadow is None else shadow
    return reference.encode(x, source, scales, resolutions, offsets).to(source.dtype)


@_encode.register_fake
def _(x, table, shadow, scales, resolutions, offsets):
    source = table if shadow is None else shadow
    return source.new_empty(x.shape[0], len(scales) * table.shape[1])


@op("recon3d::hash_encode_backward")
def _backward(
    grad: Tensor,
    x: Tensor,
    table: Tensor,
    shadow: Tensor | None,
    scales: list[float],
    resolutions: list[int],
    offsets: list[int],
    need_table: bool,
    need_x: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of the table (in its own type) and of x; the one not needed comes back empty."""
    source = table if shadow is None else shadow.to(table.dtype)
    return reference.encode_backward(grad, x, source, scales, resolutions, offsets, need_table, need_x)


@_backward.register_fake
def _(grad, x, table, shadow, scales, resolutions, offsets, need_table, need_x):
    return (
        torch.empty_like(table) if need_table else table.new_empty(0),
        torch.empty_like(x) if need_x else x.new_empty(0),
    )


def _save(ctx, inputs, output):
    x, table, shadow, *ctx.layout = inputs
    ctx.save_for_backward(x, table, shadow)


def _encode_gradient(ctx, grad):
    x, table, shadow = ctx.saved_tensors
    need_x, need_table = ctx.needs_input_grad[:2]
    grad_table, grad_x = _backward(grad.contiguous(), x, table, shadow, *ctx.layout, need_table, need_x)
    return (grad_x if need_x else None, grad_table if need_table else None, None, None, None, None)


_encode.register_autograd(_encode_gradient, setup_context=_save)


def _save_backward(ctx, inputs, output):
    grad, x, table, shadow, *ctx.layout, ctx.need_table, ctx.need_x = inputs
    ctx.save_for_backward(grad, x, table, shadow)


def _second_order(ctx, grad_of_grad_table, grad_of_grad_x):
    """Second derivatives, through the reference: needed by eikonal and curvature terms, not by radiance fields."""
    leaves = [t.detach().requires_grad_() for t in ctx.saved_tensors[:3]]
    grad, x, table = leaves
    with torch.enable_grad():
        out = reference.encode(x, table, *ctx.layout)
        first = torch.autograd.grad(out, (table, x), grad.to(out.dtype), create_graph=True)
        pairs = zip((ctx.need_table, ctx.need_x), first, (grad_of_grad_table, grad_of_grad_x), strict=True)
        total = sum((value * weight).sum() for need, value, weight in pairs if need)
        second = torch.autograd.grad(total, leaves, allow_unused=True)
    return (*second, None, None, None, None, None, None)


_backward.register_autograd(_second_order, setup_context=_save_backward)

_encode.register_kernel("cpu", cpu.encode)
_backward.register_kernel("cpu", cpu.encode_backward)
if torch.cuda.is_available():
    from recon3d.kernels.hash_grid import cuda

    _encode.register_kernel("cuda", cuda.encode)
    _backward.register_kernel("cuda", cuda.encode_backward)


def hash_encode(
    x: Float[Tensor, "n d"],
    table: Float[Tensor, "rows f"],
    layout: HashLayout,
    shadow: Float[Tensor, "rows f"] | None = None,
) -> Float[Tensor, "n lf"]:
    """Interpolated features (N, L * F) of points ``x`` (N, d) in [0, 1]^d, level after level.

    Differentiable in ``table`` and ``x``, twice. ``shadow`` is an optional copy of the table in a smaller float type:
    it is what gets read, while the gradient goes to ``table`` in full precision.

    Raises:
        ValueError: the points have other dimensions than the layout.
    """
    if x.shape[1] != layout.dim:
        raise ValueError(f"points of {x.shape[1]} dimensions for a hash grid of {layout.dim}")
    return _encode(x, table, shadow, list(layout.scales), list(layout.resolutions), list(layout.offsets))


class _Recall(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, layout: HashLayout, values: Tensor) -> Tensor:
        ctx.save_for_backward(x, table)
        ctx.layout = list(layout.scales), list(layout.resolutions), list(layout.offsets)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None]:  # type: ignore[override]
        x, table = ctx.saved_tensors
        return None, _backward(grad.contiguous(), x, table, None, *ctx.layout, True, False)[0], None, None


def hash_recall(
    x: Float[Tensor, "n d"], table: Float[Tensor, "rows f"], layout: HashLayout, values: Float[Tensor, "n lf"]
) -> Float[Tensor, "n lf"]:
    """``hash_encode(x, table, layout)`` where its ``values`` are known: only the gradient of ``table`` is computed."""
    return _Recall.apply(x, table, layout, values)
