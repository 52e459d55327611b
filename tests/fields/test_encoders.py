"""Encoders: their shapes, their values, and the spherical harmonics of the direction."""

import math

import numpy as np
import pytest
import torch

from recon3d.config import HashGridConfig, RadianceFieldConfig
from recon3d.config.fields import FrequencyConfig
from recon3d.fields.encoders import ENCODERS, Frequency, HashGrid, spherical_harmonics

SMALL_GRID = HashGridConfig(levels=4, features=2, log2_size=10, coarsest=4, finest=32)


def quadrature(points=16):
    """Directions and weights that integrate polynomials over the unit sphere exactly (Gauss x equal angles)."""
    z, weight = np.polynomial.legendre.leggauss(points)
    phi = 2 * math.pi * np.arange(2 * points) / (2 * points)
    ring = np.sqrt(1 - z**2)
    directions = np.stack(
        [np.outer(ring, np.cos(phi)), np.outer(ring, np.sin(phi)), np.outer(z, np.ones_like(phi))], axis=-1
    )
    weights = np.outer(weight, np.full(2 * points, math.pi / points))
    return torch.from_numpy(directions.reshape(-1, 3)), torch.from_numpy(weights.reshape(-1))


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_spherical_harmonics_are_orthonormal(degree):
    directions, weights = quadrature()
    basis = spherical_harmonics(directions, degree)
    assert basis.shape == (len(directions), degree**2)
    products = basis.T @ (weights[:, None] * basis)
    torch.testing.assert_close(products, torch.eye(degree**2, dtype=torch.float64), atol=1e-9, rtol=0)


def test_spherical_harmonics_bands_turn_into_themselves():
    """The sum of squares of a band is the same in every direction (Unsold's theorem): (2 l + 1) / (4 pi)."""
    directions = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=-1)
    basis = spherical_harmonics(directions, 4)
    for band in range(4):
        squares = basis[:, band**2 : (band + 1) ** 2].square().sum(-1)
        torch.testing.assert_close(squares, torch.full_like(squares, (2 * band + 1) / (4 * math.pi)))


def test_lower_degrees_are_the_first_of_higher_ones():
    directions = torch.nn.functional.normalize(torch.randn(9, 3), dim=-1)
    for degree in (1, 2, 3):
        torch.testing.assert_close(
            spherical_harmonics(directions, 4)[:, : degree**2], spherical_harmonics(directions, degree)
        )


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_frequency_values(dim):
    encoder = Frequency(dim, FrequencyConfig(levels=4))
    assert encoder.out_dim == dim * 9
    x = 2 * torch.rand(7, dim) - 1
    expected = [x]
    for octave in range(4):
        expected += [torch.sin(2**octave * math.pi * x), torch.cos(2**octave * math.pi * x)]
    # In which order is the encoder's own affair.
    torch.testing.assert_close(encoder(x).sort(-1).values, torch.cat(expected, -1).sort(-1).values, atol=1e-5, rtol=0)


def test_frequency_has_nothing_to_learn_or_to_save():
    encoder = Frequency(3, FrequencyConfig(levels=10))
    assert encoder.out_dim == 63
    assert not list(encoder.parameters())
    assert not encoder.state_dict()


@pytest.mark.parametrize("dim", [2, 3])
def test_hash_grid_starts_near_zero_and_covers_the_cube(dim):
    torch.manual_seed(0)
    encoder = HashGrid(dim, SMALL_GRID)
    assert encoder.out_dim == 8
    x = torch.cat([2 * torch.rand(100, dim) - 1, torch.ones(1, dim), -torch.ones(1, dim), torch.zeros(1, dim)])
    features = encoder(x).detach()
    assert features.shape == (103, 8)
    assert float(features.abs().max()) <= 1e-4
    assert float(features.abs().max()) > 0


def test_hash_grid_is_continuous():
    encoder = HashGrid(3, SMALL_GRID)
    torch.nn.init.normal_(encoder.table)
    x = 1.9 * torch.rand(200, 3) - 0.95
    step = 1e-4 * torch.nn.functional.normalize(torch.randn(200, 3), dim=-1)
    # 32 cells over a length of 2: a feature changes by at most a few table entries' difference per 1/16.
    assert float((encoder(x + step) - encoder(x)).detach().abs().max()) < 1e-4 * 16 * 20


def test_hash_grid_learns_any_values():
    torch.manual_seed(0)
    encoder = HashGrid(3, SMALL_GRID)
    x, target = 2 * torch.rand(30, 3) - 1, torch.randn(30)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss = (encoder(x).sum(-1) - target).square().mean()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1e-3


@pytest.mark.parametrize("name", list(ENCODERS))
def test_every_encoder_of_the_table(name):
    config = RadianceFieldConfig(encoder=(name,), hash_grid=SMALL_GRID)
    encoder = ENCODERS[name](3, config)
    x = 2 * torch.rand(5, 3) - 1
    assert encoder(x).shape == (5, encoder.out_dim)
    assert encoder(x[:0]).shape == (0, encoder.out_dim)
    assert torch.isfinite(encoder(x)).all()
