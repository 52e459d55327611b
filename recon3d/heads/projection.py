"""Projection heads: what a scanner measures of a field of attenuation, on a voxel grid or along single rays.

The grid projector samples the field on all voxels and projects these (:mod:`recon3d.kernels.projection`): a step sees
every ray. The ray projector integrates the continuous field along random rays: a step costs what its rays cost,
however many voxels the volume would have. Values of a field are attenuation in units of the scan's scale.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from recon3d import distributed
from recon3d.config import RenderConfig
from recon3d.config.ct import RaysConfig
from recon3d.errors import UserError
from recon3d.geometry.boxes import intersect_unit_cube
from recon3d.geometry.cameras import Rays
from recon3d.geometry.grids import grid_points
from recon3d.geometry.voxels import VolumeGrid
from recon3d.heads.occupancy import OccupancyGrid
from recon3d.kernels import march_rays

ValueFn = Callable[[Float[Tensor, "n d"]], Float[Tensor, " n"]]
Terms = dict[str, Float[Tensor, ""]]


# --- the field on a voxel grid --------------------------------------------------------------------------------------


class Voxels:
    """The voxels of a grid, and which of them a field fills; elsewhere there is nothing.

    Attributes:
        grid: the voxels.
        dim: 2 where the field is of a single slice (nz = 1) and knows x and y only, else 3.
        index: (K,) places of the filled ones in the array, row by row; None: all.
    """

    def __init__(
        self,
        grid: VolumeGrid,
        inside: Bool[Tensor, "nz ny nx"] | None = None,
        device: torch.device | str = "cpu",
        field_grid: VolumeGrid | None = None,
    ) -> None:
        """``field_grid``: the grid that the field was made for, where it is another one."""
        made_for = field_grid or grid
        self.grid, self.dim = grid, 2 if made_for.shape[0] == 1 else 3
        self.index = None if inside is None or bool(inside.all()) else inside.flatten().nonzero().squeeze(1).to(device)
        cube = made_for.normalizer()
        self._axes = [
            ((grid.axis(axis) - cube.center[axis]) / cube.half_size).float().to(device) for axis in range(self.dim)
        ]
        self.device = torch.device(device)

    def __len__(self) -> int:
        nz, ny, nx = self.grid.shape
        return nz * ny * nx if self.index is None else len(self.index)

    def points(self, begin: int = 0, end: int | None = None) -> Float[Tensor, "n d"]:
        """Centres of filled voxels in field coordinates, from one up to, not with, another."""
        end = len(self) if end is None else min(end, len(self))
        if self.index is None:
            return self._centres(torch.arange(begin, end, device=self.device))
        return self._centres(self.index[begin:end])

    def at(self, places: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """Centres of the filled voxels at these places among them, in field coordinates."""
        return self._centres(places if self.index is None else self.index[places])

    def _centres(self, index: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        _, ny, nx = self.grid.shape
        places = [index % nx, index // nx % ny, index // (nx * ny)][: self.dim]
        return torch.stack([axis[place] for axis, place in zip(self._axes, places)], dim=-1)

    def volume(self, values: Float[Tensor, " k"]) -> Float[Tensor, "nz ny nx"]:
        """The array whose filled voxels have these values."""
        if self.index is None:
            return values.view(self.grid.shape)
        nz, ny, nx = self.grid.shape
        return values.new_zeros(nz * ny * nx).index_copy(0, self.index, values).view(self.grid.shape)

    @torch.no_grad()
    def sample(self, value_fn: ValueFn, chunk: int) -> Float[Tensor, "nz ny nx"]:
        """A field's values on the grid, ``chunk`` voxels at a time."""
        starts = range(0, len(self), chunk)
        return self.volume(torch.cat([value_fn(self.points(begin, begin + chunk)) for begin in starts]))


class Support(nn.Module):
    """Which voxels of a grid may be filled; the mask is the module's state, so that it stays with a checkpoint."""

    filled: Bool[Tensor, "nz ny nx"]

    def __init__(self, grid: VolumeGrid, inside: Bool[Tensor, "nz ny nx"] | None = None) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("filled", torch.ones(grid.shape, dtype=torch.bool) if inside is None else inside.clone())

    def contains(self, points: Float[Tensor, "n d"]) -> Bool[Tensor, " n"]:
        """Whether points of the field's cube (of the plane, for a slice) lie in voxels that may be filled."""
        cube = self.grid.normalizer()
        index: list[Tensor | int] = []
        inside = torch.ones(len(points), dtype=torch.bool, device=points.device)
        for axis in range(3):
            size, step = self.grid.shape[2 - axis], self.grid.spacing[axis]
            if axis == points.shape[1]:
                index.append(0)
                continue
            from_middle = points[:, axis] * cube.half_size + (cube.center[axis] - self.grid.center[axis])
            place = (from_middle / step + (size - 1) / 2).round().long()
            inside &= (place >= 0) & (place < size)
            index.append(place.clamp(0, size - 1))
        x, y, z = index
        return inside & self.filled[z, y, x]


