"""What algotom finds and removes: the axis of rotation, stripes of sinograms (rings of volumes), bright specks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np

from recon3d.data import stacks
from recon3d.data.optional import library
from recon3d.data.scan import Scan
from recon3d.errors import require

Rings = Literal["sorting", "filtering", "fitting", "all"]

_RING_METHODS = {
    "sorting": "remove_stripe_based_sorting",
    "filtering": "remove_stripe_based_filtering",
    "fitting": "remove_stripe_based_fitting",
    "all": "remove_all_stripe",
}
_LEAST_TURN = math.radians(170)
_STEP, _RADIUS = 0.1, 2.0  # columns


def find_axis_column(scan: Scan, row: int | None = None, low: float | None = None, high: float | None = None) -> float:
    """The detector column of the axis of rotation, to about half a pixel: Vo et al. 2014 (Opt. Express 22, 19078).

    Looks at the projections of the first half turn.

    Args:
        row: of the detector (default: the middle).
        low, high: columns between which the axis is looked for (default: the middle quarter of the detector).

    Raises:
        UserError: divergent rays, views without angles or of less than 170 degrees, or algotom is not installed.
    """
    where = "" if scan.path is None else f"{scan.path}: "
    geometry = scan.geometry
    require(
        not geometry.divergent, f"{where}the axis is looked for in parallel projections only; give axis_offset in mm"
    )
    require(geometry.angles is not None, f"{where}the axis cannot be found without the views' angles")
    turned = np.zeros(0) if geometry.angles is None else geometry.angles.numpy(force=True)
    turned = np.abs(turned - turned[0])
    half = np.flatnonzero(turned < math.pi + 1e-6)
    step = float(np.median(np.diff(np.sort(turned)))) if len(turned) > 1 else 0.0
    require(
        float(turned[half].max()) + step >= _LEAST_TURN,
        f"{where}the axis is found from half a turn, but the angles span {math.degrees(turned.max()):.4g} degrees; give"
        " the column (axis_column)",
    )
    calculation = library("algotom.prep.calculation", f"{where}finding the axis of rotation")
    last, row = geometry.columns - 1, geometry.rows // 2 if row is None else row
    low, high = last * 3 / 8 if low is None else low, last * 5 / 8 if high is None else high
    order = half[np.argsort(turned[half], kind="stable")]
    sinogram = stacks.block(scan.projections, order, slice(row, row + 1))[:, 0]
    return float(calculation.find_center_vo(sinogram, low, high, step=_STEP, radius=_RADIUS, ncore=1))


def remove_rings(scan: Scan, method: Rings) -> Scan:
    """Stripes along the views removed from every sinogram: Vo et al. 2018 (Opt. Express 26, 28396).

    ``sorting`` for partial and full stripes, ``filtering`` for many small ones, ``fitting`` for smooth objects,
    ``all`` also for large, unresponsive and fluctuating ones.

    Raises:
        UserError: algotom is not installed.
    """
    removal = library("algotom.prep.removal", "ring removal")
    function = getattr(removal, _RING_METHODS[method])

    def clean(sinogram: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):  # where a fit to air is zero
            cleaned = function(sinogram)
        return np.where(np.isfinite(cleaned), cleaned, sinogram)

    done = replace(scan, projections=stacks.by_rows(scan.projections, clean))
    return done.noted(f"stripes removed from sinograms: {method}")


def remove_zingers(scan: Scan, threshold: float) -> Scan:
    """Bright specks replaced in every sinogram: Vo et al. 2021 (Opt. Express 29, 17849); threshold 0.05 to 0.1.

    Raises:
        UserError: algotom is not installed.
    """
    removal = library("algotom.prep.removal", "zinger removal")

    def clean(sinogram: np.ndarray) -> np.ndarray:
        return removal.remove_zinger(sinogram, threshold)

    done = replace(scan, projections=stacks.by_rows(scan.projections, clean))
    return done.noted(f"zingers removed: threshold {threshold:g}")
