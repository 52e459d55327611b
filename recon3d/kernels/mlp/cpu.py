"""The small ReLU network on the CPU, in blocks of rows that stay in cache, one block a task.

In bfloat16, CPUs with matrix tiles have a faster way (``amx.py``); what follows is for all others.

A block's rows are a multiple of ``GRAIN`` (the last block is padded): the matrix library compiles a kernel for every
shape it meets, at a millisecond each, and the number of samples of a step is never twice the same. The hidden
activations are made again in the backward pass, in cache, instead of travelling through memory.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recon3d.kernels import tiles
from recon3d.kernels.mlp import amx
from recon3d.kernels.mlp.reference import layer_inputs
from recon3d.kernels.threads import run_parallel

LARGEST = 8192
GRAIN = 1024


def _block_rows(rows: int) -> int:
    """Rows of a block, so that all threads have equally many blocks."""
    threads = torch.get_num_threads()
    blocks = threads * -(-rows // (LARGEST * threads))
    return GRAIN * -(-rows // (blocks * GRAIN))


def _block(x: Tensor, begin: int, size: int, compute: torch.dtype) -> Tensor:
    """``size`` rows from ``begin`` on, padded with zeros."""
    part = x[begin : begin + size].to(compute)
    return part if len(part) == size else F.pad(part, (0, 0, 0, size - len(part)))


def forward(x: Tensor, weights: list[Tensor], compute: torch.dtype) -> Tensor:
    if compute == torch.bfloat16 and tiles.available():
        return amx.forward(x, weights)
    x, weights = x.detach(), [weight.detach().to(compute) for weight in weights]
    out = x.new_empty(len(x), len(weights[-1]), dtype=compute)
    size = _block_rows(max(1, len(x)))

    def block(begin: int) -> None:
        part = layer_inputs(_block(x, begin, size, compute), weights)[-1] @ weights[-1].t()
        out[begin : begin + size] = part[: len(x) - begin]

    run_parallel(block, [(begin,) for begin in range(0, len(x), size)])
    return out


def backward(
    grad: Tensor, x: Tensor, weights: list[Tensor], compute: torch.dtype, need_x: bool
) -> tuple[Tensor, list[Tensor]]:
    if compute == torch.bfloat16 and tiles.available():
        return amx.backward(grad, x, weights, need_x)
    x, small = x.detach(), [weight.detach().to(compute) for weight in weights]
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format) if need_x else x.new_empty(0)
    size = _block_rows(max(1, len(x)))

    def block(begin: int) -> list[Tensor]:
        inputs = layer_inputs(_block(x, begin, size, compute), small)
        g = _block(grad, begin, size, compute)
        parts = []
        for layer in reversed(range(len(small))):
            parts.append(g.t() @ inputs[layer])
            if layer > 0:
                g = torch.ops.aten.threshold_backward(g @ small[layer], inputs[layer], 0)
        if need_x:
            grad_x[begin : begin + size] = (g @ small[0])[: len(x) - begin]
        return parts[::-1]

    grad_weights = [torch.zeros_like(weight) for weight in weights]
    for parts in run_parallel(block, [(begin,) for begin in range(0, len(x), size)]):
        for total, part in zip(grad_weights, parts, strict=True):
            total += part
    return grad_x, grad_weights
