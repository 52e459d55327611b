"""Segments of packed samples in numba; see ``reference.py`` for the conventions."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recon3d.kernels.threads import run_parallel, spans


@njit(nogil=True, cache=True)
def _take(begin, end, offsets, first, ends, origins, directions, t, dt, ray, points, t_out, dt_out):
    for r in range(begin, end):
        to = ends[r - 1] if r > 0 else 0
        shift = offsets[r] + first[r] - to
        x, y, z = origins[r, 0], origins[r, 1], origins[r, 2]
        u, v, w = directions[r, 0], directions[r, 1], directions[r, 2]
        for i in range(to, ends[r]):
            distance = t[i + shift]
            ray[i] = r
            points[i, 0], points[i, 1], points[i, 2] = x + u * distance, y + v * distance, z + w * distance
            t_out[i], dt_out[i] = distance, dt[i + shift]


@njit(nogil=True, cache=True)
def _lay(begin, end, target, source, starts, counts, ends):
    for r in range(begin, end):
        at = ends[r - 1] if r > 0 else 0
        shift = starts[r] - at
        for i in range(at, at + counts[r]):
            for j in range(source.shape[1]):
                target[i + shift, j] = source[i, j]


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
    return spans(rays, min(torch.get_num_threads(), 1 + samples // GRAIN))


def take(
    offsets: Tensor, first: Tensor, count: Tensor, origins: Tensor, directions: Tensor, t: Tensor, dt: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    ends = count.cumsum(0)
    size = int(ends[-1]) if len(ends) else 0
    outputs = torch.empty(size, dtype=torch.int64), origins.new_empty(size, 3), t.new_empty(size), dt.new_empty(size)
    inputs = [v.contiguous().numpy() for v in (offsets, first, ends, origins, directions, t, dt)]
    results = [v.numpy() for v in outputs]
    run_parallel(_take, [(a, b, *inputs, *results) for a, b in _spans(len(first), size)])
    return outputs


def lay(targets: list[Tensor], sources: list[Tensor], starts: Tensor, counts: Tensor, sizes: Tensor) -> None:
    """Rows are copied in words as long as they allow, whatever their type."""
    given = starts.contiguous().numpy(), counts.contiguous().numpy(), sizes.cumsum(0).numpy()
    for target, source in zip(targets, sources, strict=True):
        if not source.numel():
            continue
        size = source.element_size() * source[0].numel()
        word = next(kind for kind in WORDS if size % kind.itemsize == 0)
        rows = [v.view(len(v), -1).view(word).numpy() for v in (target, source.contiguous())]
        run_parallel(_lay, [(a, b, *rows, *given) for a, b in _spans(len(starts), len(source))])


def darken(optical_depth: Tensor, losses: Tensor, counts: Tensor, darkness: float) -> Tensor:
    lit = torch.empty_like(counts, memory_format=torch.contiguous_format)
    given = losses.contiguous().numpy(), counts.cumsum(0).numpy(), darkness, lit.numpy()
    spent = optical_depth.numpy()
    run_parallel(_darken, [(a, b, spent, *given) for a, b in _spans(len(counts), len(losses))])
    return lit
