"""Running CPU kernels on all threads without a second pool that spins.

The work is done by the calling thread and ``kernel_threads() - 1`` workers, which sleep while they have none: numba's
own pools (and OpenMP's) spin, and two pools that spin on the same cores slow each other down many times over. Numba
kernels are compiled with ``nogil``; torch operations inside a worker run on that one thread.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import TypeVar

import torch

R = TypeVar("R")

_jobs: list[SimpleQueue[Callable[[], None]]] = []


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
    _set_operations(operations, before[1])
    try:
        yield
    finally:
        _chosen.count = before[0]
        _set_operations(before[1], operations)


def _set_operations(threads: int, before: int) -> None:
    if threads != before:  # torch tells several libraries, which takes longer than many an operation
        torch.set_num_threads(threads)


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


def _serve(jobs: SimpleQueue[Callable[[], None]], ready: threading.Event) -> None:
    _one_torch_thread()
    ready.set()
    while True:
        jobs.get()()


def _workers(count: int) -> list[SimpleQueue[Callable[[], None]]]:
    """What so many threads take their jobs from; they sleep while there are none, and end with the process."""
    while len(_jobs) < count:
        jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        ready = threading.Event()
        threading.Thread(target=_serve, args=(jobs, ready), name="recon3d", daemon=True).start()
        ready.wait()  # what it says to torch must not come after what this thread says
        _jobs.append(jobs)
    return _jobs[:count]


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
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for index in waiting:
                results[index] = function(*tasks[index])
        except BaseException as failure:
            failures.append(failure)
        finally:
            for _ in waiting:  # nothing is left, for whoever comes late or after a failure
                pass

    def help_out(at_work: threading.Lock) -> None:
        with at_work:
            work()

    locks = [threading.Lock() for _ in range(min(threads, len(tasks)) - 1)]
    for jobs, lock in zip(_workers(len(locks)), locks, strict=True):
        jobs.put(functools.partial(help_out, lock))
    with _threads(1, 1):
        work()
    for lock in locks:
        with lock:  # a worker that has not begun by now finds nothing to do
            pass
    if failures:
        raise failures[0]
    return results  # type: ignore[return-value]
