"""The hash grid's reference backward, used where a device has no implementation of its own."""

import pytest
import torch

from recon3d.kernels import HashLayout
from recon3d.kernels.hash_grid import reference


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
@pytest.mark.parametrize("features", [1, 2])
def test_it_is_the_gradient_of_encode(dim, features):
    layout = HashLayout.build(dim, 4, features, 7, 3, 20)
    spec = list(layout.scales), list(layout.resolutions), list(layout.offsets)
    generator = torch.Generator().manual_seed(dim)
    x = (torch.rand(40, dim, dtype=torch.float64, generator=generator) * 1.2 - 0.1).requires_grad_()
    table = torch.randn(layout.rows, features, dtype=torch.float64, generator=generator, requires_grad=True)
    out = reference.encode(x, table, *spec)
    grad = torch.randn(out.shape, dtype=torch.float64, generator=generator)
    expected = torch.autograd.grad(out, (table, x), grad)
    ours = reference.encode_backward(grad, x.detach(), table.detach(), *spec, True, True)
    torch.testing.assert_close(ours, expected)