def descend(
    value_fn: ValueFn,
    voxels: Voxels,
    terms_of: Callable[[Float[Tensor, "nz ny nx"]], Terms],
    backward: Callable[[Tensor], None],
    chunk: int,
) -> Terms:
    """Exact gradients of a loss on the whole volume of a field, with the activations of one chunk of voxels.

    The loss (the sum of ``terms_of``) is differentiated by the volume first; then every chunk takes its part of that
    gradient back into the field. With more than one chunk the field is evaluated twice. Of several processes each has
    its part of the voxels, and its part of the loss.

    Returns:
        the terms of this process, without gradients.
    """
    first, last = distributed.own_span(len(voxels))
    starts = range(first, last, chunk)
    kept: Tensor | None = None
    if len(starts) == 1:
        kept = value_fn(voxels.points(first, last))
        found = kept.detach()
    else:
        with torch.no_grad():
            found = torch.cat([value_fn(voxels.points(begin, min(begin + chunk, last))) for begin in starts])
    values = distributed.gathered(found, len(voxels)).requires_grad_()
    terms = terms_of(voxels.volume(values))
    (gradient,) = torch.autograd.grad(torch.stack(list(terms.values())).sum(), values)
    distributed.added(gradient)
    for begin in starts:
        end = min(begin + chunk, last)
        part = value_fn(voxels.points(begin, end)) if kept is None else kept
        backward((part * gradient[begin:end]).sum())
    return {name: term.detach() for name, term in terms.items()}


# --- along rays -----------------------------------------------------------------------------------------------------


class RayProjector(nn.Module):
    """Line integrals of the continuous field along rays: one jittered sample in every step of the occupied cells.

    Rays are in the scanner's coordinates; the volume's box is cut out of them. The occupancy grid, over the field's
    cube, is the head's only state. A slice is marched through as the plane z = 0 of that cube.
    """

    reach: Float[Tensor, " d"]

    def __init__(
        self,
        config: RaysConfig,
        grid: VolumeGrid,
        inside: Bool[Tensor, "nz ny nx"] | None = None,
    ) -> None:
        """``inside``: voxels that may be filled; cells that hold none of them are never sampled."""
        super().__init__()
        self.config, self.volume_grid = config, grid
        self.normalizer = grid.normalizer()
        self.dim = 2 if grid.shape[0] == 1 else 3
        render = RenderConfig(
            grid=config.grid,
            samples_per_diagonal=config.samples_per_diagonal,
            update_every=config.update_every,
            warmup_steps=config.warmup_steps,
            decay=config.decay,
            threshold=config.threshold,
        )
        self.grid = OccupancyGrid(render, cells_of(grid, config.grid, inside))
        reach = torch.tensor(grid.size) / (2 * self.normalizer.half_size)
        self.register_buffer("reach", reach[: self.dim], persistent=False)

    def forward(self, value_fn: ValueFn, rays: Rays, jitter: Float[Tensor, " n"] | None = None) -> Float[Tensor, " n"]:
        """Line integrals (N,) along rays in mm, in units of the scale times mm.

        ``jitter`` in [0, 1) shifts each ray's samples (default: the middle of their intervals).
        """
        if jitter is None:
            jitter = torch.full((len(rays),), 0.5, device=self.reach.device)
        _, ray, t, dt = self.march(rays, jitter)
        origins, directions = self._in_field(rays)
        ray = ray.long()
        points = torch.addcmul(origins.index_select(0, ray), directions.index_select(0, ray), t.unsqueeze(1))
        values = value_fn(points[:, : self.dim]) if len(t) else t
        total = values.new_zeros(len(rays)).index_add(0, ray, values * dt)
        return total * self.normalizer.half_size

    def march(
        self, rays: Rays, jitter: Float[Tensor, " n"]
    ) -> tuple[Int[Tensor, " starts"], Int[Tensor, " m"], Float[Tensor, " m"], Float[Tensor, " m"]]:
        """Packed samples of rays in the occupied part of the volume's box; see :func:`recon3d.kernels.march_rays`."""
        origins, directions = self._in_field(rays)
        box = torch.ones(3, device=origins.device)
        box[: self.dim] = self.reach
        near, far = intersect_unit_cube(Rays(origins / box, directions / box))
        return march_rays(origins, directions, near, far, self.grid.occupied, jitter, self.grid.step)

    def _in_field(self, rays: Rays) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
        """Origins and unit directions in field coordinates, in float32; each origin where its ray is nearest to the
        middle, so that distances along the ray are small numbers."""
        inside = self.normalizer.rays_to_field(rays)
        along = (inside.origins * inside.directions).sum(-1, keepdim=True) + 2 * 3**0.5
        return (inside.origins - along * inside.directions).float(), inside.directions.float()

    @torch.no_grad()
    def update(self, value_fn: ValueFn, step: int, generator: torch.Generator) -> None:
        """Look where the volume is not empty; see :meth:`OccupancyGrid.update`.

        Raises:
            UserError: it is empty everywhere.
        """
        if self.config.threshold == 0:
            return
        # The grid's threshold is for opacities, density times step; here it is for the values themselves.
        self.grid.update(lambda x: value_fn(x[:, : self.dim]).abs() / self.grid.step, step, generator)
        try:
            self.grid.require_occupied(step)
        except UserError:
            raise UserError(
                f"the field is empty everywhere at step {step}: lower --optimizer.learning-rate, or give "
                "--rays.threshold 0"
            ) from None

    def occupied_at(self, points: Float[Tensor, "n d"]) -> Bool[Tensor, " n"]:
        """Whether points of the field lie in occupied cells."""
        x = nn.functional.pad(points, (0, 3 - self.dim))
        return self.grid.occupied[tuple(self.grid.cells_of(x).unbind(-1))]


