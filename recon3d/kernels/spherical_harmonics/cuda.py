"""Real spherical harmonics in Triton: one lane per direction; see ``reference.py`` for the conventions."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from recon3d.kernels.spherical_harmonics import reference

BLOCK = 128

_S0, _P0 = tl.constexpr(reference.S0), tl.constexpr(reference.P0)
_D0, _D1, _D2 = tl.constexpr(reference.D0), tl.constexpr(reference.D1), tl.constexpr(reference.D2)
_F0, _F1, _F2 = tl.constexpr(reference.F0), tl.constexpr(reference.F1), tl.constexpr(reference.F2)
_F3, _F4 = tl.constexpr(reference.F3), tl.constexpr(reference.F4)


@triton.jit
def _direction(directions_ptr, row, inside, dtype: tl.constexpr):
    x = tl.load(directions_ptr + row * 3, mask=inside, other=0.0).to(dtype)
    y = tl.load(directions_ptr + row * 3 + 1, mask=inside, other=0.0).to(dtype)
    z = tl.load(directions_ptr + row * 3 + 2, mask=inside, other=0.0).to(dtype)
    return x, y, z


@triton.jit
def _four(a, b, c, d):
    """(N,) each, as (N, 2, 2) in this order of the last two axes: a, b, c, d."""
    return tl.join(tl.join(a, c), tl.join(b, d))


@triton.jit
def _sixteen(a, b, c, d, N: tl.constexpr):
    """(N, 2, 2) each, of every fourth column from the first, second, third and fourth on, as rows (N, 16).

    What is joined last becomes the last axis, so columns side by side come last.
    """
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (N, 16))


@triton.jit(do_not_specialize=["rows"])
def _values(
    directions_ptr, out_ptr, rows, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, DTYPE: tl.constexpr, N: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    inside = row < rows
    x, y, z = _direction(directions_ptr, row, inside, DTYPE)
    xx = x * x
    yy = y * y
    zz = z * z
    # Constants stand on the right: the interpreter would make a constant of what they are on the left of.
    basis = _sixteen(
        _four(tl.zeros_like(x) + _S0, x * y * _D1, (xx - yy) * _D2, z * (5.0 * zz - 3.0) * _F0),
        _four(-y * _P0, -y * z * _D1, y * (yy - 3.0 * xx) * _F3, x * (1.0 - 5.0 * zz) * _F1),
        _four(z * _P0, (3.0 * zz - 1.0) * _D0, x * y * z * _F4, z * (xx - yy) * _F2),
        _four(-x * _P0, -x * z * _D1, y * (1.0 - 5.0 * zz) * _F1, x * (3.0 * yy - xx) * _F3),
        N,
    )
    column = tl.arange(0, WIDTH)
    wanted = inside[:, None] & (column < COLUMNS)[None, :]
    tl.store(out_ptr + row[:, None] * COLUMNS + column[None, :], basis.to(out_ptr.dtype.element_ty), mask=wanted)


@triton.jit
def _column(grad_ptr, row, inside, column: tl.constexpr, COLUMNS: tl.constexpr, dtype: tl.constexpr):
    return tl.load(grad_ptr + row * COLUMNS + column, mask=inside, other=0.0).to(dtype)


@triton.jit(do_not_specialize=["rows"])
def _slopes(grad_ptr, directions_ptr, out_ptr, rows, COLUMNS: tl.constexpr, DTYPE: tl.constexpr, N: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    inside = row < rows
    x, y, z = _direction(directions_ptr, row, inside, DTYPE)
    dx = tl.zeros_like(x)
    dy = tl.zeros_like(x)
    dz = tl.zeros_like(x)
    if COLUMNS > 1:
        dy -= _column(grad_ptr, row, inside, 1, COLUMNS, DTYPE) * _P0
        dz += _column(grad_ptr, row, inside, 2, COLUMNS, DTYPE) * _P0
        dx -= _column(grad_ptr, row, inside, 3, COLUMNS, DTYPE) * _P0
    if COLUMNS > 4:
        g4 = _column(grad_ptr, row, inside, 4, COLUMNS, DTYPE) * _D1
        g5 = _column(grad_ptr, row, inside, 5, COLUMNS, DTYPE) * _D1
        g6 = _column(grad_ptr, row, inside, 6, COLUMNS, DTYPE) * _D0
        g7 = _column(grad_ptr, row, inside, 7, COLUMNS, DTYPE) * _D1
        g8 = _column(grad_ptr, row, inside, 8, COLUMNS, DTYPE) * _D2
        dx += y * g4 - z * g7 + 2.0 * x * g8
        dy += x * g4 - z * g5 - 2.0 * y * g8
        dz += 6.0 * z * g6 - y * g5 - x * g7
    if COLUMNS > 9:
        ring = 3.0 * (y * y - x * x) * _F3
        twist = 6.0 * x * y * _F3
        slope = (1.0 - 5.0 * z * z) * _F1
        g9 = _column(grad_ptr, row, inside, 9, COLUMNS, DTYPE)
        g10 = _column(grad_ptr, row, inside, 10, COLUMNS, DTYPE) * _F4
        g11 = _column(grad_ptr, row, inside, 11, COLUMNS, DTYPE)
        g12 = _column(grad_ptr, row, inside, 12, COLUMNS, DTYPE) * _F0
        g13 = _column(grad_ptr, row, inside, 13, COLUMNS, DTYPE)
        g14 = _column(grad_ptr, row, inside, 14, COLUMNS, DTYPE) * _F2
        g15 = _column(grad_ptr, row, inside, 15, COLUMNS, DTYPE)
        dx += y * z * g10 - twist * g9 + slope * g13 + 2.0 * x * z * g14 + ring * g15
        dy += x * z * g10 + ring * g9 + slope * g11 - 2.0 * y * z * g14 + twist * g15
        dz += x * y * g10 - 10.0 * z * (y * g11 + x * g13) * _F1
        dz += (15.0 * z * z - 3.0) * g12 + (x * x - y * y) * g14
    out_ptr += row * 3
    tl.store(out_ptr, dx.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(out_ptr + 1, dy.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(out_ptr + 2, dz.to(out_ptr.dtype.element_ty), mask=inside)


def _constants(directions: Tensor, degree: int) -> dict[str, object]:
    dtype = tl.float64 if directions.dtype == torch.float64 else tl.float32
    return {"COLUMNS": degree**2, "DTYPE": dtype, "N": BLOCK, "num_warps": BLOCK // 32}


def values(directions: Tensor, degree: int) -> Tensor:
    rows = len(directions)
    out = directions.new_empty(rows, degree**2)
    if rows:
        with torch.cuda.device_of(directions):
            _values[(triton.cdiv(rows, BLOCK),)](
                directions.contiguous(), out, rows, **_constants(directions, degree), WIDTH=reference.HIGHEST_DEGREE**2
            )
    return out


def backward(grad: Tensor, directions: Tensor, degree: int) -> Tensor:
    rows = len(directions)
    out = torch.empty_like(directions, memory_format=torch.contiguous_format)
    if rows:
        with torch.cuda.device_of(directions):
            _slopes[(triton.cdiv(rows, BLOCK),)](
                grad.contiguous(), directions.contiguous(), out, rows, **_constants(directions, degree)
            )
    return out
