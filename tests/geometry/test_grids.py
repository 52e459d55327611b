"""Grids of samples: middles of equal parts, counted row by row; tiles lie whole inside."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon3d.geometry.grids import grid_points, tile_points

GRIDS = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)


def test_samples_are_the_middles_of_equal_parts():
    assert torch.equal(grid_points((4,)), torch.tensor([[-0.75], [-0.25], [0.25], [0.75]]))
    two = grid_points((2, 3))
    assert two.shape == (6, 2)
    assert torch.allclose(two[1], torch.tensor([-0.5, 0.0]))  # row 0, column 1: the column is counted fastest
    assert torch.allclose(two[3], torch.tensor([0.5, -2 / 3]))


@settings(max_examples=10, deadline=None)
@given(grid=GRIDS)
def test_a_choice_is_part_of_the_whole(grid):
    every = grid_points(grid)
    index = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))
    assert torch.equal(grid_points(grid, index), every[index])
    assert float(every.abs().max()) < 1
    assert torch.allclose(every.mean(0), torch.zeros(len(grid)), atol=1e-6)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_coarse_sample_is_the_middle_of_the_fine_ones_it_covers(factor):
    coarse, fine = grid_points((5,)), grid_points((5 * factor,))
    assert torch.allclose(fine.view(5, factor).mean(1), coarse[:, 0], atol=1e-6)


def test_a_long_axis_is_exact_to_the_last_bit_of_float32():
    size = 2**25 + 6
    index = torch.tensor([0, 1, size // 3, size // 2, size - 1])
    x = grid_points((size,), index)[:, 0]
    assert torch.equal(x, ((2 * index + 1).double() / size - 1).float())
    assert float(x[3]) > 0 > float(x[2]) and float(x.abs().max()) <= 1


@settings(max_examples=10, deadline=None)
@given(grid=GRIDS, side=st.integers(1, 5), count=st.integers(1, 4))
def test_tiles_are_blocks(grid, side, count):
    index = tile_points(grid, side, count, torch.Generator().manual_seed(1))
    lengths = [min(side, size) for size in grid]
    tiles = index.view(count, -1)
    assert tiles.shape[1] == torch.tensor(lengths).prod()
    for tile in tiles:
        places = torch.stack(torch.unravel_index(tile, grid), dim=1)
        assert [len(axis.unique()) for axis in places.T] == lengths
        assert [int(axis.max() - axis.min()) + 1 for axis in places.T] == lengths
        assert len(tile.unique()) == len(tile)


def test_tiles_reach_the_last_sample():
    index = tile_points((8, 8), 4, 400, torch.Generator().manual_seed(2))
    assert {0, 63} <= set(index.tolist())
