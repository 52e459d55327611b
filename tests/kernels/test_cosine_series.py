"""The learnable cosine series: every implementation against the reference in float64, derivatives, memory, torch."""

from __future__ import annotations

import math
import threading

import pytest
import torch
from kernel_cases import DEVICES, OPCHECKS, cosine_inputs, relative_error
from torch.testing import assert_close

from recon3d.kernels import chebyshev_angle, cosine_series
from recon3d.kernels.cosine_series import blocked, cpu, reference


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_blocks_in_plain_torch(order, monkeypatch):
    """The implementation for float64 and for devices without one of their own."""
    monkeypatch.setattr(blocked, "FEATURES_AT_ONCE", 64 * 2 * 40)
    theta, weight, coefficients, grad = cosine_inputs(200, 2, 4, 40, torch.float64)
    assert_close(
        blocked.series(theta, weight, coefficients, order), reference.series(theta, weight, coefficients, order)
    )
    assert_close(
        blocked.coefficients(theta, weight, grad, 40, order), reference.coefficients(theta, weight, grad, 40, order)
    )
    assert_close(blocked.angles(theta, coefficients, grad, order), reference.angles(theta, coefficients, grad, order))


def test_is_the_chebyshev_series():
    x = torch.linspace(-4, 4, 41, dtype=torch.float64)[:, None]
    coefficients = torch.randn(1, 3, 9, dtype=torch.float64)
    u = x.tanh()
    polynomials = [torch.ones_like(u), u]
    while len(polynomials) < 9:
        polynomials.append(2 * u * polynomials[-1] - polynomials[-2])
    assert_close(cosine_series(chebyshev_angle(x), coefficients), torch.cat(polynomials, 1) @ coefficients[0].t())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chebyshev_angle(dtype):
    """arccos(tanh x), whose derivative is -1 / cosh x also at 0; finite, derivatives too, far out."""
    x = torch.tensor([-1e4, -100, -20, -1, -1e-6, -0.0, 0.0, 1e-6, 1, 20, 100, 1e4], dtype=dtype, requires_grad=True)
    angle = chebyshev_angle(x)
    (slope,) = torch.autograd.grad(angle.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    (third,) = torch.autograd.grad(curvature.sum(), x)
    wide = x.detach().double()
    sech, tanh = 1 / wide.clamp(-300, 300).cosh(), wide.tanh()
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    assert angle.dtype == dtype
    truth = torch.pi / 2 - 2 * (wide / 2).tanh().atan()
    for value, expected in [
        (angle, truth),
        (slope, -sech),
        (curvature, sech * tanh),
        (third, sech * (2 * sech**2 - 1)),
    ]:
        assert_close(value.detach().double(), expected, rtol=0, atol=tolerance)
    # Towards 0 the angle is accurate to its own size: it is 2 exp(-x).
    assert angle[9].item() == pytest.approx(2 * math.exp(-20), rel=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_first_and_second_derivatives(device):
    theta, _, coefficients, _ = cosine_inputs(4, 2, 3, 5, torch.float64)
    leaves = [v.to(device).requires_grad_() for v in (theta, coefficients)]
    assert torch.autograd.gradcheck(cosine_series, leaves)
    assert torch.autograd.gradgradcheck(cosine_series, leaves)


def test_third_derivative():
    """A loss on the Laplacian: gradients equal those of autograd through the formula."""
    theta, _, coefficients, _ = cosine_inputs(6, 2, 3, 7, torch.float64)

    def formula(theta, coefficients):
        return torch.einsum("nik,iok->no", (theta[..., None] * torch.arange(7)).cos(), coefficients)

    def gradients(function):
        x, a = theta.clone().requires_grad_(), coefficients.clone().requires_grad_()
        u = function(x, a).square().sum(-1)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        laplacian = sum(torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2))
        return torch.autograd.grad(laplacian.square().mean(), [x, a])

    assert_close(gradients(cosine_series), gradients(formula))


def test_only_the_arguments_are_kept():
    theta, _, coefficients, _ = cosine_inputs(1000, 2, 4, 65, torch.float32)
    theta.requires_grad_(), coefficients.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = cosine_series(theta, coefficients)
        assert [t.data_ptr() for t in kept] == [theta.data_ptr(), coefficients.data_ptr()]
        # The second derivative's graph keeps the gradient of the output besides.
        torch.autograd.grad(out.sum(), theta, create_graph=True)
    assert {t.numel() for t in kept} == {theta.numel(), coefficients.numel(), out.numel()}


def test_no_more_features_than_allowed(monkeypatch):
    """However many rows there are, a block has few; the blocks together have each row once."""
    monkeypatch.setattr(cpu, "FEATURES_AT_ONCE", 64 * 2 * 40)
    seen = []
    plain = cpu._features
    monkeypatch.setattr(cpu, "_features", lambda *given: seen.append(given[-1].shape) or plain(*given))
    theta, _, coefficients, grad = cosine_inputs(500, 2, 4, 40, torch.float32)
    value = cpu.series(theta, None, coefficients, 0)
    assert seen == [(64, 80)] * 8
    assert relative_error(value, reference.series(theta.double(), None, coefficients.double(), 0)) < 2e-6
    value = cpu.coefficients(theta, None, grad, 40, 0)
    assert relative_error(value, reference.coefficients(theta.double(), None, grad.double(), 40, 0)) < 2e-6


def test_block_rows_are_few_shapes():
    assert {cpu._rows(count, 1026) for count in range(1, 100_000, 7)} == {64, 128, 256, 512}
    assert cpu._rows(10**6, 10**6) == cpu.LEAST_ROWS


def test_gradients_on_demand(monkeypatch):
    theta, _, coefficients, _ = cosine_inputs(50, 2, 4, 9, torch.float32)
    out = cosine_series(theta, coefficients.requires_grad_())
    monkeypatch.setattr(cpu, "_angles", None)
    (grad,) = torch.autograd.grad(out.sum(), coefficients)
    assert grad.shape == coefficients.shape


def test_nan_stays_in_its_row():
    theta, _, coefficients, _ = cosine_inputs(10, 2, 4, 9, torch.float32)
    theta[3, 1] = torch.nan
    assert cosine_series(theta, coefficients).isnan().any(1).nonzero().tolist() == [[3]]


def test_threads_and_workers_agree(monkeypatch):
    monkeypatch.setattr(cpu, "FEATURES_AT_ONCE", 64 * 2 * 40)
    theta, _, coefficients, grad = cosine_inputs(1000, 2, 4, 40, torch.float32)
    results = []

    def work(threads):
        torch.get_num_threads()
        torch.set_num_threads(threads)
        out = [cpu.series(theta, None, coefficients, 0), cpu.angles(theta, coefficients, grad, 1)]
        results.append([*out, cpu.coefficients(theta, None, grad, 40, 0)])

    for threads in (1, 3):
        worker = threading.Thread(target=work, args=(threads,))
        worker.start()
        worker.join()
    assert_close(results[0], results[1])


def test_ops_are_well_declared():
    theta, weight, coefficients, grad = cosine_inputs(6, 2, 3, 5, torch.float32)
    ops = torch.ops.recon3d
    tensors = [theta.requires_grad_(), weight.requires_grad_(), coefficients.requires_grad_(), grad.requires_grad_()]
    theta, weight, coefficients, grad = tensors
    for op, given in [
        (ops.cosine_series, (theta, weight, coefficients, 0)),
        (ops.cosine_series, (theta, None, coefficients, 1)),
        (ops.cosine_series_coefficients, (theta, weight, grad, 5, 0)),
        (ops.cosine_series_angles, (theta, coefficients, grad, 1)),
    ]:
        torch.library.opcheck(op.default, given, test_utils=OPCHECKS)


def test_under_torch_compile():
    def function(x, coefficients):
        return cosine_series(chebyshev_angle(x), coefficients).square().sum()

    theta, _, coefficients, _ = cosine_inputs(6, 2, 3, 5, torch.float32)
    leaves = [theta.requires_grad_(), coefficients.requires_grad_()]
    expected, value = function(*leaves), torch.compile(function, fullgraph=True, backend="aot_eager")(*leaves)
    assert_close(value, expected)
    assert_close(torch.autograd.grad(value, leaves), torch.autograd.grad(expected, leaves))
