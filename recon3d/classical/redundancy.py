"""How much every view and ray counts in filtered back-projection, so that each line is counted once.

Source: Parker, "Optimal short scan convolution reconstruction for fan beam CT" (1982), and Silver, "A method for
including redundant data in computed tomography" (2000), for scans longer than the shortest; Wang, "X-ray micro-CT with
a displaced detector array" (2002).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.geometry.turns import gaps_between, is_full_turn, usual, widest


def angular_steps(angles: Float[Tensor, " a"], period: float) -> Float[Tensor, " a"]:
    """The angle that each view stands for: half the gaps to its neighbours on a circle of ``period`` radians."""
    if len(angles) == 1:
        return torch.full_like(angles, period)
    gaps, order = gaps_between(angles, period)
    gaps = torch.where(gaps > widest(gaps), usual(gaps), gaps)
    steps = torch.empty_like(gaps)
    steps[order] = (gaps + gaps.roll(1)) / 2
    return steps


def shares(position: Float[Tensor, "a c"], measured: slice = slice(None)) -> Float[Tensor, "a c"]:
    """How much each ray counts of a line that a full turn sees twice, from ``position`` and from its negative.

    Half; but where only some columns were ``measured``, which reach farther to one side of the axis than to the other,
    all of what lies farther out, and a smooth share nearer to the axis (Wang 2002). ``position`` is that of the ray, a
    distance or an angle from the axis.
    """
    if position[:, measured].shape == position.shape:
        return torch.full_like(position, 0.5)
    low, high = -position[:, measured].amin(dim=1, keepdim=True), position[:, measured].amax(dim=1, keepdim=True)
    towards_far = torch.where(high > low, position, -position) / torch.minimum(low, high)
    return (math.pi / 4 * (1 + towards_far.clamp(-1, 1))).sin().square()


def fan_weights(
    angles: Float[Tensor, " a"], gamma: Float[Tensor, "a c"], measured: slice = slice(None)
) -> Float[Tensor, "a c"]:
    """Weights of the rays at angles ``gamma`` from the ray through the axis, times the angle each view stands for.

    A full turn sees lines twice: see :func:`shares`. A short scan, of half a turn and the fan at least, has Parker's
    smooth weights. In a shorter one a line that was seen twice counts half, and the others once.
    """
    turn = 2 * math.pi
    steps = angular_steps(angles, turn)
    if is_full_turn(angles):
        return steps[:, None] * shares(gamma, measured)
    turned = angles % turn
    gaps, order = gaps_between(angles, turn)
    # From the end of the largest gap to its beginning.
    step = steps.median()
    span = float(turn - gaps.amax() + step)
    begin = turned[order[(int(gaps.argmax()) + 1) % len(order)]]
    beta = ((turned - begin) % turn + step / 2)[:, None]
    over = (span - math.pi) / 2
    if over < float(gamma.abs().amax()):
        # The other ray of the same line is seen from beta + pi - 2 gamma and beta - pi - 2 gamma.
        twice = ((beta + math.pi - 2 * gamma) <= span) | ((beta - math.pi - 2 * gamma) >= 0)
        return steps[:, None] * torch.where(twice, 0.5, 1.0)
    first = (math.pi / 4 * beta / (over + gamma).clamp_min(1e-9)).sin().square()
    last = (math.pi / 4 * (span - beta) / (over - gamma).clamp_min(1e-9)).sin().square()
    weight = torch.where(beta < 2 * (over + gamma), first, torch.where(beta > math.pi + 2 * gamma, last, 1.0))
    return steps[:, None] * weight
