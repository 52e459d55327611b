"""Adam over the touched rows of a table."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import move
from torch.testing import assert_close

from recon3d.kernels.adam import reference

ADAM_RATES = 0.01, 0.9, 0.99, 1e-15


def adam_run(step, tensors, grads, device="cpu", found_inf=0.0):
    """Table, moments and counts after steps with ``grads``, in units of a scale of 128."""
    tensors = move(tensors, device)
    rate, *settings = ADAM_RATES
    scalars = [torch.tensor(v, dtype=tensors[0].dtype, device=device) for v in (rate, 128.0, found_inf)]
    for grad in grads:
        step(tensors[0], 128 * grad.to(device), *tensors[1:], scalars[0], *settings, *scalars[1:])
    return [v.cpu() for v in tensors]


def adam_inputs(rows, features, dtype):
    """Table, moments, counts that differ by row, and gradients of three steps with untouched rows."""
    generator = torch.Generator().manual_seed(features)
    table, mean, square = torch.randn(3, rows, features, generator=generator, dtype=dtype)
    steps = torch.randint(0, 50, (rows,), generator=generator).to(dtype)
    grads = torch.randn(3, rows, features, generator=generator, dtype=dtype)
    grads[torch.rand(3, rows, generator=generator) < 0.6] = 0
    if features > 1:
        grads[:, 0, 1:], grads[:, 0, 0] = 0, 1e-20  # one entry is enough, however small
    return (table, mean, square.abs(), steps), grads


@pytest.mark.parametrize("features", [1, 2, 8])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_rows(implementation, features, dtype, tolerance):
    tensors, grads = adam_inputs(300, features, dtype)
    wide = [v.double().clone() for v in tensors]
    truth = adam_run(reference.adam_rows, wide, grads.double())
    values = adam_run(implementation.of("adam").adam_rows, [v.clone() for v in tensors], grads, implementation.device)
    for value, expected in zip(values, truth):
        assert value.dtype == dtype
        assert_close(value.double(), expected, rtol=tolerance, atol=tolerance)
    untouched = (grads == 0).all(dim=2).all(dim=0)
    assert untouched.any() and not untouched.all()
    for value, before in zip(values, tensors):
        assert torch.equal(value[untouched], before[untouched])


def test_rows_of_an_infinite_gradient(implementation):
    tensors, grads = adam_inputs(40, 2, torch.float32)
    given = [v.clone() for v in tensors]
    values = adam_run(implementation.of("adam").adam_rows, given, grads * torch.inf, implementation.device, 1.0)
    for value, before in zip(values, tensors):
        assert torch.equal(value, before)
