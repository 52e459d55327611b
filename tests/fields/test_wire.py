"""WIRE: its formula in complex numbers, its size and its initial weights."""

import math

import pytest
import torch

from recon3d.config.fields import FieldConfig, WireConfig
from recon3d.fields.networks import build_network
from recon3d.fields.wire import Wire, gabor_wavelet


def complex_of(parameter):
    return torch.complex(parameter[..., 0], parameter[..., 1])


def wavelet(z, omega, scale):
    return torch.exp(1j * omega * z - (scale * z).abs().square())


def test_formula():
    torch.manual_seed(0)
    network = Wire(2, 3, 16, 2, WireConfig(omega=9.0, first_omega=5.0, scale=3.0)).double()
    x = 2 * torch.rand(20, 2, dtype=torch.float64) - 1
    h = wavelet((x @ network.first.weight.T + network.first.bias).to(torch.complex128), 5.0, 3.0)
    assert h.shape == (20, 11)
    for layer in network.hidden:
        h = wavelet(h @ complex_of(layer.weight).T + complex_of(layer.bias), 9.0, 3.0)
    out = h @ complex_of(network.last.weight).T + complex_of(network.last.bias)
    torch.testing.assert_close(network(x), out.real)


def test_the_first_omega_is_omega_unless_given():
    network = Wire(2, 1, 16, 2, WireConfig(omega=9.0))
    assert network.first_omega == 9.0


def test_the_wavelet_has_derivatives_at_zero():
    z = torch.zeros(1, 1, dtype=torch.complex128, requires_grad=True)
    values = gabor_wavelet(z, 20.0, 10.0)
    (slope,) = torch.autograd.grad(values.real.sum(), z, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.real.sum(), z)
    assert torch.isfinite(torch.view_as_real(slope)).all()
    assert torch.isfinite(torch.view_as_real(curvature)).all()


def test_size_of_the_occupancy_protocol():
    """256 / sqrt 2 = 181 complex units, 2 hidden layers after the first: no more parameters than real layers of 256."""
    config = FieldConfig(encoder=("identity",), network="wire").resolved()
    count = sum(p.numel() for p in build_network(config, 3, 1).parameters())
    assert count == 181 * 4 + 2 * (2 * 181 * 182) + 2 * 182
    assert count < 256 * 4 + 2 * 256 * 257 + 257 + 1000


def test_all_layers_start_as_torch_makes_them():
    torch.manual_seed(0)
    network = Wire(50, 30, 200, 2, WireConfig())
    for weight, inputs in ((network.first.weight, 50), *((layer.weight, 141) for layer in network.hidden)):
        bound = 1 / math.sqrt(inputs)
        assert 0.99 * bound < float(weight.detach().abs().max()) <= bound
        assert float(weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_a_width_of_one_is_one_unit():
    assert Wire(2, 1, 1, 1, WireConfig())(torch.zeros(3, 2)).shape == (3, 1)
