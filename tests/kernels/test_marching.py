"""The marching op as its users see it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import DEVICES, move, occupancy_blobs, rays_through_box
from torch.testing import assert_close

from recon3d.kernels import first_samples, march_ahead, march_rays, occupied_blocks
from recon3d.kernels.marching.reference import stretch, unstretch

pytestmark = pytest.mark.parametrize("device", DEVICES)
STEP = 0.02


def march(device, rays, occupancy, jitter, step=STEP, cone=0.0):
    return [v.cpu() for v in march_rays(*move((*rays, occupancy, jitter), device), step, cone)]


def full(cells=16):
    return torch.ones(cells, cells, cells, dtype=torch.bool)


@pytest.mark.parametrize("cone", [0.0, 1 / 64])
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), cells=st.integers(1, 40), share=st.floats(0, 1))
def test_samples_lie_in_occupied_cells_only(device, cone, seed, cells, share):
    *rays, jitter = rays_through_box(16, torch.float64, seed)
    origins, directions, near, far = rays
    occupancy = torch.rand(cells, cells, cells, generator=torch.Generator().manual_seed(seed)) < share
    offsets, ray_index, t, dt = march(device, rays, occupancy, jitter, 0.05, cone)
    ray = ray_index.long()
    points = origins[ray] + t[:, None] * directions[ray]
    cell = ((points + 1) * (cells / 2)).floor().long().clamp(0, cells - 1)
    assert occupancy[tuple(cell.T)].all()
    assert (t >= near[ray]).all() and (t < far[ray]).all()
    assert_close(dt, torch.clamp(cone * t, min=0.05))
    # Packed ray after ray, in the order of distance.
    assert_close(offsets[1:] - offsets[:-1], torch.bincount(ray, minlength=16))
    assert (ray.diff() >= 0).all()
    assert (t.diff()[ray.diff() == 0] > 0).all()


def test_full_grid_gives_every_sample(device):
    *rays, jitter = rays_through_box(30, torch.float64)
    _, _, near, far = rays
    offsets, ray_index, t, dt = march(device, rays, full(), jitter)
    chord = (far - near).clamp(min=0)
    expected = torch.ceil(chord / STEP - jitter).clamp(min=0).long()
    assert_close(offsets[1:] - offsets[:-1], expected)
    # Together the samples stand for the length of the ray, up to one step.
    length = torch.zeros_like(near).index_add(0, ray_index.long(), dt)
    assert ((length - chord).abs() <= STEP).all()
    first = offsets[:-1][expected > 0]
    assert_close(t[first], (near + jitter * STEP)[expected > 0])


def test_jitter_shifts_the_samples(device):
    *rays, _ = rays_through_box(30, torch.float64)
    still, shifted = (march(device, rays, full(), torch.full((30,), shift)) for shift in (0.0, 0.25))
    for ray in range(30):
        a = still[2][still[0][ray] : still[0][ray + 1]]
        b = shifted[2][shifted[0][ray] : shifted[0][ray + 1]]
        n = min(len(a), len(b))
        assert abs(len(a) - len(b)) <= 1
        assert_close(b[:n], a[:n] + 0.25 * STEP)


def test_spacing_grows_with_distance_in_a_cone(device):
    cone = 0.05
    *rays, jitter = rays_through_box(30, torch.float64)
    _, ray_index, t, dt = march(device, rays, full(), jitter, cone=cone)
    same = ray_index.diff() == 0
    gap = t.diff()[same]
    assert (dt.diff()[same] >= 0).all() and dt.max() > 2 * STEP
    # A sample stands for about the way to the next one.
    assert_close(gap, dt[:-1][same], rtol=cone, atol=0)


def test_skipping_is_independent_of_the_grid(device):
    """A subset of the occupied cells gives a subset of the samples."""
    *rays, jitter = rays_through_box(30, torch.float64)
    _, all_rays, all_t, _ = march(device, rays, full(), jitter)
    _, some_rays, some_t, _ = march(device, rays, occupancy_blobs(37), jitter)
    everything = set(zip(all_rays.tolist(), all_t.tolist()))
    assert 0 < len(some_t) < len(all_t)
    assert set(zip(some_rays.tolist(), some_t.tolist())) <= everything


@pytest.mark.parametrize("cone", [0.0, 1 / 64])
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), cells=st.integers(1, 40), least=st.integers(1, 5), more=st.integers(0, 30))
def test_parts_make_up_the_whole(device, cone, seed, cells, least, more):
    """However rays are cut, and each ends where its optical depth, by the cells' densities, or its number says."""
    origins, directions, near, far, jitter = rays_through_box(16, torch.float64, seed)
    generator = torch.Generator().manual_seed(seed)
    occupancy = torch.rand(cells, cells, cells, generator=generator) < 0.3
    density = 10 * torch.rand(cells, cells, cells, generator=generator)
    wanted, most = torch.rand(16, generator=generator), least + more
    grids = occupancy, occupied_blocks(occupancy), density, wanted
    offsets, _, whole_t, whole_dt = march(device, (origins, directions, near, far), occupancy, jitter, 0.05, cone)
    start, done = first_samples(near, far, jitter, 0.05, cone), torch.zeros(16, dtype=torch.long)
    while bool((start < torch.inf).any()):
        inputs = move((origins, directions, start, far, *grids), device)
        counts, start, points, t, dt = (v.cpu() for v in march_ahead(*inputs, least, most, 0.05, cone))
        assert counts.any() or not bool((start < torch.inf).any())
        ray = torch.repeat_interleave(counts)
        assert_close(points, origins[ray] + t[:, None] * directions[ray])
        cell = ((points + 1) * (cells / 2)).long().clamp(0, cells - 1)
        tau = density[tuple(cell.T)] * dt
        for r, here in enumerate(torch.arange(len(t)).split(counts.tolist())):
            first = int(offsets[r] + done[r])
            assert_close(t[here], whole_t[first : first + len(here)])
            assert_close(dt[here], whole_dt[first : first + len(here)])
            done[r] += len(here)
            left = int(offsets[r + 1] - offsets[r] - done[r])
            assert (left > 0) == bool(start[r] < torch.inf)
            assert len(here) <= most
            if left and len(here) < most:
                assert len(here) >= least and tau[here].sum() >= wanted[r]
            if len(here) > least:
                assert tau[here[:-1]].sum() < wanted[r]
    assert_close(done, offsets.diff())


@pytest.mark.parametrize("cells", [1, 8, 12, 37])
def test_blocks_are_occupied_where_a_cell_is(device, cells):
    occupancy = torch.rand(cells, cells, cells, generator=torch.Generator().manual_seed(cells)) < 0.01
    occupancy[-1, 0, cells // 2] = True
    blocks = occupied_blocks(occupancy.to(device)).cpu()
    truth = torch.zeros_like(blocks)
    for cell in occupancy.nonzero():
        truth[tuple(cell // 8)] = True
    assert torch.equal(blocks, truth) and blocks.shape == (-(-cells // 8),) * 3
    full_blocks = occupied_blocks(torch.ones(cells, cells, cells, dtype=torch.bool, device=device))
    assert full_blocks.all()


@pytest.mark.parametrize("cone", [0.0, 0.01, 1.0])
def test_stretched_distance_is_inverted(device, cone):
    t = torch.linspace(0, 50, 200, dtype=torch.float64, device=device)
    assert_close(unstretch(stretch(t, 0.1, cone), 0.1, cone), t)


@pytest.mark.parametrize("cone", [0.0, 1 / 128])
def test_registration(device, cone):
    *rays, jitter = rays_through_box(10, torch.float32)
    inputs = move((*rays, occupancy_blobs(16), jitter), device)
    torch.library.opcheck(torch.ops.recon3d.march_rays.default, (*inputs, 0.05, cone))
    origins, directions, near, far, occupancy, jitter = inputs
    limits = occupied_blocks(occupancy), torch.ones(16, 16, 16, device=device), jitter, 2, 9, 0.05, cone
    start = first_samples(near, far, jitter, 0.05, cone)
    ahead = origins, directions, start, far, occupancy, *limits
    torch.library.opcheck(torch.ops.recon3d.march_ahead.default, ahead)


def test_compiles_in_one_graph(device):
    """The number of samples depends on the data; the graph is made with it left open."""
    *rays, jitter = rays_through_box(10, torch.float32)
    inputs = move((*rays, occupancy_blobs(16), jitter), device)

    def length(*inputs):
        offsets, _, t, dt = march_rays(*inputs, 0.05)
        return (t + dt).sum(), offsets * 2

    compiled = torch.compile(length, backend="aot_eager", fullgraph=True)
    for a, b in zip(compiled(*inputs), length(*inputs)):
        assert_close(a, b)
