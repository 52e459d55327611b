"""Damped sines in numba, one pass over memory; see ``reference.py`` for the conventions.

A kernel is compiled for each damping, order, and with or without an incoming gradient. Its loop has no branches and no
calls, so that the compiler turns it into vector instructions: sine and cosine are polynomials (minimax, errors below
1e-8) of the argument reduced by multiples of pi or pi/2, which are subtracted in three parts (Cody and Waite), of which
the first two are short enough for exact products. The few arguments beyond ``FARTHEST``, and NaN, are done again with
the C library's functions in float64.

float64 is for tests, and goes through the reference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recon3d.kernels.sine import reference
from recon3d.kernels.sine.reference import DAMPINGS, SMALLEST
from recon3d.kernels.threads import kernel_threads, run_parallel, spans

GRAIN = 2**19  # elements that are worth waking a worker for: 150 microseconds of work

_F = np.float32
_I = np.int32
FAST = {"contract", "arcp", "nsz"}
_inline = njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy", forceinline=True)
_NONE, _SQRT, _LOG, _ARCTAN, _SQRT_RELU, _IDENTITY, _RELU, _SQUARE = range(len(DAMPINGS))
assert list(DAMPINGS) == ["none", "sqrt", "log", "arctan", "sqrt_relu", "identity", "relu", "square"]

_ZERO, _HALF, _ONE, _TWO, _SIX, _EIGHT = _F(0), _F(0.5), _F(1), _F(2), _F(6), _F(8)
_THREE, _QUARTER, _THREE_EIGHTHS = _F(3), _F(0.25), _F(0.375)
_SMALLEST = _F(SMALLEST)
FARTHEST = _F(1e4)
"""Up to here a multiple of pi/2 has 13 bits, its product with the 11 bits of a part of pi/2 is exact."""

_ROUND = _F(1.5 * 2**23)  # added, it leaves the nearest integer in the last bits; subtracted, that integer is left
_PER_PI, _PER_HALF_PI = _F(1 / np.pi), _F(2 / np.pi)
_PI1, _PI2, _PI3 = _F(3.140625), _F(9.67502593994140625e-4), _F(1.509957990978376432e-7)
_HALF_PI1, _HALF_PI2, _HALF_PI3 = _F(_PI1 / 2), _F(_PI2 / 2), _F(_PI3 / 2)
_SIGN = _I(-(2**31))

# sin r = r + r^3 S(r^2) for |r| < pi/2; with fewer terms for |r| < pi/4, where cos r = 1 - r^2 / 2 + r^4 C(r^2).
_S0, _S1, _S2, _S3 = _F(-0.166666605), _F(0.00833308817), _F(-0.000198111127), _F(2.60893266e-06)
_Q0, _Q1, _Q2 = _F(-0.166666549), _F(0.00833217815), _F(-0.000195172989)
_C0, _C1, _C2 = _F(0.0416666469), _F(-0.00138873675), _F(2.44384515e-05)
# arctan r = r + r^3 A(r^2) for 0 <= r <= 1.
_A0, _A1, _A2, _A3 = _F(-0.33333167), _F(0.199941372), _F(-0.14214209), _F(0.106789399)
_A4, _A5, _A6, _A7 = _F(-0.0758057739), _F(0.0435535304), _F(-0.0165811784), _F(0.00297458897)
_HALF_PI = _F(np.pi / 2)
# log(1 + f) = f - f^2 / 2 + f^3 L(f) for sqrt(1/2) <= 1 + f < sqrt(2).
_L0, _L1, _L2, _L3 = _F(0.333333283), _F(-0.250010595), _F(0.20001616), _F(-0.166165228)
_L4, _L5, _L6, _L7 = _F(0.141900066), _F(-0.132078882), _F(0.128549212), _F(-0.0763120587)
_ROOT_HALF_BITS = _I(np.sqrt(_HALF).view(np.int32))
_LN2_HIGH, _LN2_LOW = _F(0.693359375), _F(-2.12194440e-4)


@_inline
def _signed(value, sign):
    """``value`` with its sign flipped where the highest bit of the integer ``sign`` is set."""
    return _I((sign & _SIGN) ^ _F(value).view(np.int32)).view(np.float32)


@_inline
def _half_wave(r, half_turns):
    """sin r for \\|r\\| <= pi/2, with its sign flipped for an odd number (in the last bit) of half turns."""
    z = r * r
    return _signed(r + r * z * (_S0 + z * (_S1 + z * (_S2 + z * _S3))), half_turns << _I(31))


@_inline
def _sin(x):
    rounded = x * _PER_PI + _ROUND
    n = rounded - _ROUND
    return _half_wave(((x - n * _PI1) - n * _PI2) - n * _PI3, _F(rounded).view(np.int32))


@_inline
def _cos(x):
    """The cosine at r + (n + 1/2) pi is -(-1)^n sin r: as accurate near its zeros as the sine."""
    rounded = (x * _PER_PI - _HALF) + _ROUND
    n = (rounded - _ROUND) + _HALF
    return _half_wave(((x - n * _PI1) - n * _PI2) - n * _PI3, _F(rounded).view(np.int32) + _I(1))


@_inline
def _sin_cos(x):
    rounded = x * _PER_HALF_PI + _ROUND
    n = rounded - _ROUND
    r = ((x - n * _HALF_PI1) - n * _HALF_PI2) - n * _HALF_PI3
    quarters = _F(rounded).view(np.int32)
    z = r * r
    sine = r + r * z * (_Q0 + z * (_Q1 + z * _Q2))
    cosine = _ONE - z * _HALF + z * z * (_C0 + z * (_C1 + z * _C2))
    odd = (quarters & _I(1)) != 0
    first, second = (cosine, sine) if odd else (sine, cosine)
    return _signed(first, quarters << _I(30)), _signed(second, (quarters + _I(1)) << _I(30))


@_inline
def _log(x):
    """log x of a positive normal number."""
    bits = _F(x).view(np.int32)
    exponent = (bits - _ROOT_HALF_BITS) >> _I(23)
    f = _I(bits - (exponent << _I(23))).view(np.float32) - _ONE
    e = _F(exponent)
    z = f * f
    high = _L4 + f * (_L5 + f * (_L6 + f * _L7))
    series = _L0 + f * (_L1 + f * (_L2 + f * (_L3 + f * high)))
    return (f + (z * (f * series - _HALF) + e * _LN2_LOW)) + e * _LN2_HIGH


@_inline
def _arctan(x):
    size = abs(x)
    r = min(size, _ONE) / max(size, _ONE)
    z = r * r
    high = _A4 + z * (_A5 + z * (_A6 + z * _A7))
    angle = r + r * z * (_A0 + z * (_A1 + z * (_A2 + z * (_A3 + z * high))))
    angle = _HALF_PI - angle if size > _ONE else angle
    return _signed(angle, _F(x).view(np.int32))


@_inline
def _damping(x, kind):
    """d and its three derivatives. ``kind`` is a constant to the caller, and what it does not use is not computed."""
    sign = _signed(_ONE, _F(x).view(np.int32)) if x != _ZERO else _ZERO
    if kind in (_SQRT, _SQRT_RELU):
        root = np.sqrt(max(abs(x), _SMALLEST))
        if kind == _SQRT_RELU:
            root = root if x > _ZERO else _ZERO
        inverse = _ONE / root
        if kind == _SQRT_RELU:
            inverse = inverse if x > _ZERO else _ZERO
        cube = inverse * inverse * inverse
        return root, _HALF * sign * inverse, -_QUARTER * cube, _THREE_EIGHTHS * sign * cube * inverse * inverse
    if kind == _LOG:
        size = max(abs(x), _SMALLEST)
        inverse = _ONE / size
        square = inverse * inverse
        return _log(size), sign * inverse, -square, _TWO * sign * square * inverse
    if kind == _ARCTAN:
        slope = _ONE / (_ONE + x * x)
        square = slope * slope
        return _arctan(x), slope, -_TWO * x * square, square * (_SIX - _EIGHT * slope)
    if kind == _IDENTITY:
        return x, _ONE, _ZERO, _ZERO
    if kind == _RELU:
        return max(x, _ZERO), (_ONE if x > _ZERO else _ZERO), _ZERO, _ZERO
    if kind == _SQUARE:
        return x * x, _TWO * x, _TWO, _ZERO
    return _ONE, _ZERO, _ZERO, _ZERO


@_inline
def _combine(sine, cosine, x, kind, order):
    """Leibniz's rule."""
    d, d1, d2, d3 = _damping(x, kind)
    if order == 0:
        return sine * d
    if order == 1:
        return cosine * d + sine * d1
    if order == 2:
        return sine * (d2 - d) + _TWO * cosine * d1
    return cosine * (_THREE * d2 - d) + sine * (d3 - _THREE * d1)


