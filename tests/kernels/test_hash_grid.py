"""The hash-grid op as its users see it: layout, gradients, registration with torch."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import DEVICES, HASH_SHAPES, OPCHECKS, hash_inputs, hash_layout, layout_lists
from torch.testing import assert_close

from recon3d.kernels import HashLayout, hash_encode
from recon3d.kernels.hash_grid.reference import corner_rows


@given(
    dim=st.integers(1, 4),
    levels=st.integers(1, 16),
    log2_size=st.integers(4, 19),
    coarsest=st.integers(2, 20),
    factor=st.integers(1, 100),
)
def test_layout_is_instant_ngps(dim, levels, log2_size, coarsest, factor):
    finest = coarsest * factor
    layout = HashLayout.build(dim, levels, 2, log2_size, coarsest, finest)
    assert layout.levels == levels and layout.offsets[0] == 0 and layout.rows == layout.offsets[-1]
    assert layout.scales[0] == coarsest - 1
    if levels > 1:
        assert layout.scales[-1] == pytest.approx(finest - 1)
    for scale, resolution, start, end in zip(
        layout.scales, layout.resolutions, layout.offsets[:-1], layout.offsets[1:], strict=True
    ):
        assert resolution == math.ceil(scale) + 1
        assert (end - start) % 8 == 0 and end - start <= 2**log2_size
        # The fast implementations rely on it: a hashed level has a power of two of rows.
        assert resolution**dim <= end - start or end - start == 2**log2_size


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_dense_level_has_a_row_for_each_corner(dim):
    resolution = 5
    size = -(-(resolution**dim) // 8) * 8
    corners = torch.cartesian_prod(*[torch.arange(resolution)] * dim).reshape(-1, dim)
    rows = corner_rows(corners, resolution, size)
    assert len(rows.unique()) == resolution**dim
    assert rows.min() >= 0 and rows.max() < size


def test_hashed_rows_are_32_bit():
    """A row worked out by hand: (1 * 3) xor (2654435761 * 5 mod 2^32) xor (805459861 * 7 mod 2^32), modulo 2^19."""
    row = corner_rows(torch.tensor([[3, 5, 7]]), 2048, 2**19)
    assert int(row) == (3 ^ (2654435761 * 5 % 2**32) ^ (805459861 * 7 % 2**32)) % 2**19


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dim", "features"), HASH_SHAPES)
def test_weights_sum_to_one(device, dim, features):
    layout = hash_layout(dim, features)
    x, _, _ = hash_inputs(layout, 200, torch.float32)
    out = hash_encode(x.to(device), torch.ones(layout.rows, features, device=device), layout)
    assert_close(out, torch.ones_like(out))


BEFORE_A_WALL = """
import ctypes, mmap
import numpy as np
import torch
from recon3d.kernels import HashLayout, hash_encode
from recon3d.kernels.hash_grid import cpu

rooms = []

def before_a_wall(x):
    made = axes(x)
    size = sum(axis.nbytes for axis in made)
    room = mmap.mmap(-1, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE + mmap.PAGESIZE)
    rooms.append(room)
    bytes_ = np.frombuffer(room, np.uint8)
    wall = len(bytes_) - mmap.PAGESIZE
    assert protect(bytes_.ctypes.data + wall, mmap.PAGESIZE, 0) == 0
    moved = bytes_[wall - size : wall].view(np.float32).reshape(len(made), -1)
    moved[:] = made
    return tuple(moved)

protect = ctypes.CDLL(None).mprotect
protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
axes, cpu._axes = cpu._axes, before_a_wall
layout = HashLayout.build(3, 4, 2, 10, 4, 32)
table = torch.rand(layout.rows, 2)
for threads in (1, 2, 3):
    torch.set_num_threads(threads)
    for points in (1, 100, 128, 384, 1000):
        assert hash_encode(torch.rand(points, 3), table, layout).isfinite().all()
print("alive")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="protects memory as Linux does")
def test_nothing_is_read_beyond_the_points():
    done = subprocess.run([sys.executable, "-c", BEFORE_A_WALL], capture_output=True, text=True)
    assert done.stdout == "alive\n", (done.returncode, done.stderr[-500:])


def test_points_of_other_dimensions_are_refused():
    layout = HashLayout.build(3, 2, 2, 6, 2, 4)
    with pytest.raises(ValueError, match="2 dimensions for a hash grid of 3"):
        hash_encode(torch.rand(5, 2), torch.rand(layout.rows, 2), layout)


