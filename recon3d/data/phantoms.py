"""Objects whose projections are known: sums of ellipsoids with exact line integrals, and a porous bone.

Ellipsoids are given in units of half the object's size, as the tables of the literature are, and placed in mm. A 2D
phantom is made of elliptic cylinders along z. The porous volume has no formula: it is voxels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import scipy.ndimage
import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.errors import require
from recon3d.geometry.cameras import Rays
from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.voxels import VolumeGrid

# Kak and Slaney, "Principles of Computerized Tomographic Imaging" (1988), tables 3.1 and 3.2 in the arrangement of
# phantom3d: value, half axes, middle, turn about z in degrees. The values are Toft's (1996), of better contrast.
_SHEPP_LOGAN = (
    (1.0, (0.69, 0.92, 0.81), (0.0, 0.0, 0.0), 0.0),
    (-0.8, (0.6624, 0.874, 0.78), (0.0, -0.0184, 0.0), 0.0),
    (-0.2, (0.11, 0.31, 0.22), (0.22, 0.0, 0.0), -18.0),
    (-0.2, (0.16, 0.41, 0.28), (-0.22, 0.0, 0.0), 18.0),
    (0.1, (0.21, 0.25, 0.41), (0.0, 0.35, -0.15), 0.0),
    (0.1, (0.046, 0.046, 0.05), (0.0, 0.1, 0.25), 0.0),
    (0.1, (0.046, 0.046, 0.05), (0.0, -0.1, 0.25), 0.0),
    (0.1, (0.046, 0.023, 0.05), (-0.08, -0.605, 0.0), 0.0),
    (0.1, (0.023, 0.023, 0.02), (0.0, -0.606, 0.0), 0.0),
    (0.1, (0.023, 0.046, 0.02), (0.06, -0.605, 0.0), 0.0),
)


@dataclass(frozen=True)
class Ellipsoids:
    """A sum of ellipsoids of constant density.

    Attributes:
        value: densities (N,) in 1/mm.
        center: middles (N, 3) in mm.
        axes: half axes (N, 3) in mm; infinite along z for elliptic cylinders.
        turn: rotations (N, 3, 3); the columns are the directions of the axes.
    """

    value: Float[Tensor, " n"]
    center: Float[Tensor, "n 3"]
    axes: Float[Tensor, "n 3"]
    turn: Float[Tensor, "n 3 3"]

    def density(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, " m"]:
        """Densities (M,) in 1/mm at points in mm."""
        total = points.new_zeros(len(points), dtype=torch.float64)
        for value, center, axes, turn in zip(self.value, self.center, self.axes, self.turn):
            local = (points.double() - center) @ turn / axes
            total += value * (local.square().sum(-1) <= 1)
        return total

    def line_integrals(self, rays: Rays) -> Float[Tensor, " m"]:
        """Exact integrals (M,) of the density along whole lines."""
        total = rays.origins.new_zeros(len(rays), dtype=torch.float64)
        for value, center, axes, turn in zip(self.value, self.center, self.axes, self.turn):
            # Where the ellipsoid is the unit ball: the chord follows from the line's distance to the middle.
            origin = (rays.origins.double() - center) @ turn / axes
            direction = rays.directions.double() @ turn / axes
            square = direction.square().sum(-1)
            nearest = origin - ((origin * direction).sum(-1) / square).unsqueeze(-1) * direction
            total += 2 * value * ((1 - nearest.square().sum(-1)).clamp_min(0) / square).sqrt()
        return total

    def project(self, geometry: ScanGeometry) -> Float[Tensor, "a rows columns"]:
        """Exact projections (A, rows, columns), float32: one line to the middle of every pixel."""
        views = [self.line_integrals(geometry.rays(view)).float() for view in range(len(geometry))]
        return torch.stack(views).view(geometry.shape)

    def rasterize(self, grid: VolumeGrid, supersampling: int = 4) -> Float[Tensor, "nz ny nx"]:
        """Mean densities of voxels, float32, from ``supersampling`` points along each axis (one along z in a slice)."""
        n = supersampling
        deep = n if grid.shape[0] > 1 else 1
        x, y, z = (_fine_axis(grid, i, parts) for i, parts in enumerate((n, n, deep)))
        total = torch.zeros(grid.shape, dtype=torch.float64)
        for value, center, axes, turn in zip(self.value, self.center, self.axes, self.turn):
            # Only the voxels within the ellipsoid's box.
            reach = torch.where(turn == 0, 0.0, turn * axes).norm(dim=1)
            (x0, x1), (y0, y1), (z0, z1) = (
                _overlapped(line, float(middle - half), float(middle + half), parts)
                for line, middle, half, parts in zip((x, y, z), center, reach, (n, n, deep))
            )
            px, py = x[x0 * n : x1 * n] - center[0], (y[y0 * n : y1 * n] - center[1])[:, None]
            for layer in range(z0, z1):
                pz = (z[layer * deep : (layer + 1) * deep] - center[2])[:, None, None]
                squares = [((turn[0, j] * px + turn[1, j] * py + turn[2, j] * pz) / axes[j]).square() for j in range(3)]
                inside = (squares[0] + squares[1] + squares[2] <= 1).double()
                total[layer, y0:y1, x0:x1] += value * inside.view(deep, y1 - y0, n, x1 - x0, n).mean(dim=(0, 2, 4))
        return total.float()

    def scaled(self, half_size: float, density: float) -> Ellipsoids:
        """Units of half the object's size to mm, and of the value 1 to ``density`` per mm."""
        return replace(self, value=self.value * density, center=self.center * half_size, axes=self.axes * half_size)


