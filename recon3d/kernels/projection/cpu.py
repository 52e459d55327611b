"""Joseph's projector and its transpose in numba; see ``reference.py`` for the conventions.

A ray is walked slice by slice: without tests where all its neighbours lie inside the volume, with tests at both ends.
Projecting cuts the views between the threads. Back-projecting cuts the volume into slabs across z (across y in the
plane), each a volume of its own with zeros around it: a thread walks all rays through its slab, so that no two threads
write to one voxel, and the result does not depend on their number but for the rounding of sums.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from torch import Tensor

from recon3d.kernels.projection.reference import Grid, frames, planar
from recon3d.kernels.threads import kernel_threads, run_parallel, spans

TASKS_PER_THREAD = 4
SLABS_PER_THREAD = 1
THINNEST_SLAB = 8
"""Layers: in thinner slabs, setting up the rays once for each would cost more than walking them."""


@njit(nogil=True, cache=True, inline="always")
def _line(frame, c, r, divergent):
    """A point and the direction (x, y, z each) of the ray to column ``c`` and row ``r`` from the detector's middle."""
    w = 0.0
    if frame[16] > 0:
        w = -2.0 * np.sin(0.5 * c * frame[16]) ** 2
        c = np.sin(c * frame[16])
    ox = c * frame[6] + r * frame[9] + w * frame[12]
    oy = c * frame[7] + r * frame[10] + w * frame[13]
    oz = c * frame[8] + r * frame[11] + w * frame[14]
    s = 1.0 if divergent else 0.0
    t0 = frame[15]
    return (
        frame[0] + t0 * ox,
        frame[1] + t0 * oy,
        frame[2] + t0 * oz,
        frame[3] + s * ox,
        frame[4] + s * oy,
        frame[5] + s * oz,
    )


@njit(nogil=True, cache=True, inline="always")
def _between(start, step, low, high, first, last):
    """The i in first..last with low <= start + i step <= high; last == first where there is none."""
    if abs(step) < 1e-12:
        return (first, last) if low <= start <= high else (first, first)
    one = (low - start) / step
    two = (high - start) / step
    begin = max(np.ceil(min(one, two)), first)
    end = min(np.floor(max(one, two)) + 1.0, last)
    return (int(begin), int(end)) if begin < end else (first, first)


@njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz", "arcp"})
def _sum_plane(values, slices, along, a0, da, n, across):
    """Sum of the samples of a ray in a plane: a(i) = a0 + i da for each slice; ``along``, ``across`` are strides."""
    kind = values.dtype.type
    begin, end = _between(a0, da, -1.0, n, 0, slices)
    inner, outer = _between(a0, da, 0.0, n - 1, begin, end)
    if n < 2 or inner == outer:
        inner, outer = end, end
    a, d = kind(a0), kind(da)
    total = kind(0)
    for end_of in range(2):
        for i in range(outer if end_of else begin, end if end_of else inner):
            x = a + kind(i) * d
            k = int(np.floor(x))
            f = x - kind(k)
            if 0 <= k < n:
                total += (kind(1) - f) * values[i * along + k * across]
            if -1 <= k < n - 1:
                total += f * values[i * along + (k + 1) * across]
    inside = kind(0)
    for i in range(inner, outer):
        x = a + kind(i) * d
        k = min(int(x), n - 2)
        f = x - kind(k)
        place = np.uint64(i * along + k * across)
        value = values[place]
        inside += value + f * (values[place + np.uint64(across)] - value)
    return total + inside


