"""Filling what no camera can see into.

A radiance field is trained where light comes from; behind the first opaque layer it holds whatever its table happens to
give. Marching cubes would make surfaces of that, inside the object. So cells that light never reaches count as solid,
and so do cells that are closed off from the outside by solid ones.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon3d.export.levelset import ValueFn

SOLID_DENSITY = 1e6


def solid_cells(occupied: Bool[np.ndarray, "r r r"], lit: Bool[np.ndarray, "r r r"]) -> Bool[np.ndarray, "r r r"]:
    """Occupied cells that are not ``lit``, and every cell that they close off from the border of the grid."""
    from scipy import ndimage

    open_ = np.pad(~occupied | lit, 1, constant_values=True)
    label, _ = ndimage.label(open_)
    outside = label == label[0, 0, 0]
    return ~outside[1:-1, 1:-1, 1:-1]


def filled(density_fn: ValueFn, solid: Bool[Tensor, "r r r"]) -> ValueFn:
    """``density_fn`` with a density beyond any level in the ``solid`` cells, where it is not evaluated."""
    resolution = solid.shape[0]

    def density(x: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        cell = ((x + 1) * (0.5 * resolution)).long().clamp(0, resolution - 1)
        inside = solid[cell[:, 0], cell[:, 1], cell[:, 2]]
        result = torch.full_like(x[:, 0], SOLID_DENSITY)
        result[~inside] = density_fn(x[~inside]).to(result.dtype)
        return result

    return density
