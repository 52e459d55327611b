"""The small ReLU network on the CPU: in matrix tiles (``amx.py``) where there are some and products are bfloat16, else
in vectors (``simd.py``). Blocks of rows go through the network one after the other, so that only x and y travel through
memory; hidden activations are made again in the backward pass.

Where the CPU does not multiply bfloat16, float32 stands in for it. float64 is for tests, and goes through the
reference.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recon3d.kernels import tiles
from recon3d.kernels.arrays import numbers
from recon3d.kernels.mlp import amx, reference, simd
from recon3d.kernels.threads import kernel_threads, run_parallel, spans

TASKS_PER_THREAD = 4


def _way(compute: torch.dtype) -> ModuleType:
    return amx if compute == torch.bfloat16 and tiles.available() else simd


def _packed(way: ModuleType, weights: list[Tensor], compute: torch.dtype) -> tuple[Any, ...]:
    """What kernels must know of weights."""
    sizes = _sizes(way, weights[0].shape[1], *(len(weight) for weight in weights))
    return way.pack([weight.detach() for weight in weights], *sizes, compute)


@functools.lru_cache(maxsize=64)
def _sizes(way: ModuleType, *widths: int) -> tuple[int, np.ndarray, np.ndarray]:
    """The room that weights between layers of such widths need, the widths, and as they are padded."""
    exact = np.array(widths)
    padded = -(-exact // way.PAD) * way.PAD
    return -(-int(padded.max()) // way.ROOM) * way.ROOM, exact, padded


def _empty(rows: int, width: int, kind: torch.dtype) -> Tensor:
    """Room for results, of a type that kernels write."""
    return torch.empty(rows, width, dtype=torch.bfloat16 if kind == torch.bfloat16 else torch.float32)


def _spans(rows: int, block: int) -> list[tuple[int, int]]:
    """Spans of whole blocks, but for the last; none of no rows."""
    return spans(rows, TASKS_PER_THREAD * kernel_threads(), block) if rows else []


def forward(x: Tensor, weights: list[Tensor], compute: torch.dtype) -> Tensor:
    """Outputs (N, out) of rows ``x`` (N, in)."""
    if compute == torch.float64:
        return reference.forward(x, weights, compute)
    way = _way(compute)
    out = _empty(len(x), len(weights[-1]), compute)
    given = numbers(x), *_packed(way, weights, compute), numbers(out)
    run_parallel(way.forward, [(a, b, *given) for a, b in _spans(len(x), way.BLOCK)])
    return out.to(compute)


def backward(
    grad: Tensor, x: Tensor, weights: list[Tensor], compute: torch.dtype, need_x: bool
) -> tuple[Tensor, list[Tensor]]:
    """Gradients of ``x`` (empty if not needed) and of the weights, each in its own type."""
    if compute == torch.float64:
        return reference.backward(grad, x, weights, compute, need_x)
    way = _way(compute)
    room = _empty(len(x) if need_x else 0, x.shape[1], x.dtype)
    given = numbers(grad), numbers(x), *_packed(way, weights, compute), need_x, numbers(room)
    parts = run_parallel(way.backward, [(a, b, *given) for a, b in _spans(len(x), way.BLOCK)])
    grad_x = room.to(x.dtype) if need_x else x.new_empty(0)
    if not parts:
        return grad_x, [torch.zeros_like(weight) for weight in weights]
    sums = way.unpack(sum(parts[1:], start=parts[0]))
    return grad_x, [
        total[: len(weight), : weight.shape[1]].to(weight.dtype, copy=True)
        for total, weight in zip(sums, weights, strict=True)
    ]
