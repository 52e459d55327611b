"""Encoders: what a network sees of a coordinate.

Every encoder is a module with ``out_dim`` and ``forward(x: (N, d)) -> (N, out_dim)`` for x in [-1, 1]^d. A new one is a
class here, a configuration in ``config/fields.py`` and a line in :data:`ENCODERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon3d.config import FieldConfig
from recon3d.config.fields import (
    ChebyshevConfig,
    FourierConfig,
    FrequencyConfig,
    HashGridConfig,
    IdentityConfig,
    SphericalHarmonicsConfig,
)
from recon3d.errors import UserError, require
from recon3d.fields.base import Encoder
from recon3d.fields.precision import products_as_they_are
from recon3d.kernels import (
    HashLayout,
    chebyshev_angle,
    cosine_series,
    hash_encode,
    hash_recall,
    spherical_harmonics,
)
from recon3d.kernels.threads import kernel_threads, run_parallel, spans

COPIES_PER_THREAD = 4


class Identity(Encoder):
    """``scale`` x."""

    def __init__(self, dim: int, config: IdentityConfig) -> None:
        super().__init__()
        self.out_dim, self.scale = dim, config.scale

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        return self.scale * x


class HashGrid(Encoder):
    """Multiresolution hash grid (Müller et al. 2022); features start in U(-1e-4, 1e-4).

    The features of the finest levels are 0, and take no time, while ``active`` is less than the number of levels. Those
    of level l are multiplied by ``decay^l``: under Adam, whose steps have one size, that is a learning rate a level.
    The table is trained in float32, and read in the type of the networks' products: see :func:`products_in`.
    """

    in_kernels = True
    gains: Float[Tensor, " f"] | None

    def __init__(self, dim: int, config: HashGridConfig) -> None:
        super().__init__()
        require(
            1 <= dim <= 4, f"field.encoder hash_grid takes 1 to 4 dimensions, not {dim}: choose another field.encoder"
        )
        if config.finest is None:
            raise UserError("field.hash_grid.finest is None, which only photographs can fill in: give a number")
        self.layout = HashLayout.build(
            dim, config.levels, config.features, config.log2_size, config.coarsest, config.finest
        )
        self.out_dim = config.levels * config.features
        self.active = config.levels
        self.table = nn.Parameter(torch.empty(self.layout.rows, config.features).uniform_(-1e-4, 1e-4))
        self._kept: tuple[Any, Tensor] | None = None
        gains = config.decay ** torch.arange(config.levels).float().repeat_interleave(config.features)
        self.register_buffer("gains", gains if config.decay < 1 else None, persistent=False)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        layout, table = self._in_use()
        shadow = self._shadow() if torch.is_autocast_enabled(x.device.type) else None
        return self._weighted(hash_encode((x + 1) * 0.5, table, layout, shadow))

    def tables(self) -> list[nn.Parameter]:
        return [self.table]

    def _with_gradients(self, x: Float[Tensor, "n d"], values: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
        layout, table = self._in_use()
        known = values[:, : layout.levels * layout.features]
        if self.gains is not None:
            known = known / self.gains[: known.shape[1]]
        return self._weighted(hash_recall((x + 1) * 0.5, table, layout, known))

    def _in_use(self) -> tuple[HashLayout, Float[Tensor, "rows f"]]:
        """The first ``active`` levels and their rows."""
        if self.active == self.layout.levels:
            return self.layout, self.table
        layout = self.layout.first(self.active)
        return layout, self.table[: layout.rows]

    def _shadow(self) -> Float[Tensor, "rows f"]:
        """The rows in use in the type of the networks' products. On the CPU, where a step asks several times, they are
        kept until the table is another one."""
        kind = torch.get_autocast_dtype(self.table.device.type)
        rows = self.layout.offsets[self.active]
        if self.table.is_cuda or torch.compiler.is_compiling():  # where the conversion is part of what is recorded
            return self.table.detach()[:rows].to(kind)
        state = kind, self.table.data_ptr(), self.table._version
        if self._kept is None or self._kept[0] != state:
            self._kept = state, _converted(self.table.detach(), kind)
        return self._kept[1][:rows]

    def _weighted(self, values: Float[Tensor, "n a"]) -> Float[Tensor, "n f"]:
        """Every level times its gain, with zeros for the levels that are not in use."""
        if self.gains is not None:
            values = values * self.gains[: values.shape[-1]].to(values.dtype)
        missing = self.out_dim - values.shape[-1]
        return nn.functional.pad(values, (0, missing)) if missing else values


def _converted(table: Float[Tensor, "rows f"], kind: torch.dtype) -> Float[Tensor, "rows f"]:
    """``table`` in another type; on the CPU, by all threads of kernels."""
    copy = torch.empty_like(table, dtype=kind)
    parts = spans(len(table), COPIES_PER_THREAD * kernel_threads())
    run_parallel(lambda begin, end: copy[begin:end].copy_(table[begin:end]), parts)
    return copy


class Frequency(Encoder):
    """sin and cos of 2^k pi x for k = 0 .. levels - 1 (Mildenhall et al. 2020, equation 4)."""

    octaves: Tensor

    def __init__(self, dim: int, config: FrequencyConfig) -> None:
        super().__init__()
        self.out_dim = 2 * dim * config.levels
        self.register_buffer("octaves", torch.pi * 2.0 ** torch.arange(config.levels), persistent=False)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        phase = (x.unsqueeze(-1) * self.octaves).flatten(1)
        return torch.cat([phase.sin(), phase.cos()], dim=-1)


class Fourier(Encoder):
    """cos and sin of 2 pi B x with B (features, d) drawn from N(0, sigma^2) (Tancik et al. 2020)."""

    frequencies: Tensor

    def __init__(self, dim: int, config: FourierConfig) -> None:
        super().__init__()
        self.out_dim = 2 * config.features
        self.register_buffer("frequencies", config.sigma * torch.randn(config.features, dim))

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        with products_as_they_are(x.device):
            phase = 2 * torch.pi * x.to(self.frequencies.dtype) @ self.frequencies.t()
        return torch.cat([phase.cos(), phase.sin()], dim=-1)


class Chebyshev(Encoder):
    """SL2A's learnable activation block (section 3.1): LayerNorm of sum_{i,k} a_{i,o,k} T_k(tanh x_i), k = 0 .. degree.

    The paper's sum begins at k = 1, its code's at 0: a bias for every output. T_k(tanh x) = cos(k theta) with
    theta = arccos(tanh x), made without arccos, whose slope at 1 is infinite. Coefficients (d, width, degree + 1) start
    Xavier-uniform.
    """

    def __init__(self, dim: int, config: ChebyshevConfig) -> None:
        super().__init__()
        assert config.width
        self.out_dim = config.width
        self.coefficients = nn.Parameter(torch.empty(dim, config.width, config.degree + 1))
        nn.init.xavier_uniform_(self.coefficients)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        with products_as_they_are(x.device):
            theta = chebyshev_angle(x.to(self.coefficients.dtype))
            return self.norm(cosine_series(theta, self.coefficients))


class SphericalHarmonics(Encoder):
    """Real spherical harmonics of the direction of x."""

    def __init__(self, dim: int, config: SphericalHarmonicsConfig) -> None:
        super().__init__()
        require(
            dim == 3, f"field.encoder spherical_harmonics takes 3 dimensions, not {dim}: choose another field.encoder"
        )
        self.degree, self.out_dim = config.degree, config.degree**2

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        return spherical_harmonics(nn.functional.normalize(x, dim=-1), self.degree)


class Chain(Encoder):
    """Encoders, each on the output of the one before."""

    def __init__(self, links: list[Encoder]) -> None:
        super().__init__()
        self.links = nn.ModuleList(links)
        self.out_dim = links[-1].out_dim

    def tables(self) -> list[nn.Parameter]:
        first = self.links[0]  # those that have any take coordinates, so they come first
        assert isinstance(first, Encoder)
        return first.tables()

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        for link in self.links:
            x = link(x)
        return x


ENCODERS: dict[str, Callable[[int, FieldConfig], Encoder]] = {
    "identity": lambda dim, config: Identity(dim, config.identity),
    "frequency": lambda dim, config: Frequency(dim, config.frequency),
    "fourier": lambda dim, config: Fourier(dim, config.fourier),
    "hash_grid": lambda dim, config: HashGrid(dim, config.hash_grid),
    "chebyshev": lambda dim, config: Chebyshev(dim, config.chebyshev),
    "spherical_harmonics": lambda dim, config: SphericalHarmonics(dim, config.spherical_harmonics),
}


def build_encoder(config: FieldConfig, dim: int) -> Encoder:
    """The encoder of a resolved configuration for coordinates of ``dim`` dimensions: one, or a chain of several.

    Raises:
        UserError: one that does not take so many dimensions.
    """
    if config.backend == "tcnn":
        from recon3d.fields.tcnn import TcnnHashGrid

        return TcnnHashGrid(dim, config.hash_grid)
    links: list[Encoder] = []
    for name in config.encoder:
        links.append(ENCODERS[name](links[-1].out_dim if links else dim, config))
    return links[0] if len(links) == 1 else Chain(links)
