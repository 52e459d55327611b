"""The surface field: how it starts, its normals, its levels, its colours."""

import pytest
import torch
from torch.nn import functional as F

from recon3d.config import HashGridConfig, SurfaceFieldConfig
from recon3d.config.fields import FrequencyConfig, SirenConfig
from recon3d.fields.networks import NETWORKS
from recon3d.fields.sdf import SurfaceField

SMALL = {
    "hash_grid": HashGridConfig(levels=6, features=2, log2_size=12, coarsest=4, finest=64),
    "frequency": FrequencyConfig(levels=4),
    "width": 32,
}


def make(seed=0, **changes):
    torch.manual_seed(seed)
    return SurfaceField(SurfaceFieldConfig(**{**SMALL, **changes}).resolved())


def points(count=400, seed=1):
    return 2 * torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) - 1


def rough(field, size=0.05):
    """The field with features that say something, as after training."""
    with torch.no_grad():
        field.hash_grid.table.uniform_(-size, size, generator=torch.Generator().manual_seed(2))
        field.geometry_network.damp(0, 100.0)
    return field


def box_distance(x, half=0.4):
    return F.relu(x.abs() - half).norm(dim=-1) + (x.abs().amax(-1) - half).clamp_max(0)


# --- the start ---


@pytest.mark.parametrize(
    ("encoder", "network"),
    [("hash_grid", "relu"), ("frequency", "relu"), ("fourier", "relu"), ("hash_grid", "siren"), ("fourier", "siren")]
    + [("identity", network) for network in NETWORKS if network != "fusion"]
    + [("chebyshev", "fusion")],
)
def test_it_starts_as_a_sphere(encoder, network):
    field, x = make(encoder=(encoder,), network=network, radius=0.6), points()
    distance = field.distance(x)
    torch.testing.assert_close(distance, x.norm(dim=-1) - 0.6, atol=0.02, rtol=0)
    assert (distance[x.norm(dim=-1) < 0.55] < 0).all()


def test_it_can_leave_the_sphere():
    """The damped weights learn: the field is fitted to a box's distance."""
    field, x = make(first_levels=4, level_every=1000), points(2000)
    truth = box_distance(x)
    optimizer = torch.optim.Adam(field.parameters(), lr=1e-2, eps=1e-15)
    for _ in range(150):
        optimizer.zero_grad()
        (field.distance(x) - truth).abs().mean().backward()
        optimizer.step()
    fresh = points(500, 5)
    with torch.no_grad():
        error = (field.distance(fresh) - box_distance(fresh)).abs().mean()
    assert float(error) < 0.02


# --- normals ---


def test_the_slope_of_a_smooth_field():
    """A plane and slow waves: the differences are autograd's derivatives."""
    field = make(encoder=("identity",), network="siren", siren=SirenConfig(omega=3.0)).double()
    x = 0.95 * points().double()
    field.start_from(lambda at: at @ at.new_tensor([0.0, 0.6, 0.8]) - 0.1)
    field.geometry_network.damp(0, 1000.0)
    x.requires_grad_()
    expected = torch.autograd.grad(field.distance(x).sum(), x, create_graph=True)[0]
    second = sum(torch.autograd.grad(expected[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(3))
    torch.testing.assert_close(field.slope(x.detach()), expected, atol=0.005, rtol=0)
    torch.testing.assert_close(field.laplacian(x.detach()), second, atol=0.05, rtol=0)
    assert float(second.abs().mean()) > 0.1


def test_the_analytic_gradient_is_that_of_differences():
    field, x = rough(make(normals="analytic")).double(), points(100).double()
    gradient = field.slope(x)
    for axis in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[axis] = 1e-7
        difference = (field.distance(x + step) - field.distance(x - step)) / 2e-7
        torch.testing.assert_close(gradient[:, axis], difference, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("normals", ["numerical", "analytic"])
def test_the_eikonal_term_reaches_the_weights(normals):
    field = rough(make(normals=normals))
    (field.slope(points(50)).norm(dim=-1) - 1).square().mean().backward()
    for name, parameter in field.named_parameters():
        if "color" not in name:
            assert parameter.grad is not None and bool(parameter.grad.any()), name


# --- coarse to fine ---


def test_levels_follow_the_steps():
    field = rough(make(first_levels=2, level_every=10))
    used = []
    for step in (0, 9, 10, 39, 40, 1000):
        field.show(step)
        used.append(field.hash_grid.active)
    assert used == [2, 2, 3, 5, 6, 6]
    field.show(0)
    encoded = field.encode(points())
    assert encoded.shape[1] == 12
    assert encoded[:, :4].any()
    assert not encoded[:, 4:].any()
    wide = field.stencil_step
    field.show(1000)
    torch.testing.assert_close(field.encode(points())[:, :4], encoded[:, :4])
    assert field.encode(points())[:, 4:].any()
    assert field.stencil_step < wide


def test_levels_that_are_not_in_use_learn_nothing():
    field, x = rough(make(first_levels=2, level_every=10)), points()
    rows = field.hash_grid.layout.first(2).rows
    gradients = []
    for encoded in (None, field.encode(x).detach()):
        field.zero_grad()
        field.geometry(x, encoded)[0].sum().backward()
        gradients.append(field.hash_grid.table.grad.clone())
    torch.testing.assert_close(*gradients)
    assert gradients[0][:rows].any()
    assert not gradients[0][rows:].any()


def test_a_copy_uses_the_same_levels():
    field, copy = rough(make(first_levels=2, level_every=10)), make(first_levels=2, level_every=10)
    field.show(25)
    copy.load_state_dict(field.state_dict())
    assert copy.hash_grid.active == 4
    torch.testing.assert_close(copy.distance(points()), field.distance(points()))


def test_without_levels_to_wait_for_all_are_in_use():
    assert make(level_every=0).hash_grid.active == 6


# --- colours ---


def test_colours_depend_on_the_direction_unless_it_is_left_out():
    field, x = rough(make()), points(60)
    there, back = F.normalize(points(60, 3), dim=-1), F.normalize(points(60, 4), dim=-1)
    seen = [field.color(x, d) for d in (there, back)]
    assert all(((c >= 0) & (c <= 1)).all() for c in seen)
    assert not torch.allclose(*seen)
    features = field.geometry(x)[1]
    plain = torch.ones(60, dtype=torch.bool)
    left_out = [field.shade(features, d, plain=plain) for d in (there, back)]
    torch.testing.assert_close(*left_out, rtol=0, atol=0)
    torch.testing.assert_close(field.color(x), left_out[0])


def test_one_direction_a_ray():
    field, x = rough(make()), points(6)
    features, ray = field.geometry(x)[1], torch.tensor([1, 0, 0, 1, 1, 0])
    directions = F.normalize(points(2, 4), dim=-1)
    torch.testing.assert_close(field.shade(features, directions, ray), field.shade(features, directions[ray]))
