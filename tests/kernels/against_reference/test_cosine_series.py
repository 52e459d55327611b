"""The cosine series: values and all derivatives."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import cosine_inputs, move, relative_error

from recon3d.kernels.cosine_series import reference

# Cosine series: rows, inputs, width, terms.
COSINE_SHAPES = [(0, 2, 3, 5), (1, 1, 1, 1), (70, 1, 4, 32), (130, 3, 8, 33), (65, 2, 70, 129)]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("shape", COSINE_SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-12)])
def test_cosine_series(implementation, shape, order, weighted, dtype, tolerance):
    module = implementation.of("cosine_series")
    theta, weight, coefficients, grad = cosine_inputs(*shape, dtype)
    weight = weight if weighted else None
    wide = [None if v is None else v.double() for v in (theta, weight, coefficients, grad)]
    theta, weight, coefficients, grad = move((theta, weight, coefficients, grad), implementation.device)
    value = module.series(theta, weight, coefficients, order).cpu()
    assert value.dtype == dtype
    assert relative_error(value, reference.series(*wide[:3], order)) < tolerance
    value = module.coefficients(theta, weight, grad, shape[3], order).cpu()
    assert relative_error(value, reference.coefficients(*wide[:2], wide[3], shape[3], order)) < tolerance
    value = module.angles(theta, coefficients, grad, order).cpu()
    assert relative_error(value, reference.angles(wide[0], wide[2], wide[3], order)) < tolerance


def test_high_terms(implementation):
    """cos(k theta) to 2e-6 at k = 2047 in float32, the ends of the interval included."""
    theta = torch.cat([torch.linspace(0, 1e-3, 50), torch.linspace(0, torch.pi, 150)])[:, None]
    picked = [0, 1, 31, 32, 512, 1000, 2047]
    coefficients = torch.zeros(1, len(picked), 2048)
    for row, k in enumerate(picked):
        coefficients[0, row, k] = 1
    given = move((theta, None, coefficients, 0), implementation.device)
    value = implementation.of("cosine_series").series(*given).cpu()
    assert (value - (theta.double() * torch.tensor(picked)).cos()).abs().max() < 2e-6


def test_of_nan(implementation):
    theta, _, coefficients, _ = move(cosine_inputs(10, 2, 4, 9, torch.float32), implementation.device)
    theta[3, 1] = torch.nan
    value = implementation.of("cosine_series").series(theta, None, coefficients, 0)
    assert value.isnan().all(1).nonzero().tolist() == [[3]]
    assert not value[torch.arange(10) != 3].isnan().any()
