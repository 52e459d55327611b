"""The projection heads: gradients exact however the volume is cut, rays and voxels of one mind, losses."""

import math

import pytest
import torch
from torch import nn

from recon3d.classical import Projector
from recon3d.config.ct import RaysConfig
from recon3d.errors import UserError
from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.voxels import VolumeGrid
from recon3d.heads.projection import (
    RayProjector,
    Support,
    Voxels,
    cells_of,
    descend,
    poisson_deviance,
    sampled_variation,
    squared_error,
    total_variation,
)

SLICE = VolumeGrid((1, 20, 24), (1.5, 1.5, 1.5))
BLOCK = VolumeGrid((8, 12, 10), (1.0, 1.0, 1.0), (2.0, -1.0, 3.0))


def fan(views=7, columns=40):
    return ScanGeometry.fan(torch.arange(views) * 0.8, columns, 1.6, source_origin=80.0, origin_detector=40.0)


def cone(views=5):
    return ScanGeometry.cone(torch.arange(views) * 1.1, 20, 18, 1.5, source_origin=60.0, origin_detector=30.0)


def blob(x):
    """A smooth bump in the middle of the field, which has faded at the sides."""
    return torch.exp(-12 * x.square().sum(-1))


class Wavy(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x):
        return self.net(x)[:, 0]


@pytest.mark.parametrize(("grid", "geometry"), [(SLICE, fan()), (BLOCK, cone())], ids=["slice", "block"])
@pytest.mark.parametrize("chunk", [7, 100])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_do_not_depend_on_the_chunks(grid, geometry, chunk, masked):
    torch.manual_seed(0)
    inside = torch.rand(grid.shape) > 0.4 if masked else None
    voxels, projector = Voxels(grid, inside), Projector(geometry, grid)
    field = Wavy(voxels.dim)
    measured = torch.rand(geometry.shape)

    def terms_of(volume):
        error = (projector.forward(volume) - measured).square().mean()
        return {"error": error, "variation": 0.1 * total_variation(volume, grid.spacing, 1e-2)}

    whole = voxels.volume(field(voxels.points()))
    loss = torch.stack(list(terms_of(whole).values())).sum()
    wanted = torch.autograd.grad(loss, list(field.parameters()))
    assert max(float(g.abs().max()) for g in wanted) > 1e-3

    parts = []
    for size in (chunk, len(voxels)):
        field.zero_grad()
        backwards = []

        def backward(loss, backwards=backwards):
            backwards.append(loss.backward())

        terms = descend(field, voxels, terms_of, backward, size)
        parts.append(len(backwards))
        assert float(sum(terms.values())) == pytest.approx(float(loss.detach()), rel=1e-6)
        for parameter, gradient in zip(field.parameters(), wanted):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)
    assert parts == [math.ceil(len(voxels) / chunk), 1]


