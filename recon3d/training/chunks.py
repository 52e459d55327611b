"""How many points to send through a field at a time.

A full-batch step is the sum of its chunks' gradients whatever their size. On a CPU a chunk whose activations stay in
cache is several times faster than one large batch; a large one is better on a GPU, and where every chunk has a large
fixed cost (the gradient of a hash table). The best size depends on the machine and on the field, so it is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

CANDIDATES = {"cpu": (2**10, 2**11, 2**12, 2**13, 2**14, 2**16), "cuda": (2**15, 2**16, 2**17, 2**18)}
REPEATS = 3
SLOWER = 1.03
"""Where a size is so many times slower than the best, larger ones, which need more memory, are not tried."""


def fastest_chunk(run: Callable[[int], None], points: int, device: torch.device) -> int:
    """The candidate with the least time a point; ``run(size)`` goes forward and backward through so many points.

    Not more than ``points``, the size of the batch. Sizes for which memory runs out are passed over.
    """
    sizes = sorted({min(size, points) for size in CANDIDATES[device.type]})
    if len(sizes) == 1:
        return sizes[0]
    seconds: dict[int, float] = {}
    for size in sizes:
        try:
            run(size)
            seconds[size] = min(_timed(run, size, device) for _ in range(REPEATS)) / size
            if seconds[size] > SLOWER * min(seconds.values()):
                break
        except torch.OutOfMemoryError:
            break
    return min(seconds, key=lambda size: seconds[size]) if seconds else sizes[0]


def _timed(run: Callable[[int], None], size: int, device: torch.device) -> float:
    begin = time.perf_counter()
    run(size)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin
