"""The radiance field: what every encoder's field promises to heads, exporters and the trainer."""

import dataclasses
import math

import pytest
import torch

from recon3d.config import HashGridConfig, RadianceFieldConfig
from recon3d.config.fields import FrequencyConfig
from recon3d.fields.encoders import ENCODERS
from recon3d.fields.networks import NETWORKS
from recon3d.fields.radiance import RadianceField
from recon3d.kernels import relu_mlp

N = 50


def config_of(encoder, **changes):
    values = {
        "encoder": (encoder,),
        "hash_grid": HashGridConfig(levels=4, features=2, log2_size=10, coarsest=4, finest=32),
        "frequency": FrequencyConfig(levels=4),
        "width": 32,
        **changes,
    }
    return RadianceFieldConfig(**values).resolved()


@pytest.fixture(params=list(ENCODERS))
def field(request):
    torch.manual_seed(0)
    return RadianceField(config_of(request.param))


@pytest.fixture
def points():
    return 2 * torch.rand(N, 3, generator=torch.Generator().manual_seed(1)) - 1


@pytest.fixture
def directions():
    return torch.nn.functional.normalize(torch.randn(N, 3, generator=torch.Generator().manual_seed(2)), dim=-1)


def test_shapes_types_and_ranges(field, points, directions):
    sigma, rgb = field(points, directions)
    assert (sigma.shape, rgb.shape) == ((N,), (N, 3))
    assert (sigma.dtype, rgb.dtype) == (torch.float32, torch.float32)
    assert (sigma > 0).all()
    assert ((rgb >= 0) & (rgb <= 1)).all()
    _, features = field.geometry(points)
    assert features.shape[0] == N


def test_the_ways_to_ask_agree(field, points, directions):
    sigma, rgb = field(points, directions)
    torch.testing.assert_close(field.density(points), field.geometry(points)[0], rtol=0, atol=0)
    torch.testing.assert_close(field.density(points), sigma)
    torch.testing.assert_close(field.color(points, directions), rgb)


def test_starts_thin_and_grey(field, points, directions):
    """A new field neither blocks the light nor has a colour: training starts from fog."""
    sigma, rgb = field(points, directions)
    assert 0.01 < float(sigma.detach().median()) < 10
    assert float((rgb.detach() - 0.5).abs().mean()) < 0.3


def test_one_direction_a_ray(field, points, directions):
    _, features = field.geometry(points)
    ray_index = torch.arange(N) // 10
    by_ray = field.shade(features, directions[:5], ray_index)
    torch.testing.assert_close(by_ray, field.shade(features, directions[:5][ray_index]))


def test_no_points_at_all(field, directions):
    sigma, features = field.geometry(torch.zeros(0, 3))
    assert sigma.shape == (0,)
    assert field.shade(features, directions[:3], torch.zeros(0, dtype=torch.long)).shape == (0, 3)


def test_colour_depends_on_the_direction(field, points, directions):
    colors = field.color(points, directions), field.color(points, -directions)
    assert not torch.allclose(*colors)


def test_degree_one_has_no_view_dependence(points, directions):
    field = RadianceField(config_of("frequency", direction_degree=1))
    torch.testing.assert_close(field.color(points, directions), field.color(points, -directions))


def test_every_parameter_learns(field, points, directions):
    sigma, rgb = field(points, directions)
    (sigma.sum() + rgb.square().sum()).backward()
    for name, parameter in field.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert bool((parameter.grad != 0).any()), name


def test_points_at_and_beyond_the_border_are_finite(field, directions):
    x = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0], [1.0, -1.0, 0.0], [1.001, 0.0, 0.0]])
    sigma, rgb = field(x, directions[:4])
    assert torch.isfinite(sigma).all()
    assert torch.isfinite(rgb).all()


@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_half_precision_products_give_full_precision_answers(encoder, points, directions):
    torch.manual_seed(0)
    full = RadianceField(config_of(encoder))
    half = RadianceField(config_of(encoder), torch.bfloat16)
    half.load_state_dict(full.state_dict())
    sigma, rgb = half(points, directions)
    assert (sigma.dtype, rgb.dtype) == (torch.float32, torch.float32)
    expected_sigma, expected_rgb = full(points, directions)
    torch.testing.assert_close(sigma, expected_sigma, rtol=0.1, atol=0.02)
    torch.testing.assert_close(rgb, expected_rgb, rtol=0, atol=0.05)


