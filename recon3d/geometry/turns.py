"""Which angles a scan went through, and which part of its lines one detector sees."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon3d.geometry.scanner import ScanGeometry

WIDEST_GAP = 2.5, math.radians(10)
"""Gaps between neighbouring angles count up to so many times the median, or up to this angle: their neighbours stand
for views that were left out. What is missing in a wider one is not made up for."""
OFF_MIDDLE = 0.9
"""A detector that reaches less than this share as far to one side of the axis as to the other is off the middle."""


def gaps_between(angles: Float[Tensor, " a"], period: float) -> tuple[Float[Tensor, " a"], Int[Tensor, " a"]]:
    """The gaps behind each of the angles in their order on a circle of ``period`` radians, and that order."""
    turned = angles % period
    order = turned.argsort()
    return torch.diff(turned[order], append=turned[order][:1] + period), order


def usual(gaps: Float[Tensor, " a"]) -> float:
    """The median. Views of one angle share it: a rounding error must not make them a gap of their own."""
    distinct = gaps[gaps > 1e-6 * float(gaps.sum())]
    return float(distinct.median()) if len(distinct) else float(gaps.sum())


def widest(gaps: Float[Tensor, " a"]) -> float:
    """See :data:`WIDEST_GAP`."""
    return max(WIDEST_GAP[0] * usual(gaps), WIDEST_GAP[1])


def angles_of(geometry: ScanGeometry) -> Float[Tensor, " a"]:
    """The angle of each view about z in radians: what the scan tells, else that of the detector's rows."""
    return torch.atan2(geometry.u[:, 1], geometry.u[:, 0]) if geometry.angles is None else geometry.angles


def is_full_turn(angles: Float[Tensor, " a"]) -> bool:
    """Whether angles in radians go all around, but for views that were left out."""
    gaps, _ = gaps_between(angles, 2 * math.pi)
    return float(gaps.amax()) <= widest(gaps)


def missing_columns(geometry: ScanGeometry) -> tuple[int, int]:
    """How many columns an offset detector lacks before its first and behind its last, to reach as far to both sides of
    the axis: what it does not see there, it sees half a turn later on the other side. None without a full turn."""
    if not is_full_turn(angles_of(geometry)):
        return 0, 0
    axis, _, _ = geometry.shadows(torch.zeros(1, 3, dtype=torch.float64, device=geometry.device))
    before, behind = float(axis.amin()), float(geometry.columns - 1 - axis.amax())
    short, far = sorted((before, behind))
    if short <= 0 or short >= OFF_MIDDLE * far:
        return 0, 0
    missing = math.ceil(far - short - 1e-6)
    return (missing, 0) if before < behind else (0, missing)
