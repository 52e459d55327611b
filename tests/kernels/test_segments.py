"""Segments of packed samples: numba against plain torch, and against loops that anyone can read."""

import pytest
import torch

from recon3d.kernels import darken_segments, foresee_segments, lay_segments, take_segments
from recon3d.kernels.segments import cpu, reference


def packed(rays=37, most=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    owned = torch.randint(0, most + 1, (rays,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), owned.cumsum(0)])
    first = (torch.rand(rays, generator=generator) * owned).long()
    count = (torch.rand(rays, generator=generator) * (owned - first + 1)).long()
    origins, directions = torch.randn(2, rays, 3, generator=generator)
    t, dt = torch.rand(2, int(offsets[-1]), generator=generator)
    return offsets, first, count, origins, directions, t, dt


@pytest.mark.parametrize("grain", [4, 2**16])
def test_samples_of_segments(monkeypatch, grain):
    monkeypatch.setattr(cpu, "GRAIN", grain)
    offsets, first, count, origins, directions, t, dt = inputs = packed()
    ray, points, at, length = take_segments(*inputs)
    expected = [
        (r, origins[r] + directions[r] * t[i], t[i], dt[i])
        for r in range(len(first))
        for i in range(int(offsets[r] + first[r]), int(offsets[r] + first[r] + count[r]))
    ]
    assert ray.tolist() == [row[0] for row in expected]
    torch.testing.assert_close(points, torch.stack([row[1] for row in expected]))
    assert torch.equal(at, torch.stack([row[2] for row in expected]))
    assert torch.equal(length, torch.stack([row[3] for row in expected]))
    torch.testing.assert_close((ray, points, at, length), reference.take(*inputs))


@pytest.mark.parametrize("shape", [(), (3,), (24,), (5, 2)])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64, torch.uint8])
def test_rows_go_to_their_segments(shape, kind):
    counts, sizes, starts = torch.tensor([2, 0, 3, 1]), torch.tensor([2, 1, 3, 3]), torch.tensor([4, 1, 7, 0])
    source = (torch.arange(9.0).view(-1, *[1] * len(shape)) + torch.zeros(9, *shape)).to(kind)
    target = torch.full((11, *shape), 99, dtype=kind)
    truth = target.clone()
    others = torch.zeros(11, 2), torch.rand(9, 2), torch.zeros(11, 2)
    lay_segments([others[0], target], [others[1], source], starts, counts, sizes)
    reference.lay([others[2], truth], [others[1], source], starts, counts, sizes)
    assert torch.equal(others[0], others[2]) and bool(others[0].any())
    assert torch.equal(target, truth)
    assert target.view(11, -1)[:, 0].tolist() == [6, 99, 99, 99, 0, 1, 99, 3, 4, 5, 99]


@pytest.mark.parametrize("implementation", [darken_segments, reference.darken])
def test_light_runs_out(implementation):
    counts = torch.tensor([3, 0, 2, 4, 2])
    losses = torch.tensor([0.5, 2.0, 0.1, 0.2, 0.3, torch.nan, 0.1, 0.1, 0.1, 0.0, 0.5])
    depth = torch.tensor([0.0, 0.3, 0.6, 0.0, 1.0])
    lit = implementation(depth, losses, counts, 1.0)
    assert lit.tolist() == [2, 0, 2, 1, 0]
    torch.testing.assert_close(depth[[0, 1, 2, 4]], torch.tensor([2.5, 0.3, 1.1, 1.0]))
    assert not depth[3] < 1


@pytest.mark.parametrize("grain", [4, 2**16])
def test_light_runs_out_as_in_plain_torch(monkeypatch, grain):
    monkeypatch.setattr(cpu, "GRAIN", grain)
    generator = torch.Generator().manual_seed(1)
    counts = torch.randint(0, 20, (200,), generator=generator)
    losses = torch.rand(int(counts.sum()), generator=generator)
    depth, truth = torch.zeros(200), torch.zeros(200)
    lit = darken_segments(depth, losses, counts, 4.0)
    assert torch.equal(lit, reference.darken(truth, losses, counts, 4.0))
    torch.testing.assert_close(depth, truth)
    assert bool((lit < counts).any()) and bool((lit[depth < 4] == counts[depth < 4]).all())


@pytest.mark.parametrize("grain", [4, 2**16])
@pytest.mark.parametrize("implementation", [foresee_segments, reference.foresee])
def test_samples_until_an_optical_depth(monkeypatch, grain, implementation):
    monkeypatch.setattr(cpu, "GRAIN", grain)
    offsets, first, _, origins, directions, t, dt = packed()
    origins, directions = 0.5 * origins, 0.5 * directions  # some points lie outside: the nearest cell
    density, wanted = torch.rand(4, 4, 4), torch.rand(len(first))
    wanted[7], wanted[5] = torch.inf, 0.0
    expected = []
    for r in range(len(first)):
        depth, count = 0.0, 0
        for i in range(int(offsets[r] + first[r]), int(offsets[r + 1])):
            if depth >= wanted[r]:
                break
            cell = ((origins[r] + directions[r] * t[i] + 1) * 2).long().clamp(0, 3)
            depth, count = depth + float(density[tuple(cell)] * dt[i]), count + 1
        expected.append(count)
    found = implementation(offsets, first, origins, directions, t, dt, density, wanted)
    assert found.tolist() == expected
    assert found[7] == (offsets[1:] - offsets[:-1] - first)[7] > 0 and found[5] == 0


def test_nothing():
    none = [v[:0] for v in packed()]
    none[0] = torch.zeros(1, dtype=torch.int64)
    assert all(len(v) == 0 for v in take_segments(*none))
    empty = torch.zeros(0, 3)
    lay_segments([empty], [empty], none[1], none[1], none[1])
    assert len(darken_segments(empty[:, 0], empty[:, 0], none[1], 1.0)) == 0
    assert len(foresee_segments(*none[:2], *none[3:], torch.zeros(2, 2, 2), empty[:, 0])) == 0


def test_ops_are_well_declared():
    offsets, first, count, *lines = packed()
    torch.library.opcheck(torch.ops.recon3d.take_segments.default, (offsets, first, count, *lines))
    target, source = torch.zeros(len(lines[2]), 3), torch.randn(int(count.sum()), 3)
    torch.library.opcheck(
        torch.ops.recon3d.lay_segments.default, ([target], [source], offsets[:-1] + first, count, count)
    )
    depth, losses = torch.zeros(len(count)), torch.rand(int(count.sum()))
    torch.library.opcheck(torch.ops.recon3d.darken_segments.default, (depth, losses, count, 1.0))
    density, wanted = torch.rand(4, 4, 4), torch.rand(len(count))
    torch.library.opcheck(torch.ops.recon3d.foresee_segments.default, (offsets, first, *lines, density, wanted))
