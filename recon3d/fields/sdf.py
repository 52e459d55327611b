"""The surface field: signed distance at a point, colour at a point seen along a direction."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from recon3d.config import SurfaceFieldConfig
from recon3d.fields.encoders import HashGrid, build_encoder
from recon3d.fields.networks import MLP, build_network
from recon3d.fields.precision import products_in
from recon3d.kernels import HashLayout, hash_encode, spherical_harmonics

QUIET = 1e-3
"""What is left, at the start, of the weights that make the network's part of the distance."""
TETRAHEDRON = ((1.0, 1.0, 1.0), (1.0, -1.0, -1.0), (-1.0, 1.0, -1.0), (-1.0, -1.0, 1.0))
START_CELLS = 128
"""Cells a side of the grid that holds the distance at the start."""
SMALLEST_DETAIL = 1 / 256
"""What counts as the field's smallest detail where there is no hash grid to tell it."""


class DistanceGrid(nn.Module):
    """A fixed function on [-1, 1]^3, trilinear between the points of a lattice; as differentiable as a hash grid, of
    which it is one dense level."""

    values: Float[Tensor, "rows 1"]

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.points = cells + 2  # the encoding's half-cell shift puts one beyond either side
        rows = -(-(self.points**3) // 8) * 8
        self.layout = HashLayout(3, 1, (float(cells),), (self.points,), (0, rows))
        self.register_buffer("values", torch.zeros(rows, 1))

    @torch.no_grad()
    def fill(self, function: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]]) -> None:
        """Take the values of ``function`` at the lattice's points."""
        axis = (torch.arange(self.points, device=self.values.device) - 0.5) * (2 / self.layout.scales[0]) - 1
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")  # x runs fastest
        self.values[: self.points**3, 0] = function(torch.stack([x, y, z], dim=-1).reshape(-1, 3))

    def forward(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        return hash_encode((x + 1) * 0.5, self.values.to(x.dtype), self.layout).squeeze(1)


class SurfaceField(nn.Module):
    """Encoder -> geometry network -> (signed distance, features); features and direction -> RGB.

    Lives on [-1, 1]^3; distances are in field units, negative inside. The distance is that of a first guess plus the
    network's first output, whose weights start small: whatever the encoder and the network, the field starts as a
    distance, of a sphere (the aim of the initialisation of Atzmon & Lipman 2020, which is for one architecture) or of
    what ``start_from`` is given. With a hash grid, ``show`` says how many levels are in use (Neuralangelo, section
    3.3).

    Distances are made in float32, since normals are their small differences; colours in ``precision``.
    """

    gain: Float[Tensor, ""]

    def __init__(self, config: SurfaceFieldConfig, precision: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.precision = config, precision
        assert config.width and config.depth and config.color_width and config.color_depth
        self.degree = config.direction_degree
        self.start = DistanceGrid(START_CELLS)
        self.start_from(lambda x: x.norm(dim=-1) - config.radius)
        self.register_buffer("gain", torch.tensor(1.0))
        self.encoder = build_encoder(config, 3)
        self.geometry_network = build_network(config, self.encoder.out_dim, config.geometry_features)
        self.geometry_network.damp(0, QUIET)
        self.color_network = MLP(
            self.degree**2 + config.geometry_features,
            3,
            config.color_width,
            config.color_depth,
            bias=config.color_depth > 2,
        )
        self.show(0)

    def start_from(self, distance: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]]) -> None:
        """Take another signed distance than the sphere's for the first guess."""
        self.start.fill(distance)

    def start_again(self, gain: float) -> None:
        """Forget what was added to the first guess, but not the features and colours; from now on the network's output
        counts ``gain`` times."""
        self.gain.fill_(gain)
        self.geometry_network.damp(0, QUIET)

    # --- coarse to fine ---

    @property
    def hash_grid(self) -> HashGrid | None:
        return next((part for part in self.encoder.modules() if isinstance(part, HashGrid)), None)

    def show(self, step: int) -> None:
        """Use the levels of the hash grid, if there is one, that are due at ``step``."""
        if self.hash_grid is not None:
            every, levels = self.config.level_every, self.hash_grid.layout.levels
            due = self.config.first_levels + step // every if every else levels
            self.hash_grid.active = min(due, levels)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(0 if self.hash_grid is None else self.hash_grid.active)

    def set_extra_state(self, state: Tensor) -> None:
        if self.hash_grid is not None:
            self.hash_grid.active = int(state)

    @property
    def detail(self) -> float:
        """Size of what the field can tell apart, in field units: a cell of the finest level in use."""
        grid = self.hash_grid
        return SMALLEST_DETAIL if grid is None else 2 / grid.layout.scales[grid.active - 1]

    @property
    def stencil_step(self) -> float:
        """Half-width, along each axis, of the differences that make normals: the points of the tetrahedron lie
        ``detail`` from its middle (Neuralangelo, section 3.2)."""
        return self.detail / math.sqrt(3)

    # --- geometry ---

    def encode(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n e"]:
        """What the geometry network sees of ``x``."""
        return self.encoder(x)

    def geometry(
        self,
        x: Float[Tensor, "n 3"],
        encoded: Float[Tensor, "n e"] | None = None,
        features: Float[Tensor, "n f"] | None = None,
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n f"]]:
        """Signed distance (N,) at field coordinates ``x``, and the features (N, F) that :meth:`shade` makes colours of.

        ``encoded`` and ``features``, where they are known, are what :meth:`encode` and this gave for ``x``; gradients
        of the weights flow all the same, those of ``x`` do not.
        """
        seen = self.encoder(x) if encoded is None else self.encoder.recall(x, encoded)
        h = self.geometry_network(seen) if features is None else self.geometry_network.recall(seen, features)
        h = h.to(x.dtype)
        return self.start(x) + self.gain * h[:, 0], h

    def distance(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """Signed distance (N,) at ``x``, in field units, negative inside."""
        return self.geometry(x)[0]

    def slope(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Gradient (N, 3) of the distance at ``x``; differentiable in the weights.

        Numerically, with e = ``stencil_step`` and the corners k of a tetrahedron (components +-1, whose sum of k k^T is
        4 I): sum_k k f(x + e k) / (4 e). Analytically, it is autograd's.
        """
        if self.config.normals == "analytic":
            return self.gradient(x)
        around, corners = self._around(x)
        return around @ corners / (4 * self.stencil_step**2)

    def laplacian(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """Laplacian (N,) of the distance at ``x``; differentiable in the weights.

        Always numerical, (sum_k f(x + e k) - 4 f(x)) / (2 e^2): the field is linear between lattice points, so autograd
        would give 0.
        """
        around, _ = self._around(x)
        return (around - self.distance(x)[:, None]).sum(dim=1) / (2 * self.stencil_step**2)

    def _around(self, x: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n 4"], Float[Tensor, "4 3"]]:
        """The distances at the corners of a tetrahedron around each point, and its corners seen from the middle."""
        corners = self.stencil_step * x.new_tensor(TETRAHEDRON)
        return self.distance((x[:, None] + corners).view(-1, 3)).view(-1, 4), corners

    def gradient(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Gradient (N, 3) of the distance by autograd; differentiable again where gradients are enabled."""
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.distance(x).sum(), x, create_graph=wanted)[0]

    # --- colour ---

    def shade(
        self,
        features: Float[Tensor, "n f"],
        directions: Float[Tensor, "r 3"],
        ray_index: Int[Tensor, "n"] | None = None,
        plain: Bool[Tensor, "r"] | None = None,
    ) -> Float[Tensor, "n 3"]:
        """Colour (N, 3) in [0, 1] of points with ``features``.

        ``directions`` are unit viewing directions, one a point or, with ``ray_index``, one a ray. Where ``plain``, the
        direction is left out: what the network then learns is the mean over directions.
        """
        view = spherical_harmonics(directions, self.degree)
        if plain is not None:
            view = view * ~plain[:, None]
        if ray_index is not None:
            view = view[ray_index]
        with products_in(self.precision, features.device):
            h = self.color_network(torch.cat([view, features], dim=-1))
        return torch.sigmoid(h.float())

    def color(self, x: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"] | None = None) -> Float[Tensor, "n 3"]:
        """Colour (N, 3) at ``x`` seen along unit ``directions``; without them, the mean over those it was seen from."""
        plain = torch.ones(len(x), dtype=torch.bool, device=x.device) if directions is None else None
        return self.shade(self.geometry(x)[1], x if directions is None else directions, plain=plain)
