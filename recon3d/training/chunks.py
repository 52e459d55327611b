"""How many points to send through a field at a time.

A full-batch step is the sum of its chunks' gradients whatever their size. On a CPU a chunk whose activations stay in
cache is several times faster than one large batch; a large one is better on a GPU, and where every chunk has a large
fixed cost (the gradient of a hash table). The best size depends on the machine and on the field, so it is measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

CANDIDATES = {"cpu": (2**10, 2**11, 2**12, 2**13, 2**14, 2**16), "cuda": (2**15, 2**16, 2**17, 2**18)}
REPEATS = 3
PAYS = 0.95
"""A larger chunk needs more memory: it must cost at most so much of the time of the best smaller one."""
MISSES = 2
"""After so many sizes that do not pay, larger ones are not tried."""


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
