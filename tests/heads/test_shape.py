"""Losses of shapes: what they are 0 for, what they weigh, and that their gradients point home."""

import pytest
import torch
from torch import nn

from recon3d.config.shapes import ImplicitConfig
from recon3d.heads import shape as head

X = torch.linspace(-1, 1, 41)


class Distance(nn.Module):
    """``scale`` times the signed distance to a ball."""

    def __init__(self, scale=1.0, radius=0.5):
        super().__init__()
        self.scale, self.radius = nn.Parameter(torch.tensor(scale)), radius

    def forward(self, x):
        return self.scale * (torch.linalg.vector_norm(x, dim=1, keepdim=True) - self.radius)

    def gradient(self, x):
        raise AssertionError("value and gradient come from one pass")


def sphere_points(count=64):
    x = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    return nn.functional.normalize(x, dim=1)


def test_occupancy_losses():
    value, occupancy = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.0])
    logistic = torch.log1p(torch.exp(torch.tensor([-2.0, -1.0]))).sum()
    assert head.occupancy_loss("bce")(value, occupancy) == pytest.approx(float(logistic))
    assert head.occupancy_loss("mse")(value, occupancy) == pytest.approx(2.0)


@pytest.mark.parametrize("kind", ["l1", "mape"])
@pytest.mark.parametrize("truncation", [None, 0.1])
def test_the_distance_itself_has_no_error(kind, truncation):
    assert head.distance_loss(kind, truncation)(X, X) == 0


def test_distance_losses_weigh_by_the_distance_or_not():
    value, distance = torch.tensor([0.3, 0.01]), torch.tensor([0.2, 0.0])
    assert head.distance_loss("l1", None)(value, distance) == pytest.approx(0.11)
    assert head.distance_loss("mape", None)(value, distance) == pytest.approx(0.1 / 0.21 + 1.0)


@pytest.mark.parametrize("kind", ["l1", "mape"])
def test_beyond_the_truncation_only_the_side_and_the_size_count(kind):
    loss = head.distance_loss(kind, 0.1)
    far = torch.tensor([0.5, -0.5])
    assert loss(torch.tensor([0.3, -0.9]), far) == 0
    value = torch.tensor([-0.8, 0.05], requires_grad=True)  # the wrong side, and not far enough inside
    loss(value, far).backward()
    assert value.grad[0] < 0 < value.grad[1]


def test_the_distance_to_the_surface_has_no_error_on_it():
    field, x = Distance(), 0.5 * sphere_points()
    terms = head.on_surface_terms(field, x, sphere_points(), ImplicitConfig())
    assert set(terms) == {"surface", "eikonal", "normal"}
    assert all(float(term.detach()) < 1e-2 for term in terms.values())
    assert set(head.on_surface_terms(field, x, None, ImplicitConfig())) == {"surface", "eikonal"}


def test_what_the_terms_measure():
    weights = ImplicitConfig(surface=2.0, normal=3.0, eikonal=4.0, off_surface=5.0, off_sharpness=10.0)
    x, n = sphere_points(), 64
    terms = head.on_surface_terms(Distance(3.0), x, -x, weights)
    assert float(terms["surface"]) == pytest.approx(2.0 * 1.5 * n, rel=1e-5)
    assert float(terms["eikonal"]) == pytest.approx(0.5 * 4.0 * 2.0 * n, rel=1e-5)
    assert float(terms["normal"]) == pytest.approx(3.0 * 2.0 * n, rel=1e-5)
    off = head.off_surface_terms(Distance(1.0), x, weights)
    assert float(off["off_surface"]) == pytest.approx(5.0 * n * float(torch.exp(torch.tensor(-5.0))), rel=1e-4)
    assert float(head.outside_term(Distance(-1.0), x, ImplicitConfig(outside=2.0))["outside"]) == pytest.approx(n)
    assert float(head.outside_term(Distance(), x, ImplicitConfig())["outside"]) == 0
    assert float(head.ball_loss(Distance(), x)) == pytest.approx(0, abs=1e-4)


def test_the_eikonal_term_pulls_the_slope_to_1():
    for scale, sign in ((0.5, -1), (2.0, 1)):
        field = Distance(scale)
        head.off_surface_terms(field, sphere_points(), ImplicitConfig())["eikonal"].backward()
        assert field.scale.grad * sign > 0


def test_a_slope_of_nothing_gives_no_nan():
    field = Distance(0.0)
    terms = head.on_surface_terms(field, sphere_points(), sphere_points(), ImplicitConfig())
    sum(terms.values()).backward()
    assert torch.isfinite(field.scale.grad)
