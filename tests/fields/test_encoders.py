"""Encoders: their shapes, their values, and the spherical harmonics of the direction."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch

from recon3d.config import HashGridConfig, RadianceFieldConfig
from recon3d.config.fields import (
    ChebyshevConfig,
    FieldConfig,
    FourierConfig,
    FrequencyConfig,
    IdentityConfig,
    SphericalHarmonicsConfig,
)
from recon3d.errors import UserError
from recon3d.fields.encoders import (
    ENCODERS,
    Chain,
    Chebyshev,
    Fourier,
    Frequency,
    HashGrid,
    Identity,
    SphericalHarmonics,
    build_encoder,
)
from recon3d.fields.precision import products_in
from recon3d.kernels import spherical_harmonics
from recon3d.training.adam import Adam

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
    assert encoder.out_dim == dim * 8
    x = 2 * torch.rand(7, dim) - 1
    expected = []
    for octave in range(4):
        expected += [torch.sin(2**octave * math.pi * x), torch.cos(2**octave * math.pi * x)]
    # In which order is the encoder's own affair.
    torch.testing.assert_close(encoder(x).sort(-1).values, torch.cat(expected, -1).sort(-1).values, atol=1e-5, rtol=0)


def test_frequency_has_nothing_to_learn_or_to_save():
    encoder = Frequency(3, FrequencyConfig(levels=10))
    assert encoder.out_dim == 60
    assert not list(encoder.parameters())
    assert not encoder.state_dict()


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
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


def test_decay_makes_fine_levels_quiet():
    x = 2 * torch.rand(50, 3) - 1
    torch.manual_seed(0)
    plain = HashGrid(3, SMALL_GRID)
    torch.manual_seed(0)
    quiet = HashGrid(3, dataclasses.replace(SMALL_GRID, decay=0.5))
    wanted = plain(x) * torch.tensor([1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125])
    torch.testing.assert_close(quiet(x), wanted)
    torch.testing.assert_close(quiet.recall(x, wanted.detach()), wanted)
    found, direct = (
        torch.autograd.grad(values.square().sum(), quiet.table)[0]
        for values in (quiet.recall(x, wanted.detach()), quiet(x))
    )
    torch.testing.assert_close(found, direct)
    assert set(quiet.state_dict()) == {"table"}
    with pytest.raises(UserError, match="decay"):
        dataclasses.replace(SMALL_GRID, decay=1.5)


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


def test_hash_grid_is_read_in_the_type_of_products():
    """In the values of now, whoever changed them and how."""
    encoder = HashGrid(3, SMALL_GRID)
    torch.nn.init.normal_(encoder.table)
    x = 2 * torch.rand(20, 3) - 1
    optimizer = Adam([{"params": [encoder.table], "lr": 0.1}], betas=(0.9, 0.99), eps=1e-15)
    tables = Adam([{"params": [encoder.table], "lr": 0.1, "tables": True}], betas=(0.9, 0.99), eps=1e-15)
    others = torch.optim.SGD([encoder.table], lr=0.1), torch.optim.Adam([encoder.table], lr=0.1)
    state = {"table": torch.randn_like(encoder.table)}
    changes = *(made.step for made in (optimizer, tables, *others)), lambda: encoder.load_state_dict(state)
    copied = copy.deepcopy(encoder)
    for change in (lambda: None, *changes):
        change()
        for grid in (encoder, copied):
            with products_in(torch.bfloat16, x.device):
                values = grid(x)
            assert values.dtype == torch.bfloat16
            with torch.no_grad():
                rounded = copy.deepcopy(grid)
                rounded.table.copy_(grid.table.bfloat16())
            torch.testing.assert_close(values.float(), rounded(x), rtol=8e-3, atol=1e-6)
        encoder.table.grad = None
        values = encoder(x)
        values.square().sum().backward()
    assert bool((encoder.table != copied.table).all(dim=1).any())


def test_levels_out_of_use_are_not_read():
    encoder = HashGrid(3, SMALL_GRID)
    torch.nn.init.normal_(encoder.table)
    x = 2 * torch.rand(20, 3) - 1
    with products_in(torch.bfloat16, x.device):
        whole = encoder(x)
        encoder.active = 2
        some = encoder(x)
    assert torch.equal(some[:, :4], whole[:, :4]) and not bool(some[:, 4:].any())


@pytest.mark.parametrize("name", list(ENCODERS))
def test_every_encoder_of_the_table(name):
    config = RadianceFieldConfig(encoder=(name,), hash_grid=SMALL_GRID).resolved()
    encoder = ENCODERS[name](3, config)
    x = 2 * torch.rand(5, 3) - 1
    assert encoder(x).shape == (5, encoder.out_dim)
    assert encoder(x[:0]).shape == (0, encoder.out_dim)
    assert torch.isfinite(encoder(x)).all()


def test_identity_scales():
    x = torch.randn(5, 2)
    torch.testing.assert_close(Identity(2, IdentityConfig())(x), x)
    torch.testing.assert_close(Identity(2, IdentityConfig(scale=100.0))(x), 100 * x)


def test_fourier_values_and_frequencies():
    torch.manual_seed(0)
    encoder = Fourier(2, FourierConfig(features=5000, sigma=7.0))
    assert float(encoder.frequencies.std()) == pytest.approx(7.0, rel=0.03)
    assert float(encoder.frequencies.mean()) == pytest.approx(0.0, abs=0.3)
    x = 2 * torch.rand(7, 2) - 1
    phase = torch.tensor([[2 * math.pi * float(b @ point) for b in encoder.frequencies] for point in x])
    torch.testing.assert_close(encoder(x), torch.cat([phase.cos(), phase.sin()], -1), atol=1e-3, rtol=0)


def test_fourier_keeps_its_frequencies_and_learns_nothing():
    encoder, other = (Fourier(2, FourierConfig(features=8)) for _ in range(2))
    assert not list(encoder.parameters())
    other.load_state_dict(encoder.state_dict())
    x = torch.randn(4, 2)
    torch.testing.assert_close(other(x), encoder(x), rtol=0, atol=0)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_chebyshev_values(dim):
    """LayerNorm(sum_i sum_k a_{i,o,k} cos(k arccos(tanh x_i))), in float64."""
    torch.manual_seed(0)
    encoder = Chebyshev(dim, ChebyshevConfig(degree=9, width=6)).double()
    torch.nn.init.normal_(encoder.norm.weight)
    torch.nn.init.normal_(encoder.norm.bias)
    x = torch.randn(5, dim, dtype=torch.float64)
    y = torch.zeros(5, 6, dtype=torch.float64)
    for i in range(dim):
        for k in range(10):
            y += encoder.coefficients[i, :, k] * torch.cos(k * torch.acos(torch.tanh(x[:, i : i + 1])))
    y = (y - y.mean(-1, keepdim=True)) / torch.sqrt(y.var(-1, unbiased=False, keepdim=True) + 1e-5)
    torch.testing.assert_close(encoder(x), y * encoder.norm.weight + encoder.norm.bias)


def test_chebyshev_starts_xavier_uniform():
    torch.manual_seed(0)
    encoder = Chebyshev(2, ChebyshevConfig(degree=512, width=256))
    bound = math.sqrt(6 / ((256 + 2) * 513))
    assert encoder.coefficients.shape == (2, 256, 513)
    assert 0.99 * bound < float(encoder.coefficients.detach().abs().max()) <= bound
    assert float(encoder.coefficients.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.01)


def test_chebyshev_is_finite_far_out():
    encoder = Chebyshev(1, ChebyshevConfig(degree=64, width=4))
    x = torch.tensor([[-200.0], [-20.0], [0.0], [20.0], [200.0]], requires_grad=True)
    out = encoder(x)
    assert torch.isfinite(out).all()
    out.square().sum().backward()
    assert torch.isfinite(x.grad).all()


def test_spherical_harmonics_encoder_sees_the_direction_only():
    encoder = SphericalHarmonics(3, SphericalHarmonicsConfig(degree=3))
    x = torch.randn(6, 3)
    torch.testing.assert_close(encoder(x), spherical_harmonics(x / x.norm(dim=-1, keepdim=True), 3))
    torch.testing.assert_close(encoder(0.1 * x), encoder(x))
    assert torch.isfinite(encoder(torch.zeros(1, 3))).all()


@pytest.mark.parametrize(("name", "dim"), [("spherical_harmonics", 2), ("spherical_harmonics", 1), ("hash_grid", 5)])
def test_dimensions_that_an_encoder_does_not_take(name, dim):
    with pytest.raises(UserError) as caught:
        build_encoder(FieldConfig(encoder=(name,)).resolved(), dim)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("field.encoder", name, str(dim)):
        assert part in message


def chained(*names):
    return FieldConfig(encoder=names, hash_grid=SMALL_GRID, chebyshev=ChebyshevConfig(degree=8), width=16).resolved()


def test_one_encoder_is_no_chain():
    encoder = build_encoder(chained("hash_grid"), 2)
    assert isinstance(encoder, HashGrid)
    x = 2 * torch.rand(20, 2) - 1
    values = encoder(x).detach()
    recalled = encoder.recall(x, values)
    torch.testing.assert_close(recalled, values, rtol=0, atol=0)
    (direct,) = torch.autograd.grad(encoder(x).square().sum(), encoder.table)
    (indirect,) = torch.autograd.grad(recalled.square().sum(), encoder.table)
    torch.testing.assert_close(indirect, direct)


@pytest.mark.parametrize("names", [("hash_grid",), ("chebyshev",), ("hash_grid", "chebyshev"), ("frequency",)])
def test_known_values_are_not_made_again_without_gradients(names):
    encoder = build_encoder(chained(*names), 2)
    x = 2 * torch.rand(20, 2) - 1
    with torch.no_grad():
        values = encoder(x)
        assert encoder.recall(x, values) is values


def test_a_chain_feeds_each_the_one_before():
    torch.manual_seed(0)
    encoder = build_encoder(chained("hash_grid", "chebyshev"), 3)
    assert isinstance(encoder, Chain)
    assert encoder.out_dim == 16
    grid, series = encoder.links
    assert series.coefficients.shape[0] == grid.out_dim
    torch.nn.init.normal_(grid.table)
    x = 2 * torch.rand(20, 3) - 1
    torch.testing.assert_close(encoder(x), series(grid(x)))
    assert encoder(x[:0]).shape == (0, 16)
    recalled = encoder.recall(x, encoder(x).detach())
    torch.testing.assert_close(recalled, encoder(x))
    recalled.sum().backward()
    assert bool((grid.table.grad != 0).any())


def test_a_chain_without_parameters_recalls_what_it_was_told():
    encoder = build_encoder(chained("identity", "frequency"), 2)
    values = torch.randn(4, encoder.out_dim)
    assert encoder.recall(torch.randn(4, 2), values) is values


@pytest.mark.parametrize("names", [("fourier",), ("chebyshev",), ("frequency", "chebyshev")])
def test_encodings_are_not_rounded_under_autocast(names):
    """At sigma 10 or degree 512, an angle that was made in bfloat16 would be wrong by radians."""
    torch.manual_seed(0)
    encoder = build_encoder(FieldConfig(encoder=names).resolved(), 2)
    x = 2 * torch.rand(50, 2) - 1
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(x)
    torch.testing.assert_close(half.float(), encoder(x))
