"""Stacks of projections that need not be in memory: (views, rows, columns), read by block when they are indexed.

A stack is whatever has ``shape``, ``dtype`` and slicing: a numpy array, a memory map, or a :class:`LazyStack` over a
file. Steps of preprocessing that look at one view at a time wrap the stack before them, so a block of the result costs
the memory of that block only, however large the scan.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

CHUNK_BYTES = 64 << 20
"""Size of the blocks in which a whole stack is worked through."""

_MOST_IN_MEMORY = 2 << 30


@runtime_checkable
class Stack(Protocol):
    """What a stack of projections has to have."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __getitem__(self, key: Any, /) -> Any: ...


Block = Float32[np.ndarray, "views rows columns"]
Views = Int64[np.ndarray, " views"]
Reader = Callable[[np.ndarray, slice, slice], np.ndarray]
"""Reads the block of some views (numbers, in any order, repeats allowed) and of a range of rows and of columns."""


class LazyStack:
    """A stack of float32 whose values are made when asked for.

    Takes the usual keys: a number, a slice, a list or a mask of views; numbers or slices of rows and columns.
    """

    dtype = np.dtype(np.float32)
    ndim = 3

    def __init__(self, shape: tuple[int, int, int], read: Reader) -> None:
        self.shape = shape
        self._read = read

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        keys = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis in [k for k in keys if k is Ellipsis]:
            at = next(i for i, k in enumerate(keys) if k is Ellipsis)
            keys[at : at + 1] = [slice(None)] * (4 - len(keys))
        keys += [slice(None)] * (3 - len(keys))
        if len(keys) != 3:
            raise IndexError(f"a stack has views, rows and columns, not {len(keys)} axes")
        views = np.arange(self.shape[0])[keys[0]]
        rows, row_step = _range(keys[1], self.shape[1])
        columns, column_step = _range(keys[2], self.shape[2])
        values = self.block(np.atleast_1d(views), rows, columns)
        return values[0 if views.ndim == 0 else slice(None), row_step, column_step]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return in_memory(self) if dtype is None else in_memory(self).astype(dtype)

    def block(self, views: Views, rows: slice, columns: slice) -> Block:
        """Views by number; ranges of rows and columns with a start and an end."""
        return np.asarray(self._read(views, rows, columns), np.float32)


def block(stack: Stack, views: Views, rows: slice | None = None, columns: slice | None = None) -> Block:
    """Part of any stack, as float32 in memory."""
    rows = slice(0, stack.shape[1]) if rows is None else rows
    columns = slice(0, stack.shape[2]) if columns is None else columns
    if isinstance(stack, LazyStack):
        return stack.block(views, rows, columns)
    if len(views) and np.array_equal(views, np.arange(views[0], views[0] + len(views))):
        return np.asarray(stack[views[0] : views[0] + len(views), rows, columns]).astype(np.float32)
    return np.asarray(stack[views][:, rows, columns]).astype(np.float32)


def map_views(stack: Stack, function: Callable[[np.ndarray, np.ndarray, slice, slice], np.ndarray]) -> LazyStack:
    """``function(block, views, rows, columns)`` of every block; it must keep the shape and look at no other pixel."""
    views, rows, columns = stack.shape
    return LazyStack((views, rows, columns), lambda v, r, c: function(block(stack, v, r, c), v, r, c))


def take_views(stack: Stack, indices: Views) -> LazyStack:
    """Some of the views, in the order of ``indices``."""
    return LazyStack((len(indices), stack.shape[1], stack.shape[2]), lambda v, r, c: block(stack, indices[v], r, c))


def crop(stack: Stack, rows: slice, columns: slice) -> LazyStack:
    """A range of rows and of columns, both with a start and an end."""

    def read(v: np.ndarray, r: slice, c: slice) -> np.ndarray:
        return block(stack, v, _shifted(r, rows.start), _shifted(c, columns.start))

    return LazyStack((stack.shape[0], rows.stop - rows.start, columns.stop - columns.start), read)


def bin_pixels(stack: Stack, rows: int, columns: int) -> LazyStack:
    """Means over ``rows`` x ``columns`` pixels; what is left over at the far edges is cut off."""
    shape = stack.shape[0], stack.shape[1] // rows, stack.shape[2] // columns

    def read(v: np.ndarray, r: slice, c: slice) -> np.ndarray:
        fine = block(stack, v, slice(r.start * rows, r.stop * rows), slice(c.start * columns, c.stop * columns))
        blocks = fine.reshape(len(v), r.stop - r.start, rows, c.stop - c.start, columns)
        return blocks.mean(axis=(2, 4), dtype=np.float32)

    return LazyStack(shape, read)