@pytest.mark.parametrize("bias", [0.0, 5.0, 40.0])
def test_the_gradient_of_a_hot_density_is_bounded(bias, points):
    """Density is exp of the network's output (shifted), and its gradient that of an output of at most 15."""
    field = RadianceField(config_of("frequency"))
    last = list(field.density_network.parameters())[-1]
    weight = list(field.density_network.parameters())[-2]
    with torch.no_grad():
        weight.zero_()
        last.zero_()
        base = math.log(float(field.density(points[:1])))
        last[0] = bias
    sigma = field.density(points[:1])
    assert math.log(float(sigma.detach())) == pytest.approx(base + bias, rel=1e-4)
    sigma.sum().backward()
    assert float(last.grad[0]) == pytest.approx(math.exp(min(base + bias, 15.0)), rel=1e-4)


@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_same_seed_same_field(encoder, points, directions):
    made = []
    for _ in range(2):
        torch.manual_seed(7)
        made.append(RadianceField(config_of(encoder)))
    for name, value in made[0].state_dict().items():
        torch.testing.assert_close(value, made[1].state_dict()[name], rtol=0, atol=0)


def test_the_original_nerf_has_its_size():
    """Encoded position 60, 8 layers of 256 with a skip, one colour layer of 128 (Mildenhall et al. 2020)."""
    field = RadianceField(RadianceFieldConfig(encoder=("frequency",)).resolved())
    shapes = [tuple(p.shape) for p in field.density_network.parameters() if p.ndim == 2]
    assert shapes[:-1] == [(256, 60), *[(256, 256)] * 3, (256, 256 + 60), *[(256, 256)] * 3]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("network", list(NETWORKS))
def test_every_network_as_the_density(network, precision, points, directions):
    """Also through what a renderer does: encode without gradients, then the geometry of the encoded points."""
    torch.manual_seed(0)
    encoder = ("hash_grid", "chebyshev") if network == "fusion" else ("identity",)
    config = dataclasses.replace(config_of("identity"), encoder=encoder, network=network, depth=2)
    field = RadianceField(config.resolved(), precision)
    with torch.no_grad():
        encoded = field.encode(points)
    sigma, features = field.geometry(points, encoded)
    rgb = field.shade(features, directions)
    assert (sigma.dtype, rgb.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(sigma, field.density(points), rtol=1e-5, atol=1e-6)
    (sigma.sum() + rgb.square().sum()).backward()
    for name, parameter in field.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(
    ("encoder", "depth", "skip", "bias"),
    [
        ("hash_grid", 1, None, False),
        ("hash_grid", 2, None, False),
        ("hash_grid", 3, None, True),
        ("frequency", 2, None, False),
        ("frequency", 8, 4, True),
    ],
)
def test_relu_fields_are_plain_layers_in_order(encoder, depth, skip, bias, points):
    """The same draws in the same order, and the same operations as plain linear layers: bit for bit."""
    config = config_of(encoder, depth=depth)
    torch.manual_seed(5)
    field = RadianceField(config)
    torch.manual_seed(5)
    before = ENCODERS[encoder](3, config)
    networks = []
    for inputs, outputs, width, hidden in (
        (before.out_dim, 16, 32, depth),
        (16 + 16, 3, config.color_width, config.color_depth),
    ):
        again = skip if not networks else None
        ins = [inputs, *[width] * hidden]
        ins = [size + (inputs if layer == again else 0) for layer, size in enumerate(ins)]
        layers = [torch.nn.Linear(a, b, bias=bias) for a, b in zip(ins, [*[width] * hidden, outputs], strict=True)]
        for layer in layers:
            if bias and layer is layers[-1]:
                torch.nn.init.uniform_(layer.weight, -(layer.in_features**-0.5), layer.in_features**-0.5)
            else:
                torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if bias:
                torch.nn.init.zeros_(layer.bias)
        networks.append(layers)
    expected = [*before.parameters(), *(p for layers in networks for layer in layers for p in layer.parameters())]
    found = list(field.parameters())
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    h = x = before(points)
    if bias:
        for index, layer in enumerate(networks[0]):
            h = layer(torch.cat([h, x], dim=-1) if index == skip else h)
            h = torch.relu(h) if index < depth else h
    else:
        h = relu_mlp(x, [layer.weight for layer in networks[0]])
    assert torch.equal(field.geometry(points)[1], h)
