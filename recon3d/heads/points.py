"""Point heads: what a field is at points, itself or by its derivatives.

Derivatives are taken per sample of a grid (spacing 2 / n along an axis), so that they compare with finite differences
of the samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.fields.field import slope_of


@runtime_checkable
class DifferentiableField(Protocol):
    """What the heads need of a field."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def gradient(self, x: Tensor) -> Tensor: ...


PointHead = Callable[[DifferentiableField, Float[Tensor, "n d"]], Float[Tensor, "n k"]]


def values(field: DifferentiableField, x: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
    """The field itself."""
    return field(x)


def gradient_head(grid: tuple[int, ...]) -> PointHead:
    """A head (N, d) -> (N, c d): the change of every value from one sample of ``grid`` to the next, axis by axis."""
    spacing = torch.tensor([2 / size for size in grid])

    def head(field: DifferentiableField, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        return (field.gradient(x) * spacing.to(x)).flatten(1)

    return head


def laplacian_head(grid: tuple[int, ...]) -> PointHead:
    """A head (N, d) -> (N, c): the sum over the axes of the second difference of every value on ``grid``."""
    spacing = torch.tensor([2 / size for size in grid])

    def head(field: DifferentiableField, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            gradient = field.gradient(x)
            sums = []
            for channel in gradient.unbind(1):
                second = [
                    slope_of(channel[:, axis], x)[:, axis] * step**2 for axis, step in enumerate(spacing.tolist())
                ]
                sums.append(torch.stack(second).sum(0))
        return torch.stack(sums, dim=1)

    return head


def differences(samples: Float[Tensor, "*grid c"]) -> Float[Tensor, "n k"]:
    """Central differences of samples on a grid, one-sided at its borders: (N, c d), as :func:`gradient_head`."""
    axes = range(samples.ndim - 1)
    slopes = torch.gradient(samples, dim=list(axes))
    return torch.stack(slopes, dim=-1).flatten(-2).flatten(0, -2)


def second_differences(samples: Float[Tensor, "*grid c"]) -> Float[Tensor, "n c"]:
    """Sum over the axes of the second differences: (N, c), as :func:`laplacian_head`; the border repeats itself."""
    total = torch.zeros_like(samples)
    for axis in range(samples.ndim - 1):
        size = samples.shape[axis]
        position = torch.arange(size, device=samples.device)
        before = samples.index_select(axis, (position - 1).clamp_min(0))
        after = samples.index_select(axis, (position + 1).clamp_max(size - 1))
        total += before + after - 2 * samples
    return total.flatten(0, -2)
