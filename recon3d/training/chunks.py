"""How many points to send through a field at a time.

A full-batch step is the sum of its chunks' gradients whatever their size. On a CPU a chunk whose activations stay in
cache is several times faster than one large batch, and two chunks on two threads are faster than one after the other on
both; a large one is better on a GPU, and where every chunk has a large fixed cost (the gradient of a hash table). The
best size depends on the machine and on the field, so it is measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.kernels.threads import run_parallel, spans

CANDIDATES = {"cpu": (2**10, 2**11, 2**12, 2**13, 2**14, 2**16), "cuda": (2**15, 2**16, 2**17, 2**18)}
REPEATS = 3
PAYS = 0.95
"""A larger chunk needs more memory: it must cost at most so much of the time of the best smaller one."""
MISSES = 2
"""After so many sizes that do not pay, larger ones are not tried."""

GROUPS_PER_THREAD = 4
"""Whoever is free takes the next group of chunks."""


Gradients = list[Tensor | None]


class _Known(torch.autograd.Function):
    """A number whose gradients are known."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return None, None, *(grad * gradient for gradient in ctx.gradients)


def descend(
    loss: Callable[[int, int], Float[Tensor, ""]],
    span: tuple[int, int],
    chunk: int,
    parameters: Sequence[Tensor],
    backward: Callable[[Tensor], None],
    threads: int = 1,
) -> Float[Tensor, ""]:
    """Go backward from the sum of ``loss(begin, end)`` over the chunks of ``span``, and give that sum.

    On more than one of ``threads``, a chunk is one thread's from beginning to end, and ``backward`` is called once. The
    gradients of ``parameters`` are added up in the order of the chunks, whichever thread made them: every run gives the
    same.
    """
    first, last = span
    chunks = [(begin, min(begin + chunk, last)) for begin in range(first, last, chunk)]
    total = parameters[0].new_zeros(())
    if min(threads, len(chunks)) <= 1:
        for ends in chunks:
            part = loss(*ends)
            backward(part)
            total += part.detach()
        return total

    def group(begin: int, end: int) -> tuple[Tensor, Gradients]:
        value = torch.zeros_like(total)
        gradients: Gradients = [None] * len(parameters)
        for ends in chunks[begin:end]:
            part = loss(*ends)
            gradients = _added(gradients, torch.autograd.grad(part, parameters, allow_unused=True))
            value += part.detach()
        return value, gradients

    gradients: Gradients = [None] * len(parameters)
    for part, found in run_parallel(group, spans(len(chunks), GROUPS_PER_THREAD * threads)):
        total += part
        gradients = _added(gradients, found)
    known = [(gradient, weight) for gradient, weight in zip(gradients, parameters, strict=True) if gradient is not None]
    backward(_Known.apply(total, [gradient for gradient, _ in known], *(weight for _, weight in known)))
    return total


def _added(sums: Gradients, gradients: Sequence[Tensor | None]) -> Gradients:
    return [a if b is None else b if a is None else a.add_(b) for a, b in zip(sums, gradients, strict=True)]


def fastest_chunk(run: Callable[[int], None], points: int, device: torch.device) -> int:
    """The candidate with the least time a point; ``run(size)`` goes forward and backward through so many points.

    Not more than ``points``, the size of the batch. Sizes for which memory runs out are passed over.
    """
    sizes = sorted({min(size, points) for size in CANDIDATES[device.type]})
    best, least, misses = sizes[0], math.inf, 0
    for size in sizes if len(sizes) > 1 else []:
        try:
            run(size)
            seconds = min(_timed(run, size, device) for _ in range(REPEATS)) / size
        except torch.OutOfMemoryError:
            break
        if seconds < PAYS * least:
            best, least, misses = size, seconds, 0
        else:
            misses += 1
        if misses == MISSES:
            break
    return best


def _timed(run: Callable[[int], None], size: int, device: torch.device) -> float:
    begin = time.perf_counter()
    run(size)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin
