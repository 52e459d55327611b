"""Ray marching: sample for sample."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import move, occupancy_blobs, rays_through_box
from torch.testing import assert_close

from recon3d.kernels.marching import reference


def march_run(implementation, *inputs):
    return [v.cpu() for v in implementation.of("marching").march(*move(inputs, implementation.device))]


def march_ahead(implementation, *inputs):
    return [v.cpu() for v in implementation.of("marching").march_ahead(*move(inputs, implementation.device))]


@pytest.mark.parametrize("cone", [0.0, 0.02])
@pytest.mark.parametrize(("rays", "cells"), [(30, 20), (40, 16)])
def test_float64(implementation, rays, cells, cone):
    """Sample for sample what testing every position finds."""
    *rays, jitter = rays_through_box(rays, torch.float64)
    inputs = (*rays, occupancy_blobs(cells), jitter, 0.04, cone)
    offsets, ray_index, t, dt = march_run(implementation, *inputs)
    expected = reference.march(*inputs)
    assert len(expected[1]) >= 40
    assert_close(offsets, expected[0])
    assert_close(ray_index, expected[1])
    assert_close(t, expected[2], rtol=1e-12, atol=0)
    assert_close(dt, expected[3], rtol=1e-12, atol=0)


@pytest.mark.parametrize("cone", [0.0, 0.02])
def test_float32(implementation, cone):
    """As in float64, but for the few samples that rounding puts on the other side of a cell's border."""
    *rays, jitter = rays_through_box(32, torch.float32, seed=3)
    inputs = (*rays, occupancy_blobs(24), jitter, 0.031, cone)
    offsets, ray_index, t, dt = march_run(implementation, *inputs)
    _, expected_ray, expected_t, _ = reference.march(
        *(v.double() if torch.is_tensor(v) and v.is_floating_point() else v for v in inputs)
    )
    assert t.dtype == dt.dtype == torch.float32 and offsets.dtype == torch.int64 and ray_index.dtype == torch.int32
    found = {(r, round(d / 0.005)) for r, d in zip(ray_index.tolist(), t.tolist())}
    wanted = [(r, d / 0.005) for r, d in zip(expected_ray.tolist(), expected_t.tolist())]
    missed = sum(not {(r, round(d - 0.1)), (r, round(d + 0.1))} & found for r, d in wanted)
    assert missed <= 0.01 * len(wanted)
    assert abs(len(t) - len(wanted)) <= 0.01 * len(wanted)
    assert_close(dt, torch.clamp(cone * t, min=0.031))


def test_nothing(implementation):
    """No rays; rays that miss; an empty grid."""
    *rays, jitter = rays_through_box(8, torch.float32)
    grid = occupancy_blobs(16)
    none = [v[:0] for v in rays]
    missed = [*rays[:2], rays[3] + 1, rays[3]]
    for origins, directions, near, far, occupancy, shift in [
        (*none, grid, jitter[:0]),
        (*missed, grid, jitter),
        (*rays, torch.zeros_like(grid), jitter),
    ]:
        offsets, ray_index, t, dt = march_run(
            implementation, origins, directions, near, far, occupancy, shift, 0.05, 0.0
        )
        assert offsets.tolist() == [0] * (len(near) + 1)
        assert len(ray_index) == len(t) == len(dt) == 0


def test_within(implementation):
    """In buffers too large, just right and too small; every sample that fits is where it would be."""
    *rays, jitter = rays_through_box(30, torch.float64)
    inputs = (*rays, occupancy_blobs(20), jitter, 0.04, 0.0)
    offsets, *expected = reference.march(*inputs)
    samples = int(offsets[-1])
    for capacity in (samples + 7, samples, samples // 2):
        found = march_run(implementation, *inputs, capacity)
        assert torch.equal(found[0], offsets)
        for value, wanted in zip(found[1:], expected):
            assert value.shape == (capacity,) and not value[samples:].any()
            assert_close(value[:samples], wanted[:capacity], rtol=1e-12, atol=0)


@pytest.mark.parametrize("cone", [0.0, 0.02])
@pytest.mark.parametrize(("least", "most"), [(1, 1), (2, 7), (3, 1000)])
def test_ahead(implementation, cone, least, most):
    """Part after part until nothing is left; then nothing comes any more."""
    origins, directions, near, far, jitter = rays_through_box(30, torch.float64)
    occupancy = occupancy_blobs(20)
    generator = torch.Generator().manual_seed(4)
    density = 20 * torch.rand(20, 20, 20, generator=generator)
    wanted = torch.rand(30, generator=generator)
    wanted[3], wanted[4] = 0.0, torch.inf
    start = reference.first_samples(near, far, jitter, 0.04, cone)
    parts = 0
    while bool((start < torch.inf).any()) and parts < 4:
        inputs = origins, directions, start, far, occupancy, reference.occupied_blocks(occupancy)
        inputs = *inputs, density, wanted, least, most, 0.04, cone
        found, expected = march_ahead(implementation, *inputs), reference.march_ahead(*inputs)
        assert expected[0].any() and torch.equal(found[0], expected[0])
        for value, truth in zip(found[1:], expected[1:]):
            assert value.dtype == truth.dtype
            assert_close(value, truth, rtol=1e-10, atol=1e-12)
        start, parts = expected[1], parts + 1
    nowhere = torch.full((30,), torch.inf, dtype=torch.float64)
    counts, rest, points, t, dt = march_ahead(implementation, *inputs[:2], nowhere, *inputs[3:])
    assert not counts.any() and torch.equal(rest, nowhere)
    assert points.shape == (0, 3) and t.shape == dt.shape == (0,)


def test_ahead_of_no_rays(implementation):
    origins, directions, near, far = (v[:0] for v in rays_through_box(8, torch.float32)[:4])
    occupancy = occupancy_blobs(16)
    blocks = reference.occupied_blocks(occupancy)
    limits = torch.ones(16, 16, 16), near, 1, 4, 0.05, 0.0
    found = march_ahead(implementation, origins, directions, near, far, occupancy, blocks, *limits)
    assert [len(v) for v in found] == [0] * 5
