"""Damped sines and their derivatives."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import move
from torch import Tensor
from torch.testing import assert_close

from recon3d.kernels.sine import reference


def sine_arguments(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Arguments about zero, at it, of everyday size and up to 1000, and an incoming gradient of size one."""
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(3, 700, generator=generator, dtype=dtype) * 2 - 1
    tiny = torch.tensor([0.0, -0.0, 1e-13, -1e-13, 1e-9, -1e-9, 1e-4, -1e-4], dtype=dtype)
    x = torch.cat([uniform[0], uniform[1] * 20, uniform[2] * 1000, tiny])
    grad = torch.where(torch.arange(len(x)) % 2 == 0, 1.0, -1.0).to(dtype)
    return x, grad


def sine_run(implementation, x, grad, damping, order):
    module = implementation.of("sine")
    x, grad = move((x, grad), implementation.device)
    out = [module.damped_sine(x, damping, order)]
    if order < reference.HIGHEST_ORDER:
        out.append(module.sine_backward(grad, x, damping, order))
    return [v.cpu() for v in out]


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("damping", reference.DAMPINGS)
def test_float32(implementation, damping, order):
    x, grad = sine_arguments(torch.float32)
    wide = x.double()
    truth = [reference.damped_sine(wide, damping, order)]
    if order < reference.HIGHEST_ORDER:
        truth.append(grad.double() * reference.damped_sine(wide, damping, order + 1))
    for value, expected in zip(sine_run(implementation, x, grad, damping, order), truth, strict=True):
        assert value.dtype == torch.float32 and value.isfinite().all()
        scale = expected.abs().clamp_min(1)
        if damping == "square":  # whose derivatives are differences of terms of the size of x^2
            scale = scale.maximum(wide.square())
        error = (value - expected).abs() / scale
        assert error.max() < 2e-6


@pytest.mark.parametrize("damping", reference.DAMPINGS)
def test_float64(implementation, damping):
    x, grad = sine_arguments(torch.float64)
    value, gradient = sine_run(implementation, x, grad, damping, 1)
    assert_close(value, reference.damped_sine(x, damping, 1), rtol=1e-12, atol=1e-12)
    assert_close(gradient, grad * reference.damped_sine(x, damping, 2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision(implementation, dtype):
    x, grad = (v.to(dtype) for v in (torch.linspace(-30, 30, 500), torch.linspace(2, -1, 500)))
    value, gradient = sine_run(implementation, x, grad, "sqrt", 0)
    assert value.dtype == gradient.dtype == dtype
    eps = torch.finfo(dtype).eps
    assert_close(value.double(), reference.damped_sine(x.double(), "sqrt"), rtol=eps, atol=1e-4)
    truth = grad.double() * reference.damped_sine(x.double(), "sqrt", 1)
    assert_close(gradient.double(), truth, rtol=eps, atol=1e-4)


def test_of_nan_nothing_and_strided(implementation):
    x, grad = sine_arguments(torch.float32)
    for damping in reference.DAMPINGS:
        for order in range(4):
            given = torch.full((20,), torch.nan)
            assert all(v.isnan().all() for v in sine_run(implementation, given, given * 0 + 1, damping, order))
    assert sine_run(implementation, x[:0].reshape(0, 3), grad[:0].reshape(0, 3), "sqrt", 0)[1].shape == (0, 3)
    strided, upstream_of = x[:30].reshape(5, 6).T, grad[:30].reshape(5, 6).T
    plain = sine_run(implementation, strided.contiguous(), upstream_of.contiguous(), "sqrt", 0)
    for value, expected in zip(sine_run(implementation, strided, upstream_of, "sqrt", 0), plain):
        assert value.is_contiguous()
        assert_close(value, expected)
