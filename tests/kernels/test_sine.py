"""Damped sines as their users see them: derivatives of all orders, what is kept, registration with torch."""

from __future__ import annotations

import threading

import pytest
import torch
from kernel_cases import OPCHECKS
from torch.testing import assert_close

from recon3d.kernels import damped_sine
from recon3d.kernels.sine import DAMPINGS, cpu, reference


def arguments(count=40, reach=6.0):
    """Away from 0, where some dampings have a corner."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, generator=generator, dtype=torch.float64) * reach + 0.3
    return torch.where(torch.arange(count) % 2 == 0, x, -x)


@pytest.mark.parametrize("damping", DAMPINGS)
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_each_order_is_the_derivative_of_the_one_before(damping, order):
    """By central differences of the defining formula's own orders; order 0 against the formula itself."""
    x, h = arguments(), 1e-5
    if order == 0:
        d = {
            "none": torch.ones_like(x),
            "sqrt": x.abs().sqrt(),
            "log": x.abs().log(),
            "arctan": x.atan(),
            "sqrt_relu": x.relu().sqrt(),
            "identity": x,
            "relu": x.relu(),
            "square": x**2,
        }[damping]
        assert_close(reference.damped_sine(x, damping), x.sin() * d)
    else:
        difference = reference.damped_sine(x + h, damping, order - 1) - reference.damped_sine(x - h, damping, order - 1)
        assert_close(reference.damped_sine(x, damping, order), difference / (2 * h), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("damping", DAMPINGS)
def test_first_and_second_derivatives(damping):
    x = arguments(12).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: damped_sine(v, damping), x)
    assert torch.autograd.gradgradcheck(lambda v: damped_sine(v, damping), x)


@pytest.mark.parametrize("damping", ["none", "sqrt", "arctan"])
def test_third_derivative_by_autograd(damping):
    """Against third differences of the function."""
    x, h = arguments(20).requires_grad_(), 1e-3
    derivative = damped_sine(x, damping)
    for _ in range(3):
        (derivative,) = torch.autograd.grad(derivative.sum(), x, create_graph=True)
    with torch.no_grad():
        shifted = [damped_sine(x + i * h, damping) for i in (-3, -1, 1, 3)]
    differences = (shifted[3] - 3 * shifted[2] + 3 * shifted[1] - shifted[0]) / (2 * h) ** 3
    assert_close(derivative.detach(), differences, rtol=1e-3, atol=1e-3)


def test_loss_on_a_laplacian():
    """Three derivatives through a layer: float32 agrees with the formula's own autograd in float64."""
    torch.manual_seed(0)
    points, weights = torch.randn(50, 2), torch.randn(2, 8)

    def loss_gradient(activation, dtype):
        x = points.to(dtype).requires_grad_()
        w = weights.to(dtype).requires_grad_()
        u = activation(x @ w).sum(-1)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        laplacian = sum(torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2))
        return torch.autograd.grad((laplacian - 1).square().mean(), w)[0]

    truth = loss_gradient(lambda h: h.sin() * h.atan(), torch.float64)
    assert_close(loss_gradient(lambda h: damped_sine(h, "arctan"), torch.float32).double(), truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_no_fourth_derivative(order):
    x = arguments(5).requires_grad_()
    value = damped_sine(x, "sqrt", order)
    for _ in range(3 - order):
        (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="up to order 3"):
        torch.autograd.grad(value.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="order 0 to 3"):
        damped_sine(x, "sqrt", 4)


def test_unknown_damping():
    with pytest.raises(ValueError, match=r"no damping 'cbrt'.*sqrt_relu"):
        damped_sine(torch.ones(2), "cbrt")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_only_the_argument_is_kept(dtype):
    x = torch.randn(7, 5, dtype=dtype, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = damped_sine(x, "sqrt")
    assert len(kept) == 1 and kept[0].data_ptr() == x.data_ptr()
    assert out.dtype == dtype and torch.autograd.grad(out.sum(), x)[0].dtype == dtype


def test_finite_at_zero():
    for damping in DAMPINGS:
        for order in range(4):
            x = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e-45, 1e-12], requires_grad=order < 3)
            value = damped_sine(x, damping, order)
            assert value.isfinite().all(), (damping, order)
            if order < 3:
                assert torch.autograd.grad(value.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("size", [1e4, 1e5, 1e7])
@pytest.mark.parametrize("order", [0, 1])
def test_large_arguments(size, order):
    """Among small ones, and beyond what the range reduction of the fast path is good for."""
    x = torch.cat([torch.linspace(-size, size, 999), torch.linspace(-3, 3, 501)])
    for damping in ("none", "sqrt"):
        truth = reference.damped_sine(x.double(), damping, order)
        error = (damped_sine(x, damping, order) - truth).abs() / truth.abs().clamp_min(1)
        assert error.max() < 2e-6
    assert damped_sine(torch.tensor([torch.inf, -torch.inf]), "none").isnan().all()


def test_threads_and_workers_agree(monkeypatch):
    """On several threads, and from a worker with one: the same numbers, the worker without a pool of its own."""
    monkeypatch.setattr(cpu, "GRAIN", 100)
    x = torch.randn(5000)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        shared = damped_sine(x, "sqrt")
    finally:
        torch.set_num_threads(threads)
    results = []

    def work():
        torch.get_num_threads()
        torch.set_num_threads(1)
        results.append(damped_sine(x, "sqrt"))

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert torch.equal(shared, results[0])


@pytest.mark.parametrize("order", [0, 1])
def test_op_is_well_declared(order):
    for x in (torch.randn(4, 3, requires_grad=True), torch.randn(3, 4).T.requires_grad_()):
        torch.library.opcheck(torch.ops.recon3d.damped_sine.default, (x, "sqrt", order), test_utils=OPCHECKS)
        grad = torch.randn(4, 3)
        torch.library.opcheck(
            torch.ops.recon3d.damped_sine_backward.default, (grad, x, "sqrt", order), test_utils=OPCHECKS
        )


def test_under_torch_compile():
    def function(x):
        return damped_sine(x * 2, "sqrt").sum()

    x = torch.randn(6, requires_grad=True)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    expected, value = function(x), compiled(x)
    assert_close(value, expected)
    assert_close(torch.autograd.grad(value, x), torch.autograd.grad(expected, x))
