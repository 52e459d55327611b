"""The cosine series in Triton: features are made in registers on their way into a matrix product, never stored.

An angle is given as a fraction of a turn in 32 bits, so that its multiples wrap around by themselves and exactly:
k theta is k times that integer, good to 1.5e-6 at k = 2048. Angles that are not finite make their weights NaN. Products
are made of three tensor-core products each (tf32x3), which is as good as float32.

float64 is for tests, and goes through ``blocked.py``. See ``reference.py`` for the conventions.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from recon3d.kernels.cosine_series import blocked

BLOCK_ROWS, BLOCK_TERMS, BLOCK_WIDTH = 64, 32, 64
PROGRAMS = 512  # that a GPU should have to be busy

_RADIANS = tl.constexpr(2 * 3.141592653589793 / 2**32)
_QUARTER = tl.constexpr(2**30)


@triton.jit
def _features(phase_ptr, row, k, i, rows, DIM: tl.constexpr, ORDER: tl.constexpr):
    """phi_order(k, theta[row, i]) where ``row`` and ``k`` are broadcast against each other."""
    phase = tl.load(phase_ptr + row * DIM + i, mask=row < rows, other=0)
    angle = (k * phase + ((ORDER + 2) % 4 - 2) * _QUARTER).to(tl.float32) * _RADIANS
    value = tl.cos(angle)
    for _ in tl.static_range(ORDER):
        value *= k.to(tl.float32)
    return value


@triton.jit(do_not_specialize=["rows"])
def _series(
    phase_ptr,
    weight_ptr,
    coefficients_ptr,
    out_ptr,
    rows,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    TERMS: tl.constexpr,
    ORDER: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BW: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    column = tl.program_id(1) * BW + tl.arange(0, BW)
    total = tl.zeros((BN, BW), tl.float32)
    for i in range(DIM):
        weight = tl.load(weight_ptr + row * DIM + i, mask=row < rows, other=0.0)
        for begin in range(0, TERMS, BK):
            k = begin + tl.arange(0, BK)
            features = weight[:, None] * _features(phase_ptr, row[:, None], k[None, :], i, rows, DIM, ORDER)
            at = (i * WIDTH + column).to(tl.int64)[None, :] * TERMS + k[:, None]
            wanted = (column[None, :] < WIDTH) & (k[:, None] < TERMS)
            part = tl.load(coefficients_ptr + at, mask=wanted, other=0.0)
            total = tl.dot(features, part, total, input_precision="tf32x3")
    at = row[:, None] * WIDTH + column[None, :]
    tl.store(out_ptr + at, total, mask=(row[:, None] < rows) & (column[None, :] < WIDTH))


@triton.jit(do_not_specialize=["rows", "span", "k_blocks"])
def _coefficients(
    phase_ptr,
    weight_ptr,
    grad_ptr,
    out_ptr,
    rows,
    span,
    k_blocks,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    TERMS: tl.constexpr,
    ORDER: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BW: tl.constexpr,
):
    """Sums over ``span`` rows, a multiple of BN, for each program on the last axis; ``out`` is (parts, d, width, K)."""
    i = tl.program_id(0) // k_blocks
    k = (tl.program_id(0) % k_blocks) * BK + tl.arange(0, BK)
    column = tl.program_id(1) * BW + tl.arange(0, BW)
    part = tl.program_id(2).to(tl.int64)
    total = tl.zeros((BW, BK), tl.float32)
    for begin in range(0, span, BN):
        row = part * span + begin + tl.arange(0, BN)
        weight = tl.load(weight_ptr + row * DIM + i, mask=row < rows, other=0.0)
        features = weight[:, None] * _features(phase_ptr, row[:, None], k[None, :], i, rows, DIM, ORDER)
        wanted = (row[None, :] < rows) & (column[:, None] < WIDTH)
        grad = tl.load(grad_ptr + row[None, :] * WIDTH + column[:, None], mask=wanted, other=0.0)
        total = tl.dot(grad, features, total, input_precision="tf32x3")
    at = ((part * DIM + i) * WIDTH + column)[:, None] * TERMS + k[None, :]
    tl.store(out_ptr + at, total, mask=(column[:, None] < WIDTH) & (k[None, :] < TERMS))


@triton.jit(do_not_specialize=["rows"])
def _angles(
    phase_ptr,
    weight_ptr,
    coefficients_ptr,
    grad_ptr,
    out_ptr,
    rows,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    TERMS: tl.constexpr,
    ORDER: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BW: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    i = tl.program_id(1)
    total = tl.zeros((BN,), tl.float32)
    for begin in range(0, TERMS, BK):
        k = begin + tl.arange(0, BK)
        products = tl.zeros((BN, BK), tl.float32)
        for first in range(0, WIDTH, BW):
            column = first + tl.arange(0, BW)
            wanted = (row[:, None] < rows) & (column[None, :] < WIDTH)
            grad = tl.load(grad_ptr + row[:, None] * WIDTH + column[None, :], mask=wanted, other=0.0)
            at = (i * WIDTH + column).to(tl.int64)[:, None] * TERMS + k[None, :]
            wanted = (column[:, None] < WIDTH) & (k[None, :] < TERMS)
            part = tl.load(coefficients_ptr + at, mask=wanted, other=0.0)
            products = tl.dot(grad, part, products, input_precision="tf32x3")
        total += tl.sum(products * _features(phase_ptr, row[:, None], k[None, :], i, rows, DIM, ORDER), axis=1)
    weight = tl.load(weight_ptr + row * DIM + i, mask=row < rows, other=0.0)
    tl.store(out_ptr + row * DIM + i, weight * total, mask=row < rows)


def _phases(theta: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Angles as 32-bit fractions of a turn, and weights, both (N, d); weights are NaN where angles are not finite."""
    finite = theta.isfinite()
    turns = torch.where(finite, theta, 0.0).double() / (2 * torch.pi)
    phase = ((turns - turns.floor()) * 2**32).round().long()
    phase = torch.where(phase >= 2**31, phase - 2**32, phase).int()
    return phase.contiguous(), torch.where(finite, 1.0 if weight is None else weight, torch.nan).to(theta.dtype)