@_inline
def near_value(x, kind, order):
    if kind == _NONE:
        wave = _sin(x) if order % 2 == 0 else _cos(x)
        return wave if order < 2 else -wave
    if order == 0:
        return _combine(_sin(x), _ZERO, x, kind, order)
    sine, cosine = _sin_cos(x)
    return _combine(sine, cosine, x, kind, order)


@_inline
def value_and_slope(x, kind):
    """Orders 0 and 1 at once."""
    sine, cosine = _sin_cos(x)
    return _combine(sine, cosine, x, kind, 0), _combine(sine, cosine, x, kind, 1)


@_inline
def far_value(x, kind, order):
    """Where x is beyond ``FARTHEST``."""
    sine, cosine = _F(np.sin(np.float64(x))), _F(np.cos(np.float64(x)))
    return _combine(sine, cosine, x, kind, order)


@functools.cache
def _kernel(kind: int, order: int, with_gradient: bool) -> Callable[..., None]:
    """``out[begin:end]`` = the derivative at x, times ``grad`` if asked for (otherwise ``grad`` is not read)."""

    @njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
    def kernel(begin, end, x, grad, out):
        x, grad, out = x[begin:end], grad[begin:end], out[begin:end]
        far = _I(0)
        for i in range(len(x)):
            value = near_value(x[i], kind, order)
            out[i] = grad[i] * value if with_gradient else value
            far = _I(far | (_I(0) if abs(x[i]) <= FARTHEST else _I(1)))
        if far != 0:
            for i in range(len(x)):
                if not abs(x[i]) <= FARTHEST:
                    value = far_value(x[i], kind, order)
                    out[i] = grad[i] * value if with_gradient else value

    return kernel


