"""SIRT, CGLS and total variation: what they converge to, and what they choose by themselves."""

import math

import pytest
import torch
from torch.testing import assert_close

from recon3d.classical import METHODS, Projector, reconstruct, selection
from recon3d.classical.iterative import cgls, sirt
from recon3d.classical.noise import noise_variance
from recon3d.classical.selection import WEIGHTS, Tried, choose_weight, chosen_weight, fitted_views, resampled
from recon3d.classical.variation import differences, transpose_differences, tv, unit
from recon3d.config.classical import CglsConfig, FbpConfig, SirtConfig, TvConfig
from recon3d.data.phantoms import random_ellipsoids
from recon3d.errors import UserError
from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.voxels import VolumeGrid

GRID = VolumeGrid((1, 32, 32), (1.0, 1.0, 1.0))
TRUTH = random_ellipsoids(32.0, 1.0, count=5, seed=3, flat=True)


def scan(views=12, noise=0.0, geometry=None):
    geometry = geometry or ScanGeometry.parallel(torch.arange(views) * math.pi / views, 49, 1.0)
    clean = TRUTH.project(geometry)
    return geometry, clean + noise * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))


def psnr(volume):
    return -10 * math.log10(float((volume - TRUTH.rasterize(GRID)).square().mean()))


def after(iterates, steps):
    for _, volume in zip(range(steps), iterates):
        result = volume.clone()
    return result