def cells_of(grid: VolumeGrid, cells: int, inside: Bool[Tensor, "nz ny nx"] | None = None) -> Bool[Tensor, "r r r"]:
    """Cells of a cube of ``cells`` a side over the field's [-1, 1]^3 that reach into filled voxels, and their
    neighbours. Of a slice, the layer of cells that z = 0 lies in.
    """
    voxels = Voxels(grid, inside)
    # A cell holds a voxel's middle, or, where cells are the smaller ones, has its own middle in a voxel.
    found = Support(grid, inside).contains(grid_points((cells,) * voxels.dim)).view((cells,) * voxels.dim)
    found[tuple(((voxels.points() + 1) * (cells / 2)).long().clamp(0, cells - 1).unbind(-1))] = True
    pool = nn.functional.max_pool2d if voxels.dim == 2 else nn.functional.max_pool3d
    found = pool(found.float()[None, None], 3, stride=1, padding=1)[0, 0] > 0
    if voxels.dim == 3:
        return found
    layer = torch.zeros(cells, cells, cells, dtype=torch.bool)
    layer[:, :, cells // 2] = found
    return layer


# --- losses ---------------------------------------------------------------------------------------------------------


def squared_error(difference: Float[Tensor, " n"], measured: Float[Tensor, " n"], unit: float) -> Float[Tensor, ""]:
    """Mean of ((p - y) / unit)^2 over line integrals; of several processes, the part of these ones in it."""
    return distributed.mean((difference / unit).square())


def poisson_deviance(difference: Float[Tensor, " n"], measured: Float[Tensor, " n"], unit: float) -> Float[Tensor, ""]:
    """Negative log-likelihood of photon counts, less what no p can change, as a mean.

    A pixel that counts n of I photons measures y = -log(n / I); of a true p, its negative log-likelihood is
    I exp(-p) + n p + const. = n (exp(-d) + d - 1) + const. with d = p - y. Pixels are weighted by their transmission
    exp(-y), on average by 1, so that small errors cost what they do in :func:`squared_error`. Of several processes,
    it is these line integrals' part in the mean over all.
    """
    transmission = torch.exp(-measured)
    deviance = transmission * (torch.expm1(-difference) + difference)
    return 2 * deviance.sum() / (distributed.added(transmission.sum()) * unit**2)


def total_variation(
    volume: Float[Tensor, "nz ny nx"], spacing: tuple[float, float, float], smoothing: float
) -> Float[Tensor, ""]:
    """Isotropic total variation: the mean over voxels of sqrt(|gradient|^2 + smoothing^2) - smoothing.

    The gradient is by forward differences per shortest spacing (x, y, z), 0 at the far borders.
    """
    finest = min(spacing[2 - axis] for axis, size in enumerate(volume.shape) if size > 1)
    square = torch.full_like(volume, smoothing**2)
    for axis, size in enumerate(volume.shape):
        if size > 1:
            ratio = finest / spacing[2 - axis]
            difference = ratio * volume.diff(dim=axis)
            square = square + nn.functional.pad(difference.square(), _behind(axis))
    return (square.sqrt() - smoothing).mean()


def _behind(axis: int) -> list[int]:
    """Padding by one at the far end of an axis of three."""
    padding = [0] * 6
    padding[2 * (2 - axis) + 1] = 1
    return padding


def sampled_variation(
    value_fn: ValueFn,
    points: Float[Tensor, "n d"],
    steps: Float[Tensor, " d"],
    smoothing: float,
) -> Float[Tensor, ""]:
    """:func:`total_variation` of a field by differences over ``steps`` (a voxel, in field units) at random points; of
    several processes, the part of these ones in it."""
    count, dim = points.shape
    moved = torch.cat([points, *(points + step for step in torch.diag(steps))])
    here, *there = value_fn(moved).view(dim + 1, count)
    ratio = steps.min() / steps
    square = sum((r * (value - here)).square() for r, value in zip(ratio, there))
    return distributed.mean((square + smoothing**2).sqrt() - smoothing)
