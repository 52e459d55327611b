"""The occupancy grid: finds what is there, forgets what is gone, and never leaves what is allowed."""

import pytest
import torch
from training.host import NoHost

from recon3d.config import RenderConfig
from recon3d.errors import UserError
from recon3d.geometry.hull import cell_centers
from recon3d.heads.occupancy import OccupancyGrid

R = 16
CONFIG = RenderConfig(grid=R, samples_per_diagonal=128, warmup_steps=10)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def ball(density=200.0, radius=0.5, center=(0.2, -0.1, 0.0)):
    return lambda x: density * ((x - x.new_tensor(center)).norm(dim=-1) < radius)


def distance_to(center=(0.2, -0.1, 0.0)):
    return (cell_centers(R) - torch.tensor(center)).norm(dim=-1).view(R, R, R)


def random_cells(share=0.3):
    return torch.rand(R, R, R, generator=generator(1)) < share


def test_starts_full_or_as_allowed():
    assert OccupancyGrid(CONFIG).occupied.all()
    allowed = random_cells()
    grid = OccupancyGrid(CONFIG, allowed)
    assert torch.equal(grid.occupied, allowed)


def test_finds_a_ball():
    grid, draw = OccupancyGrid(CONFIG), generator()
    for step in range(8):
        grid.update(ball(), step, draw)
    cell = 3**0.5 / R  # half a cell's diagonal
    distance = distance_to()
    assert grid.occupied[distance < 0.5 - cell].all()
    assert not grid.occupied[distance > 0.5 + cell].any()


def test_indices_are_x_y_z():
    grid = OccupancyGrid(CONFIG)
    grid.update(lambda x: 100.0 * ((x[:, 0] > 0.5) & (x[:, 1] < -0.5) & (x[:, 2].abs() < 0.25)), 0, generator())
    index = grid.occupied.nonzero()
    assert index[:, 0].min() >= 12
    assert index[:, 1].max() < 4
    assert (index[:, 2] >= 6).all() and (index[:, 2] < 10).all()


@pytest.mark.parametrize("first_step", [0, 1000])
def test_never_leaves_what_is_allowed(first_step):
    allowed = random_cells()
    grid, draw = OccupancyGrid(CONFIG, allowed), generator()
    asked = []

    def dense_everywhere(x):
        asked.append(x)
        return torch.full((len(x),), 1000.0)

    for step in range(first_step, first_step + 6):
        grid.update(dense_everywhere, step, draw)
        assert not (grid.occupied & ~allowed).any()
    index = ((torch.cat(asked) + 1) * (R / 2)).long().clamp(0, R - 1)
    assert allowed[index[:, 0], index[:, 1], index[:, 2]].all()


def test_early_updates_look_everywhere_and_later_ones_at_some():
    counts = {}
    for step in (0, 1000):
        asked = []
        grid = OccupancyGrid(CONFIG)
        grid.update(lambda x, asked=asked: asked.append(x) or torch.full((len(x),), 50.0), step, generator())
        counts[step] = sum(len(x) for x in asked)
    assert counts[0] == R**3
    assert 0.1 * R**3 < counts[1000] < 0.9 * R**3


@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_later_updates_look_at_every_occupied_cell_in_turn(share):
    """Few occupied cells are all looked at, many as often as each other."""
    grid, draw = OccupancyGrid(CONFIG, random_cells(0.8)), generator()
    grid.occupied.logical_and_(random_cells(share))
    occupied = grid.occupied.view(-1).nonzero().squeeze(1)
    grid._cells_to_update(0, draw)
    count = len(grid.cells) // 4 + 1
    chosen = grid._some_occupied(count, draw)
    assert len(chosen) == count and torch.isin(chosen, occupied).all()
    times = torch.bincount(chosen, minlength=R**3)[occupied]
    assert times.max() - times.min() <= 2
    assert times.min() >= count // len(occupied) - 1


def test_no_host_waits():
    grid, draw = OccupancyGrid(CONFIG, random_cells()), generator()
    grid.update(ball(), 0, draw)
    middle = torch.tensor((0.2, -0.1, 0.0))
    with NoHost():
        for step in (1, 1000, 1001):
            grid.update(lambda x: 200.0 * ((x - middle).norm(dim=-1) < 0.5), step, draw)
    assert 0 < float(grid.occupied_share) < 0.3


def test_what_is_gone_fades():
    grid, draw = OccupancyGrid(CONFIG), generator()
    for step in range(4):
        grid.update(ball(), step, draw)
    before = grid.occupied.clone()
    smaller = ball(radius=0.2)
    for step in range(200):
        grid.update(smaller, step % CONFIG.warmup_steps, draw)
    assert not (grid.occupied & ~before).any()
    assert not grid.occupied[distance_to() > 0.2 + 3**0.5 / R].any()


def test_what_comes_back_is_found_again():
    grid, draw = OccupancyGrid(CONFIG), generator()
    for step in range(100):
        grid.update(ball(radius=0.2), step % CONFIG.warmup_steps, draw)
    for step in range(1000, 1060):
        grid.update(ball(radius=0.5), step, draw)
    assert grid.occupied[distance_to() < 0.5 - 3**0.5 / R].float().mean() > 0.95


def test_thin_fog_is_kept_at_the_start():
    """Where nothing is dense yet, what is at least as dense as the mean stays: training has something to begin with."""
    grid = OccupancyGrid(CONFIG)
    grid.update(lambda x: 1e-3 * (1 + (x[:, 0] > 0)), 0, generator())
    assert 0.4 < float(grid.occupied.float().mean()) <= 1


def test_empty_is_told():
    grid = OccupancyGrid(CONFIG)
    grid.require_occupied(0)
    grid.update(lambda x: torch.zeros(len(x)), 7, generator())
    with pytest.raises(UserError, match=r"occupancy.*step 7") as caught:
        grid.require_occupied(7)
    assert "\n" not in str(caught.value)


def test_same_draws_same_grid():
    grids = []
    for _ in range(2):
        grid, draw = OccupancyGrid(CONFIG), generator(5)
        for step in range(8, 14):
            grid.update(ball(), step, draw)
        grids.append(grid)
    assert torch.equal(grids[0].density, grids[1].density)
    assert torch.equal(grids[0].occupied, grids[1].occupied)


def test_state_is_whole():
    grid = OccupancyGrid(CONFIG, random_cells())
    grid.update(lambda x: torch.full((len(x),), 100.0), 0, generator())
    other = OccupancyGrid(CONFIG)
    other.load_state_dict(grid.state_dict())
    for name in ("allowed", "occupied", "density"):
        assert torch.equal(getattr(other, name), getattr(grid, name))


def test_step_is_the_diagonal_over_the_samples():
    assert OccupancyGrid(CONFIG).step == pytest.approx(2 * 3**0.5 / 128)
