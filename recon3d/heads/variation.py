"""Total variation that knows where edges run: little for steps across an edge, much for steps along it.

Sources: Grasmair and Lenzen, "Anisotropic total variation filtering" (2010); Estellers, Soatto and Bresson, "Adaptive
regularization with the structure tensor" (2015); the structure tensor is Förstner and Gülch's (1987).

With J, the products of a volume's slopes averaged around each voxel, of eigenvectors e_k and eigenvalues m_k^2, a
metric M has the rows w_k e_k, w_k = least + (1 - least) edge / (m_k + edge), times ``along`` for all but the steepest
direction: with ``least`` 0 steps that are steep enough are free, and noise is learned along every strong edge. The
variation is the mean of |M g| over all voxels and all choices of differences g to one neighbour or the other along
every axis, so that it prefers no corner. M is found anew from the volume of the moment and then held, which makes long
smooth edges, of which few views tell little, sharper with every round.
"""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from recon3d.config.ct import SteeringConfig


def steering(
    volume: Float[Tensor, "nz ny nx"], spacing: tuple[float, float, float], config: SteeringConfig
) -> Float[Tensor, "d d nz ny nx"]:
    """The metric M of a volume: M[k, i] times the difference along axis i, summed over i, is step k of the variation.

    Axes are x, y and, unless it is one slice, z; differences are per shortest spacing. Weights are 1 on average, so
    that a weight of the variation means about the same whatever the metric.
    """
    smooth = _blurred(volume[None, None], config.blur)
    slopes = [0.5 * ratio * torch.stack(_differences(smooth, axis)).sum(0) for axis, ratio in _axes(volume, spacing)]
    products = torch.cat([a * b for a in slopes for b in slopes], dim=1)
    tensor = _blurred(products, config.window)[0].movedim(0, -1).unflatten(-1, (len(slopes), len(slopes)))
    squares, directions = torch.linalg.eigh(tensor)
    weights = config.least + (1 - config.least) * config.edge / (squares.clamp_min(0).sqrt() + config.edge)
    weights[..., :-1] *= config.along
    weights = weights / weights.mean()
    return (directions * weights[..., None, :]).movedim((-1, -2), (0, 1)).contiguous()


def steered_variation(
    volume: Float[Tensor, "nz ny nx"],
    metric: Float[Tensor, "d d nz ny nx"],
    spacing: tuple[float, float, float],
    smoothing: float,
) -> Float[Tensor, ""]:
    """The mean over voxels and choices of neighbours of sqrt(|M g|^2 + smoothing^2) - smoothing; see the module."""
    pairs = [
        [ratio * step for step in _differences(volume[None, None], axis)] for axis, ratio in _axes(volume, spacing)
    ]
    total = volume.new_zeros(())
    choices = list(itertools.product(*pairs))
    for steps in choices:
        lengths = [sum(row * step[0, 0] for row, step in zip(rows, steps, strict=True)) for rows in metric]
        total = total + (torch.stack(lengths).square().sum(0) + smoothing**2).sqrt().mean()
    return total / len(choices) - smoothing


def _axes(volume: Tensor, spacing: tuple[float, float, float]) -> list[tuple[int, float]]:
    """Axes x, y, z of an array (1, 1, nz, ny, nx) that have more than one voxel, each with the shortest spacing in
    units of its own."""
    used = [axis for axis in range(3) if volume.shape[2 - axis] > 1]
    finest = min(spacing[axis] for axis in used)
    return [(4 - axis, finest / spacing[axis]) for axis in used]


def _differences(values: Float[Tensor, "1 1 nz ny nx"], axis: int) -> tuple[Tensor, Tensor]:
    """From the neighbour before, and to the one behind; 0 where there is none."""
    step = values.diff(dim=axis)
    shape = list(values.shape)
    shape[axis] = 1
    nothing = step.new_zeros(shape)
    return torch.cat([nothing, step], axis), torch.cat([step, nothing], axis)


def _blurred(values: Float[Tensor, "1 c nz ny nx"], sigma: float) -> Float[Tensor, "1 c nz ny nx"]:
    """Under a Gaussian of so many voxels, continued at the sides."""
    reach = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=values.device) / sigma).square())
    kernel = (kernel / kernel.sum()).to(values.dtype)
    channels = values.shape[1]
    for axis in (2, 3, 4):
        if values.shape[axis] > 1:
            shape, padding = [1, 1, 1, 1, 1], [0] * 6
            shape[axis] = len(kernel)
            padding[2 * (4 - axis)] = padding[2 * (4 - axis) + 1] = reach
            weights = kernel.view(shape).expand(channels, -1, -1, -1, -1)
            values = F.conv3d(F.pad(values, padding, mode="replicate"), weights, groups=channels)
    return values
