"""Segments of packed samples: numba against plain torch, and against loops that anyone can read."""

import pytest
import torch

from recon3d.kernels import darken_segments, lay_segments
from recon3d.kernels.segments import cpu, reference


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


@pytest.mark.parametrize("grain", [4, 2**16])
def test_rows_of_all_kinds_go_together(monkeypatch, grain):
    monkeypatch.setattr(cpu, "GRAIN", grain)
    generator = torch.Generator().manual_seed(2)
    sizes = torch.randint(0, 9, (50,), generator=generator)
    counts = (torch.rand(50, generator=generator) * (sizes + 1)).long()
    starts = counts.cumsum(0) - counts
    rows = torch.randn(int(sizes.sum()), 5, generator=generator)
    sources = [rows, rows[:, 0], rows[:, 1:4].bfloat16(), rows.double(), rows[:, 2] > 0]
    targets, truth = ([v.new_zeros(int(counts.sum()), *v.shape[1:]) for v in sources] for _ in range(2))
    lay_segments(targets, sources, starts, counts, sizes)
    reference.lay(truth, sources, starts, counts, sizes)
    for target, expected in zip(targets, truth):
        assert torch.equal(target, expected)


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


def test_nothing():
    none, empty = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3)
    lay_segments([empty], [empty], none, none, none)
    assert len(darken_segments(empty[:, 0], empty[:, 0], none, 1.0)) == 0


def test_ops_are_well_declared():
    counts, sizes, starts = torch.tensor([2, 0, 3, 1]), torch.tensor([2, 1, 3, 3]), torch.tensor([4, 1, 7, 0])
    target, source = torch.zeros(11, 3), torch.randn(9, 3)
    torch.library.opcheck(torch.ops.recon3d.lay_segments.default, ([target], [source], starts, counts, sizes))
    depth, losses = torch.zeros(4), torch.rand(9)
    torch.library.opcheck(torch.ops.recon3d.darken_segments.default, (depth, losses, sizes, 1.0))
