"""Steered total variation: what the metric is of an edge, what it makes cheap, and that nothing else changes."""

import pytest
import torch

from recon3d.config.ct import SteeringConfig
from recon3d.heads.projection import total_variation
from recon3d.heads.variation import steered_variation, steering

UNIT = (1.0, 1.0, 1.0)
CONFIG = SteeringConfig(edge=0.02, least=0.0)


def step(angle, size=24):
    """A smooth edge across (cos, sin) of an angle, in a slice."""
    x = torch.arange(size) - (size - 1) / 2
    along = x[None] * torch.cos(torch.tensor(angle)) + x[:, None] * torch.sin(torch.tensor(angle))
    return torch.sigmoid(along / 0.7)[None]


def same(size):
    """The metric that changes nothing."""
    return torch.eye(2)[:, :, None, None, None].expand(2, 2, 1, size, size)


@pytest.mark.parametrize("angle", [0.0, 0.6, 1.3, 2.5])
def test_a_step_across_an_edge_is_cheap_and_one_along_it_is_not(angle):
    metric = steering(step(angle), UNIT, CONFIG)[:, :, 0, 12, 12]
    across = torch.tensor([torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))])
    along = torch.stack([-across[1], across[0]])
    assert (metric @ across).norm() < 0.1 * (metric @ along).norm()


@pytest.mark.parametrize("least", [0.0, 0.3, 1.0])
def test_a_step_across_the_steepest_edge_still_costs_the_least(least):
    """As a share of what it costs where there is none, far from the edge."""
    config = SteeringConfig(edge=1e-3, least=least, along=1.0, window=1.0)
    metric = steering(step(0.0), UNIT, config)[:, :, 0, 12]
    costs = metric[:, 0].norm(dim=0)
    assert costs[12] / costs[0] == pytest.approx(least, abs=0.01)


def test_weights_are_one_on_average():
    torch.manual_seed(0)
    metric = steering(torch.rand(1, 20, 20), UNIT, CONFIG)
    assert metric.square().sum(1).sqrt().mean() == pytest.approx(1, rel=1e-5)
    flat = steering(torch.zeros(5, 6, 7), UNIT, SteeringConfig(edge=0.02, along=1.0))
    lengths = torch.einsum("ki...,kj...->...ij", flat, flat)
    torch.testing.assert_close(lengths, torch.eye(3).expand_as(lengths))


def test_without_steering_it_is_total_variation_from_all_corners():
    torch.manual_seed(0)
    volume = torch.rand(1, 9, 9)
    turned = [volume, volume.flip(1), volume.flip(2), volume.flip(1, 2)]
    mean = sum(total_variation(one, UNIT, 1e-3) for one in turned) / 4
    assert float(steered_variation(volume, same(9), UNIT, 1e-3)) == pytest.approx(float(mean), rel=1e-5)


def test_a_straight_edge_costs_less_than_a_ragged_one_of_the_same_total_variation():
    straight = step(0.0)
    ragged = torch.stack([row.roll(2 * (i % 2)) if 0 < i < 23 else row for i, row in enumerate(straight[0])])[None]
    metric = steering(straight, UNIT, CONFIG)
    plain = float(total_variation(ragged, UNIT, 1e-3) / total_variation(straight, UNIT, 1e-3))
    steered = float(steered_variation(ragged, metric, UNIT, 1e-3) / steered_variation(straight, metric, UNIT, 1e-3))
    assert steered > 3 * plain


def test_spacing_is_in_the_slopes():
    """A ramp of voxels twice as long along x is as steep as one of half the difference."""
    ramp = torch.arange(8.0)[None, None].expand(1, 6, 8)
    twice = steered_variation(ramp, torch.eye(2)[:, :, None, None, None].expand(2, 2, 1, 6, 8), (2.0, 1.0, 1.0), 1e-6)
    once = steered_variation(ramp, torch.eye(2)[:, :, None, None, None].expand(2, 2, 1, 6, 8), UNIT, 1e-6)
    assert float(twice) == pytest.approx(float(once) / 2, rel=1e-4)
