"""The small ReLU network in Triton: all layers in one kernel; see ``reference.py`` for the conventions.

A program takes a block of rows through all layers, the activations in registers; products are float16 or bfloat16 with
float32 sums. The backward pass makes the activations again, which costs fewer bytes than to store and load them: they
are several times a row's input. Its programs go through many blocks each and add up the gradients of the weights in
float32 registers, so that these are written once a program, and then summed in a fixed order: every run gives the same.

Inputs and outputs are padded with zeros to a power of two in registers, never in memory. Networks of other shapes than
:func:`_fits` says, and products in wider types, go through plain torch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from recon3d.kernels.mlp import reference

WIDTHS = 16, 32, 64, 128
DEEPEST = 3
BLOCK = 128  # rows
PROGRAMS = 264
"""Of the backward pass: two for each multiprocessor of a large GPU."""


@triton.jit
def _rows(ptr, row, rows, COLUMNS: tl.constexpr, C: tl.constexpr, dtype: tl.constexpr):
    """Rows of a matrix with COLUMNS columns, padded with zeros to C."""
    column = tl.arange(0, C)
    inside = (row < rows)[:, None] & (column < COLUMNS)[None, :]
    return tl.load(ptr + row[:, None] * COLUMNS + column[None, :], mask=inside, other=0.0).to(dtype)


@triton.jit
def _store(ptr, row, rows, value, COLUMNS: tl.constexpr, C: tl.constexpr):
    column = tl.arange(0, C)
    inside = (row < rows)[:, None] & (column < COLUMNS)[None, :]
    tl.store(ptr + row[:, None] * COLUMNS + column[None, :], value.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def _hidden(x, weight):
    return tl.maximum(tl.dot(x, tl.trans(weight)), 0.0).to(x.dtype)


@triton.jit
def _through(grad, weight, activation):
    """The gradient of a hidden layer's sums, from that of the next layer's."""
    return tl.where(activation > 0, tl.dot(grad, weight), 0.0).to(activation.dtype)


@triton.jit(do_not_specialize=["rows"])
def _forward(
    x_ptr,
    weights_ptr,
    out_ptr,
    rows,
    IN: tl.constexpr,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
    OUT: tl.constexpr,
    I: tl.constexpr,
    O: tl.constexpr,
    N: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    unit = tl.arange(0, WIDTH)
    dtype = weights_ptr.dtype.element_ty
    h = _hidden(_rows(x_ptr, row, rows, IN, I, dtype), _rows(weights_ptr, unit, WIDTH, IN, I, dtype))
    weights_ptr += WIDTH * IN
    for _ in tl.static_range(1, DEPTH):
        h = _hidden(h, _rows(weights_ptr, unit, WIDTH, WIDTH, WIDTH, dtype))
        weights_ptr += WIDTH * WIDTH
    last = _rows(weights_ptr, tl.arange(0, O), OUT, WIDTH, WIDTH, dtype)
    _store(out_ptr, row, rows, tl.dot(h, tl.trans(last)), OUT, O)


@triton.jit(do_not_specialize=["rows"])
def _backward(
    grad_ptr,
    x_ptr,
    weights_ptr,
    grad_x_ptr,
    sums_ptr,
    rows,
    IN: tl.constexpr,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
    OUT: tl.constexpr,
    I: tl.constexpr,
    O: tl.constexpr,
    N: tl.constexpr,
    NEED_X: tl.constexpr,
):
    """Written for three hidden layers; those that a network does not have are constants that the compiler drops.

    ``sums`` is (programs, all weights).
    """
    dtype = weights_ptr.dtype.element_ty
    unit = tl.arange(0, WIDTH)
    output = tl.arange(0, O)
    SECOND: tl.constexpr = WIDTH * IN
    THIRD: tl.constexpr = SECOND + WIDTH * WIDTH
    LAST: tl.constexpr = SECOND + (DEPTH - 1) * WIDTH * WIDTH
    w1 = _rows(weights_ptr, unit, WIDTH, IN, I, dtype)
    total1 = tl.zeros((WIDTH, I), tl.float32)
    if DEPTH > 1:
        w2 = _rows(weights_ptr + SECOND, unit, WIDTH, WIDTH, WIDTH, dtype)
        total2 = tl.zeros((WIDTH, WIDTH), tl.float32)
    if DEPTH > 2:
        w3 = _rows(weights_ptr + THIRD, unit, WIDTH, WIDTH, WIDTH, dtype)
        total3 = tl.zeros((WIDTH, WIDTH), tl.float32)
    w4 = _rows(weights_ptr + LAST, output, OUT, WIDTH, WIDTH, dtype)
    total4 = tl.zeros((O, WIDTH), tl.float32)

    for block in range(tl.program_id(0), tl.cdiv(rows, N), tl.num_programs(0)):
        row = (block * N + tl.arange(0, N)).to(tl.int64)
        x = _rows(x_ptr, row, rows, IN, I, dtype)
        h1 = _hidden(x, w1)
        h = h1
        if DEPTH > 1:
            h2 = _hidden(h1, w2)
            h = h2
        if DEPTH > 2:
            h = _hidden(h2, w3)
        grad = _rows(grad_ptr, row, rows, OUT, O, dtype)
        total4 = tl.dot(tl.trans(grad), h, total4)
        grad = _through(grad, w4, h)
        if DEPTH > 2:
            total3 = tl.dot(tl.trans(grad), h2, total3)
            grad = _through(grad, w3, h2)
        if DEPTH > 1:
            total2 = tl.dot(tl.trans(grad), h1, total2)
            grad = _through(grad, w2, h1)
        total1 = tl.dot(tl.trans(grad), x, total1)
        if NEED_X:
            _store(grad_x_ptr, row, rows, tl.dot(grad, w1), IN, I)

    sums_ptr += tl.program_id(0) * (LAST + OUT * WIDTH)
    _store(sums_ptr, unit, WIDTH, total1, IN, I)
    if DEPTH > 1:
        _store(sums_ptr + SECOND, unit, WIDTH, total2, WIDTH, WIDTH)
    if DEPTH > 2:
        _store(sums_ptr + THIRD, unit, WIDTH, total3, WIDTH, WIDTH)
    _store(sums_ptr + LAST, output, OUT, total4, WIDTH, WIDTH)


def _fits(weights: list[Tensor], compute: torch.dtype) -> bool:
    """Whether the kernels do this network: 1 to 3 hidden layers of one width, at most 128 inputs and outputs."""
    width = len(weights[0])
    return (
        compute in (torch.float16, torch.bfloat16)
        and 2 <= len(weights) <= DEEPEST + 1
        and width in WIDTHS
        and all(weight.shape == (width, width) for weight in weights[1:-1])
        and max(weights[0].shape[1], len(weights[-1])) <= 128
    )


def _constants(weights: list[Tensor]) -> dict[str, int]:
    inputs, width, outputs = weights[0].shape[1], len(weights[0]), len(weights[-1])
    return {
        "IN": inputs,
        "WIDTH": width,
        "DEPTH": len(weights) - 1,
        "OUT": outputs,
        "I": max(16, triton.next_power_of_2(inputs)),
        "O": max(16, triton.next_power_of_2(outputs)),
        "num_warps": 8 if width > 32 else 4,
    }


def _packed(weights: list[Tensor], compute: torch.dtype) -> Tensor:
    return torch.cat([weight.flatten() for weight in weights]).to(compute)


def forward(x: Tensor, weights: list[Tensor], compute: torch.dtype) -> Tensor:
    if not _fits(weights, compute):
        return reference.forward(x, weights, compute)
    out = x.new_empty(len(x), len(weights[-1]), dtype=compute)
    if len(x):
        with torch.cuda.device_of(x):
            grid = (triton.cdiv(len(x), BLOCK),)
            _forward[grid](x.contiguous(), _packed(weights, compute), out, len(x), **_constants(weights), N=BLOCK)
    return out


def backward(
    grad: Tensor, x: Tensor, weights: list[Tensor], compute: torch.dtype, need_x: bool
) -> tuple[Tensor, list[Tensor]]:
    if not _fits(weights, compute):
        return reference.backward(grad, x, weights, compute, need_x)
    x = x.contiguous()
    grad_x = torch.empty_like(x) if need_x else x.new_empty(0)
    block = BLOCK // 2 if len(weights[0]) == 128 else BLOCK  # what the registers hold
    programs = min(PROGRAMS, triton.cdiv(len(x), block))
    sums = x.new_empty(programs, sum(weight.numel() for weight in weights), dtype=torch.float32)
    if programs:
        with torch.cuda.device_of(x):
            inputs = grad.contiguous(), x, _packed(weights, compute), grad_x, sums, len(x)
            _backward[(programs,)](*inputs, **_constants(weights), N=block, NEED_X=need_x, num_stages=1)
    parts = sums.split([weight.numel() for weight in weights], dim=1)
    return grad_x, [part.sum(0).view_as(weight).to(weight.dtype) for part, weight in zip(parts, weights, strict=True)]
