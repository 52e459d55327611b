"""From what a detector counted to line integrals that can be reconstructed; every step a function of a :class:`Scan`.

Steps that look at one view at a time are lazy: they cost nothing until a block is read, and then that block's memory.
Ring removal and zingers look at all views of a detector row, and leave the result in memory or, where it is large, in
an unnamed file. :func:`prepare` does them all in the order of :class:`recon3d.config.scans.PreprocessConfig`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float64
from torch import Tensor

from recon3d.config.scans import PreprocessConfig
from recon3d.data import scan_corrections, stacks
from recon3d.data.scan import Scan
from recon3d.data.stacks import LazyStack
from recon3d.errors import UserError, require
from recon3d.geometry.scanner import ScanGeometry, default_grid
from recon3d.geometry.voxels import VolumeGrid

logger = logging.getLogger(__name__)

_NEIGHBOURS = 4
_SURROUNDINGS = 5  # pixels a side of the median that a flat field is compared with


def prepare(scan: Scan, config: PreprocessConfig) -> Scan:
    """All steps of a configuration, in its order; the result has line integrals.

    Raises:
        UserError: a step does not fit the scan; nothing is left; or, with ``nonpositive="refuse"``, transmission of
            zero or less.
    """
    scan = select(scan, config)
    scan = crop(scan, config.rows, config.columns)
    if config.bad_pixels is not None:
        scan = repair(scan, find_bad_pixels(scan, config.bad_pixels))
    if scan.quantity == "counts":
        scan = to_transmission(scan, config.flat_field)
    if config.zingers is not None:
        scan = scan_corrections.remove_zingers(scan, config.zingers)
    scan = bin_pixels(scan, config.bin)
    if scan.quantity == "transmission":
        clipped, first = count_clipped(scan, config.least_transmission)
        if clipped:
            line = f"{clipped} of {math.prod(scan.projections.shape)} values of transmission are"
            if config.nonpositive == "refuse":
                raise UserError(
                    f"{_where(scan)}{line} below {config.least_transmission:g} (the first at view, row, column"
                    f" {first}); correct the dark field, mend dead pixels (--bad-pixels 0.5), or clip them"
                    " (--nonpositive clip)"
                )
            scan = scan.noted(f"{line} clipped to {config.least_transmission:g}")
        scan = to_line_integrals(scan, config.least_transmission)
    if config.rings != "none":
        scan = scan_corrections.remove_rings(scan, config.rings)
    if config.find_axis:
        column = scan_corrections.find_axis_column(scan)
        scan = recentre(scan, column).noted(f"the axis of rotation was found at column {column:.2f}")
    elif config.axis_column is not None:
        scan = recentre(scan, config.axis_column)
    if config.photons is not None:
        scan = add_noise(scan, config.photons, config.electronic_noise, config.peak, config.noise_seed)
    return scan


# ----------------------------------------------------------------------------------------------------------- selections


def select(scan: Scan, config: PreprocessConfig) -> Scan:
    """The projections that ``without``, ``angle_range``, ``every`` and ``views`` keep, one after the other.

    Raises:
        UserError: none is left, there are fewer than ``views``, or one to leave out is not there.
    """
    chosen = np.arange(len(scan))
    if config.without is not None:
        absent = next((view for view in config.without if not 0 <= view < len(scan)), None)
        if absent is not None:
            raise UserError(f"{_where(scan)}no projection {absent} to leave out; they are counted 0 to {len(scan) - 1}")
        chosen = np.setdiff1d(chosen, config.without)
        require(chosen.size > 0, f"{_where(scan)}all {len(scan)} projections are left out; leave some")
    if config.angle_range is not None:
        angles = scan.geometry.angles
        if angles is None:
            raise UserError(f"{_where(scan)}its projections have no angles, so there is no range of them to keep")
        start, stop = config.angle_range
        degrees = np.rad2deg(angles.numpy(force=True))
        # A hair's breadth of room: what is 90 degrees in the file must not miss a range to 90 by rounding.
        kept = (degrees - start + 1e-6) % 360 <= stop - start + 2e-6 if stop - start < 360 else degrees == degrees
        chosen = chosen[kept]
        require(
            chosen.size > 0,
            f"{_where(scan)}no projection from {start:g} to {stop:g} degrees; they lie from {degrees.min():.4g} to"
            f" {degrees.max():.4g}",
        )
    chosen = chosen[:: config.every]
    if config.views is not None:
        require(
            config.views <= len(chosen),
            f"{_where(scan)}{config.views} views asked for, but there are {len(chosen)}; ask for fewer",
        )
        chosen = chosen[np.arange(config.views) * len(chosen) // config.views]
    return scan if len(chosen) == len(scan) else scan.views(chosen)


def crop(scan: Scan, rows: tuple[int, int] | None, columns: tuple[int, int] | None) -> Scan:
    """A part of the detector. Fewer rows see a lower volume, if it is the default one; fewer columns still all of it.

    One row of parallel rays becomes the slice at z = 0, which is as good as any and can be worked on in 2D.
    """
    if rows is None and columns is None:
        return scan
    old = scan.geometry
    rows, columns = rows or (0, old.rows), columns or (0, old.columns)
    for name, part, size in (("rows", rows, old.rows), ("columns", columns, old.columns)):
        require(part[1] <= size, f"{_where(scan)}{name} {part[0]} to {part[1]}, but the detector has {size}")
    geometry, grid = old.cropped(rows, columns), scan.grid
    if grid == default_grid(old) and rows != (0, old.rows):
        shown = rows[1] - rows[0]
        height = ((rows[0] + rows[1] - old.rows) / 2) * grid.spacing[2]
        if shown == 1 and not old.divergent:
            geometry, height = replace(geometry, detector=geometry.detector - height * _up(geometry)), 0.0
        grid = VolumeGrid((shown, *grid.shape[1:]), grid.spacing, (*grid.center[:2], grid.center[2] + height))
    window = slice(*rows), slice(*columns)
    return replace(
        scan,
        projections=stacks.crop(scan.projections, *window),
        geometry=geometry,
        grid=grid,
        flat=None if scan.flat is None else scan.flat[window],
        dark=None if scan.dark is None else scan.dark[window],
    )


def bin_pixels(scan: Scan, factor: int) -> Scan:
    """Blocks of ``factor`` x ``factor`` pixels averaged (one row stays one row); voxels of that size grow as well."""
    if factor == 1:
        return scan
    geometry = scan.geometry.binned(factor)
    down = factor if scan.geometry.rows > 1 else 1

    def smaller(frame: np.ndarray | None) -> np.ndarray | None:
        return None if frame is None else stacks.bin_pixels(frame[None], down, factor)[0]

    default, grid = default_grid(scan.geometry), scan.grid
    if grid == default:
        grid = default_grid(geometry)
    elif grid.spacing == default.spacing:
        grid = grid.binned(factor)
    return replace(
        scan,
        projections=stacks.bin_pixels(scan.projections, down, factor),
        geometry=geometry,
        grid=grid,
        counts=None if scan.counts is None else scan.counts * down * factor,
        flat=smaller(scan.flat),
        dark=smaller(scan.dark),
    )


# ----------------------------------------------------------------------------------------------------------- bad pixels


def find_bad_pixels(scan: Scan, share: float) -> Bool[np.ndarray, "rows columns"]:
    """Pixels whose flat field (less the dark) is off the median of their surroundings by more than ``share`` of it.

    Without a flat field, the mean of up to 16 views stands for it.
    """
    from scipy.ndimage import median_filter

    if scan.flat is not None:
        field = scan.flat.astype(np.float64) - (0 if scan.dark is None else scan.dark)
    else:
        some = np.unique(np.linspace(0, len(scan) - 1, 16).astype(np.int64))
        values = stacks.block(scan.projections, some)
        seen = np.isfinite(values)  # a view that failed is not a pixel that did
        count = seen.sum(axis=0)
        total = np.where(seen, values, 0).sum(axis=0, dtype=np.float64)
        field = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    finite = np.isfinite(field)
    usual = median_filter(np.where(finite, field, np.median(field[finite]) if finite.any() else 0.0), _SURROUNDINGS)
    off = np.abs(field - usual) > share * np.maximum(np.abs(usual), 1e-12)
    return off | ~finite | ((field <= 0) if scan.flat is not None else False)


def repair(scan: Scan, bad: Bool[np.ndarray, "rows columns"]) -> Scan:
    """Bad pixels replaced by their nearest good ones, weighted by distance; and in each view what is not finite, too.

    Raises:
        UserError: more than half of the pixels are bad.
    """
    count = int(bad.sum())
    require(
        2 * count <= bad.size,
        f"{_where(scan)}{count} of {bad.size} detector pixels are bad, more than half; raise --bad-pixels",
    )
    fill = _filler(bad)
    rows, columns = scan.geometry.rows, scan.geometry.columns

    def read(v: np.ndarray, r: slice, c: slice) -> np.ndarray:
        frames = stacks.block(scan.projections, v).copy()
        fill(frames)
        for index in np.flatnonzero(~np.isfinite(frames).all(axis=(1, 2))):
            _filler(bad | ~np.isfinite(frames[index]))(frames[index : index + 1])
        return frames[:, r, c]

    def mended(frame: np.ndarray | None) -> np.ndarray | None:
        if frame is None:
            return None
        copy = frame.astype(np.float32)[None]
        fill(copy)
        return copy[0]

    stack = LazyStack((len(scan), rows, columns), read)
    fixed = replace(scan, projections=stack, flat=mended(scan.flat), dark=mended(scan.dark))
    return fixed.noted(f"{count} of {bad.size} detector pixels replaced by their neighbours") if count else fixed


def _filler(bad: np.ndarray) -> Callable[[np.ndarray], None]:
    """A function that overwrites the bad pixels of frames (n, rows, columns)."""
    from scipy.spatial import cKDTree

    places, good = np.argwhere(bad), np.argwhere(~bad)
    if not len(places) or not len(good):
        return lambda frames: None
    distance, nearest = cKDTree(good).query(places, k=min(_NEIGHBOURS, len(good)))
    distance, nearest = distance.reshape(len(places), -1), nearest.reshape(len(places), -1)
    weight = (1 / distance) / (1 / distance).sum(axis=1, keepdims=True)
    sources = good[nearest]

    def fill(frames: np.ndarray) -> None:
        values = frames[:, sources[..., 0], sources[..., 1]]
        frames[:, places[:, 0], places[:, 1]] = (values * weight.astype(np.float32)).sum(axis=2)

    return fill


# ------------------------------------------------------------------------------------------------------- normalisation


def to_transmission(scan: Scan, flat_field: bool = True) -> Scan:
    """(counts - dark) / (flat - dark), lazily. Without a flat field, the open beam is the largest count of up to 16
    views.

    Where the flat field has no light, nothing is known: the transmission is NaN there.
    """
    require(scan.quantity == "counts", f"{_where(scan)}transmission is made of counts, not of {scan.quantity}")
    shape = scan.geometry.rows, scan.geometry.columns
    dark = np.zeros(shape, np.float32) if scan.dark is None else scan.dark
    notes = []
    if scan.flat is not None and flat_field:
        beam = (scan.flat - dark).astype(np.float32)
    elif scan.counts is not None:
        beam = np.full(shape, scan.counts, np.float32)
    else:
        some = np.unique(np.linspace(0, len(scan) - 1, 16).astype(np.int64))
        level = float(np.nanpercentile(stacks.block(scan.projections, some), 99.9))
        beam = np.full(shape, level, np.float32) - dark
        notes.append(f"no flat field: {level:.5g} counts, the brightest seen, are taken for the open beam")
    with np.errstate(divide="ignore"):
        gain = np.where(beam > 0, 1 / beam, np.nan).astype(np.float32)
    dead = int((beam <= 0).sum())
    if dead:
        notes.append(
            f"{dead} of {beam.size} detector pixels have no light in the flat field (--bad-pixels 0.5 mends them)"
        )

    def normalise(values: np.ndarray, v: np.ndarray, r: slice, c: slice) -> np.ndarray:
        return (values - dark[r, c]) * gain[r, c]

    done = replace(
        scan, projections=stacks.map_views(scan.projections, normalise), quantity="transmission", flat=None, dark=None
    )
    for note in notes:
        logger.warning("%s%s", _where(scan), note)
    return done.noted(*notes)


def to_line_integrals(scan: Scan, least: float = 1e-5) -> Scan:
    """-log of the transmission (of counts: over the flat field), lazily; less than ``least`` is taken for it.

    Warns when the first block with such values is read; :func:`count_clipped` counts them all.
    """
    if scan.quantity == "line_integrals":
        return scan
    if scan.quantity == "counts":
        scan = to_transmission(scan)
    where = _where(scan)
    warned: list[bool] = []

    def logarithm(values: np.ndarray, v: np.ndarray, r: slice, c: slice) -> np.ndarray:
        low = values < least
        if not warned and low.any():
            warned.append(True)
            logger.warning(
                "%s%d values of transmission in views %d to %d are below %g and clipped to it (others may follow);"
                " correct the dark field, mend dead pixels (--bad-pixels 0.5), or end such runs (--nonpositive refuse)",
                *(where, int(low.sum()), int(v.min()), int(v.max()), least),
            )
        return -np.log(np.maximum(values, np.float32(least)))

    return replace(scan, projections=stacks.map_views(scan.projections, logarithm), quantity="line_integrals")


def count_clipped(scan: Scan, least: float) -> tuple[int, tuple[int, int, int] | None]:
    """How many values of transmission lie below ``least``, and the first of them; reads the whole scan once."""
    count, first = 0, None
    for views in stacks.chunks(scan.projections):
        low = stacks.block(scan.projections, views) < least
        found = int(low.sum())
        if found and first is None:
            view, row, column = (int(i) for i in np.unravel_index(int(low.argmax()), low.shape))
            first = int(views[0]) + view, row, column
        count += found
    return count, first


# -------------------------------------------------------------------------------------------------- geometry and noise


def recentre(scan: Scan, column: float) -> Scan:
    """The scan whose axis of rotation casts its shadow on ``column`` of the detector (parallel rays).

    Raises:
        UserError: the rays are divergent, or the column is not on the detector.
    """
    geometry = scan.geometry
    require(
        not geometry.divergent,
        f"{_where(scan)}an axis column tells the geometry of parallel rays only; give axis_offset in mm in a sidecar",
    )
    require(
        0 <= column <= geometry.columns - 1,
        f"{_where(scan)}axis column {column:g} is not on the detector of {geometry.columns} columns",
    )
    at = geometry.shadows(geometry.source.new_zeros(1, 3))[0]
    moved = replace(geometry, detector=geometry.detector + (at - column) * geometry.u)
    default = scan.grid == default_grid(geometry)
    return replace(scan, geometry=moved, grid=default_grid(moved) if default else scan.grid)


def add_noise(scan: Scan, photons: float, electronic: float = 0.0, peak: float | None = None, seed: int = 0) -> Scan:
    """Poisson counts of a beam of ``photons``, and Gaussian noise of ``electronic`` counts, on clean line integrals.

    p becomes -log(n / photons), n ~ Poisson(photons exp(-p)) + electronic N(0, 1), at least 1. With ``peak``, line
    integrals are scaled so that the largest is ``peak`` before, and back after. Every view has a generator of its own,
    seeded by (seed, view): the noise of a view does not depend on what else is read.
    """
    require(scan.quantity == "line_integrals", f"{_where(scan)}noise is for line integrals, not {scan.quantity}")
    scale = 1.0
    if peak is not None:
        largest = max(float(stacks.block(scan.projections, v).max()) for v in stacks.chunks(scan.projections))
        require(largest > 0, f"{_where(scan)}the largest line integral is {largest:g}: nothing to scale to the peak")
        scale = peak / largest

    def read(v: np.ndarray, r: slice, c: slice) -> np.ndarray:
        clean = stacks.block(scan.projections, v)
        noisy = np.empty_like(clean)
        for index, view in enumerate(v.tolist()):
            generator = np.random.default_rng((seed, view))
            counts = generator.poisson(photons * np.exp(-scale * clean[index].astype(np.float64))).astype(np.float64)
            counts += electronic * generator.standard_normal(counts.shape) if electronic else 0.0
            noisy[index] = -np.log(np.maximum(counts, 1.0) / photons) / scale
        return noisy[:, r, c]

    views, rows, columns = scan.geometry.shape
    noted = scan.noted(f"noise simulated: {photons:g} photons a pixel, peak {peak or 'as it is'}, seed {seed}")
    return replace(noted, projections=LazyStack((views, rows, columns), read), counts=photons)


def _up(geometry: ScanGeometry) -> Float64[Tensor, "a 3"]:
    """Unit vectors along the detectors' rows."""
    return geometry.v / geometry.v.norm(dim=1, keepdim=True)


def _where(scan: Scan) -> str:
    return "" if scan.path is None else f"{scan.path}: "
