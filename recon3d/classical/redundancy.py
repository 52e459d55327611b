"""How much every view and ray counts in filtered back-projection, so that each line is counted once.

Source: Parker, "Optimal short scan convolution reconstruction for fan beam CT" (1982), and Silver, "A method for
including redundant data in computed tomography" (2000), for scans longer than the shortest.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

WIDEST_GAP = 1.5
"""Gaps between neighbouring angles count up to this many times the median: what is missing is not made up for."""


def angular_steps(angles: Float[Tensor, " a"], period: float) -> Float[Tensor, " a"]:
    """The angle that each view stands for: half the gaps to its neighbours on a circle of ``period`` radians."""
    if len(angles) == 1:
        return torch.full_like(angles, period)
    turned = angles % period
    order = turned.argsort()
    gaps = torch.diff(turned[order], append=turned[order][:1] + period)
    # Views of one angle share it: a rounding error must not make them a gap of their own.
    distinct = gaps[gaps > 1e-6 * period]
    usual = distinct.median() if len(distinct) else gaps.new_tensor(period)
    gaps = torch.where(gaps > WIDEST_GAP * usual, usual, gaps)
    steps = torch.empty_like(gaps)
    steps[order] = (gaps + gaps.roll(1)) / 2
    return steps


def fan_weights(angles: Float[Tensor, " a"], gamma: Float[Tensor, "a c"]) -> Float[Tensor, "a c"]:
    """Weights of the rays at angles ``gamma`` from the ray through the axis, times the angle each view stands for.

    A full turn sees every line twice: half each. A short scan, of half a turn and the fan at least, has Parker's smooth
    weights. In a shorter one a line that was seen twice counts half, and the others once.
    """
    turn = 2 * math.pi
    steps = angular_steps(angles, turn)
    turned = angles % turn
    order = turned.sort().values
    gaps = torch.diff(order, append=order[:1] + turn)
    if float(gaps.amax()) <= WIDEST_GAP * float(gaps[gaps > 1e-6].median()):
        return (steps / 2)[:, None].expand_as(gamma)
    # From the end of the largest gap to its beginning.
    step = steps.median()
    span = float(turn - gaps.amax() + step)
    beta = ((turned - order[(int(gaps.argmax()) + 1) % len(order)]) % turn + step / 2)[:, None]
    over = (span - math.pi) / 2
    if over < float(gamma.abs().amax()):
        # The other ray of the same line is seen from beta + pi - 2 gamma and beta - pi - 2 gamma.
        twice = ((beta + math.pi - 2 * gamma) <= span) | ((beta - math.pi - 2 * gamma) >= 0)
        return steps[:, None] * torch.where(twice, 0.5, 1.0)
    first = (math.pi / 4 * beta / (over + gamma).clamp_min(1e-9)).sin().square()
    last = (math.pi / 4 * (span - beta) / (over - gamma).clamp_min(1e-9)).sin().square()
    weight = torch.where(beta < 2 * (over + gamma), first, torch.where(beta > math.pi + 2 * gamma, last, 1.0))
    return steps[:, None] * weight
