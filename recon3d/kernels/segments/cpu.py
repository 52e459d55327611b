"""Segments of packed samples in numba; see ``reference.py`` for the conventions."""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recon3d.kernels.threads import kernel_threads, run_parallel, spans


@njit(nogil=True, cache=True)
def _lay(begin, end, targets, sources, widths, starts, counts, ends):
    """Rows of ``widths`` words, which a segment has one behind the other. Unsigned numbers are never counted from an
    array's end: without that question the innermost loop is a copy."""
    for target, source, width in zip(targets, sources, widths):
        for r in range(begin, end):
            at = np.uint64(ends[r - 1] * width if r > 0 else 0)
            to = np.uint64(starts[r] * width)
            for i in range(np.uint64(counts[r] * width)):
                target[to + i] = source[at + i]


@njit(nogil=True, cache=True)
def _darken(begin, end, optical_depth, losses, ends, darkness, lit):
    for r in range(begin, end):
        first = ends[r - 1] if r > 0 else 0
        depth = np.float64(optical_depth[r])
        i = first
        while i < ends[r] and depth < darkness:
            depth += losses[i]
            i += 1
        optical_depth[r] = depth
        lit[r] = i - first


WORDS = (torch.int64, torch.int32, torch.int16, torch.uint8)


GRAIN = 2**16
"""Samples that are worth waking a worker for."""


def _spans(rays: int, samples: int) -> list[tuple[int, int]]:
    return spans(rays, min(kernel_threads(), 1 + samples // GRAIN))


def lay(targets: list[Tensor], sources: list[Tensor], starts: Tensor, counts: Tensor, sizes: Tensor) -> None:
    """Rows are copied in words as long as all of them allow, whatever their types."""
    if not sizes.any():
        return
    lengths = [source.element_size() * math.prod(source.shape[1:]) for source in sources]
    word = next(kind for kind in WORDS if not any(length % kind.itemsize for length in lengths))
    rows = [tuple(v.contiguous().view(-1).view(word).numpy() for v in tensors) for tensors in (targets, sources)]
    widths = tuple(length // word.itemsize for length in lengths)
    given = *rows, widths, starts.contiguous().numpy(), counts.contiguous().numpy(), sizes.cumsum(0).numpy()
    run_parallel(_lay, [(a, b, *given) for a, b in _spans(len(starts), len(sources[0]))])


def darken(optical_depth: Tensor, losses: Tensor, counts: Tensor, darkness: float) -> Tensor:
    lit = torch.empty_like(counts, memory_format=torch.contiguous_format)
    given = losses.contiguous().numpy(), counts.cumsum(0).numpy(), darkness, lit.numpy()
    spent = optical_depth.numpy()
    run_parallel(_darken, [(a, b, spent, *given) for a, b in _spans(len(counts), len(losses))])
    return lit