@njit(nogil=True, cache=True, fastmath={"contract", "nsz"})
def _spread_plane(value, values, slices, along, a0, da, n, across):
    """The transpose of :func:`_sum_plane`."""
    kind = values.dtype.type
    begin, end = _between(a0, da, -1.0, n, 0, slices)
    inner, outer = _between(a0, da, 0.0, n - 1, begin, end)
    if n < 2 or inner == outer:
        inner, outer = end, end
    a, d = kind(a0), kind(da)
    for end_of in range(2):
        for i in range(outer if end_of else begin, end if end_of else inner):
            x = a + kind(i) * d
            k = int(np.floor(x))
            f = x - kind(k)
            if 0 <= k < n:
                values[i * along + k * across] += (kind(1) - f) * value
            if -1 <= k < n - 1:
                values[i * along + (k + 1) * across] += f * value
    for i in range(inner, outer):
        x = a + kind(i) * d
        k = min(int(x), n - 2)
        part = (x - kind(k)) * value
        place = np.uint64(i * along + k * across)
        values[place] += value - part
        values[place + np.uint64(across)] += part


@njit(nogil=True, cache=True, error_model="numpy")
def _project_plane(first, last, frames, values, nx, ny, sx, sy, divergent, out):
    """Projections first..last of a slice, of which ``values`` is the (ny * nx) content."""
    kind = values.dtype.type
    columns = out.shape[1]
    for view in range(first, last):
        for column in range(columns):
            qx, qy, _, dx, dy, _ = _line(frames[view], column - 0.5 * (columns - 1), 0.0, divergent)
            length = np.sqrt((dx * sx) ** 2 + (dy * sy) ** 2)
            if abs(dy) >= abs(dx):
                step = dx / dy
                total = _sum_plane(values, ny, nx, qx - qy * step, step, nx, 1)
                scale = length / abs(dy)
            else:
                step = dy / dx
                total = _sum_plane(values, nx, 1, qy - qx * step, step, ny, nx)
                scale = length / abs(dx)
            out[view, column] = total * kind(scale)


@njit(nogil=True, cache=True, error_model="numpy")
def _back_project_plane(first, last, frames, projections, nx, sx, sy, divergent, out):
    """Layers first..last along y of the transpose."""
    kind = out.dtype.type
    columns = projections.shape[1]
    layers = last - first
    values = out[first * nx : last * nx]
    for view in range(len(frames)):
        for column in range(columns):
            qx, qy, _, dx, dy, _ = _line(frames[view], column - 0.5 * (columns - 1), 0.0, divergent)
            qy -= first
            length = np.sqrt((dx * sx) ** 2 + (dy * sy) ** 2)
            if abs(dy) >= abs(dx):
                step = dx / dy
                value = projections[view, column] * kind(length / abs(dy))
                _spread_plane(value, values, layers, nx, qx - qy * step, step, nx, 1)
            else:
                step = dy / dx
                value = projections[view, column] * kind(length / abs(dx))
                _spread_plane(value, values, nx, 1, qy - qx * step, step, layers, nx)


@njit(nogil=True, cache=True)
def _parts_in_space(a0, da, na, b0, db, nb, slices):
    """The slices begin..end that a ray in space touches, and those inner..outer where all its neighbours exist."""
    begin, end = _between(a0, da, -1.0, na, 0, slices)
    begin, end = _between(b0, db, -1.0, nb, begin, end)
    inner, outer = _between(a0, da, 0.0, na - 1, begin, end)
    inner, outer = _between(b0, db, 0.0, nb - 1, inner, outer)
    if na < 2 or nb < 2 or inner == outer:
        inner, outer = end, end
    return begin, end, inner, outer


@njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz", "arcp"})
def _sum_space(values, slices, along, a0, da, na, across_a, b0, db, nb, across_b):
    """Sum of the samples of a ray in space, as :func:`_sum_plane` with two axes across."""
    kind = values.dtype.type
    begin, end, inner, outer = _parts_in_space(a0, da, na, b0, db, nb, slices)
    a, d, b, e = kind(a0), kind(da), kind(b0), kind(db)
    total = kind(0)
    for end_of in range(2):
        for i in range(outer if end_of else begin, end if end_of else inner):
            x, y = a + kind(i) * d, b + kind(i) * e
            k, l = int(np.floor(x)), int(np.floor(y))
            f, g = x - kind(k), y - kind(l)
            for above in range(2):
                if 0 <= l + above < nb:
                    weight = g if above else kind(1) - g
                    place = i * along + (l + above) * across_b + k * across_a
                    if 0 <= k < na:
                        total += weight * (kind(1) - f) * values[place]
                    if -1 <= k < na - 1:
                        total += weight * f * values[place + across_a]
    inside = kind(0)
    right, up = np.uint64(across_a), np.uint64(across_b)
    for i in range(inner, outer):
        x, y = a + kind(i) * d, b + kind(i) * e
        k, l = min(int(x), na - 2), min(int(y), nb - 2)
        f, g = x - kind(k), y - kind(l)
        place = np.uint64(i * along + k * across_a + l * across_b)
        low = values[place]
        low += f * (values[place + right] - low)
        high = values[place + up]
        high += f * (values[place + up + right] - high)
        inside += low + g * (high - low)
    return total + inside


