"""Segments of packed samples: numba against plain torch, and against loops that anyone can read."""

import pytest
import torch

from recon3d.kernels import lay_segments, take_segments
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
    counts, starts = torch.tensor([2, 0, 3, 1]), torch.tensor([4, 1, 7, 0])
    source = (torch.arange(6.0).view(-1, *[1] * len(shape)) + torch.zeros(6, *shape)).to(kind)
    target = torch.full((11, *shape), 99, dtype=kind)
    truth = target.clone()
    lay_segments(target, source, starts, counts)
    reference.lay(truth, source, starts, counts)
    assert torch.equal(target, truth)
    assert target.view(11, -1)[:, 0].tolist() == [5, 99, 99, 99, 0, 1, 99, 2, 3, 4, 99]


def test_nothing():
    none = [v[:0] for v in packed()]
    none[0] = torch.zeros(1, dtype=torch.int64)
    assert all(len(v) == 0 for v in take_segments(*none))
    empty = torch.zeros(0, 3)
    lay_segments(empty, empty, none[1], none[1])


def test_ops_are_well_declared():
    offsets, first, count, *lines = packed()
    torch.library.opcheck(torch.ops.recon3d.take_segments.default, (offsets, first, count, *lines))
    target, source = torch.zeros(len(lines[2]), 3), torch.randn(int(count.sum()), 3)
    torch.library.opcheck(torch.ops.recon3d.lay_segments.default, (target, source, offsets[:-1] + first, count))
