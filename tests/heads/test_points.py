"""Point heads against finite differences of analytic fields, and how errors of both shrink with the grid."""

import math

import pytest
import torch

from recon3d.config import FieldConfig
from recon3d.fields.field import Field
from recon3d.geometry.grids import grid_points
from recon3d.heads import points


class Waves:
    """sin and a product of cosines, (N, 2) -> (N, 2), with the exact gradient."""

    def __call__(self, x):
        u, v = x.unbind(1)
        return torch.stack([torch.sin(2 * u + v), torch.cos(1.5 * u) * torch.cos(v)], dim=1)

    def gradient(self, x):
        u, v = x.unbind(1)
        first = torch.stack([2 * torch.cos(2 * u + v), torch.cos(2 * u + v)], dim=1)
        second = torch.stack([-1.5 * torch.sin(1.5 * u) * torch.cos(v), -torch.cos(1.5 * u) * torch.sin(v)], dim=1)
        return torch.stack([first, second], dim=1)


def inner(values, grid):
    """Without the border, where differences are one-sided."""
    return values.view(*grid, -1)[1:-1, 1:-1]


def errors(head, differences, grid):
    """Greatest error of the head against differences, relative to the greatest difference; with a head in float64."""
    x = grid_points(grid).double()
    exact, sampled = head(Waves(), x), differences(Waves()(x).view(*grid, 2))
    assert exact.shape == sampled.shape
    gap = inner(exact - sampled, grid).abs().max() / inner(sampled, grid).abs().max()
    return float(gap.detach())


@pytest.mark.parametrize(
    ("make", "differences"),
    [(points.gradient_head, points.differences), (points.laplacian_head, points.second_differences)],
    ids=["gradient", "laplacian"],
)
def test_heads_agree_with_differences_and_more_so_on_finer_grids(make, differences):
    coarse, fine = ((16, 20), (32, 40))
    first, second = (errors(make(grid), differences, grid) for grid in (coarse, fine))
    assert first < 0.02
    assert second < 0.3 * first  # central differences are of second order


def test_order_is_channel_then_axis():
    """A field whose channels rise along one axis each, on a grid that is not square."""
    grid = (4, 8)
    x = grid_points(grid)
    rising = points.differences(x.view(*grid, 2)).view(-1, 2, 2)
    assert torch.allclose(rising[:, 0, 0], torch.full((32,), 2 / 4))
    assert torch.allclose(rising[:, 1, 1], torch.full((32,), 2 / 8))
    assert torch.allclose(rising[:, 0, 1], torch.zeros(32), atol=1e-6)
    plane = Field(FieldConfig(encoder=("identity",), network="relu", width=4, depth=1).resolved(), 2, 2)
    made = points.gradient_head(grid)(plane, x).view(-1, 2, 2)
    steps = torch.tensor([2 / 4, 2 / 8])
    assert torch.allclose(made, plane.gradient(x) * steps)


def test_values_are_the_field():
    x = grid_points((3, 3))
    assert torch.equal(points.values(Waves(), x), Waves()(x))


@pytest.mark.parametrize("make", [points.gradient_head, points.laplacian_head])
def test_gradients_reach_the_weights(make):
    field = Field(FieldConfig(encoder=("identity",), network="siren", width=8, depth=1).resolved(), 2, 1)
    make((8, 8))(field, grid_points((8, 8))).square().mean().backward()
    first = field.network.layers[0].weight.grad
    assert first is not None and math.isfinite(float(first.norm())) and float(first.norm()) > 0


def test_the_laplacian_of_a_relu_network_is_zero():
    field = Field(FieldConfig(encoder=("identity",), network="relu", width=8, depth=1).resolved(), 2, 3)
    assert not points.laplacian_head((6, 6))(field, grid_points((6, 6))).any()


def test_second_differences_of_a_constant_are_nothing():
    assert float(points.second_differences(torch.full((5, 6, 2), 0.7)).abs().max()) < 1e-6
