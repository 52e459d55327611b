"""The compositing op as its users see it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import DEVICES, PACKS, move, packed_samples
from torch.testing import assert_close

from recon3d.kernels import composite

pytestmark = pytest.mark.parametrize("device", DEVICES)


@settings(deadline=None, max_examples=25)
@given(counts=st.lists(st.integers(0, 80), min_size=1, max_size=12), log_density=st.floats(-4, 5))
def test_opacity_and_depth_are_means_over_the_samples(device, counts, log_density):
    sigma, rgb, t, dt, offsets = move(packed_samples(counts, 3, torch.float64, 10**log_density), device)
    color, depth, opacity = composite(sigma, rgb, t, dt, offsets, early_stop=0.0)
    assert (opacity >= 0).all() and (opacity <= 1 + 1e-12).all()
    assert (color >= 0).all() and (color <= opacity[:, None] + 1e-12).all()
    ray = torch.repeat_interleave(torch.tensor(counts, device=device))
    assert_close(opacity, 1 - torch.exp(-torch.zeros_like(opacity).index_add(0, ray, sigma * dt)))
    farthest = torch.zeros_like(depth).scatter_reduce(0, ray, t, "amax")
    assert (depth <= farthest * opacity + 1e-9).all()


def test_constant_color_is_weighed_by_opacity(device):
    sigma, rgb, t, dt, offsets = move(packed_samples(PACKS["mixed"], 5, torch.float64), device)
    constant = torch.tensor([0.1, 0.9, 0.5, 0.0, 1.0], dtype=torch.float64, device=device)
    color, _, opacity = composite(sigma, constant.expand_as(rgb).contiguous(), t, dt, offsets)
    assert_close(color, opacity[:, None] * constant)


def test_a_wall_hides_what_is_behind(device):
    sigma = torch.tensor([0.0, 1e6, 5.0], device=device)
    rgb = torch.eye(3, device=device).requires_grad_()
    t, dt = torch.tensor([1.0, 2.0, 3.0], device=device), torch.full((3,), 0.1, device=device)
    color, depth, opacity = composite(sigma, rgb, t, dt, torch.tensor([0, 3], device=device))
    assert_close(color.cpu(), torch.tensor([[0.0, 1.0, 0.0]]))
    assert depth.item() == 2 and opacity.item() == 1
    (grad,) = torch.autograd.grad(color.sum(), rgb)
    assert_close(grad.cpu(), torch.tensor([0.0, 1.0, 0.0])[:, None].expand(3, 3))


def test_rays_without_samples_are_transparent(device):
    sigma, rgb, t, dt, offsets = move(packed_samples(PACKS["mixed"], 3, torch.float32), device)
    color, depth, opacity = composite(sigma, rgb, t, dt, offsets)
    empty = (offsets.diff() == 0).nonzero()[:, 0]
    assert len(empty) and (color[empty] == 0).all() and (depth[empty] == 0).all() and (opacity[empty] == 0).all()


def test_early_stop_changes_no_more_than_the_light_left(device):
    sigma, rgb, t, dt, offsets = move(packed_samples([60, 70, 80], 3, torch.float64, density=40.0), device)
    exact = composite(sigma, rgb, t, dt, offsets, early_stop=0.0)
    stopped = composite(sigma, rgb, t, dt, offsets, early_stop=0.05)
    assert not torch.equal(exact[2], stopped[2])
    assert ((exact[2] - stopped[2]).abs() <= 0.05).all()
    assert ((exact[0] - stopped[0]).abs() <= 0.05).all()


def test_derivatives(device):
    sigma, rgb, t, dt, offsets = move(packed_samples([0, 4, 7, 1], 2, torch.float64), device)
    sigma.requires_grad_(), rgb.requires_grad_()

    def run(sigma, rgb):
        return composite(sigma, rgb, t, dt, offsets, early_stop=0.0)

    assert torch.autograd.gradcheck(run, (sigma, rgb))


def test_gradient_of_one_output_alone(device):
    """Outputs that a loss does not use come back with no gradient."""
    sigma, rgb, t, dt, offsets = move(packed_samples([3, 4], 3, torch.float64), device)
    sigma.requires_grad_(), rgb.requires_grad_()
    depth = composite(sigma, rgb, t, dt, offsets)[1]
    grad_sigma, grad_rgb = torch.autograd.grad(depth.sum(), (sigma, rgb))
    assert grad_sigma.abs().sum() > 0 and (grad_rgb == 0).all()


def test_registration(device):
    sigma, rgb, t, dt, offsets = move(packed_samples([0, 4, 7, 1], 3, torch.float32), device)
    sigma.requires_grad_(), rgb.requires_grad_()
    torch.library.opcheck(torch.ops.recon3d.composite.default, (sigma, rgb, t, dt, offsets, 1e-4))
    grads = torch.ones(4, 3, device=device), torch.ones(4, device=device), torch.ones(4, device=device)
    inputs = (*grads, sigma.detach(), rgb.detach(), t, dt, offsets, 1e-4)
    torch.library.opcheck(torch.ops.recon3d.composite_backward.default, inputs)


def test_compiles_in_one_graph(device):
    sigma, rgb, t, dt, offsets = move(packed_samples([0, 4, 7, 1], 3, torch.float32), device)
    sigma.requires_grad_(), rgb.requires_grad_()

    def loss(sigma, rgb):
        color, depth, opacity = composite(sigma.exp(), rgb, t, dt, offsets)
        return (color**2).sum() + depth.sum() + opacity.sum()

    value, expected = torch.compile(loss, backend="aot_eager", fullgraph=True)(sigma, rgb), loss(sigma, rgb)
    assert_close(value, expected)
    for a, b in zip(torch.autograd.grad(value, (sigma, rgb)), torch.autograd.grad(expected, (sigma, rgb))):
        assert_close(a, b)
