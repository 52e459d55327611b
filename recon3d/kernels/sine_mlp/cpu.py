"""The network of damped sines on a CPU, block by block on all threads; see ``reference.py`` for the conventions.

A block of ``ROWS`` rows goes through all layers on one thread: products of that size run at full speed there, and no
thread waits for another. Bias, factor, function and slope are one pass over what a product has just written. The slope
is kept: the backward pass has no functions to compute, it multiplies, and sums up the gradient of the bias. Gradients
of the blocks are added in their order: every run gives the same, on any number of threads.

float64 is for tests, and goes through the reference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recon3d.kernels.sine.cpu import FARTHEST, FAST, KINDS, far_value, near_value, value_and_slope
from recon3d.kernels.sine_mlp import reference
from recon3d.kernels.threads import run_parallel, spans

ROWS = 1024


@functools.cache
def _activation(kind: int, keep: bool) -> Callable[..., None]:
    """``values`` (n, w), W h before, becomes s(omega (values + bias)); its slope goes into ``slopes`` where kept."""

    @njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
    def kernel(values, slopes, bias, omega):
        for i in range(values.shape[0]):
            row, slope, far = values[i], slopes[i] if keep else values[i], np.int32(0)
            for j in range(len(row)):
                row[j] = omega * (row[j] + bias[j])
                far = np.int32(far | (np.int32(0) if abs(row[j]) <= FARTHEST else np.int32(1)))
            if far != 0:
                for j in range(len(row)):
                    z = row[j]
                    near = abs(z) <= FARTHEST
                    if keep:
                        slope[j] = omega * (near_value(z, kind, 1) if near else far_value(z, kind, 1))
                    row[j] = near_value(z, kind, 0) if near else far_value(z, kind, 0)
            elif keep:
                for j in range(len(row)):
                    value, derivative = value_and_slope(row[j], kind)
                    row[j] = value
                    slope[j] = omega * derivative
            else:
                for j in range(len(row)):
                    row[j] = near_value(row[j], kind, 0)

    return kernel


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _through(grad, slopes, total):
    """``grad`` (n, w) times ``slopes``, in place; ``total`` (w) is its sum over the rows."""
    total[:] = 0
    for i in range(grad.shape[0]):
        for j in range(grad.shape[1]):
            grad[i, j] *= slopes[i, j]
            total[j] += grad[i, j]


def _detached(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach() for tensor in tensors]


def _blocks(rows: int) -> list[tuple[int, int]]:
    return spans(rows, -(-rows // ROWS))


def forward(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], omegas: list[float], damping: str, keep: bool
) -> tuple[Tensor, Tensor]:
    if x.dtype != torch.float32:
        out, kept = reference.forward(x, weights, biases, omegas, damping)
        return out, kept if keep else kept[:, :, :0].clone()
    x, weights, biases = x.detach(), _detached(weights), _detached(biases)
    layers, width = len(omegas), len(weights[0])
    kernel = _activation(KINDS[damping], keep)
    out = x.new_empty(len(x), len(weights[-1]))
    kept = x.new_empty(2, layers, len(x) if keep else 0, width)

    def block(begin: int, end: int) -> None:
        room = kept[:, :, begin:end] if keep else x.new_empty(1, 2, end - begin, width)
        h = x[begin:end]
        for layer in range(layers):
            values = room[0, layer if keep else layer % 2]
            torch.mm(h, weights[layer].t(), out=values)
            slopes = room[1, layer] if keep else values
            kernel(values.numpy(), slopes.numpy(), biases[layer].numpy(), np.float32(omegas[layer]))
            h = values
        torch.addmm(biases[-1], h, weights[-1].t(), out=out[begin:end])

    run_parallel(block, _blocks(len(x)))
    return out, kept


def backward(
    grad: Tensor, x: Tensor, kept: Tensor, weights: list[Tensor], need_x: bool
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    if x.dtype != torch.float32:
        return reference.backward(grad, x, list(kept[0]), list(kept[1]), weights, need_x)
    grad, x, kept, weights = grad.detach(), x.detach(), kept.detach(), _detached(weights)
    layers, width = kept.shape[1], kept.shape[3]
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format) if need_x else x.new_empty(0)
    grad_weights = [torch.zeros_like(weight) for weight in weights]
    grad_biases = [weight.new_zeros(len(weight)) for weight in weights]

    def block(begin: int, end: int) -> tuple[list[Tensor], list[Tensor]]:
        values, slopes = kept[:, :, begin:end]
        incoming = grad[begin:end]
        room = x.new_empty(2, end - begin, width)
        of_weights, of_biases = [incoming.t() @ values[-1]], [incoming.sum(0)]
        for layer in reversed(range(layers)):
            incoming = torch.mm(incoming, weights[layer + 1], out=room[layer % 2])
            total = x.new_empty(width)
            _through(incoming.numpy(), slopes[layer].numpy(), total.numpy())
            of_weights.append(incoming.t() @ (values[layer - 1] if layer else x[begin:end]))
            of_biases.append(total)
        if need_x:
            torch.mm(incoming, weights[0], out=grad_x[begin:end])
        return of_weights[::-1], of_biases[::-1]

    for of_weights, of_biases in run_parallel(block, _blocks(len(x))):
        for total, part in zip([*grad_weights, *grad_biases], [*of_weights, *of_biases], strict=True):
            total += part
    return grad_x, grad_weights, grad_biases