def test_voxels_lie_where_the_normalizer_says():
    voxels = Voxels(BLOCK)
    wanted = BLOCK.normalizer().to_field(BLOCK.points().view(-1, 3))
    torch.testing.assert_close(voxels.points(), wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(voxels.points(30, 50), wanted[30:50], rtol=0, atol=1e-6)
    inside = torch.rand(BLOCK.shape) > 0.5
    some = Voxels(BLOCK, inside)
    torch.testing.assert_close(some.points(), wanted[inside.flatten()], rtol=0, atol=1e-6)
    torch.testing.assert_close(some.at(torch.tensor([3, 1])), some.points()[[3, 1]])
    values = torch.rand(len(some))
    volume = some.volume(values)
    assert torch.equal(volume[inside], values) and not volume[~inside].any()


def test_a_slice_is_a_field_of_the_plane():
    voxels = Voxels(SLICE)
    points = voxels.points()
    assert points.shape == (20 * 24, 2)
    assert float(points[:, 0].max()) == pytest.approx(23 / 24)  # the longer side fills the field
    assert float(points[:, 1].max()) == pytest.approx(19 / 24)
    sampled = voxels.sample(lambda x: x[:, 0] + 10 * x[:, 1], 100)
    torch.testing.assert_close(sampled[0, 3, 5], points[3 * 24 + 5, 0] + 10 * points[3 * 24 + 5, 1])


@pytest.mark.parametrize("kind", ["parallel", "fan", "cone"])
def test_rays_and_voxels_agree_on_a_smooth_field(kind):
    angles = torch.arange(4) * 0.7
    if kind == "cone":
        grid, geometry = VolumeGrid((40, 40, 40), (0.5, 0.5, 0.5), (1.0, -0.5, 0.25)), cone(3)
    else:
        grid = VolumeGrid((1, 64, 64), (0.5, 0.5, 0.5), (1.0, -0.5, 0.0))
        geometry = fan(4) if kind == "fan" else ScanGeometry.parallel(angles, 50, 0.9, axis_offset=0.7)
    voxels = Voxels(grid)
    on_grid = Projector(geometry, grid).forward(voxels.sample(blob, 10_000))
    head = RayProjector(RaysConfig(samples_per_diagonal=256), grid)
    along_rays = torch.stack([head(blob, geometry.rays(view)) for view in range(len(geometry))]).view(geometry.shape)
    peak = float(on_grid.max())
    assert peak > 1
    assert float((along_rays - on_grid).abs().max()) < 0.01 * peak


def test_jitter_leaves_line_integrals_as_they_are_on_average():
    grid, geometry = VolumeGrid((1, 64, 64), (0.5, 0.5, 0.5)), fan(1)
    head = RayProjector(RaysConfig(samples_per_diagonal=32), grid)
    rays = geometry.rays(0)
    torch.manual_seed(0)
    draws = torch.stack([head(blob, rays, torch.rand(len(rays))) for _ in range(400)])
    exact = RayProjector(RaysConfig(samples_per_diagonal=2048), grid)(blob, rays)
    torch.testing.assert_close(draws.mean(0), exact, rtol=0, atol=0.01 * float(exact.max()))


def test_rays_skip_what_is_empty():
    grid, geometry = VolumeGrid((32, 32, 32), (1.0, 1.0, 1.0)), cone(2)
    head = RayProjector(RaysConfig(grid=16, warmup_steps=10), grid)
    rays = geometry.rays(0)
    jitter = torch.full((len(rays),), 0.5)
    before, full = head(blob, rays), len(head.march(rays, jitter)[2])
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        head.update(blob, 0, generator)
    assert len(head.march(rays, jitter)[2]) < 0.7 * full
    torch.testing.assert_close(head(blob, rays), before, rtol=0, atol=0.02 * float(before.max()))
    points = torch.tensor([[0.0, 0.0, 0.0], [0.9, 0.9, 0.9]])
    assert head.occupied_at(points).tolist() == [True, False]


def test_with_threshold_0_nothing_is_skipped():
    head = RayProjector(RaysConfig(grid=8, threshold=0.0), VolumeGrid((8, 8, 8), (1.0, 1.0, 1.0)))
    head.update(lambda x: torch.zeros(len(x)), 0, torch.Generator())
    assert bool(head.grid.occupied.all())


def test_an_empty_field_is_told():
    head = RayProjector(RaysConfig(grid=8), VolumeGrid((8, 8, 8), (1.0, 1.0, 1.0)))
    with pytest.raises(UserError, match="empty everywhere at step 3"):
        head.update(lambda x: torch.zeros(len(x)), 3, torch.Generator())


def test_rays_that_miss_the_volume_measure_nothing():
    grid = VolumeGrid((1, 8, 8), (1.0, 1.0, 1.0))
    geometry = ScanGeometry.parallel([0.0], 3, 20.0)
    head = RayProjector(RaysConfig(), grid)
    found = head(lambda x: torch.ones(len(x)), geometry.rays(0))
    torch.testing.assert_close(found, torch.tensor([0.0, 8.0, 0.0]), rtol=0, atol=0.1)


def test_cells_hold_the_voxels_and_their_neighbours():
    inside = torch.zeros(1, 32, 32, dtype=torch.bool)
    inside[0, 16, 8] = True
    cells = cells_of(VolumeGrid((1, 32, 32), (1.0, 1.0, 1.0)), 16, inside)
    assert cells.nonzero().min(0).values.tolist() == [3, 7, 8]
    assert cells.nonzero().max(0).values.tolist() == [5, 9, 8]


def test_support_tells_points_by_their_voxels():
    inside = torch.rand(BLOCK.shape) > 0.5
    support = Support(BLOCK, inside)
    points = Voxels(BLOCK).points()
    assert torch.equal(support.contains(points), inside.flatten())
    half_voxel = 0.49 / BLOCK.normalizer().half_size
    assert torch.equal(support.contains(points + half_voxel), inside.flatten())
    assert not support.contains(torch.tensor([[0.0, 0.0, 0.99], [2.0, 0.0, 0.0]])).any()  # the cube is larger
    flat = Support(SLICE)
    assert flat.contains(torch.tensor([[0.0, 0.0], [0.0, 0.9]])).tolist() == [True, False]


def test_losses_are_least_at_the_measurement():
    measured = torch.tensor([0.1, 1.0, 3.0])
    for loss in (squared_error, poisson_deviance):
        assert float(loss(torch.zeros(3), measured, 2.0)) == 0
        d = torch.zeros(3, requires_grad=True)
        loss(d, measured, 2.0).backward()
        assert not d.grad.any()
        for sign in (-0.2, 0.2):
            assert float(loss(sign * torch.ones(3), measured, 2.0)) > 0


def test_poisson_deviance_is_the_likelihood_of_counts():
    photons, truth, found = 1e4, torch.tensor([0.5, 2.0]), torch.tensor([0.6, 1.7])
    counts = photons * torch.exp(-truth)

    def likelihood(p):
        return (photons * torch.exp(-p) + counts * p).double().sum()

    wanted = 2 * float(likelihood(found) - likelihood(truth)) / float(counts.sum())
    assert float(poisson_deviance(found - truth, truth, 1.0)) == pytest.approx(wanted, rel=1e-3)
    small = 1e-2 * torch.ones(2)  # on average as a squared error
    assert float(poisson_deviance(small, truth, 1.0)) == pytest.approx(1e-4, rel=0.02)


def test_total_variation_of_an_edge_is_its_height_and_length():
    volume = torch.zeros(1, 10, 10)
    volume[:, :, 5:] = 0.5
    assert float(total_variation(volume, (1.0, 1.0, 9.0), 1e-6)) == pytest.approx(0.5 * 10 / 100, rel=1e-4)
    upright = volume[0].unsqueeze(1).expand(10, 4, 10)
    assert float(total_variation(upright, (1.0, 1.0, 2.0), 1e-6)) == pytest.approx(0.05, rel=1e-4)
    tall = upright.permute(2, 1, 0)  # the edge is across z, whose voxels are twice as long
    assert float(total_variation(tall, (1.0, 1.0, 2.0), 1e-6)) == pytest.approx(0.025, rel=1e-4)


def test_sampled_variation_agrees_with_the_grid():
    grid = VolumeGrid((20, 24, 24), (1.0, 1.0, 1.5))
    voxels = Voxels(grid)
    steps = torch.tensor(grid.spacing) / grid.normalizer().half_size
    inner = voxels.points()
    dense = float(total_variation(voxels.sample(blob, 10_000), grid.spacing, 1e-3))
    assert float(sampled_variation(blob, inner, steps, 1e-3)) == pytest.approx(dense, rel=0.02)