def reorder(stack: Stack, axes: Sequence[str]) -> Stack:
    """A stack whose axes are ``axes`` (two or three of angles, rows, columns) as (angles, rows, columns), lazily.

    Without rows, there is one.
    """
    if tuple(axes) == ("angles", "rows", "columns"):
        return stack
    order = [axes.index(name) if name in axes else None for name in ("angles", "rows", "columns")]
    shape = [1 if axis is None else int(stack.shape[axis]) for axis in order]

    def read(v: np.ndarray, r: slice, c: slice) -> np.ndarray:
        wanted = [v, np.arange(r.start, r.stop), np.arange(c.start, c.stop)]
        if min(map(len, wanted)) == 0:
            return np.zeros((len(v), len(wanted[1]), len(wanted[2])), np.float32)
        keys: list[slice] = [slice(None)] * len(axes)
        for numbers, axis in zip(wanted, order):
            if axis is not None:
                keys[axis] = slice(int(numbers.min()), int(numbers.max()) + 1)
        part = np.asarray(stack[tuple(keys)]).transpose([axis for axis in order if axis is not None])
        part = part if len(axes) == 3 else part[:, None]
        return part[v - v.min()].astype(np.float32)

    return LazyStack((shape[0], shape[1], shape[2]), read)


def chunks(stack: Stack) -> Iterator[Views]:
    """The numbers of all views, in runs whose float32 block is at most ``CHUNK_BYTES`` large (but one view)."""
    step = max(1, CHUNK_BYTES // max(1, 4 * stack.shape[1] * stack.shape[2]))
    for start in range(0, stack.shape[0], step):
        yield np.arange(start, min(start + step, stack.shape[0]))


def by_rows(stack: Stack, function: Callable[[np.ndarray], np.ndarray]) -> Float32[np.ndarray, "views rows columns"]:
    """``function`` of the sinogram (views, columns) of every detector row; it must keep the shape.

    The result is in memory or, beyond 2 GiB, a map of an unnamed temporary file that goes with it.
    """
    out = _room(stack.shape)
    views = np.arange(stack.shape[0])
    step = max(1, CHUNK_BYTES // max(1, 4 * stack.shape[0] * stack.shape[2]))
    for start in range(0, stack.shape[1], step):
        part = block(stack, views, slice(start, min(start + step, stack.shape[1])))
        for index in range(part.shape[1]):
            out[:, start + index] = function(np.ascontiguousarray(part[:, index]))
    return out


def in_memory(stack: Stack) -> Block:
    """The whole stack as one float32 array in memory; one that is that already is returned as it is."""
    if type(stack) is np.ndarray and stack.dtype == np.float32 and stack.flags.c_contiguous:
        return stack
    out = np.empty(stack.shape, np.float32)
    for views in chunks(stack):
        out[views[0] : views[-1] + 1] = block(stack, views)
    return out


def runs(views: Views) -> Iterator[tuple[slice, slice]]:
    """Ascending runs of step 1 in ``views``: where they lie in the list, and which views they are."""
    breaks = np.flatnonzero(np.diff(views) != 1) + 1
    edges = [0, *breaks.tolist(), len(views)]
    for start, stop in zip(edges[:-1], edges[1:]):
        if stop > start:
            yield slice(start, stop), slice(int(views[start]), int(views[stop - 1]) + 1)


def _room(shape: tuple[int, ...]) -> np.ndarray:
    if 4 * math.prod(shape) <= _MOST_IN_MEMORY:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(prefix="recon3d-") as file:
        return np.memmap(file, np.float32, "w+", shape=shape)  # keeps a handle of its own


def _range(key: Any, size: int) -> tuple[slice, Any]:
    """The range to read for a key along rows or columns, and the key to apply to what was read."""
    if not isinstance(key, slice):
        index = int(key)
        if not -size <= index < size:
            raise IndexError(f"index {index} of {size}")
        index %= size
        return slice(index, index + 1), 0
    chosen = range(*key.indices(size))
    if not chosen:
        return slice(0, 0), slice(None)
    low, high = min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1])
    return slice(low, high + 1), slice(None, None, chosen.step)


def _shifted(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)
