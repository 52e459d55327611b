"""The MLP: its shapes, its skip, its biases and the scale of what comes out; what each name of the table builds."""

import dataclasses

import pytest
import torch

from recon3d.config.fields import FieldConfig, FinerConfig, GaussConfig, ReluConfig, SirenConfig, SpderConfig
from recon3d.fields.networks import MLP, NETWORKS, build_network


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


# --- every network of the table ---


def literal(network, x, activation, first=None):
    """h = a(W h + b) layer after layer, then a linear layer."""
    h = x
    for index, layer in enumerate(network.layers[:-1]):
        z = h @ layer.weight.T + layer.bias
        h = (first or activation)(z) if index == 0 else activation(z)
    return h @ network.layers[-1].weight.T + network.layers[-1].bias


@pytest.mark.parametrize(
    ("config", "activation", "first"),
    [
        (FieldConfig(network="siren"), lambda z: torch.sin(30 * z), None),
        (
            FieldConfig(network="siren", siren=SirenConfig(omega=20.0, first_omega=7.0)),
            lambda z: torch.sin(20 * z),
            lambda z: torch.sin(7 * z),
        ),
        (FieldConfig(network="spder"), lambda z: torch.sin(30 * z) * (30 * z).abs().sqrt(), None),
        (
            FieldConfig(network="spder", spder=SpderConfig(first_omega=10.0, damping="arctan")),
            lambda z: torch.sin(30 * z) * torch.atan(30 * z),
            lambda z: torch.sin(10 * z) * torch.atan(10 * z),
        ),
        (
            FieldConfig(network="finer", finer=FinerConfig(first_omega=10.0)),
            lambda z: torch.sin(30 * (z.abs() + 1) * z),
            lambda z: torch.sin(10 * (z.abs() + 1) * z),
        ),
        (FieldConfig(network="gauss", gauss=GaussConfig(scale=8.0)), lambda z: torch.exp(-((8 * z) ** 2)), None),
        (FieldConfig(network="relu"), torch.relu, None),
    ],
)
def test_layer_after_layer(config, activation, first):
    torch.manual_seed(0)
    config = dataclasses.replace(config, encoder=("identity",), width=24, depth=3).resolved()
    network = build_network(config, 2, 3).double()
    assert len(network.layers) == (4 if config.network == "relu" else 5)
    x = 2 * torch.rand(40, 2, dtype=torch.float64) - 1
    torch.testing.assert_close(network(x), literal(network, x, activation, first), atol=1e-8, rtol=1e-8)


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", ["siren", "spder"])
def test_depth_of_sines_counts_the_layers_after_the_first(name):
    """SPDER's protocol: first + 5 hidden + linear, 256 wide, from 2 coordinates to 1 value."""
    assert count(build_network(FieldConfig(encoder=("identity",), network=name).resolved(), 2, 1)) == 329_985


@pytest.mark.parametrize("name", ["finer", "gauss"])
def test_depth_of_the_image_protocol(name):
    """First + 3 hidden + linear: the 0.198 M parameters of SL2A's table 1."""
    assert count(build_network(FieldConfig(encoder=("identity",), network=name).resolved(), 2, 1)) == 198_401


def test_depth_of_relu_counts_all_hidden_layers():
    network = build_network(FieldConfig(encoder=("frequency",), width=32, depth=3).resolved(), 10, 1)
    assert [tuple(p.shape) for p in network.parameters() if p.ndim == 2] == [(32, 10), (32, 32), (32, 32), (1, 32)]


@pytest.mark.parametrize(
    ("encoder", "depth", "biased"), [("hash_grid", 2, False), ("identity", 2, True), ("hash_grid", 3, True)]
)
def test_small_relu_networks_behind_features_have_no_biases(encoder, depth, biased):
    network = build_network(FieldConfig(encoder=(encoder,), width=8, depth=depth).resolved(), 4, 1)
    assert any(p.ndim == 1 for p in network.parameters()) is biased


@pytest.mark.parametrize(("depth", "skip", "layer"), [(5, None, None), (8, None, 4), (6, 2, 2)])
def test_where_relu_gets_its_input_again(depth, skip, layer):
    config = FieldConfig(encoder=("frequency",), width=8, depth=depth, relu=ReluConfig(skip=skip)).resolved()
    wide = [i for i, p in enumerate(build_network(config, 3, 1).layers) if p.in_features == 8 + 3]
    assert wide == ([] if layer is None else [layer])


@pytest.mark.parametrize("name", ["finer", "gauss", "wire", "mfn", "incode"])
def test_what_magnifies_is_not_rounded_under_autocast(name):
    """omega times a pre-activation in bfloat16 would be wrong by radians."""
    torch.manual_seed(0)
    network = build_network(FieldConfig(encoder=("identity",), network=name, width=32).resolved(), 2, 3)
    x = 2 * torch.rand(50, 2) - 1
    with torch.autocast("cpu", torch.bfloat16):
        half = network(x)
        rounded = network(x.bfloat16())
    torch.testing.assert_close(half, network(x))
    assert rounded.dtype == torch.float32


@pytest.mark.parametrize(("name", "frequency"), [("siren", 100), ("spder", 3)])
def test_damped_sines_round_their_hidden_layers_alone_under_autocast(name, frequency):
    """The first layer's arguments are coordinates times omega: in bfloat16 they would be wrong by radians."""
    torch.manual_seed(0)
    network = build_network(FieldConfig(encoder=("identity",), network=name, width=64, depth=2).resolved(), 2, 3)
    x = 2 * torch.rand(50, 2) - 1
    network.layers[0].weight.data *= frequency
    with torch.no_grad():
        exact = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(x)
    assert half.dtype == torch.float32 and not torch.equal(half, exact)
    torch.testing.assert_close(half, exact, rtol=0, atol=0.05 * float(exact.abs().max()))


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "incode"])
def test_most_networks_neither_look_nor_punish(name):
    network = build_network(FieldConfig(encoder=("identity",), network=name, width=2).resolved(), 2, 1)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.observe(torch.rand(3, 8, 8))
    assert network.penalty() is None
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
