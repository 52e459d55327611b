"""The MLP: its shapes, its skip, its biases and the scale of what comes out."""

import pytest
import torch

from recon3d.fields.networks import MLP


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("depth", "skip"), [(1, None), (2, None), (8, 4)])
def test_shapes_and_sizes(depth, skip, bias):
    network = MLP(10, 3, width=16, depth=depth, skip=skip, bias=bias)
    assert network(torch.randn(7, 10)).shape == (7, 3)
    weights = 10 * 16 + (depth - 1) * 16 * 16 + 16 * 3 + (10 * 16 if skip else 0)
    biases = depth * 16 + 3 if bias else 0
    assert sum(p.numel() for p in network.parameters()) == weights + biases


@pytest.mark.parametrize(("skip", "sees"), [(2, True), (None, False)])
def test_the_skip_brings_the_input_back(skip, sees):
    """With the first layers silenced, only a skip lets the output still depend on the input."""
    torch.manual_seed(0)
    network = MLP(10, 3, width=16, depth=4, skip=skip)
    parameters = list(network.parameters())
    with torch.no_grad():
        parameters[0].zero_()
        parameters[1].zero_()
    out = network(torch.randn(6, 10))
    assert bool((out.std(0) > 1e-3).any()) is sees


def test_without_bias_zero_stays_zero():
    network = MLP(4, 2, width=8, depth=3)
    torch.testing.assert_close(network(torch.zeros(3, 4)), torch.zeros(3, 2))


def test_is_a_relu_network():
    """Without biases it is positively homogeneous: twice the input, twice the output."""
    network = MLP(4, 2, width=8, depth=3)
    x = torch.randn(5, 4)
    torch.testing.assert_close(network(2 * x), 2 * network(x))
    assert not torch.allclose(network(-x), -network(x))


def test_outputs_start_at_the_scale_of_the_input():
    torch.manual_seed(0)
    spread = float(MLP(32, 16, width=64, depth=3)(torch.randn(1000, 32)).detach().std())
    assert 0.3 < spread < 5


def test_every_weight_gets_a_gradient():
    network = MLP(10, 3, width=16, depth=8, skip=4, bias=True)
    network(torch.randn(64, 10)).square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in network.parameters())
