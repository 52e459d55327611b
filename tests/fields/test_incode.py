"""INCODE: its formula, what it sees of the signal, and what it keeps of that."""

import math

import pytest
import torch

from recon3d.config.fields import FieldConfig, IncodeConfig
from recon3d.fields.incode import Incode, pooled_features
from recon3d.fields.networks import build_network

SIGNALS = {1: (1, 5000), 2: (3, 40, 56), 3: (1, 12, 20, 16)}


def signal(dim, seed=0):
    return 2 * torch.rand(SIGNALS[dim], generator=torch.Generator().manual_seed(seed)) - 1


def made(config=None, seed=0):
    torch.manual_seed(seed)
    return Incode(2, 3, 24, 2, config or IncodeConfig())


def coefficients(network):
    h = network.features
    layers = [layer for layer in network.harmonizer if isinstance(layer, torch.nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [(64, 64), (32, 64), (4, 32)]
    for layer in layers[:-1]:
        h = layer.weight @ h + layer.bias
        h = h * torch.sigmoid(h)
    return layers[-1].weight @ h + layers[-1].bias


@pytest.mark.parametrize("seen", [False, True])
def test_formula(seen):
    network = made(IncodeConfig(omega=20.0, first_omega=7.0)).double()
    if seen:
        network.observe(signal(2).double())
    a, b, c, d = coefficients(network)
    x = 2 * torch.rand(20, 2, dtype=torch.float64) - 1
    h = x
    for layer, omega in zip(network.layers[:-1], (7.0, 20.0, 20.0), strict=True):
        h = torch.exp(a) * torch.sin(torch.exp(b) * omega * (h @ layer.weight.T + layer.bias) + c) + d
    torch.testing.assert_close(network(x), h @ network.layers[-1].weight.T + network.layers[-1].bias)


def test_weights_start_as_sirens():
    torch.manual_seed(0)
    layers = Incode(50, 30, 200, 2, IncodeConfig(gain=2.0)).layers
    bounds = [1 / 50, *[2 * math.sqrt(6 / 200) / 30] * 2, math.sqrt(6 / 200) / 30]
    for layer, bound in zip(layers, bounds, strict=True):
        assert 0.99 * bound < float(layer.weight.detach().abs().max()) <= bound


def test_the_harmonizer_starts_nearly_constant():
    network = made()
    network.observe(signal(2))
    torch.testing.assert_close(coefficients(network), torch.full((4,), 0.312), atol=0.01, rtol=0)
    for layer in network.harmonizer:
        if isinstance(layer, torch.nn.Linear):
            assert (layer.bias == 0.312).all()
            assert float(layer.weight.detach().std()) == pytest.approx(0.001, rel=0.15)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_features_of_signals_of_every_dimension(dim):
    torch.manual_seed(0)
    features = pooled_features(signal(dim))
    assert features.shape == (64,)
    assert torch.isfinite(features).all()
    assert float(features.std()) > 0
    torch.manual_seed(0)
    torch.testing.assert_close(pooled_features(signal(dim)), features, rtol=0, atol=0)
    torch.manual_seed(1)
    assert not torch.allclose(pooled_features(signal(dim)), features)
    torch.manual_seed(0)
    assert not torch.allclose(pooled_features(signal(dim, seed=1)), features)


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 1), (2, 3, 1, 2), (1, 600_000), (1, 700, 300)])
def test_features_of_the_smallest_and_of_large_signals(shape):
    assert torch.isfinite(pooled_features(torch.rand(shape))).all()


def test_what_was_seen_stays_with_the_state():
    network, other = made(), made(seed=1)
    assert not network.features.any()
    network.observe(signal(2))
    assert bool(network.features.any())
    other.load_state_dict(network.state_dict())
    x = torch.rand(10, 2)
    torch.testing.assert_close(other(x), network(x), rtol=0, atol=0)
    assert "features" not in dict(network.named_parameters())


def test_penalty_weighs_what_is_negative():
    network = made()
    assert float(network.penalty().detach()) == 0
    with torch.no_grad():
        network.harmonizer[-1].bias.copy_(torch.tensor([-1.0, 1.0, -2.0, -3.0]))
        network.harmonizer[-1].weight.zero_()
    assert float(network.penalty().detach()) == pytest.approx(0.1993 + 2 * 0.0588 + 3 * 0.0269)
    network.penalty().backward()
    assert bool((network.harmonizer[-1].bias.grad != 0).any())


def test_the_harmonizer_learns():
    network = made()
    network.observe(signal(2))
    network(torch.rand(20, 2)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert bool((parameter.grad != 0).any()), name


def test_the_published_size_is_that_of_the_composer():
    """Table 1 of SL2A: 0.198 M, without the harmonizer."""
    network = build_network(FieldConfig(encoder=("identity",), network="incode").resolved(), 2, 1)
    assert sum(p.numel() for p in network.layers.parameters()) == 198_401
