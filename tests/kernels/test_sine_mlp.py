"""The network of damped sines as one op: numba blocks against plain torch, derivatives, what is kept."""

import pytest
import torch
from kernel_cases import OPCHECKS
from torch.testing import assert_close

from recon3d.kernels import damped_sine, sine_mlp
from recon3d.kernels.sine_mlp import cpu

OMEGAS = [3.0, 2.0, 1.5]


def network(inputs=2, width=24, outputs=3, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = [inputs, *[width] * len(OMEGAS), outputs]
    shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
    weights = [torch.randn(shape, generator=generator, dtype=dtype) / shape[1] ** 0.5 for shape in shapes]
    biases = [0.3 * torch.randn(shape[0], generator=generator, dtype=dtype) for shape in shapes]
    return weights, biases


def layer_by_layer(x, weights, biases, damping):
    for weight, bias, omega in zip(weights[:-1], biases[:-1], OMEGAS, strict=True):
        x = damped_sine(omega * (x @ weight.t() + bias), damping)
    return x @ weights[-1].t() + biases[-1]


def leaves(*tensors):
    return [tensor.clone().requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("damping", ["none", "sqrt", "arctan"])
@pytest.mark.parametrize("rows", [1, 50])
def test_values_and_gradients(monkeypatch, damping, rows):
    monkeypatch.setattr(cpu, "ROWS", 16)
    weights, biases = network()
    x = torch.rand(rows, 2) + 0.2
    ours, theirs = leaves(x, *weights, *biases), leaves(x, *weights, *biases)
    outputs = []
    for (at, *parameters), function in ((ours, lambda *a: sine_mlp(*a[:3], OMEGAS, a[3])), (theirs, layer_by_layer)):
        y = function(at, parameters[:4], parameters[4:], damping)
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        outputs.append(y.detach())
    assert_close(*outputs, rtol=1e-5, atol=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5 * float(b.grad.abs().max()) + 1e-7)


@pytest.mark.parametrize("damping", ["none", "sqrt"])
def test_derivatives_of_derivatives(damping):
    """In float64, against finite differences: of the inputs and of all parameters."""
    weights, biases = network(width=4, outputs=1, dtype=torch.float64)
    x, *parameters = leaves(torch.rand(3, 2, dtype=torch.float64) + 0.5, *weights, *biases)

    def function(x, *parameters):
        return sine_mlp(x, list(parameters[:4]), list(parameters[4:]), OMEGAS, damping)

    assert torch.autograd.gradcheck(function, (x, *parameters))
    assert torch.autograd.gradgradcheck(function, (x, *parameters))


def test_slopes_of_slopes_in_float32():
    """What fitting derivatives of an image asks for."""
    weights, biases = network()
    results = []
    for function in (lambda *a: sine_mlp(*a, OMEGAS, "sqrt"), lambda *a: layer_by_layer(*a, "sqrt")):
        x, *parameters = leaves(torch.rand(20, 2, generator=torch.Generator().manual_seed(1)), *weights, *biases)
        (slope,) = torch.autograd.grad(function(x, parameters[:4], parameters[4:]).sum(), x, create_graph=True)
        slope.square().sum().backward()
        results.append([slope.detach(), *(p.grad for p in parameters[:4])])
    for a, b in zip(*results, strict=True):
        assert_close(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max()))


def test_far_arguments_and_what_is_no_number():
    weights, biases = network(inputs=1)
    x = torch.tensor([[0.1], [3e4], [-5e6], [torch.nan]], requires_grad=True)
    y, truth = sine_mlp(x, weights, biases, OMEGAS, "none"), layer_by_layer(x, weights, biases, "none")
    assert_close(y[:1], truth[:1])
    assert torch.isnan(y[3]).all() and torch.isfinite(y[:3]).all()
    with torch.no_grad():
        plain = sine_mlp(x, weights, biases, OMEGAS, "none")
    assert_close(plain, y.detach(), equal_nan=True)
    # One layer, so that rounding is not magnified by the next.
    first = [weights[0], torch.eye(24)], [biases[0], torch.zeros(24)]
    seen = sine_mlp(x[1:3], *first, OMEGAS[:1], "none")
    assert_close(seen, torch.sin(OMEGAS[0] * (x[1:3] * weights[0].t() + biases[0])), rtol=1e-5, atol=1e-5)


def test_any_number_of_threads_gives_the_same(monkeypatch):
    monkeypatch.setattr(cpu, "ROWS", 8)
    weights, biases = network()
    x, found = torch.rand(100, 2), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            parameters = leaves(*weights, *biases)
            sine_mlp(x, parameters[:4], parameters[4:], OMEGAS, "sqrt").square().sum().backward()
            found.append([parameter.grad for parameter in parameters])
    finally:
        torch.set_num_threads(before)
    for gradients in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], gradients, strict=True))


def test_without_gradients_nothing_is_kept():
    weights, biases = network()
    x = torch.rand(10, 2)
    for keep, rows in ((True, 10), (False, 0)):
        _, kept = torch.ops.recon3d.sine_mlp(x, weights, biases, OMEGAS, "none", keep)
        assert kept.shape == (2, 3, rows, 24)
    assert sine_mlp(x[:0], weights, biases, OMEGAS, "none").shape == (0, 3)


def test_ops_are_well_declared():
    weights, biases = network(width=4)
    parameters = leaves(*weights), leaves(*biases)
    x = torch.rand(5, 2, requires_grad=True)
    torch.library.opcheck(
        torch.ops.recon3d.sine_mlp.default, (x, *parameters, OMEGAS, "none", True), test_utils=OPCHECKS
    )
    _, kept = torch.ops.recon3d.sine_mlp(x.detach(), weights, biases, OMEGAS, "none", True)
    inputs = torch.rand(5, 3), x.detach(), kept, weights, True
    torch.library.opcheck(torch.ops.recon3d.sine_mlp_backward.default, inputs, test_utils=OPCHECKS)