@njit(nogil=True, cache=True, fastmath={"contract", "nsz"})
def _spread_space(value, values, slices, along, a0, da, na, across_a, b0, db, nb, across_b):
    """The transpose of :func:`_sum_space`."""
    kind = values.dtype.type
    begin, end, inner, outer = _parts_in_space(a0, da, na, b0, db, nb, slices)
    a, d, b, e = kind(a0), kind(da), kind(b0), kind(db)
    for end_of in range(2):
        for i in range(outer if end_of else begin, end if end_of else inner):
            x, y = a + kind(i) * d, b + kind(i) * e
            k, l = int(np.floor(x)), int(np.floor(y))
            f, g = x - kind(k), y - kind(l)
            for above in range(2):
                if 0 <= l + above < nb:
                    part = value * (g if above else kind(1) - g)
                    place = i * along + (l + above) * across_b + k * across_a
                    if 0 <= k < na:
                        values[place] += part * (kind(1) - f)
                    if -1 <= k < na - 1:
                        values[place + across_a] += part * f
    right, up = np.uint64(across_a), np.uint64(across_b)
    for i in range(inner, outer):
        x, y = a + kind(i) * d, b + kind(i) * e
        k, l = min(int(x), na - 2), min(int(y), nb - 2)
        f, g = x - kind(k), y - kind(l)
        place = np.uint64(i * along + k * across_a + l * across_b)
        high = g * value
        low = value - high
        values[place] += low - f * low
        values[place + right] += f * low
        values[place + up] += high - f * high
        values[place + up + right] += f * high


@njit(nogil=True, cache=True, inline="always")
def _main_axis(dx, dy, dz):
    """0: y, 1: x, 2: z."""
    if abs(dy) >= abs(dx) and abs(dy) >= abs(dz):
        return 0
    return 1 if abs(dx) >= abs(dz) else 2


@njit(nogil=True, cache=True, error_model="numpy")
def _project_space(first, last, frames, values, shape, spacing, divergent, out):
    """Rows first..last of all projections, counted through view after view."""
    kind = values.dtype.type
    nz, ny, nx = shape
    rows, columns = out.shape[1:]
    for line in range(first, last):
        view, row = line // rows, line % rows
        for column in range(columns):
            c, r = column - 0.5 * (columns - 1), row - 0.5 * (rows - 1)
            qx, qy, qz, dx, dy, dz = _line(frames[view], c, r, divergent)
            length = np.sqrt((dx * spacing[0]) ** 2 + (dy * spacing[1]) ** 2 + (dz * spacing[2]) ** 2)
            main = _main_axis(dx, dy, dz)
            if main == 0:
                da, db, length = dx / dy, dz / dy, length / abs(dy)
                total = _sum_space(values, ny, nx, qx - qy * da, da, nx, 1, qz - qy * db, db, nz, nx * ny)
            elif main == 1:
                da, db, length = dy / dx, dz / dx, length / abs(dx)
                total = _sum_space(values, nx, 1, qy - qx * da, da, ny, nx, qz - qx * db, db, nz, nx * ny)
            else:
                da, db, length = dx / dz, dy / dz, length / abs(dz)
                total = _sum_space(values, nz, nx * ny, qx - qz * da, da, nx, 1, qy - qz * db, db, ny, nx)
            out[view, row, column] = total * kind(length)


