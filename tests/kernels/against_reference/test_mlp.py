"""The small network: values and gradients."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import move
from torch import Tensor
from torch.testing import assert_close

from recon3d.kernels.mlp import reference

# Small network: inputs, hidden widths, outputs. The last two are shapes that the fused kernel leaves to plain torch.
MLP_SHAPES = [(32, 64, 16), (31, 64, 64, 3), (5, 16, 1), (17, 32, 32, 32, 20), (40, 128, 128, 3), (8, 24, 4), (6, 3)]


def mlp_inputs(sizes: tuple[int, ...], rows: int, whole: bool = False) -> tuple[Tensor, list[Tensor], Tensor]:
    """Inputs, weights and an incoming gradient of a network; ``whole``: whole numbers, few enough to stay small."""
    generator = torch.Generator().manual_seed(sum(sizes))

    def draw(*shape: int, fan_in: int = 1) -> Tensor:
        if not whole:
            return torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        values = torch.randint(-2, 3, shape, generator=generator).float()
        return values * (torch.rand(shape, generator=generator) < 4 / fan_in)

    weights = [draw(b, a, fan_in=a) for a, b in zip(sizes[:-1], sizes[1:])]
    return draw(rows, sizes[0]), weights, draw(rows, sizes[-1])


def mlp_run(implementation, x, weights, grad, compute, need_x=True):
    """Outputs, the gradient of x and those of the weights."""
    module, device = implementation.of("mlp"), implementation.device
    x, grad, weights = x.to(device), grad.to(device), move(weights, device)
    out = module.forward(x, weights, compute)
    grad_x, grad_weights = module.backward(grad.to(compute), x, weights, compute, need_x)
    return [v.cpu() for v in (out, grad_x, *grad_weights)]


def mlp_truth(x, weights, grad):
    """The same in float64, by autograd through the reference."""
    x, weights = x.double().requires_grad_(), [weight.double().requires_grad_() for weight in weights]
    out = reference.forward(x, weights, torch.float64)
    return [out.detach(), *torch.autograd.grad(out, [x, *weights], grad.double())]


@pytest.mark.parametrize("rows", [1, 300])
@pytest.mark.parametrize("sizes", MLP_SHAPES)
def test_of_small_integers(implementation, sizes, rows):
    """Whole numbers that float16 holds exactly: every value and every gradient is the float64 one."""
    x, weights, grad = mlp_inputs(sizes, rows, whole=True)
    truth = mlp_truth(x, weights, grad)
    assert max(float(v.abs().max()) for v in truth[:2]) <= 2048
    for value, expected in zip(mlp_run(implementation, x, weights, grad, torch.float16), truth, strict=True):
        assert torch.equal(value.double(), expected)


@pytest.mark.parametrize("sizes", [(32, 64, 64, 3), (24, 16, 16)])
@pytest.mark.parametrize("compute", [torch.float16, torch.float32, torch.float64])
def test_mlp(implementation, sizes, compute):
    x, weights, grad = mlp_inputs(sizes, 150)
    tolerance = 0.02 if compute == torch.float16 else 1e-6  # a unit whose sum is nearly 0 may round to the other side
    values, truth = mlp_run(implementation, x, weights, grad, compute), mlp_truth(x, weights, grad)
    assert values[0].dtype == compute and all(v.dtype == torch.float32 for v in values[1:])
    for value, expected in zip(values, truth, strict=True):
        assert (value - expected).norm() < tolerance * expected.norm()


def test_on_demand_of_nothing_and_strided(implementation):
    x, weights, grad = mlp_inputs((24, 64, 16), 40)
    assert mlp_run(implementation, x, weights, grad, torch.float16, need_x=False)[1].shape == (0,)
    out, grad_x, *grad_weights = mlp_run(implementation, x[:0], weights, grad[:0], torch.float16)
    assert out.shape == (0, 16) and grad_x.shape == (0, 24)
    assert not any(grad_weight.any() for grad_weight in grad_weights)
    strided = [v.T.contiguous().T for v in (x, *weights, grad)]
    plain = mlp_run(implementation, x, weights, grad, torch.float16)
    for value, expected in zip(
        mlp_run(implementation, strided[0], strided[1:-1], strided[-1], torch.float16), plain, strict=True
    ):
        assert_close(value, expected)
