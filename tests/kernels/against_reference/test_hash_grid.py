"""The hash grid: values and both gradients."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import HASH_SHAPES, hash_inputs, hash_layout, layout_lists, move
from torch.testing import assert_close

from recon3d.kernels.hash_grid import reference

POINTS = 140


def hash_truth(x, table, grad, lists):
    """Features and both gradients, by autograd through the reference in float64."""
    x, table = x.double().requires_grad_(), table.double().requires_grad_()
    out = reference.encode(x, table, *lists)
    return out.detach(), *torch.autograd.grad(out, (table, x), grad.double())


def hash_run(implementation, x, table, shadow, grad, lists, need_table=True, need_x=True):
    module = implementation.of("hash_grid")
    x, table, shadow, grad = move((x, table, shadow, grad), implementation.device)
    out = module.encode(x, table, shadow, *lists)
    gradients = module.encode_backward(grad.to(out.dtype), x, table, shadow, *lists, need_table, need_x)
    return [v.cpu() for v in (out, *gradients)]


@pytest.mark.parametrize(("dim", "features"), HASH_SHAPES)
def test_float64(implementation, dim, features):
    layout = hash_layout(dim, features)
    x, table, grad = hash_inputs(layout, POINTS, torch.float64)
    truth = hash_truth(x, table, grad, layout_lists(layout))
    for value, expected in zip(hash_run(implementation, x, table, None, grad, layout_lists(layout)), truth):
        assert_close(value, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("dim", "features"), [(2, 4), (3, 2)])
def test_float32(implementation, dim, features):
    layout = hash_layout(dim, features)
    x, table, grad = hash_inputs(layout, POINTS, torch.float32)
    truth = hash_truth(x, table, grad, layout_lists(layout))
    # A coordinate's gradient grows with the finest level's scale.
    for value, expected, atol in zip(
        hash_run(implementation, x, table, None, grad, layout_lists(layout)), truth, (1e-4, 1e-4, 1e-2)
    ):
        assert value.dtype == torch.float32
        assert_close(value.double(), expected, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_with_shadow(implementation, dtype):
    """The shadow is what is read; the table's gradient keeps the table's type."""
    layout = hash_layout(3, 2)
    x, table, grad = hash_inputs(layout, POINTS, torch.float32)
    shadow = table.to(dtype)
    grad = grad.to(dtype).float()
    truth = hash_truth(x, shadow, grad, layout_lists(layout))
    out, grad_table, grad_x = hash_run(implementation, x, table * 0, shadow, grad, layout_lists(layout))
    assert out.dtype == dtype
    assert_close(out.double(), truth[0], rtol=torch.finfo(dtype).eps, atol=1e-3)
    assert grad_table.dtype == torch.float32
    assert_close(grad_table.double(), truth[1], rtol=1e-4, atol=1e-4)
    assert_close(grad_x.double(), truth[2], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision(implementation, dtype):
    """A table in half precision, without a shadow, gets its gradient in its own type, but not summed in it."""
    layout = hash_layout(2, 2)
    x, table, grad = hash_inputs(layout, POINTS, torch.float32)
    truth = hash_truth(x, table.to(dtype), grad.to(dtype), layout_lists(layout))
    out, grad_table, _ = hash_run(implementation, x, table.to(dtype), None, grad, layout_lists(layout))
    assert out.dtype == grad_table.dtype == dtype
    assert_close(out.double(), truth[0], rtol=torch.finfo(dtype).eps, atol=1e-3)
    assert_close(grad_table.double(), truth[1], rtol=torch.finfo(dtype).eps, atol=1e-3)


def test_gradients_on_demand(implementation):
    layout = hash_layout(2, 2)
    x, table, grad = hash_inputs(layout, 20, torch.float32)
    for need_table, need_x in [(True, False), (False, True)]:
        _, grad_table, grad_x = hash_run(implementation, x, table, None, grad, layout_lists(layout), need_table, need_x)
        assert grad_table.shape == (table.shape if need_table else (0,))
        assert grad_x.shape == (x.shape if need_x else (0,))


def test_no_points(implementation):
    layout = hash_layout(3, 2)
    x, table, grad = hash_inputs(layout, 5, torch.float32)
    out, grad_table, grad_x = hash_run(implementation, x[:0], table, None, grad[:0], layout_lists(layout))
    assert out.shape == (0, layout.levels * 2) and grad_x.shape == (0, 3)
    assert_close(grad_table, torch.zeros_like(table))


def test_strided_inputs(implementation):
    layout = hash_layout(3, 2)
    x, table, grad = hash_inputs(layout, 20, torch.float64)
    plain = hash_run(implementation, x, table, None, grad, layout_lists(layout))
    strided = [v.T.contiguous().T for v in (x, table, grad)]
    assert not any(v.is_contiguous() for v in strided)
    for value, expected in zip(hash_run(implementation, *strided[:2], None, strided[2], layout_lists(layout)), plain):
        assert_close(value, expected)
