"""Segments of packed samples in numba; see ``reference.py`` for the conventions."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recon3d.kernels.threads import kernel_threads, run_parallel, spans


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


@njit(nogil=True, cache=True)
def _foresee(begin, end, offsets, first, origins, directions, t, dt, density, wanted, count):
    cells = density.shape[0]
    half, last = np.float32(0.5 * cells), cells - 1
    for r in range(begin, end):
        x, y, z = origins[r, 0], origins[r, 1], origins[r, 2]
        u, v, w = directions[r, 0], directions[r, 1], directions[r, 2]
        start = offsets[r] + first[r]
        i = start
        depth = np.float32(0)
        while i < offsets[r + 1] and depth < wanted[r]:
            p = min(max(int((x + u * t[i] + 1) * half), 0), last)
            q = min(max(int((y + v * t[i] + 1) * half), 0), last)
            s = min(max(int((z + w * t[i] + 1) * half), 0), last)
            depth += density[p, q, s] * dt[i]
            i += 1
        count[r] = i - start


WORDS = (torch.int64, torch.int32, torch.int16, torch.uint8)


GRAIN = 2**16
"""Samples that are worth waking a worker for."""


def _spans(rays: int, samples: int) -> list[tuple[int, int]]:
    return spans(rays, min(kernel_threads(), 1 + samples // GRAIN))


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


def foresee(
    offsets: Tensor,
    first: Tensor,
    origins: Tensor,
    directions: Tensor,
    t: Tensor,
    dt: Tensor,
    density: Tensor,
    wanted: Tensor,
) -> Tensor:
    count = torch.empty_like(first, memory_format=torch.contiguous_format)
    given = [v.contiguous().numpy() for v in (offsets, first, origins, directions, t, dt, density, wanted)]
    run_parallel(_foresee, [(a, b, *given, count.numpy()) for a, b in _spans(len(first), len(t))])
    return count
