"""Activations: their values, and the weights that networks with them start from."""

import math

import pytest
import torch
from torch import nn

from recon3d.fields.activations import DampedSine, Finer, Gauss, Relu
from recon3d.fields.networks import MLP

WIDTH = 200

DAMPINGS = {
    "none": lambda x: 1.0,
    "sqrt": lambda x: math.sqrt(abs(x)),
    "log": lambda x: math.log(abs(x)),
    "arctan": math.atan,
    "sqrt_relu": lambda x: math.sqrt(max(x, 0.0)),
    "identity": lambda x: x,
    "relu": lambda x: max(x, 0.0),
    "square": lambda x: x * x,
}


def made(activation, first=None):
    torch.manual_seed(0)
    return MLP(50, 100, WIDTH, 3, activation, first, bias=True)


def drawn_from(values, bound):
    """Uniform in [-bound, bound]: never beyond, nearly attained, the right spread and mean."""
    values = values.detach()
    assert float(values.abs().max()) <= bound * (1 + 1e-6)
    assert float(values.abs().max()) > 0.98 * bound
    assert float(values.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert float(values.mean()) == pytest.approx(0.0, abs=0.1 * bound)


@pytest.mark.parametrize("damping", list(DAMPINGS))
def test_damped_sines_see_the_multiplied_argument(damping):
    z = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    values = DampedSine(30.0, damping)(z)
    expected = [math.sin(30 * v) * (DAMPINGS[damping](30 * v) if v else 0.0) for v in z[:, 0].tolist()]
    torch.testing.assert_close(values[:, 0], torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=1e-9)


def test_finer_values_and_its_detached_factor():
    z = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None].requires_grad_()
    values = Finer(30.0)(z)
    torch.testing.assert_close(values, torch.sin(30 * (z.abs() + 1) * z), atol=1e-9, rtol=1e-9)
    (slope,) = torch.autograd.grad(values.sum(), z)
    factor = 30 * (z.abs() + 1)
    torch.testing.assert_close(slope, factor * torch.cos(factor * z), atol=1e-9, rtol=1e-9)


def test_gauss_values():
    z = torch.linspace(-0.2, 0.2, 41, dtype=torch.float64)[:, None]
    torch.testing.assert_close(Gauss(30.0)(z), torch.exp(-900 * z * z))
    assert 0 < float(Gauss(30.0)(torch.tensor([[9.0]]))) < 1e-34


@pytest.mark.parametrize(
    ("activation", "first"),
    [
        (DampedSine(30.0), DampedSine(90.0)),
        (DampedSine(30.0, "sqrt"), None),
        (Finer(30.0), Finer(60.0)),
    ],
)
def test_sines_start_as_siren(activation, first):
    layers = made(activation, first).layers
    drawn_from(layers[0].weight, 1 / 50)
    for layer in layers[1:]:
        drawn_from(layer.weight, math.sqrt(6 / WIDTH) / 30)
    drawn_from(layers[0].bias, 1 / math.sqrt(50))
    drawn_from(layers[1].bias, 1 / math.sqrt(WIDTH))


@pytest.mark.parametrize("kind", [DampedSine, Finer])
def test_gain_multiplies_the_hidden_weights_only(kind):
    layers = made(kind(30.0, gain=2.0)).layers
    drawn_from(layers[0].weight, 1 / 50)
    drawn_from(layers[1].weight, 2 * math.sqrt(6 / WIDTH) / 30)
    drawn_from(layers[2].weight, 2 * math.sqrt(6 / WIDTH) / 30)
    drawn_from(layers[3].weight, math.sqrt(6 / WIDTH) / 30)


def test_finer_draws_the_first_biases():
    layers = made(Finer(30.0), Finer(30.0, first_bias=5.0)).layers
    drawn_from(layers[0].bias, 5.0)
    drawn_from(layers[1].bias, 1 / math.sqrt(WIDTH))
    assert not made(Finer(30.0), Finer(30.0, first_bias=0.0)).layers[0].bias.any()


def test_gauss_starts_as_torch_does():
    for layer in made(Gauss(30.0)).layers:
        drawn_from(layer.weight, 1 / math.sqrt(layer.in_features))
        assert 0 < float(layer.bias.detach().abs().max()) <= 1 / math.sqrt(layer.in_features)


def test_relu_starts_kaiming_normal_without_biases():
    *layers, last = made(Relu()).layers
    for layer in layers:
        scaled = layer.weight.detach() * math.sqrt(layer.in_features / 2)
        assert float(scaled.std()) == pytest.approx(1.0, rel=0.05)
        assert float(scaled.mean()) == pytest.approx(0.0, abs=0.05)
        assert float(scaled.pow(4).mean()) == pytest.approx(3.0, rel=0.15)  # a uniform draw has 1.8
        assert not layer.bias.any()
    drawn_from(last.weight, last.in_features**-0.5)
    assert not last.bias.any()


def test_siren_keeps_the_spread_of_its_activations():
    """Hidden pre-activations, but for their biases, have spread 1 (Sitzmann et al. 2020, theorem 1.8)."""
    torch.manual_seed(0)
    network = MLP(2, 1, 256, 5, DampedSine(30.0), bias=True)
    h = torch.sin(30 * network.layers[0](2 * torch.rand(2000, 2) - 1))
    for layer in network.layers[1:-1]:
        z = 30 * (layer(h) - layer.bias)
        assert float(z.detach().std()) == pytest.approx(1.0, abs=0.1)
        h = torch.sin(z + 30 * layer.bias)


@pytest.mark.parametrize("damping", ["none", "sqrt"])
def test_a_layer_and_its_sine_together_are_the_same(damping):
    torch.manual_seed(0)
    activation, layer, x = DampedSine(30.0, damping), torch.nn.Linear(3, 8), torch.randn(5, 3)
    torch.testing.assert_close(activation.after(layer, x), activation(layer(x)), atol=1e-5, rtol=1e-5)


def test_relu_layers_without_biases_start_alike():
    Relu().initialise(nn.Linear(3, 4, bias=False), "hidden")
    last = nn.Linear(400, 100, bias=False)
    Relu().initialise(last, "last")
    assert float(last.weight.detach().std()) == pytest.approx(math.sqrt(2 / 400), rel=0.05)