def small_system():
    """A as a matrix (rays, voxels), by projecting every voxel."""
    geometry = ScanGeometry.fan(torch.arange(7) * 0.9, 9, 1.6, 12.0, 6.0)
    grid = VolumeGrid((1, 5, 6), (1.0, 1.2, 1.0))
    projector = Projector(geometry, grid)
    voxels = torch.eye(30, dtype=torch.float64).view(30, 1, 5, 6)
    matrix = torch.stack([projector.forward(voxel).flatten() for voxel in voxels], dim=1)
    p = torch.randn(geometry.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return projector, matrix, p


def test_cgls_finds_the_least_squares_solution():
    projector, matrix, p = small_system()
    volume = after(cgls(projector, p, torch.ones_like(p)), 60)
    assert_close(volume.flatten(), torch.linalg.lstsq(matrix, p.flatten()).solution, atol=1e-6, rtol=1e-5)


def test_held_out_rays_count_for_nothing():
    projector, matrix, p = small_system()
    rays = torch.ones_like(p)
    rays[2:4] = 0
    kept = rays.flatten() > 0
    expected = torch.linalg.lstsq(matrix[kept], p.flatten()[kept]).solution
    other = torch.where(rays > 0, p, 1e3)
    assert_close(after(cgls(projector, other, rays), 60).flatten(), expected, atol=1e-6, rtol=1e-5)
    assert_close(after(sirt(projector, other, rays, True), 5), after(sirt(projector, p, rays, True), 5))
    weight = 1e-3 * unit(projector, p)
    one = tv(projector, p, rays, weight / unit(projector, p), 20, True).volume
    assert_close(tv(projector, other, rays, weight / unit(projector, other), 20, True).volume, one)


def test_sirt_goes_down_and_stays_nonnegative():
    projector, matrix, p = small_system()
    residuals = []
    iterates = sirt(projector, p, torch.ones_like(p), False)
    row = matrix.sum(1).clamp_min(1e-9)
    for _, volume in zip(range(1000), iterates):
        residuals.append(float(((matrix @ volume.flatten() - p.flatten()).square() / row).sum()))
    assert all(b <= a * (1 + 1e-9) for a, b in zip(residuals, residuals[1:]))
    # Its limit is the least-squares solution under the rays' weights.
    scale = torch.where(matrix.sum(1) > 1e-6, 1 / row, 0.0).sqrt()
    limit = torch.linalg.lstsq(scale[:, None] * matrix, scale * p.flatten()).solution
    best = float(((matrix @ limit - p.flatten()).square() * scale.square()).sum())
    assert residuals[-1] - float((p.flatten().square() / row)[scale == 0].sum()) < 1.01 * best
    assert float(after(sirt(projector, p, torch.ones_like(p), True), 20).amin()) == 0


def test_sirt_goes_on_from_where_it_ended():
    projector, _, p = small_system()
    rays = torch.ones_like(p)
    third = after(sirt(projector, p, rays, True), 3).clone()
    kept = third.clone()
    assert_close(after(sirt(projector, p, rays, True, third), 2), after(sirt(projector, p, rays, True), 5))
    assert torch.equal(third, kept)


def test_a_finer_projector_has_its_transpose_and_measures_areas():
    cone = ScanGeometry.cone(torch.arange(3) * 1.1, 6, 8, 2.0, source_origin=60.0, origin_detector=30.0)
    block = VolumeGrid((5, 6, 7), (1.5, 1.0, 1.0), (1.0, 0.0, 0.0))
    for geometry, grid in ((scan(4)[0], GRID), (cone, block)):
        projector = Projector(geometry, grid, finer=3)
        x, p = torch.rand(grid.shape).double(), torch.rand(geometry.shape).double()
        assert_close((projector.forward(x) * p).sum(), (x * projector.back(p)).sum())
    # One voxel of 1 mm seen along its side is a box of height 1: pixels of 1 mm that it half covers measure 1/2.
    straight = ScanGeometry.parallel(torch.zeros(1), 6, 1.0)
    one = torch.zeros(1, 3, 3)
    one[0, 1, 1] = 1
    seen = Projector(straight, VolumeGrid((1, 3, 3), (1.0, 1.0, 1.0)), finer=8).forward(one)[0, 0]
    assert_close(seen, torch.tensor([0.0, 0.0, 0.5, 0.5, 0.0, 0.0]), atol=0.01, rtol=0)


def test_differences_have_their_transpose():
    for shape in ((1, 5, 6), (4, 5, 6)):
        x = torch.randn(shape, dtype=torch.float64)
        slope = differences(x)
        assert slope.shape == (2 if shape[0] == 1 else 3, *shape)
        g = torch.randn(slope.shape, dtype=torch.float64)
        assert_close((slope * g).sum(), (x * transpose_differences(g)).sum())


@pytest.mark.parametrize("weight", [1e-3, 1e-1])
def test_tv_finds_the_minimum(weight):
    """As a general optimiser finds it, on a small problem: the objectives agree."""
    projector, matrix, p = small_system()
    p = p.abs()
    strength = weight * unit(projector, p)

    def objective(volume):
        residual = matrix @ volume.flatten() - p.flatten()
        return 0.5 * residual.square().sum() + strength * (differences(volume).square().sum(0) + 1e-14).sqrt().sum()

    ours = float(objective(tv(projector, p, torch.ones_like(p), weight, 1000, True).volume))
    x = torch.full((1, 5, 6), 0.5, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([x], 0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 1500)
    for _ in range(1500):
        optimiser.zero_grad()
        objective(x).backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            x.clamp_(min=0)
    theirs = float(objective(x.detach()))
    assert ours <= theirs * (1 + 1e-4)
    assert ours >= theirs * 0.99


def test_tv_of_all_weight_is_flat():
    projector, _, p = small_system()
    volume = tv(projector, p.abs(), torch.ones_like(p), 1.0, 600, True).volume
    assert float(volume.std()) < 1e-3 * float(volume.mean())


def test_tv_is_units_free():
    """In cm and per cm, the same weight gives the same picture."""
    geometry, p = scan(8)
    inch = 25.4
    larger = ScanGeometry.parallel(geometry.angles, 49, inch)
    grid = VolumeGrid((1, 32, 32), (inch, inch, inch))
    options = TvConfig(weight=1e-3, iterations=50)
    one = reconstruct("tv", p, geometry, GRID, options).volume
    other = reconstruct("tv", p, larger, grid, options).volume
    assert_close(other * inch, one, atol=2e-3, rtol=0)


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_methods_that_choose(noise):
    """Twelve views: what is chosen blind is near the best choice, and total variation leads."""
    geometry, p = scan(12, noise)
    projector, every = Projector(geometry, GRID), torch.ones(geometry.shape)
    found = {}
    for method, options in (("sirt", SirtConfig(longest=100)), ("cgls", CglsConfig(longest=30)), ("tv", TvConfig())):
        result = reconstruct(method, p, geometry, GRID, options)
        assert set(result.chosen) == {"weight" if method == "tv" else "iterations"}
        found[method] = psnr(result.volume)
    oracle = {
        "sirt": max(psnr(v) for _, v in zip(range(100), sirt(projector, p, every, True))),
        "cgls": max(psnr(v) for _, v in zip(range(30), cgls(projector, p, every))),
        "tv": max(psnr(tv(projector, p, every, weight, 150, True).volume) for weight in WEIGHTS[::2]),
    }
    for method, best in oracle.items():
        assert found[method] > best - (2.0 if method == "tv" else 1.5), (method, found, oracle)
    fbp = psnr(reconstruct("fbp", p, geometry, GRID, FbpConfig("hann")).volume)
    assert found["tv"] > found["sirt"] > fbp


def test_volumes_in_space():
    """All methods, on a cone, with options as they are but for the iterations."""
    grid = VolumeGrid((12, 12, 12), (1.0, 1.0, 1.0))
    phantom = random_ellipsoids(12.0, 1.0, count=3, seed=1)
    geometry = ScanGeometry.cone(torch.arange(16) * math.pi / 8, 22, 20, 1.5, 40.0, 20.0)
    truth = phantom.rasterize(grid)
    quick = {"sirt": SirtConfig(40), "cgls": CglsConfig(8), "tv": TvConfig(1e-3, 60)}
    for method in METHODS:
        steps: list[tuple[int, int]] = []

        def note(done: int, total: int, steps=steps) -> None:
            steps.append((done, total))

        volume = reconstruct(method, phantom.project(geometry), geometry, grid, quick.get(method), note).volume
        assert float((volume - truth).norm() / truth.norm()) < 0.45, method
        assert steps and steps[-1][0] == steps[-1][1]
        again = reconstruct(method, phantom.project(geometry), geometry, grid, quick.get(method)).volume
        assert torch.equal(volume, again)


def test_fitted_views():
    for views in (4, 5, 20, 181):
        rays = fitted_views(views)
        held = (rays == 0).nonzero().squeeze(1)
        assert len(held) == max(2, round(views / 10)) and len(rays) == views
    assert held.diff().min() >= 9
    with pytest.raises(UserError, match="3 views are too few"):
        fitted_views(3)


def test_refuses():
    geometry, p = scan(5)
    for call in (
        lambda: reconstruct("magic", p, geometry, GRID),
        lambda: reconstruct("fbp", p[:4], geometry, GRID),
        lambda: reconstruct("fbp", p * torch.nan, geometry, GRID),
        lambda: SirtConfig(0),
        lambda: CglsConfig(longest=0),
        lambda: TvConfig(-1.0),
        lambda: TvConfig(iterations=0),
        lambda: FbpConfig(cutoff=0.0),
    ):
        with pytest.raises(UserError):
            call()


def test_the_weight_is_that_of_the_noise_where_held_out_views_cannot_tell():
    def tried(*rows):
        return [Tried(weight, error, 0.1, left) for weight, error, left in rows]

    flat = tried((1e-2, 2.0, 9.0), (1e-3, 1.05, 1.3), (1e-4, 1.0, 0.7), (1e-5, 1.01, 0.1))
    assert chosen_weight(flat) == 1e-3
    clean = tried((1e-2, 2.0, 900.0), (1e-3, 1.05, 90.0), (1e-4, 1.0, 40.0))
    assert chosen_weight(clean) == 1e-4
    coarse = tried((1e-2, 2.0, 900.0), (1e-3, 1.0, 20.0), (1e-4, 1.05, 9.0))
    assert chosen_weight(coarse) == 1e-4 and chosen_weight(coarse, known=True) == 1e-3
    sharp = tried((1e-2, 2.0, 1.2), (1e-3, 1.0, 0.5), (1e-4, 1.5, 0.1))
    assert chosen_weight(sharp) == 1e-3


@pytest.mark.parametrize("rows", [1, 12])
def test_the_noise_of_line_integrals(rows):
    """By the photons, ray by ray; else by the pixels, whose edges do not count."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.linspace(0, 3, 64).expand(5, rows, 64).clone()
    clean[:, :, 20:40] += 1
    assert_close(noise_variance(clean, 1e4), clean.exp() / 1e4)
    noisy = clean + 0.02 * torch.randn(clean.shape, generator=generator)
    assert_close(noise_variance(noisy).sqrt(), torch.full((5, 1, 1), 0.02), rtol=0.5, atol=0)
    assert float(noise_variance(clean).amax()) < 1e-8


def test_a_weight_is_chosen_in_larger_voxels_where_there_are_many(monkeypatch):
    """Near the weight of all voxels, and with a volume that is near the solution; 33 voxels do not fill larger ones."""
    grid = VolumeGrid((1, 32, 33), (1.0, 1.0, 1.0))
    geometry, p = scan(16, 0.1)
    projector, rays = Projector(geometry, grid), torch.ones_like(p) * fitted_views(16)[:, None, None]
    slow, _ = choose_weight(projector, p, rays, True)
    monkeypatch.setattr(selection, "SAMPLES", p.numel() * 33 - 1)
    quick, state = choose_weight(projector, p, rays, True)
    assert 1 / 3 < quick / slow < 3
    solution = tv(projector, p, rays, quick, 300, True).volume
    assert state.volume.shape == grid.shape
    assert float((state.volume - solution).norm() / solution.norm()) < 0.25


def test_volumes_in_other_voxels():
    """What is linear stays so, also where larger voxels reach beyond."""
    fine = VolumeGrid((4, 6, 7), (1.0, 2.0, 1.5), (3.0, 0.0, -1.0))
    coarse = fine.binned(2)

    def slope(grid):
        return grid.axis(2)[:, None, None] + 2 * grid.axis(1)[:, None] - 3 * grid.axis(0)

    found = resampled(slope(coarse), coarse, fine)
    assert_close(found[1:-1, 1:-1, 1:-1], slope(fine)[1:-1, 1:-1, 1:-1])
    layer, wanted = VolumeGrid((1, 3, 3), (1.0, 1.0, 1.0)), VolumeGrid((1, 5, 6), (1.0, 1.0, 1.0))
    assert_close(resampled(torch.ones(layer.shape), layer, wanted), torch.ones(wanted.shape))
