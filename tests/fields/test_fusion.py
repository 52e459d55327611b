"""SL2A: the fusion block's formula, its variants and their published sizes."""

import math

import pytest
import torch

from recon3d.config.fields import ChebyshevConfig, FieldConfig, FusionConfig
from recon3d.errors import UserError
from recon3d.fields.field import Field
from recon3d.fields.fusion import Fusion
from recon3d.fields.networks import build_network

X = 2 * torch.rand(30, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1


def test_formula():
    network = Fusion(12, 3, 3, FusionConfig()).double()
    y = X
    for layer in network.hidden:
        y = torch.relu((y * X) @ layer.weight.T + layer.bias)
    torch.testing.assert_close(network(X), (y * X) @ network.last.weight.T + network.last.bias)


def test_without_skips_it_is_a_plain_network():
    network = Fusion(12, 3, 3, FusionConfig(skips=False)).double()
    y = X
    for layer in network.hidden:
        y = torch.relu(y @ layer.weight.T + layer.bias)
    torch.testing.assert_close(network(X), y @ network.last.weight.T + network.last.bias)


def test_low_rank():
    network = Fusion(12, 3, 2, FusionConfig(rank=4)).double()
    y = X
    for down, up in network.hidden:
        y = torch.relu((y * X) @ (up.weight @ down.weight).T + up.bias)
    down, up = network.last
    torch.testing.assert_close(network(X), (y * X) @ (up.weight @ down.weight).T + up.bias)
    assert torch.linalg.matrix_rank(network.hidden[0][1].weight @ network.hidden[0][0].weight) == 4


def test_low_rank_factors_start_kaiming_uniform():
    torch.manual_seed(0)
    down, up = Fusion(256, 3, 1, FusionConfig(rank=32)).hidden[0]
    for layer, inputs in ((down, 256), (up, 32)):
        largest = float(layer.weight.detach().abs().max())
        assert 0.99 / math.sqrt(inputs) < largest <= 1 / math.sqrt(inputs)


@pytest.mark.parametrize(
    ("degree", "width", "rank", "channels", "millions"),
    [
        (512, 256, None, 3, "0.461"),
        (512, 256, None, 1, "0.461"),
        (256, 256, 32, 3, "0.190"),
        (256, 256, 32, 1, "0.190"),
        # The paper says degree 500 here, which makes 0.178; with the base model's degree its count comes out.
        (512, 128, None, 1, "0.181"),
    ],
)
def test_published_sizes(degree, width, rank, channels, millions):
    """Table 1 of SL2A: 2D images, three hidden layers."""
    config = FieldConfig(
        encoder=("chebyshev",),
        network="fusion",
        width=width,
        chebyshev=ChebyshevConfig(degree=degree),
        fusion=FusionConfig(rank=rank),
    )
    assert f"{Field(config.resolved(), 2, channels).parameter_count() / 1e6:.3f}" == millions


def test_an_encoder_of_another_width_is_refused():
    with pytest.raises(UserError, match=r"field\.network fusion.*256.*63.*field\.width") as caught:
        build_network(FieldConfig(encoder=("frequency",), network="fusion").resolved(), 63, 1)
    assert "\n" not in str(caught.value)
