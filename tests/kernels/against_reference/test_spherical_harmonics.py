"""Real spherical harmonics: values and slopes."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import directions
from torch.testing import assert_close

from recon3d.kernels.spherical_harmonics import reference


def run(implementation, vectors, grad, degree):
    module, device = implementation.of("spherical_harmonics"), implementation.device
    vectors, grad = vectors.to(device), grad.to(device)
    return [v.cpu() for v in (module.values(vectors, degree), module.backward(grad, vectors, degree))]


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_spherical_harmonics(implementation, degree, dtype, tolerance):
    vectors, grad = directions(200, degree, dtype)
    wide = vectors.double()
    truth = reference.values(wide, degree), reference.backward(grad.double(), wide, degree)
    for value, expected in zip(run(implementation, vectors, grad, degree), truth, strict=True):
        assert value.dtype == dtype
        assert_close(value.double(), expected, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision(implementation, dtype):
    vectors, grad = directions(50, 4, dtype)
    wide = vectors.double()
    truth = reference.values(wide, 4), reference.backward(grad.double(), wide, 4)
    for value, expected in zip(run(implementation, vectors, grad, 4), truth, strict=True):
        assert value.dtype == dtype
        assert_close(value.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_of_nothing_and_strided(implementation):
    vectors, grad = directions(20, 3, torch.float64)
    value, slopes = run(implementation, vectors[:0], grad[:0], 3)
    assert value.shape == (0, 9) and slopes.shape == (0, 3)
    strided = vectors.T.contiguous().T, grad.T.contiguous().T
    for value, expected in zip(run(implementation, *strided, 3), run(implementation, vectors, grad, 3), strict=True):
        assert_close(value, expected)
