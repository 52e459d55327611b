"""Compositing: values and gradients."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import PACKS, move, packed_samples
from torch.testing import assert_close

from recon3d.kernels.compositing import reference


def composite_run(implementation, samples, gradients, early_stop):
    module = implementation.of("compositing")
    samples, gradients = move(samples, implementation.device), move(gradients, implementation.device)
    outputs = module.composite(*samples, early_stop)
    grads = module.composite_backward(*gradients, *samples, early_stop)
    return [v.cpu() for v in (*outputs, *grads)]


def composite_truth(samples, gradients, early_stop):
    """Outputs, and gradients by autograd, through the reference in float64."""
    sigma, rgb, t, dt, offsets = (v.double() if v.is_floating_point() else v for v in samples)
    sigma.requires_grad_(), rgb.requires_grad_()
    outputs = reference.composite(sigma, rgb, t, dt, offsets, early_stop)
    grads = torch.autograd.grad(outputs, (sigma, rgb), [g.double() for g in gradients])
    return [v.detach() for v in (*outputs, *grads)]


def upstream(rays, channels, dtype):
    generator = torch.Generator().manual_seed(rays)
    color = torch.randn(rays, channels, generator=generator, dtype=dtype)
    return color, *torch.randn(2, rays, generator=generator, dtype=dtype)


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("channels", [1, 3, 8])
@pytest.mark.parametrize("early_stop", [0.0, 1e-2])
def test_float64(implementation, pack, channels, early_stop):
    samples = packed_samples(PACKS[pack], channels, torch.float64)
    gradients = upstream(len(PACKS[pack]), channels, torch.float64)
    truth = composite_truth(samples, gradients, early_stop)
    for value, expected in zip(composite_run(implementation, samples, gradients, early_stop), truth):
        assert_close(value, expected, rtol=1e-10, atol=1e-12)


def test_of_samples_that_no_ray_has(implementation):
    """In buffers that are larger than their rays' samples the rest counts for nothing, and has no gradient."""
    *samples, offsets = packed_samples(PACKS["mixed"], 3, torch.float64)
    gradients = upstream(len(PACKS["mixed"]), 3, torch.float64)
    plain = composite_run(implementation, (*samples, offsets), gradients, 1e-2)
    longer = [torch.cat([v, v[:50] + 1]) for v in samples]
    values = composite_run(implementation, (*longer, offsets), gradients, 1e-2)
    written = reference.composite_backward(*gradients, *longer, offsets, 1e-2)
    for value, expected in zip(values[:3], plain[:3]):
        assert torch.equal(value, expected)
    for value, expected in zip((*values[3:], *written), (*plain[3:], *plain[3:])):
        assert not value[len(expected) :].any()
        assert_close(value[: len(expected)], expected)


@pytest.mark.parametrize("density", [1e-3, 20.0, 1e6])
def test_float32(implementation, density):
    """From nearly transparent to opaque at the first sample."""
    samples = packed_samples(PACKS["mixed"], 3, torch.float32, density)
    gradients = upstream(len(PACKS["mixed"]), 3, torch.float32)
    truth = composite_truth(samples, gradients, 1e-4)
    for value, expected in zip(composite_run(implementation, samples, gradients, 1e-4), truth):
        assert value.dtype == torch.float32
        assert_close(value.double(), expected, rtol=2e-5, atol=2e-5)


def test_backward_of_reference(implementation):
    """The analytic gradient, which the reference also writes out, is autograd's."""
    samples = packed_samples(PACKS["mixed"], 3, torch.float64)
    gradients = upstream(len(PACKS["mixed"]), 3, torch.float64)
    truth = composite_truth(samples, gradients, 1e-2)
    written = reference.composite_backward(*gradients, *samples, 1e-2)
    for value, expected in zip(written, truth[3:]):
        assert_close(value, expected, rtol=1e-10, atol=1e-12)
