"""Fields whose surfaces are known, and the coarse grids that cover them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

Fn = Callable[[Tensor], Tensor]


def ball(radius: float, center: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Fn:
    return lambda x: radius - (x - x.new_tensor(center)).norm(dim=1)


def torus(x: Tensor) -> Tensor:
    """Radii 0.6 and 0.25, around z, a little off the lattice."""
    return 0.25 - torch.sqrt((x[:, :2].norm(dim=1) - 0.6) ** 2 + (x[:, 2] - 0.013) ** 2)


def lattice(points: int, *, centers: bool = False) -> Tensor:
    """(points^3, 3) in float32: a lattice over the cube, or the centres of ``points`` cells an axis."""
    i = torch.arange(points).float()
    axis = (i + 0.5) * (2.0 / points) - 1 if centers else i * (2.0 / (points - 1)) - 1
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)


def covering(fn: Fn, level: float, cells: int) -> np.ndarray:
    """The cells whose centre is inside, dilated by one cell."""
    inside = (fn(lattice(cells, centers=True)) > level).reshape(cells, cells, cells).numpy()
    return ndimage.binary_dilation(inside, np.ones((3, 3, 3)))


class Counted:
    """A field that remembers where, how often and with how many points at once it was asked."""

    def __init__(self, fn: Fn) -> None:
        self.fn, self.asked = fn, []

    def __call__(self, x: Tensor) -> Tensor:
        self.asked.append(x.clone())
        return self.fn(x)
