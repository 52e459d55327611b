"""What would spoil a reconstruction and can be seen in the scan itself, told in one line each."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from recon3d.data import stacks
from recon3d.data.scan import Scan
from recon3d.errors import UserError
from recon3d.geometry.turns import missing_columns

_EDGE = 0.02  # share of the columns at either side
_SHADOW = 0.1  # of the sinogram's own height


def check(scan: Scan) -> list[str]:
    """Warnings about a scan of line integrals; reads it once, a block at a time.

    Raises:
        UserError: values that are not finite, or no view sees the volume.
    """
    return [*check_geometry(scan), *check_values(scan)]


def check_geometry(scan: Scan) -> list[str]:
    """Whether the detector sees the volume.

    Raises:
        UserError: in no view.
    """
    geometry, grid = scan.geometry, scan.grid
    corners = torch.tensor(list(itertools.product(*zip(grid.low, grid.high))), dtype=torch.float64)
    if grid.shape[0] == 1:
        corners[:, 2] = grid.center[2]
    columns, rows, depth = geometry.shadows(corners.to(geometry.device))
    inside = (depth > 0).any(1)
    for place, size in ((columns, geometry.columns), (rows, geometry.rows)):
        inside &= (place.amax(1) >= -0.5) & (place.amin(1) <= size - 0.5)
    seen = int(inside.sum())
    where = "" if scan.path is None else f"{scan.path}: "
    if seen == 0:
        extent = " x ".join(f"{s:.4g}" for s in grid.size)
        raise UserError(
            f"{where}no view sees the volume ({extent} mm at {tuple(round(c, 3) for c in grid.center)}); are the"
            " distances and the pixel pitch in mm, and the angles in radians?"
        )
    warnings = []
    if seen < len(geometry):
        warnings.append(
            f"{len(geometry) - seen} of {len(geometry)} views do not see the volume; correct --volume.center, or the"
            " distances and offsets in the sidecar"
        )
    if geometry.divergent and bool((depth <= 0).any()):
        warnings.append("the volume reaches behind the source in some views; give a smaller one (volume)")
    return warnings


def check_values(scan: Scan) -> list[str]:
    """Whether line integrals are finite, positive on the whole, and fall off to zero at the detector's sides.

    Raises:
        UserError: some are not finite.
    """
    where = "" if scan.path is None else f"{scan.path}: "
    edge = max(1, round(_EDGE * scan.geometry.columns))
    left, right, high = [], [], []
    for views in stacks.chunks(scan.projections):
        values = stacks.block(scan.projections, views)
        wrong = ~np.isfinite(values)
        if wrong.any():
            view, row, column = (int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
            lines = int(wrong.all(axis=2).sum())
            raise UserError(
                f"{where}{int(wrong.sum())} values in views {views[0]} to {views[-1]} are not finite ({lines} whole"
                f" rows), the first in view {views[0] + view}, row {row}, column {column};"
                " mend pixels with --bad-pixels 0.5, leave broken views out with --without VIEW ..."
            )
        left.append(values[..., :edge].mean(axis=2).ravel())
        right.append(values[..., -edge:].mean(axis=2).ravel())
        high.append(np.percentile(values, 99, axis=2).ravel())
    height = float(np.concatenate(high).max())
    if height <= 0:
        return [
            f"no line integral is above {height:.3g}: are they transmission (say quantity: transmission in a sidecar),"
            " or is the object missing?"
        ]
    warnings = []
    before, behind = missing_columns(scan.geometry)  # an offset detector sees them half a turn later
    sides = [
        name
        for name, part, later in (("left", left, before), ("right", right, behind))
        if not later and _shadowed(np.concatenate(part), height)
    ]
    if sides:
        warnings.append(
            f"truncation: line integrals at the {' and '.join(sides)} side of the detector are not near zero, so the"
            " object is larger than what is seen and values near the border will be too high; trust the middle, or give"
            " sirt, tv or a field the whole object to fill (--volume.shape, and --support box for a field)"
        )
    return warnings


def _shadowed(edge: np.ndarray, height: float) -> bool:
    """Whether the object reaches over an edge of the detector in some views (more than one in twenty lines)."""
    return bool(np.percentile(edge, 95) > _SHADOW * height)
