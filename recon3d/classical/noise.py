"""How noisy line integrals are: by the photons that were counted, or by what the pixels show themselves."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

_DEVIATION = 0.6745
"""Median of the absolute value of a normal variable of deviation 1."""
_SMALLEST = 1e-5
"""Of the largest line integral: below it rounding is the noise."""


def noise_variance(
    projections: Float[Tensor, "a rows columns"], counts: float | None = None
) -> Float[Tensor, "a #rows #columns"]:
    """Variance of every line integral; one for each view, but for rays and pixels where photons are known.

    Of a pixel that counts n of ``counts`` photons, -log(n / counts) has the variance 1 / n. Without the number, the
    noise of a view is the median of its second differences along columns (and rows, where there are enough), which
    edges hardly move (Donoho and Johnstone, "Ideal spatial adaptation by wavelet shrinkage", 1994). A detailed object
    on a coarse detector passes for noise, so this is an upper bound.
    """
    least = (_SMALLEST * float(projections.abs().amax())) ** 2
    if counts is not None:
        return (projections.exp() / counts).clamp_min(least)
    second, gain = _second(projections, 2), 6.0
    if projections.shape[1] > 2:
        second, gain = _second(second, 1), 36.0
    deviation = second.abs().flatten(1).median(dim=1).values / _DEVIATION
    return (deviation.square() / gain).clamp_min(least)[:, None, None]


def in_units_of_noise(
    residual: Float[Tensor, "a rows columns"],
    variance: Float[Tensor, "a #rows #columns"],
    rays: Float[Tensor, "a rows columns"],
) -> Float[Tensor, ""]:
    """Mean squared residual over the variance that noise has; ``rays`` are weights."""
    return (rays / variance * residual.square()).sum() / rays.sum()


def _second(values: Tensor, axis: int) -> Tensor:
    return values.diff(n=2, dim=axis)