@pytest.mark.parametrize("device", DEVICES)
def test_outside_points_are_moved_to_the_border(device):
    layout = hash_layout(3, 2)
    _, table, _ = hash_inputs(layout, 10, torch.float64)
    table = table.to(device)
    x = torch.rand(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3 - 1
    x = x.to(device).requires_grad_()
    out = hash_encode(x, table, layout)
    assert_close(out, hash_encode(x.detach().clamp(0, 1), table, layout))
    (grad,) = torch.autograd.grad(out.sum(), x)
    outside = (x < 0) | (x > 1)
    assert outside.any() and (grad[outside] == 0).all() and (grad[~outside] != 0).all()


@pytest.mark.parametrize("device", DEVICES)
def test_continuous_across_cells(device):
    layout = hash_layout(2, 4)
    _, table, _ = hash_inputs(layout, 10, torch.float64)
    scale = layout.scales[-1]
    border = (torch.arange(1, 20, dtype=torch.float64) - 0.5) / scale
    x = torch.stack([border, border.flip(0) * 0.7], dim=1)
    shift = torch.tensor([1e-9, 0])
    below, above = (hash_encode((x + s).to(device), table.to(device), layout) for s in (-shift, shift))
    assert_close(below, above, rtol=0, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dim", "features"), [(1, 2), (2, 2), (3, 1)])
def test_derivatives_of_first_and_second_order(device, dim, features):
    layout = HashLayout.build(dim, 2, features, log2_size=4, coarsest=3, finest=6)
    _, table, _ = hash_inputs(layout, 5, torch.float64)
    # Fixed points away from the cells' borders, where there is no derivative.
    x = torch.tensor([[0.27, 0.61, 0.43], [0.85, 0.13, 0.32], [0.04, 0.38, 0.91]], dtype=torch.float64)[:, :dim]
    x, table = x.to(device).requires_grad_(), table.to(device).requires_grad_()

    def encode(x, table):
        return hash_encode(x, table, layout)

    # Atomic additions come in any order, so a second run differs in the last bits.
    assert torch.autograd.gradcheck(encode, (x, table), nondet_tol=1e-10)
    assert torch.autograd.gradgradcheck(encode, (x, table), nondet_tol=1e-10)


@pytest.mark.parametrize("device", DEVICES)
def test_normals_can_be_trained(device):
    """The gradient with respect to x can itself be a loss, as an eikonal term is."""
    layout = hash_layout(3, 2)
    x, table, _ = hash_inputs(layout, 40, torch.float32)
    x, table = x[5:].to(device).requires_grad_(), table.to(device).requires_grad_()
    slope = torch.autograd.grad(hash_encode(x, table, layout).sum(), x, create_graph=True)[0]
    ((slope.norm(dim=-1) - 1) ** 2).mean().backward()
    assert table.grad is not None and table.grad.abs().sum() > 0


@pytest.mark.parametrize("device", DEVICES)
def test_shadow_is_read_and_table_is_trained(device):
    layout = hash_layout(3, 2)
    x, table, _ = hash_inputs(layout, 30, torch.float32)
    x, table = x.to(device), table.to(device).requires_grad_()
    shadow = table.detach().bfloat16()
    out = hash_encode(x, table, layout, shadow)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    (expected,) = torch.autograd.grad(hash_encode(x, table, layout).sum(), table)
    assert table.grad.dtype == torch.float32
    assert_close(table.grad, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shadowed", [False, True])
def test_registration(device, shadowed):
    layout = hash_layout(3, 2)
    x, table, _ = hash_inputs(layout, 12, torch.float32)
    x, table = x[5:].to(device).requires_grad_(), table.to(device).requires_grad_()
    shadow = table.detach().half() if shadowed else None
    # Atomic additions come in any order, so sums differ in the last bits from run to run.
    close = {"atol": 1e-5, "rtol": 1e-3}
    torch.library.opcheck(
        torch.ops.recon3d.hash_encode.default, (x, table, shadow, *layout_lists(layout)), test_utils=OPCHECKS, **close
    )
    grad = torch.ones(len(x), layout.levels * 2, device=device, dtype=torch.half if shadowed else torch.float32)
    detached = grad, x.detach(), table.detach(), shadow
    torch.library.opcheck(
        torch.ops.recon3d.hash_encode_backward.default,
        (*detached, *layout_lists(layout), True, True),
        test_utils=OPCHECKS,
        **close,
    )


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_in_one_graph(device):
    layout = hash_layout(3, 2)
    x, table, _ = hash_inputs(layout, 20, torch.float32)
    x, table = x[5:].to(device).requires_grad_(), table.to(device).requires_grad_()

    def loss(x, table):
        return (hash_encode(x * 0.5, table, layout) ** 2).sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    value, expected = compiled(x, table), loss(x, table)
    assert_close(value, expected)
    for a, b in zip(torch.autograd.grad(value, (x, table)), torch.autograd.grad(expected, (x, table))):
        assert_close(a, b)


@settings(deadline=None, max_examples=30)
@given(
    value=st.floats(-2, 2, width=32),
    other=st.floats(-2, 2, width=32),
    level=st.integers(0, 4),
    feature=st.integers(0, 1),
)
def test_linear_in_the_table(value, other, level, feature):
    layout = hash_layout(2, 2)
    x, table, _ = hash_inputs(layout, 20, torch.float64)
    change = torch.zeros_like(table)
    change[layout.offsets[level] : layout.offsets[level + 1], feature] = 1
    out = hash_encode(x, value * table + other * change, layout)
    expected = value * hash_encode(x, table, layout)
    expected[:, level * 2 + feature] += other
    assert_close(out, expected)
