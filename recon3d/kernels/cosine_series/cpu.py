"""The cosine series on the CPU: features in numba, a block of rows that stays in cache, and one matrix product a block.

A feature is a product of two rotations, k theta = (32 m + j) theta: per angle there is a table of 32 fine rotations
(by j theta) and one of K / 32 coarse ones (by 32 m theta), made in float64 by doubling, and each feature costs two
multiply-adds in float32. Its error does not grow with k, as that of the recurrence T_k+1 = 2 u T_k - T_k-1 does.

Blocks have fixed numbers of rows (the last is padded): the matrix library compiles a kernel for every shape it meets.
float64 is for tests, and goes through ``blocked.py``. See ``reference.py`` for the conventions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.nn import functional as F

from recon3d.kernels.cosine_series import blocked
from recon3d.kernels.cosine_series.blocked import joined, parted
from recon3d.kernels.threads import kernel_threads, run_parallel, spans

FEATURES_AT_ONCE = 2**20  # 4 MB: no larger block is faster
LEAST_ROWS = 64
FINE = 32

R = TypeVar("R")

_FAST = {"contract", "arcp", "nsz", "reassoc"}


@njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")
def _powers(cosine, sine, n, cosines, sines):
    """The rotations by 0 to n - 1 times the angle whose cosine and sine are given.

    Returns the cosine and sine of n times the angle, n rounded up to a power of two.
    """
    cosines[0], sines[0] = 1.0, 0.0
    have = 1
    while have < n:
        for j in range(min(have, n - have)):
            cosines[have + j] = cosines[j] * cosine - sines[j] * sine
            sines[have + j] = sines[j] * cosine + cosines[j] * sine
        cosine, sine = cosine * cosine - sine * sine, 2 * cosine * sine
        have *= 2
    return cosine, sine


@njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")
def _rotations(theta, weight, order, coarse, wide, fine_cosines, fine_sines, cosines, sines):
    """Tables of the fine rotations (32,), and of the coarse ones (``coarse``,), weighted and turned by order pi / 2.

    ``wide`` is float64 scratch (2, coarse or 32).
    """
    cosine, sine = _powers(np.cos(np.float64(theta)), np.sin(np.float64(theta)), FINE, wide[0], wide[1])
    for j in range(FINE):
        fine_cosines[j] = wide[0, j]
        fine_sines[j] = wide[1, j]
    _powers(cosine, sine, coarse, wide[0], wide[1])
    for m in range(coarse):
        c, s = weight * wide[0, m], weight * wide[1, m]
        if order & 1:
            c, s = -s, c
        if order & 2:
            c, s = -c, -s
        cosines[m] = c
        sines[m] = s


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _features(theta, weight, factors, order, out):
    """w phi_order(k, theta) for a block: ``theta`` (rows, d), ``out`` (rows, d * K); ``factors`` (K,) are k^order."""
    rows, dim = theta.shape
    terms = len(factors)
    coarse = -(-terms // FINE)
    wide = np.empty((2, max(coarse, FINE)), np.float64)
    fine_cosines, fine_sines = np.empty(FINE, np.float32), np.empty(FINE, np.float32)
    cosines, sines = np.empty(coarse, np.float32), np.empty(coarse, np.float32)
    for row in range(rows):
        for i in range(dim):
            w = weight[row, i] if len(weight) else np.float32(1)
            _rotations(theta[row, i], w, order, coarse, wide, fine_cosines, fine_sines, cosines, sines)
            line = out[row, i * terms : (i + 1) * terms]
            for m in range(terms // FINE):
                c, s = cosines[m], sines[m]
                part = line[m * FINE : (m + 1) * FINE]
                for j in range(FINE):
                    part[j] = c * fine_cosines[j] - s * fine_sines[j]
            begin = terms // FINE * FINE
            part = line[begin:]
            for j in range(terms - begin):
                part[j] = cosines[coarse - 1] * fine_cosines[j] - sines[coarse - 1] * fine_sines[j]
            if order > 0:
                for k in range(terms):
                    line[k] *= factors[k]


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _angles(theta, products, factors, order, out):
    """``out`` (rows, d): the sums over k of phi_order(k, theta) times ``products`` (rows, d * K)."""
    rows, dim = theta.shape
    terms = len(factors)
    coarse = -(-terms // FINE)
    wide = np.empty((2, max(coarse, FINE)), np.float64)
    fine_cosines, fine_sines = np.empty(FINE, np.float32), np.empty(FINE, np.float32)
    cosines, sines = np.empty(coarse, np.float32), np.empty(coarse, np.float32)
    for row in range(rows):
        for i in range(dim):
            _rotations(theta[row, i], np.float32(1), order, coarse, wide, fine_cosines, fine_sines, cosines, sines)
            line = products[row, i * terms : (i + 1) * terms]
            total = 0.0
            for m in range(coarse):
                part, factor = line[m * FINE : (m + 1) * FINE], factors[m * FINE : (m + 1) * FINE]
                along, across = np.float32(0), np.float32(0)
                for j in range(len(part)):
                    value = part[j] * factor[j]
                    along += value * fine_cosines[j]
                    across += value * fine_sines[j]
                total += cosines[m] * along - sines[m] * across
            out[row, i] = total


def _rows(count: int, features: int) -> int:
    """Rows of a block: a power of two, so that there are few shapes."""
    most = 1 << max(0, (FEATURES_AT_ONCE // max(1, features)).bit_length() - 1)
    needed = 1 << max(0, count - 1).bit_length()
    return max(LEAST_ROWS, min(most, needed))


def _padded(x: Tensor, begin: int, size: int) -> Tensor:
    """``size`` rows from ``begin`` on, padded with zeros."""
    part = x[begin : begin + size]
    return (part if len(part) == size else F.pad(part, (0, 0, 0, size - len(part)))).contiguous()


def _factors(terms: int, order: int) -> np.ndarray:
    return (np.arange(terms, dtype=np.float64) ** order).astype(np.float32)


def _in_blocks(count: int, size: int, work: Callable[[range], R]) -> list[R]:
    """``work`` on the beginnings of all blocks, cut into one contiguous part a thread."""
    blocks = -(-count // size)
    parts = spans(blocks, kernel_threads()) if blocks else []
    return run_parallel(work, [(range(a * size, b * size, size),) for a, b in parts])


class _Features:
    """Makes the features of one block after the other in one buffer, (rows, d * K)."""

    def __init__(self, theta: Tensor, weight: Tensor | None, terms: int, order: int, size: int) -> None:
        self.theta, self.weight, self.order, self.size = theta, weight, order, size
        self.factors = _factors(terms, order)
        self.buffer = theta.new_empty(size, theta.shape[1] * terms)
        self.none = np.empty((0, 0), np.float32)

    def __call__(self, begin: int) -> Tensor:
        theta = _padded(self.theta, begin, self.size).numpy()
        weight = self.none if self.weight is None else _padded(self.weight, begin, self.size).numpy()
        _features(theta, weight, self.factors, self.order, self.buffer.numpy())
        return self.buffer


def series(theta: Tensor, weight: Tensor | None, coefficients: Tensor, order: int) -> Tensor:
    if theta.dtype != torch.float32:
        return blocked.series(theta, weight, coefficients, order)
    theta, weight, matrix = theta.detach(), None if weight is None else weight.detach(), joined(coefficients.detach())
    terms = coefficients.shape[2]
    out = theta.new_empty(len(theta), len(matrix))
    size = _rows(len(theta), matrix.shape[1])

    def work(begins: range) -> None:
        features = _Features(theta, weight, terms, order, size)
        for begin in begins:
            out[begin : begin + size] = (features(begin) @ matrix.t())[: len(theta) - begin]

    _in_blocks(len(theta), size, work)
    return out


def coefficients(theta: Tensor, weight: Tensor | None, grad: Tensor, terms: int, order: int) -> Tensor:
    if theta.dtype != torch.float32:
        return blocked.coefficients(theta, weight, grad, terms, order)
    theta, weight, grad = theta.detach(), None if weight is None else weight.detach(), grad.detach()
    columns = theta.shape[1] * terms
    size = _rows(len(theta), columns)

    def work(begins: range) -> Tensor:
        features = _Features(theta, weight, terms, order, size)
        total = theta.new_zeros(grad.shape[1], columns)
        for begin in begins:
            total.addmm_(_padded(grad, begin, size).t(), features(begin))
        return total

    total = theta.new_zeros(grad.shape[1], columns)
    for part in _in_blocks(len(theta), size, work):
        total += part
    return parted(total, theta.shape[1])


def angles(theta: Tensor, coefficients: Tensor, grad: Tensor, order: int) -> Tensor:
    if theta.dtype != torch.float32:
        return blocked.angles(theta, coefficients, grad, order)
    theta, grad, matrix = theta.detach(), grad.detach(), joined(coefficients.detach())
    out = torch.empty_like(theta, memory_format=torch.contiguous_format)
    size = _rows(len(theta), matrix.shape[1])
    factors = _factors(coefficients.shape[2], order)

    def work(begins: range) -> None:
        for begin in begins:
            products = _padded(grad, begin, size) @ matrix
            part = theta[begin : begin + size].contiguous()
            _angles(part.numpy(), products.numpy(), factors, order, out[begin : begin + size].numpy())

    _in_blocks(len(theta), size, work)
    return out
