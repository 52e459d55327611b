"""Real spherical harmonics in numba: the reference's polynomials, compiled. Slopes are the reference's, too: views of
photographs ask for none."""

from __future__ import annotations

import torch
from numba import njit
from torch import Tensor

from recon3d.kernels.spherical_harmonics.reference import backward, polynomials
from recon3d.kernels.threads import kernel_threads, run_parallel, spans

__all__ = ["backward", "values"]

GRAIN = 2**12
"""Directions that are worth waking a worker for."""

_polynomials = njit(nogil=True, inline="always")(polynomials)


@njit(nogil=True, cache=True)
def _values(first, last, directions, out):
    for i in range(first, last):
        basis: tuple = _polynomials(directions[i, 0], directions[i, 1], directions[i, 2])
        for k in range(out.shape[1]):
            out[i, k] = basis[k]


def values(directions: Tensor, degree: int) -> Tensor:
    wide = directions.detach().to(torch.promote_types(directions.dtype, torch.float32)).contiguous()
    out = wide.new_empty(len(wide), degree**2)
    parts = spans(len(wide), min(kernel_threads(), 1 + len(wide) // GRAIN))
    run_parallel(_values, [(a, b, wide.numpy(), out.numpy()) for a, b in parts])
    return out.to(directions.dtype)