KINDS = {name: kind for kind, name in enumerate(DAMPINGS)}


def _flat(x: Tensor) -> np.ndarray:
    return x.detach().float().reshape(-1).numpy()


def _run(x: Tensor, grad: Tensor | None, damping: str, order: int) -> Tensor:
    kernel = _kernel(KINDS[damping], order, grad is not None)
    out = torch.empty_like(x, dtype=torch.float32, memory_format=torch.contiguous_format)
    source, target = _flat(x), _flat(out)
    incoming = source if grad is None else _flat(grad)
    parts = min(kernel_threads(), len(source) // GRAIN)
    if parts <= 1:
        kernel(0, len(source), source, incoming, target)
    else:
        run_parallel(kernel, [(a, b, source, incoming, target) for a, b in spans(len(source), parts)])
    return out if x.dtype == torch.float32 else out.to(x.dtype)


def damped_sine(x: Tensor, damping: str, order: int) -> Tensor:
    if x.dtype == torch.float64:
        return reference.damped_sine(x, damping, order)
    return _run(x, None, damping, order)


def sine_backward(grad: Tensor, x: Tensor, damping: str, order: int) -> Tensor:
    if x.dtype == torch.float64:
        return reference.sine_backward(grad, x, damping, order)
    return _run(x, grad, damping, order + 1)
