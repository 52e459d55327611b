"""The small network: every implementation against plain torch in float64, gradients too."""

import os
import subprocess
import sys

import pytest
import torch

from recon3d.kernels import relu_mlp, relu_mlp_recall, tiles
from recon3d.kernels.mlp import cpu, reference, simd


def make(rows, dims, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, dims[0], dtype=dtype, generator=generator, requires_grad=True)
    weights = [
        torch.randn(b, a, dtype=dtype, generator=generator).mul_(a**-0.5).requires_grad_()
        for a, b in zip(dims[:-1], dims[1:])
    ]
    return x, weights


@pytest.mark.parametrize("rows", [0, 1, 1023, 1024, 20_000])
@pytest.mark.parametrize("dims", [(24, 64, 16), (32, 64, 64, 3), (5, 2)])
def test_values_and_gradients(rows, dims):
    x, weights = make(rows, dims)
    ours, truth = relu_mlp(x, weights), reference.forward(x, weights, torch.float64)
    assert ours.shape == (rows, dims[-1])
    torch.testing.assert_close(ours, truth)
    grad = torch.randn_like(truth)
    for mine, theirs in zip(
        torch.autograd.grad(ours, [x, *weights], grad), torch.autograd.grad(truth, [x, *weights], grad)
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("rows", [1, 511, 20_000])
@pytest.mark.parametrize("dims", [(24, 64, 16), (32, 64, 64, 3), (2, 200, 200, 1)])
def test_float32_is_no_further_from_float64_than_plain_torch(rows, dims):
    x, weights = make(rows, dims)
    truth = relu_mlp(x, weights)
    truths = torch.autograd.grad(truth, [x, *weights], torch.ones_like(truth))
    x, *weights = [tensor.detach().float() for tensor in (x, *weights)]
    grad = torch.ones(rows, dims[-1])

    def errors(way):
        grad_x, grad_weights = way.backward(grad, x, weights, torch.float32, True)
        values = way.forward(x, weights, torch.float32), grad_x, *grad_weights
        assert all(value.dtype == torch.float32 for value in values)
        return [float((v - t).norm() / t.norm()) for v, t in zip(values, [truth, *truths], strict=True)]

    assert all(ours < 1e-6 + 1.5 * plain for ours, plain in zip(errors(cpu), errors(reference), strict=True))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dims", [(24, 64, 16), (32, 64, 64, 32)])
def test_bfloat16_is_near_float32(dims):
    x, weights = make(4096, dims, torch.float32)
    ours = relu_mlp(x, weights, torch.bfloat16)
    assert ours.dtype == torch.bfloat16
    truth = reference.forward(x, weights, torch.float32)
    assert (ours.float() - truth).abs().mean() < 0.02 * truth.abs().mean()
    grads = torch.autograd.grad(ours, weights, torch.ones_like(ours))
    truths = torch.autograd.grad(truth, weights, torch.ones_like(truth))
    for mine, theirs in zip(grads, truths):
        assert mine.dtype == torch.float32
        assert (mine - theirs).norm() < 0.03 * theirs.norm()


def test_input_without_gradient():
    x, weights = make(100, (24, 64, 16))
    out = relu_mlp(x.detach(), weights)
    truth = reference.forward(x.detach(), weights, torch.float64)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), weights), torch.autograd.grad(truth.sum(), weights))


def test_op_is_well_declared():
    x, weights = make(33, (4, 8, 3))
    torch.library.opcheck(torch.ops.recon3d.mlp.default, (x, weights, torch.float64))


def test_the_reference_backward_is_the_gradient_of_its_forward():
    x, weights = make(50, (5, 8, 8, 3))
    out = reference.forward(x, weights, torch.float64)
    grad = torch.randn_like(out)
    expected = torch.autograd.grad(out, [x, *weights], grad)
    grad_x, grad_weights = reference.backward(grad, x.detach(), [w.detach() for w in weights], torch.float64, True)
    torch.testing.assert_close([grad_x, *grad_weights], list(expected))


def test_second_derivatives():
    """What supervises a field by its gradient needs them."""
    torch.manual_seed(0)
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weights = [torch.randn(a, b, dtype=torch.float64, requires_grad=True) for a, b in ((4, 3), (4, 4), (2, 4))]
    assert torch.autograd.gradgradcheck(lambda x, *w: relu_mlp(x, list(w)), (x, *weights))