def _constants(dim: int, width: int, terms: int, order: int) -> dict[str, int]:
    return {
        "DIM": dim,
        "WIDTH": width,
        "TERMS": terms,
        "ORDER": order,
        "BN": BLOCK_ROWS,
        "BK": BLOCK_TERMS,
        "BW": BLOCK_WIDTH,
    }


def series(theta: Tensor, weight: Tensor | None, coefficients: Tensor, order: int) -> Tensor:
    if theta.dtype != torch.float32:
        return blocked.series(theta, weight, coefficients, order)
    dim, width, terms = coefficients.shape
    out = theta.new_empty(len(theta), width)
    if len(theta):
        with torch.cuda.device_of(theta):
            _series[(triton.cdiv(len(theta), BLOCK_ROWS), triton.cdiv(width, BLOCK_WIDTH))](
                *_phases(theta, weight),
                coefficients.contiguous(),
                out,
                len(theta),
                **_constants(dim, width, terms, order),
            )
    return out


def coefficients(theta: Tensor, weight: Tensor | None, grad: Tensor, terms: int, order: int) -> Tensor:
    if theta.dtype != torch.float32:
        return blocked.coefficients(theta, weight, grad, terms, order)
    (rows, dim), width = theta.shape, grad.shape[1]
    if not rows:
        return theta.new_zeros(dim, width, terms)
    k_blocks, columns = triton.cdiv(terms, BLOCK_TERMS), triton.cdiv(width, BLOCK_WIDTH)
    parts = min(triton.cdiv(rows, 16 * BLOCK_ROWS), triton.cdiv(PROGRAMS, dim * k_blocks * columns))
    span = BLOCK_ROWS * triton.cdiv(rows, parts * BLOCK_ROWS)
    out = theta.new_empty(parts, dim, width, terms)
    with torch.cuda.device_of(theta):
        _coefficients[dim * k_blocks, columns, parts](
            *_phases(theta, weight),
            grad.contiguous(),
            out,
            rows,
            span,
            k_blocks,
            **_constants(dim, width, terms, order),
        )
    return out.sum(0)


def angles(theta: Tensor, coefficients: Tensor, grad: Tensor, order: int) -> Tensor:
    if theta.dtype != torch.float32:
        return blocked.angles(theta, coefficients, grad, order)
    dim, width, terms = coefficients.shape
    out = torch.empty_like(theta, memory_format=torch.contiguous_format)
    if len(theta):
        with torch.cuda.device_of(theta):
            _angles[triton.cdiv(len(theta), BLOCK_ROWS), dim](
                *_phases(theta, None),
                coefficients.contiguous(),
                grad.contiguous(),
                out,
                len(theta),
                **_constants(dim, width, terms, order),
            )
    return out