@njit(nogil=True, cache=True, error_model="numpy")
def _back_project_space(first, last, frames, projections, shape, spacing, divergent, out):
    """Layers first..last along z of the transpose."""
    kind = out.dtype.type
    _, ny, nx = shape
    nz = last - first
    rows, columns = projections.shape[1:]
    values = out[first * ny * nx : last * ny * nx]
    for view in range(len(frames)):
        for row in range(rows):
            for column in range(columns):
                c, r = column - 0.5 * (columns - 1), row - 0.5 * (rows - 1)
                qx, qy, qz, dx, dy, dz = _line(frames[view], c, r, divergent)
                qz -= first
                length = np.sqrt((dx * spacing[0]) ** 2 + (dy * spacing[1]) ** 2 + (dz * spacing[2]) ** 2)
                main = _main_axis(dx, dy, dz)
                value = projections[view, row, column]
                if main == 0:
                    da, db, value = dx / dy, dz / dy, value * kind(length / abs(dy))
                    _spread_space(value, values, ny, nx, qx - qy * da, da, nx, 1, qz - qy * db, db, nz, nx * ny)
                elif main == 1:
                    da, db, value = dy / dx, dz / dx, value * kind(length / abs(dx))
                    _spread_space(value, values, nx, 1, qy - qx * da, da, ny, nx, qz - qx * db, db, nz, nx * ny)
                else:
                    da, db, value = dx / dz, dy / dz, value * kind(length / abs(dz))
                    _spread_space(value, values, nz, nx * ny, qx - qz * da, da, nx, 1, qy - qz * db, db, ny, nx)


def _slabs(layers: int) -> list[tuple[int, int]]:
    return spans(layers, min(SLABS_PER_THREAD * kernel_threads(), -(-layers // THINNEST_SLAB)))


def project(
    volume: Tensor,
    vectors: Tensor,
    rows: int,
    columns: int,
    spacing: list[float],
    center: list[float],
    divergent: bool,
    curved: bool,
) -> Tensor:
    nz, ny, nx = volume.shape
    frame = frames(vectors, Grid((nz, ny, nx), spacing, center), divergent, curved)
    flat = planar(frame, (nz, ny, nx), rows)
    values, frame_values = volume.detach().contiguous().view(-1).numpy(), frame.numpy()
    out = volume.new_empty(len(vectors), rows, columns)
    parts = TASKS_PER_THREAD * kernel_threads()
    if flat:
        inputs = frame_values, values, nx, ny, *spacing[:2], divergent, out.view(-1, columns).numpy()
        run_parallel(_project_plane, [(a, b, *inputs) for a, b in spans(len(vectors), parts)])
    else:
        given = frame_values, values, (nz, ny, nx), tuple(spacing), divergent, out.numpy()
        run_parallel(_project_space, [(a, b, *given) for a, b in spans(len(vectors) * rows, parts)])
    return out


def back_project(
    projections: Tensor,
    vectors: Tensor,
    shape: list[int],
    spacing: list[float],
    center: list[float],
    divergent: bool,
    curved: bool,
) -> Tensor:
    nz, ny, nx = shape
    rows = projections.shape[1]
    frame = frames(vectors, Grid((nz, ny, nx), spacing, center), divergent, curved)
    flat = planar(frame, (nz, ny, nx), rows)
    values, frame_values = projections.detach().contiguous().numpy(), frame.numpy()
    out = projections.new_zeros(nz * ny * nx)
    if flat:
        inputs = frame_values, values[:, 0], nx, *spacing[:2], divergent, out.numpy()
        run_parallel(_back_project_plane, [(a, b, *inputs) for a, b in _slabs(ny)])
    else:
        given = frame_values, values, (nz, ny, nx), tuple(spacing), divergent, out.numpy()
        run_parallel(_back_project_space, [(a, b, *given) for a, b in _slabs(nz)])
    return out.view(nz, ny, nx)
