"""Running numba kernels on all threads without a second thread pool.

Kernels are compiled with ``nogil``; a slice of the work goes to each of ``torch.get_num_threads()`` threads. The
workers sleep while they have nothing to do: numba's own pools (and OpenMP's) spin, and two pools that spin on the same cores
slow each other down many times over.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def _workers(count: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    if _pool is None or _pool_size < count:
        _pool, _pool_size = ThreadPoolExecutor(count, thread_name_prefix="recon3d"), count
    return _pool


def spans(n: int, parts: int) -> list[tuple[int, int]]:
    """Cut range(n) into at most ``parts`` contiguous spans of nearly equal length."""
    parts = max(1, min(parts, n))
    edges = [n * i // parts for i in range(parts + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def run_parallel(function: Callable[..., object], tasks: list[tuple]) -> None:
    """Call ``function(*task)`` for each task, on torch's number of threads; the first exception is raised."""
    threads = min(torch.get_num_threads(), len(tasks))
    if threads <= 1:
        for task in tasks:
            function(*task)
        return
    pool = _workers(torch.get_num_threads())
    futures = [pool.submit(function, *task) for task in tasks[1:]]
    function(*tasks[0])
    for future in futures:
        future.result()
