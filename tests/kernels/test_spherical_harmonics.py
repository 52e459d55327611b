"""Spherical harmonics as their users see them: derivatives, registration with torch."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import DEVICES, OPCHECKS, directions
from torch.testing import assert_close

from recon3d.kernels import spherical_harmonics
from recon3d.kernels.spherical_harmonics import reference


@pytest.mark.parametrize("degree", [2, 3, 4])
def test_the_reference_backward_is_the_gradient_of_its_values(degree):
    vectors, grad = directions(30, degree, torch.float64)
    vectors.requires_grad_()
    (expected,) = torch.autograd.grad(reference.values(vectors, degree), vectors, grad)
    assert_close(reference.backward(grad, vectors.detach(), degree), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_first_and_second_derivatives(device, degree):
    vectors = directions(4, degree, torch.float64)[0].to(device).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: spherical_harmonics(v, degree), vectors)
    assert torch.autograd.gradgradcheck(lambda v: spherical_harmonics(v, degree), vectors)


@pytest.mark.parametrize("device", DEVICES)
def test_registration(device):
    vectors, grad = (v.to(device).requires_grad_() for v in directions(6, 4, torch.float32))
    ops = torch.ops.recon3d
    torch.library.opcheck(ops.spherical_harmonics.default, (vectors, 4), test_utils=OPCHECKS)
    torch.library.opcheck(ops.spherical_harmonics_backward.default, (grad, vectors, 4), test_utils=OPCHECKS)


def test_no_fifth_band():
    with pytest.raises(ValueError, match="degree 1 to 4, not 5"):
        spherical_harmonics(torch.zeros(1, 3), 5)
