"""Adam over the touched rows of a table as one torch op; see ``reference.py`` for the conventions."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.kernels.adam import cpu, reference
from recon3d.kernels.ops import op


@op("recon3d::adam_rows", mutates_args=("table", "mean", "square", "steps"))
def _adam_rows(
    table: Tensor,
    grad: Tensor,
    mean: Tensor,
    square: Tensor,
    steps: Tensor,
    rate: Tensor,
    beta1: float,
    beta2: float,
    epsilon: float,
    scale: Tensor,
    found_inf: Tensor,
) -> None:
    reference.adam_rows(table, grad, mean, square, steps, rate, beta1, beta2, epsilon, scale, found_inf)


@_adam_rows.register_fake
def _(table, grad, mean, square, steps, rate, beta1, beta2, epsilon, scale, found_inf):
    return None


_adam_rows.register_kernel("cpu", cpu.adam_rows)
if torch.cuda.is_available():
    from recon3d.kernels.adam import cuda

    _adam_rows.register_kernel("cuda", cuda.adam_rows)


def adam_rows(
    table: Float[Tensor, "rows f"],
    grad: Float[Tensor, "rows f"],
    mean: Float[Tensor, "rows f"],
    square: Float[Tensor, "rows f"],
    steps: Float[Tensor, "rows"],
    rate: Float[Tensor, ""],
    betas: tuple[float, float],
    epsilon: float,
    scale: Float[Tensor, ""],
    found_inf: Float[Tensor, ""],
) -> None:
    """One step of Adam on the rows of ``table`` whose gradient is not all 0, in place, each with its own step count.

    ``mean`` and ``square`` are the moments and ``steps`` the counts. ``grad`` is ``scale`` times the gradient;
    ``found_inf`` above 0 means that it is not finite: nothing changes. No host waits for the device.
    """
    _adam_rows(table, grad, mean, square, steps, rate, *betas, epsilon, scale, found_inf)
