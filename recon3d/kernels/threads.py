"""Running CPU kernels on all threads without a second pool that spins.

The work is done by the calling thread and ``kernel_threads() - 1`` workers, which sleep while they have none: numba's
own pools (and OpenMP's) spin, and two pools that spin on the same cores slow each other down many times over. Numba
kernels are compiled with ``nogil``; torch operations inside a worker run on that one thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

R = TypeVar("R")

_pools: dict[int, ThreadPoolExecutor] = {}


class _Chosen(threading.local):
    """On how many threads this thread runs kernels; None: as many as torch's operations."""

    count: int | None = None


_chosen = _Chosen()


def kernel_threads() -> int:
    """On how many threads a kernel runs that is called now."""
    return _chosen.count or torch.get_num_threads()


@contextlib.contextmanager
def _threads(kernels: int, operations: int) -> Iterator[None]:
    before = _chosen.count, torch.get_num_threads()
    _chosen.count = kernels
    torch.set_num_threads(operations)
    try:
        yield
    finally:
        _chosen.count = before[0]
        torch.set_num_threads(before[1])


def small_operations() -> contextlib.AbstractContextManager[None]:
    """Within it torch's operations run on the calling thread alone, and kernels on as many as ever.

    For work that is done in kernels, with small operations between them. Each of those would wait for all of torch's
    threads, so for one that another process keeps from its core; and while they spin, they are in the way of the
    kernels' workers.
    """
    return _threads(kernel_threads(), 1)


def _one_torch_thread() -> None:
    torch.get_num_threads()  # torch sets a thread up at its first question; only then does the next line last
    torch.set_num_threads(1)


def _workers(count: int) -> ThreadPoolExecutor:
    if count not in _pools:
        pool = ThreadPoolExecutor(count - 1, "recon3d", _one_torch_thread)
        for started in [pool.submit(torch.get_num_threads) for _ in range(count - 1)]:
            started.result()
        _pools[count] = pool
    return _pools[count]


def spans(n: int, parts: int, block: int = 1) -> list[tuple[int, int]]:
    """Cut range(n) into at most ``parts`` contiguous spans of nearly equal length, of whole blocks but for the last."""
    blocks = -(-n // block)
    parts = max(1, min(parts, blocks))
    edges = [min(blocks * i // parts * block, n) for i in range(parts + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def run_parallel(function: Callable[..., R], tasks: Sequence[tuple]) -> list[R]:
    """``[function(*task) for task in tasks]`` on :func:`kernel_threads`; the first exception is raised.

    The calling thread works too, and whoever is free takes the next task. So a worker that another process keeps from
    its core delays one task at most, and none if it did not wake before the work was done.
    """
    threads = kernel_threads()
    if min(threads, len(tasks)) <= 1:
        return [function(*task) for task in tasks]
    results: list[R | None] = [None] * len(tasks)
    waiting = iter(range(len(tasks)))  # shared: taking the next one is one step of the interpreter

    def work() -> None:
        for index in waiting:
            results[index] = function(*tasks[index])

    pool = _workers(threads)
    helpers = [pool.submit(work) for _ in range(min(threads, len(tasks)) - 1)]
    try:
        with _threads(1, 1):
            work()
    finally:
        failures = [None if helper.cancel() else helper.exception() for helper in helpers]
    for failure in failures:
        if failure is not None:
            raise failure
    return results  # type: ignore[return-value]
