"""Damped sines in plain torch: the truth that the fast implementations are tested against.

s(x) = sin(x) d(x), the periodic activations of implicit networks: d = 1 is SIREN's (Sitzmann et al., "Implicit Neural
Representations with Periodic Activation Functions", 2020), the others let the amplitude grow with |x|, and with it the
band of frequencies.

Derivatives of s follow from Leibniz's rule, those of d are written out. Where d or its derivatives have a pole at 0
they are taken at |x| >= ``SMALLEST``, with the sign of x (0 at 0), so that all are finite in float32: the third
derivatives reach |x|^-2.5 (square root) and 2 |x|^-3 (logarithm), 2e36 at 1e-12. Published code clamps |x| at 1e-30 or
1e-43, which serves the value alone: there the second and third derivatives overflow.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

SMALLEST = 1e-12
HIGHEST_ORDER = 3

Derivatives = tuple[Tensor | float, Tensor | float, Tensor | float, Tensor | float]


def _none(x: Tensor) -> Derivatives:
    return 1.0, 0.0, 0.0, 0.0


def _sqrt(x: Tensor) -> Derivatives:
    root, sign = x.abs().clamp_min(SMALLEST).sqrt(), x.sign()
    return root, sign / (2 * root), -1 / (4 * root**3), 3 * sign / (8 * root**5)


def _log(x: Tensor) -> Derivatives:
    size, sign = x.abs().clamp_min(SMALLEST), x.sign()
    return size.log(), sign / size, -1 / size**2, 2 * sign / size**3


def _arctan(x: Tensor) -> Derivatives:
    slope = 1 / (1 + x * x)
    return x.atan(), slope, -2 * x * slope**2, slope**2 * (6 - 8 * slope)


def _sqrt_relu(x: Tensor) -> Derivatives:
    d, d1, d2, d3 = (torch.where(x > 0, v, torch.zeros_like(x)) for v in _sqrt(x))
    return d, d1, d2, d3


def _identity(x: Tensor) -> Derivatives:
    return x, 1.0, 0.0, 0.0


def _relu(x: Tensor) -> Derivatives:
    return x.relu(), (x > 0).to(x.dtype), 0.0, 0.0


def _square(x: Tensor) -> Derivatives:
    return x * x, 2 * x, 2.0, 0.0


DAMPINGS: dict[str, Callable[[Tensor], Derivatives]] = {
    "none": _none,
    "sqrt": _sqrt,
    "log": _log,
    "arctan": _arctan,
    "sqrt_relu": _sqrt_relu,
    "identity": _identity,
    "relu": _relu,
    "square": _square,
}


def damped_sine(x: Tensor, damping: str, order: int = 0) -> Tensor:
    """The derivative of ``order`` 0 to 3 of sin(x) d(x), elementwise, for x of any shape.

    Half-precision inputs are computed in float32.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    sine, cosine = wide.sin(), wide.cos()
    waves = (sine, cosine, -sine, -cosine)
    d = DAMPINGS[damping](wide)
    total = torch.zeros_like(wide)
    for i in range(order + 1):
        total = total + math.comb(order, i) * waves[order - i] * d[i]
    return total.to(x.dtype).contiguous()


def sine_backward(grad: Tensor, x: Tensor, damping: str, order: int) -> Tensor:
    """The gradient of x where ``grad`` is that of ``damped_sine(x, damping, order)``."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (grad.to(wide.dtype) * damped_sine(wide, damping, order + 1)).to(x.dtype).contiguous()