@pytest.fixture(params=["tiles", "vectors"])
def way(request, monkeypatch):
    """Either implementation of the CPU, where there is a choice."""
    if request.param == "tiles" and not tiles.available():
        pytest.skip("this CPU has no matrix tiles (AMX)")
    monkeypatch.setattr(tiles, "available", lambda: request.param == "tiles")


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("rows", [0, 1, 256, 1000])
@pytest.mark.parametrize("dims", [(24, 64, 16), (32, 64, 64, 3), (5, 2), (70, 40, 33)])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_exact_up_to_rounding(rows, dims, kind, compute):
    """Small whole numbers are bfloat16 numbers, and so are their sums here: nothing is rounded, any mistake shows."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randint(-1, 2, shape, generator=generator).float() * (
            torch.rand(shape, generator=generator) < 4 / shape[-1]
        )

    x, grad = draw(rows, dims[0]).to(kind), draw(rows, dims[-1]).to(kind)
    weights = [draw(b, a) for a, b in zip(dims[:-1], dims[1:])]
    value = cpu.forward(x, weights, compute)
    truth = reference.forward(x, weights, torch.float32)
    torch.testing.assert_close(value.float(), truth, rtol=0, atol=0)
    grad_x, grad_weights = cpu.backward(grad, x, weights, compute, need_x=True)
    true_x, true_weights = reference.backward(grad.float(), x.float(), weights, torch.float32, True)
    torch.testing.assert_close(grad_x.float(), true_x, rtol=0, atol=0)
    torch.testing.assert_close(grad_weights, true_weights, rtol=0, atol=0)
    assert grad_x.dtype == kind and value.dtype == compute
    assert cpu.backward(grad, x, weights, compute, need_x=False)[0].numel() == 0


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_nan_goes_through(compute):
    x, weights = make(300, (24, 64, 16), torch.float32)
    spoilt = x.detach().clone()
    spoilt[17, 3] = torch.nan
    value = cpu.forward(spoilt, weights, compute)
    assert value.isnan().any(1).nonzero().tolist() == [[17]]
    _, grad_weights = cpu.backward(torch.ones(300, 16), spoilt, weights, compute, need_x=True)
    assert all(grad.isnan().any() for grad in grad_weights)


def test_bfloat16_without_instructions_for_it(monkeypatch):
    monkeypatch.setattr(tiles, "available", lambda: False)
    monkeypatch.setattr(simd, "PAIRS", False)
    test_bfloat16_is_near_float32((24, 64, 16))


WITHOUT_AVX512 = """
import torch
from llvmlite import binding
binding.get_host_cpu_features = binding.FeatureMap
from recon3d.kernels.mlp import reference, simd, strips
assert (strips.LANES, strips.PAIRS) == (8, False)
from recon3d.kernels.mlp import cpu
for dims in ((24, 64, 16), (5, 2), (13, 20, 33, 1)):
    torch.manual_seed(0)
    x, grad = torch.randn(700, dims[0]), torch.randn(700, dims[-1])
    weights = [torch.randn(b, a) * a**-0.5 for a, b in zip(dims[:-1], dims[1:])]
    for compute in (torch.float32, torch.bfloat16):
        found = cpu.forward(x, weights, compute), *cpu.backward(grad, x, weights, compute, True)[1]
        gradients = reference.backward(grad, x, weights, torch.float32, True)[1]
        truth = reference.forward(x, weights, torch.float32), *gradients
        tolerance = 1e-5 if compute == torch.float32 else 0.01
        assert all((a - b).norm() < tolerance * b.norm() for a, b in zip(found, truth, strict=True))
print("checked")
"""


def test_machines_without_avx512(tmp_path):
    """The code for registers of 8 numbers, which is other code: in a process that is told of no more."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT_AVX512], env=environment, capture_output=True, text=True, check=False
    )
    assert found.stdout == "checked\n", found.stderr


def test_known_values_have_gradients():
    x, weights = make(500, (24, 64, 16), torch.float32)
    grad = torch.randn(500, 16).bfloat16()
    values = relu_mlp(x, weights, torch.bfloat16)
    truth = torch.autograd.grad(values, [x, *weights], grad)
    again = relu_mlp_recall(x, weights, values.detach())
    assert torch.equal(again, values)
    for mine, theirs in zip(torch.autograd.grad(again, [x, *weights], grad), truth, strict=True):
        assert torch.equal(mine, theirs)
