"""Damped sines in Triton, one pass over memory; see ``reference.py`` for the conventions.

The damping and the order are constants of the kernel, so what they do not need is not computed. float64 is for tests,
and goes through the reference.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from recon3d.kernels.sine import reference
from recon3d.kernels.sine.reference import SMALLEST

BLOCK = 1024
_SMALLEST = tl.constexpr(SMALLEST)


@triton.jit
def _arctan(x):
    """The polynomial of ``cpu.py``, for float32."""
    size = tl.abs(x)
    r = tl.minimum(size, 1.0) / tl.maximum(size, 1.0)
    z = r * r
    series = -0.0758057739 + z * (0.0435535304 + z * (-0.0165811784 + z * 0.00297458897))
    series = -0.33333167 + z * (0.199941372 + z * (-0.14214209 + z * (0.106789399 + z * series)))
    angle = r + r * z * series
    angle = tl.where(size > 1.0, 1.5707963267948966 - angle, angle)
    return tl.where(x < 0, -angle, angle)


@triton.jit
def _damping(x, DAMPING: tl.constexpr):
    """d and its three derivatives."""
    zero = tl.zeros_like(x)
    one = zero + 1.0
    sign = tl.where(x > 0, one, tl.where(x < 0, -one, zero))
    if (DAMPING == "sqrt") | (DAMPING == "sqrt_relu"):
        # The fifth power of an inverse that is not rounded well would be wrong in its last three bits.
        root = tl.sqrt_rn(tl.maximum(tl.abs(x), _SMALLEST))
        inverse = tl.div_rn(one, root)
        if DAMPING == "sqrt_relu":
            root = tl.where(x > 0, root, 0.0)
            inverse = tl.where(x > 0, inverse, 0.0)
        cube = inverse * inverse * inverse
        d, d1, d2, d3 = root, 0.5 * sign * inverse, -0.25 * cube, 0.375 * sign * cube * inverse * inverse
    elif DAMPING == "log":
        size = tl.maximum(tl.abs(x), _SMALLEST)
        inverse = 1.0 / size
        square = inverse * inverse
        d, d1, d2, d3 = tl.log(size), sign * inverse, -square, 2.0 * sign * square * inverse
    elif DAMPING == "arctan":
        slope = 1.0 / (1.0 + x * x)
        square = slope * slope
        d, d1, d2, d3 = _arctan(x), slope, -2.0 * x * square, square * (6.0 - 8.0 * slope)
    elif DAMPING == "identity":
        d, d1, d2, d3 = x, one, zero, zero
    elif DAMPING == "relu":
        d, d1, d2, d3 = tl.maximum(x, 0.0), tl.where(x > 0, one, zero), zero, zero
    elif DAMPING == "square":
        d, d1, d2, d3 = x * x, 2.0 * x, 2.0 * one, zero
    else:
        d, d1, d2, d3 = one, zero, zero, zero
    return d, d1, d2, d3


@triton.jit(do_not_specialize=["count"])
def _derivative(
    grad_ptr,
    x_ptr,
    out_ptr,
    count,
    DAMPING: tl.constexpr,
    ORDER: tl.constexpr,
    WITH_GRAD: tl.constexpr,
    N: tl.constexpr,
):
    """The derivative at x by Leibniz's rule, times the incoming gradient if there is one."""
    i = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    inside = i < count
    x = tl.load(x_ptr + i, mask=inside, other=0.0).to(tl.float32)
    d, d1, d2, d3 = _damping(x, DAMPING)
    if ORDER == 0:
        value = tl.sin(x) * d
    elif ORDER == 1:
        value = tl.cos(x) * d + tl.sin(x) * d1
    elif ORDER == 2:
        value = tl.sin(x) * (d2 - d) + 2.0 * tl.cos(x) * d1
    else:
        value = tl.cos(x) * (3.0 * d2 - d) + tl.sin(x) * (d3 - 3.0 * d1)
    if WITH_GRAD:
        value *= tl.load(grad_ptr + i, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + i, value.to(out_ptr.dtype.element_ty), mask=inside)


def _run(x: Tensor, grad: Tensor | None, damping: str, order: int) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    incoming = x if grad is None else grad.contiguous()
    if x.numel():
        with torch.cuda.device_of(x):
            _derivative[(triton.cdiv(x.numel(), BLOCK),)](
                incoming, x, out, x.numel(), DAMPING=damping, ORDER=order, WITH_GRAD=grad is not None, N=BLOCK
            )
    return out


def damped_sine(x: Tensor, damping: str, order: int) -> Tensor:
    if x.dtype == torch.float64:
        return reference.damped_sine(x, damping, order)
    return _run(x, None, damping, order)


def sine_backward(grad: Tensor, x: Tensor, damping: str, order: int) -> Tensor:
    if x.dtype == torch.float64:
        return reference.sine_backward(grad, x, damping, order)
    return _run(x, grad, damping, order + 1)