def _fine_axis(grid: VolumeGrid, axis: int, parts: int) -> Tensor:
    offset = (torch.arange(parts, dtype=torch.float64) + 0.5) / parts - 0.5
    return (grid.axis(axis)[:, None] + offset * grid.spacing[axis]).flatten()


def _overlapped(line: Tensor, low: float, high: float, parts: int) -> tuple[int, int]:
    """First and last (not with) voxel, of ``parts`` points each, with points between ``low`` and ``high``."""
    first, last = (int(torch.searchsorted(line, end)) for end in (low, high))
    return first // parts, -(-last // parts)


def shepp_logan(size: float, density: float = 0.02, flat: bool = False) -> Ellipsoids:
    """The head of Shepp and Logan with the contrast of Toft.

    Args:
        size: of the cube that the phantom is drawn in, in mm; the skull fills 0.92 of it along y.
        density: attenuation of the skull in 1/mm (water at 60 keV: 0.02).
        flat: the 2D phantom, as cylinders along z.
    """
    value, axes, center, degrees = zip(*_SHEPP_LOGAN)
    middles = torch.tensor(center, dtype=torch.float64)
    halves = torch.tensor(axes, dtype=torch.float64)
    if flat:
        middles[:, 2], halves[:, 2] = 0, math.inf
    turns = torch.stack([_about_z(math.radians(angle)) for angle in degrees])
    return Ellipsoids(torch.tensor(value, dtype=torch.float64), middles, halves, turns).scaled(size / 2, density)


def random_ellipsoids(
    size: float, density: float = 0.02, count: int = 20, seed: int = 0, flat: bool = False
) -> Ellipsoids:
    """A body of density 0.4 with ``count`` ellipsoids in it, each adding 0.05 to 0.3 (in units of ``density``).

    Args:
        size: of the cube that the phantom is drawn in, in mm; the body is 0.8 to 0.95 as large.
        flat: ellipses, as cylinders along z.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)

    body = uniform(0.8, 0.95, 1, 3)
    axes = uniform(0.04, 0.25, count, 3)
    # In the body as long as the middle is farther from its skin than the longest axis.
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=1)
    if flat:
        direction = torch.nn.functional.normalize(direction * torch.tensor([1.0, 1.0, 0.0]), dim=1)
    room = body.amin() - axes.amax(dim=1, keepdim=True)
    center = direction * room * uniform(0.0, 1.0, count, 1).sqrt()
    turn = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator, dtype=torch.float64)).Q
    if flat:
        turn = torch.stack([_about_z(float(angle)) for angle in uniform(0.0, math.pi, count)])
        axes[:, 2] = body[:, 2] = math.inf
    return Ellipsoids(
        torch.cat([torch.tensor([0.4], dtype=torch.float64), uniform(0.05, 0.3, count)]),
        torch.cat([torch.zeros(1, 3, dtype=torch.float64), center]),
        torch.cat([body, axes]),
        torch.cat([torch.eye(3, dtype=torch.float64)[None], turn]),
    ).scaled(size / 2, density)


def porous(
    grid: VolumeGrid,
    density: float = 0.05,
    pore: float = 0.08,
    filled: float = 0.3,
    seed: int = 0,
) -> Float[Tensor, "nz ny nx"]:
    """A piece of spongy bone: a solid shell, and struts of a random network inside it.

    The network is where smooth noise is near its mean, which gives a connected foam of plates and rods; its waves do
    not depend on the voxels' size as long as they resolve it.

    Args:
        grid: voxels; the bone fills 0.9 of the volume's width as an elliptic cylinder, with a flat one in a slice.
        density: attenuation of bone in 1/mm; marrow has a tenth of it.
        pore: distance between struts, as a share of the volume's width.
        filled: share of the inside that is bone, between 0 and 1.
    """
    require(0 < filled < 1, f"the filled share of a porous volume lies between 0 and 1, not at {filled}")
    require(0 < pore < 0.5, f"pores are given as a share of the volume's width below 0.5, not {pore}")
    width = min(grid.size[:2])
    # Noise of a fixed lattice of a third of a pore, interpolated, so that finer voxels show the same bone.
    lattice = pore * width / 3
    steps = [max(4, math.ceil(extent / lattice) + 4) for extent in grid.size[::-1]]
    noise = np.random.default_rng(seed).standard_normal(steps)
    noise = scipy.ndimage.gaussian_filter(noise, 0.8, mode="wrap")
    axes = [(grid.axis(2 - i).numpy() - grid.center[2 - i]) / lattice + (steps[i] - 1) / 2 for i in range(3)]
    waves = np.empty(grid.shape, np.float32)
    for layer, height in enumerate(axes[0]):
        where = np.broadcast_arrays(height, *np.meshgrid(axes[1], axes[2], indexing="ij"))
        waves[layer] = scipy.ndimage.map_coordinates(noise, np.stack(where), order=3, mode="nearest")
    x, y = (grid.axis(i).numpy() - grid.center[i] for i in range(2))
    radius = np.hypot(x[None, :] / (0.45 * grid.size[0]), y[:, None] / (0.4 * grid.size[1]))[None]
    if grid.shape[0] > 1:
        caps = np.abs(grid.axis(2).numpy() - grid.center[2])[:, None, None] / (0.45 * grid.size[2])
        radius = np.maximum(radius, caps)
    inside = np.broadcast_to(radius < 0.92, grid.shape)
    struts = np.abs(waves - waves[inside].mean()) < np.quantile(np.abs(waves[inside] - waves[inside].mean()), filled)
    bone = np.where(inside, np.where(struts, 1.0, 0.1), np.where(np.broadcast_to(radius < 1, grid.shape), 1.0, 0.0))
    return torch.from_numpy((density * bone).astype(np.float32))


def _about_z(angle: float) -> Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
