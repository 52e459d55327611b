"""Multiplicative filter networks: the recursion, the filters and what they are drawn from."""

import math

import pytest
import torch

from recon3d.config.fields import FieldConfig, MfnConfig
from recon3d.errors import UserError
from recon3d.fields.mfn import FourierFilter, GaborFilter, MultiplicativeFilterNetwork
from recon3d.fields.networks import build_network

X = 2 * torch.rand(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1


def fourier(filter_, x):
    return torch.sin(x @ filter_.linear.weight.T + filter_.linear.bias)


def gabor(filter_, x):
    distance = (x[:, None] - filter_.mu[None]).square().sum(-1)
    return torch.exp(-filter_.gamma / 2 * distance) * fourier(filter_.wave, x)


@pytest.mark.parametrize(("name", "literal"), [("fourier", fourier), ("gabor", gabor)])
@pytest.mark.parametrize("depth", [1, 3])
def test_recursion(name, literal, depth):
    torch.manual_seed(0)
    network = MultiplicativeFilterNetwork(2, 3, 16, depth, MfnConfig(filter=name)).double()
    z = literal(network.filters[0], X)
    assert len(network.filters) == depth + 1
    for i in range(depth):
        layer = network.hidden[i]
        z = literal(network.filters[i + 1], X) * (z @ layer.weight.T + layer.bias)
    torch.testing.assert_close(network(X), z @ network.last.weight.T + network.last.bias)


def test_what_fourier_filters_are_drawn_from():
    torch.manual_seed(0)
    network = MultiplicativeFilterNetwork(2, 1, 1000, 3, MfnConfig(filter="fourier"))
    bound = 256 / math.sqrt(4) / math.sqrt(2)
    for filter_ in network.filters:
        weight, phase = filter_.linear.weight.detach(), filter_.linear.bias.detach()
        assert 0.99 * bound < float(weight.abs().max()) <= bound
        assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert 0.99 * math.pi < float(phase.abs().max()) <= math.pi


def test_what_gabor_filters_are_drawn_from():
    """gamma ~ Gamma(alpha / (n + 1), beta): mean alpha / (n + 1) / beta, variance that over beta again."""
    torch.manual_seed(0)
    filters = MultiplicativeFilterNetwork(2, 1, 2000, 2, MfnConfig(alpha=6.0, beta=4.0)).filters
    gamma = torch.cat([filter_.gamma for filter_ in filters]).detach()
    assert float(gamma.mean()) == pytest.approx(6 / 3 / 4, rel=0.05)
    assert float(gamma.var()) == pytest.approx(6 / 3 / 16, rel=0.15)
    assert float(gamma.min()) >= 0
    for filter_ in filters:
        assert 0.99 < float(filter_.mu.detach().abs().max()) <= 1
        bound = 256 / math.sqrt(3) / math.sqrt(2)
        ratio = (filter_.wave.linear.weight / filter_.gamma.sqrt()[:, None]).detach().abs()
        assert 0.99 * bound < float(ratio[filter_.gamma > 1e-3].max()) <= bound * 1.0001


def test_hidden_layers_start_in_the_root_of_the_width():
    torch.manual_seed(0)
    network = MultiplicativeFilterNetwork(2, 1, 100, 3, MfnConfig())
    for layer in network.hidden:
        assert 0.099 < float(layer.weight.detach().abs().max()) <= 0.1


def test_published_size():
    """Table 1 of SL2A: 0.204 M parameters for colour images, the Gabor filters' centres and widths among them."""
    config = FieldConfig(encoder=("identity",), network="mfn").resolved()
    network = build_network(config, 2, 3)
    assert f"{sum(p.numel() for p in network.parameters()) / 1e6:.3f}" == "0.204"
    assert isinstance(network.filters[0], GaborFilter)


def test_takes_coordinates_only():
    with pytest.raises(UserError, match=r"field\.network mfn"):
        FieldConfig(encoder=("fourier",), network="mfn")


def test_the_filters_of_the_configuration():
    config = FieldConfig(encoder=("identity",), network="mfn", width=4, mfn=MfnConfig(filter="fourier")).resolved()
    assert all(isinstance(filter_, FourierFilter) for filter_ in build_network(config, 2, 1).filters)
