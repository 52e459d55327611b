"""Encoders: what a network sees of a coordinate.

Every encoder is a module with ``out_dim`` and ``forward(x: (N, d)) -> (N, out_dim)`` for x in [-1, 1]^d. A new one is a
class here, a configuration in ``config.py`` and a line in :data:`ENCODERS`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon3d.config import FieldConfig
from recon3d.config.fields import FrequencyConfig, HashGridConfig
from recon3d.kernels import HashLayout, hash_encode, hash_recall


class Encoder(nn.Module):
    """Base of the encoders; ``out_dim`` is the number of features per point."""

    out_dim: int

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        raise NotImplementedError

    def recall(self, x: Float[Tensor, "n d"], values: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
        """``forward(x)`` where its ``values`` are known already, from a pass without gradients; x is constant."""
        return values if not any(True for _ in self.parameters()) else self(x)


class HashGrid(Encoder):
    """Multiresolution hash grid (Müller et al. 2022); features start in U(-1e-4, 1e-4).

    On CUDA the table is read in float16 and trained in float32.
    """

    def __init__(self, dim: int, config: HashGridConfig) -> None:
        super().__init__()
        self.layout = HashLayout.build(
            dim, config.levels, config.features, config.log2_size, config.coarsest, config.finest
        )
        self.out_dim = config.levels * config.features
        self.table = nn.Parameter(torch.empty(self.layout.rows, config.features).uniform_(-1e-4, 1e-4))

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        half = self.table.is_cuda and torch.is_autocast_enabled("cuda")
        shadow = self.table.detach().to(torch.get_autocast_dtype("cuda")) if half else None
        return hash_encode((x + 1) * 0.5, self.table, self.layout, shadow)

    def recall(self, x: Float[Tensor, "n d"], values: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
        return hash_recall((x + 1) * 0.5, self.table, self.layout, values)


class Frequency(Encoder):
    """x, then sin and cos of 2^k pi x for k = 0 .. levels - 1 (Mildenhall et al. 2020, equation 4)."""

    octaves: Tensor

    def __init__(self, dim: int, config: FrequencyConfig) -> None:
        super().__init__()
        self.out_dim = dim * (1 + 2 * config.levels)
        self.register_buffer("octaves", torch.pi * 2.0 ** torch.arange(config.levels), persistent=False)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        phase = (x.unsqueeze(-1) * self.octaves).flatten(1)
        return torch.cat([x, phase.sin(), phase.cos()], dim=-1)


ENCODERS: dict[str, Callable[[int, FieldConfig], Encoder]] = {
    "hash_grid": lambda dim, config: HashGrid(dim, config.hash_grid),
    "frequency": lambda dim, config: Frequency(dim, config.frequency),
}


def spherical_harmonics(directions: Float[Tensor, "n 3"], degree: int) -> Float[Tensor, "n k"]:
    """Real spherical harmonics of unit ``directions`` (N, 3) below ``degree`` (1 to 4): (N, degree^2)."""
    x, y, z = directions.unbind(-1)
    basis = [torch.full_like(x, 0.28209479177387814)]
    if degree > 1:
        basis += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree > 2:
        basis += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (3 * z * z - 1),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (x * x - y * y),
        ]
    if degree > 3:
        basis += [
            0.5900435899266435 * y * (y * y - 3 * x * x),
            2.890611442640554 * x * y * z,
            0.4570457994644658 * y * (1 - 5 * z * z),
            0.3731763325901154 * z * (5 * z * z - 3),
            0.4570457994644658 * x * (1 - 5 * z * z),
            1.445305721320277 * z * (x * x - y * y),
            0.5900435899266435 * x * (3 * y * y - x * x),
        ]
    return torch.stack(basis, dim=-1)
