"""Phantoms: exact line integrals, rasters that agree with them, and scans of them."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from recon3d.commands import data as data_command
from recon3d.data.phantom_scans import FLAT, scan_phantom, scanner
from recon3d.data.phantoms import Ellipsoids, porous, random_ellipsoids, shepp_logan
from recon3d.data.scan import load_scan
from recon3d.errors import UserError
from recon3d.geometry.cameras import Rays
from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.voxels import VolumeGrid

DOUBLE = torch.float64


def ball(radius=2.0, value=0.5):
    axes = torch.full((1, 3), radius, dtype=DOUBLE)
    return Ellipsoids(
        torch.tensor([value], dtype=DOUBLE), torch.zeros(1, 3, dtype=DOUBLE), axes, torch.eye(3).double()[None]
    )


def test_chords_of_a_ball():
    """2 sqrt(R^2 - d^2) at distance d, nothing beyond."""
    origins = torch.tensor([[0.0, -9.0, 0.0], [1.2, -9.0, 0.0], [0.0, -9.0, 2.5]], dtype=DOUBLE)
    rays = Rays(origins, torch.tensor([[0.0, 1.0, 0.0]], dtype=DOUBLE).expand(3, 3))
    assert_close(ball().line_integrals(rays), torch.tensor([2.0, 1.6, 0.0], dtype=DOUBLE))


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), flat=st.booleans())
def test_line_integrals_are_sums_of_density(seed, flat):
    """Along random rays, against ten thousand samples."""
    phantom = random_ellipsoids(20.0, 1.0, count=5, seed=seed, flat=flat)
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(3, generator=generator, dtype=DOUBLE)
    if flat:
        direction[2] = 0
    direction /= direction.norm()
    origin = torch.randn(3, generator=generator, dtype=DOUBLE) * 2 - 30 * direction
    t = torch.linspace(0, 60, 10_000, dtype=DOUBLE)
    total = phantom.density(origin + t[:, None] * direction).sum() * (t[1] - t[0])
    exact = phantom.line_integrals(Rays(origin[None], direction[None]))[0]
    assert_close(exact, total, atol=0.08, rtol=0)


def test_shepp_logan_is_the_one_of_the_literature():
    skimage = pytest.importorskip("skimage.data")
    theirs = skimage.shepp_logan_phantom()
    grid = VolumeGrid((1, 400, 400), (1.0, 1.0, 1.0))
    ours = shepp_logan(400.0, 1.0, flat=True).rasterize(grid, 2)[0].numpy()[::-1]
    # Theirs is a drawing in 8 bits without partial pixels.
    inner = scipy.ndimage.maximum_filter(theirs, 5) == scipy.ndimage.minimum_filter(theirs, 5)
    assert inner.mean() > 0.9
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=0.6 / 255)


def test_shepp_logan_in_space_has_the_slice():
    points = torch.tensor([[0.0, 0.9, 0.0], [0.0, 0.0, 0.0], [0.22, 0.0, 0.0], [0.9, 0.9, 0.0], [0.0, 0.35, 0.0]]) * 50
    solid, slice_ = shepp_logan(100.0), shepp_logan(100.0, flat=True)
    assert_close(solid.density(points), slice_.density(points))
    assert_close(slice_.density(points), torch.tensor([0.02, 0.004, 0.0, 0.0, 0.006], dtype=DOUBLE), atol=1e-9, rtol=0)


@pytest.mark.parametrize("flat", [False, True])
def test_raster_is_the_mean_of_the_density(flat):
    phantom = random_ellipsoids(12.0, 1.0, count=8, seed=2, flat=flat)
    grid = VolumeGrid((1 if flat else 5, 7, 6), (2.0, 1.5, 2.5))
    raster = phantom.rasterize(grid, 3)
    offset = torch.tensor([-1.0, 0.0, 1.0]) / 3
    deep = torch.zeros(1) if flat else offset
    shifts = torch.stack(torch.meshgrid(offset * 2.0, offset * 1.5, deep * 2.5, indexing="ij"), dim=-1).view(-1, 3)
    expected = torch.stack([phantom.density((grid.points() + shift).view(-1, 3)) for shift in shifts]).mean(0)
    assert_close(raster.flatten().double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("flat", [False, True])
def test_random_ellipsoids_lie_in_the_body(seed, flat):
    phantom = random_ellipsoids(10.0, 0.02, seed=seed, flat=flat)
    again = random_ellipsoids(10.0, 0.02, seed=seed, flat=flat)
    assert torch.equal(phantom.center, again.center)
    grid = VolumeGrid((1 if flat else 40, 40, 40), (0.25,) * 3)
    volume = phantom.rasterize(grid, 1)
    filled = volume > 0
    assert float(volume[filled].min()) >= 0.4 * 0.02 - 1e-6
    assert 0.4 < filled.float().mean() * (1 if flat else 6 / math.pi * math.pi / 4) < 0.8


def test_porous_bone():
    """The share of bone asked for, in a shell, in one piece, and the same bone in finer voxels."""
    grid = VolumeGrid((32, 32, 32), (1.0, 1.0, 1.0))
    bone = porous(grid, density=0.05, pore=0.2, filled=0.3, seed=4)
    assert bone.unique().tolist() == pytest.approx([0.0, 0.005, 0.05])
    inside = (bone[6:26, 10:22, 8:24] > 0.01).float().mean()
    assert 0.2 < inside < 0.4
    pieces, count = scipy.ndimage.label((bone > 0.01).numpy())
    sizes = np.bincount(pieces.ravel())[1:]
    assert count >= 1 and sizes.max() > 0.95 * sizes.sum()
    fine = porous(VolumeGrid((64, 64, 64), (0.5, 0.5, 0.5)), density=0.05, pore=0.2, filled=0.3, seed=4)
    pooled = torch.nn.functional.avg_pool3d(fine[None], 2)[0]
    assert torch.corrcoef(torch.stack([pooled.flatten(), bone.flatten()]))[0, 1] > 0.9
    assert not torch.equal(porous(grid, seed=5), porous(grid, seed=6))
    with pytest.raises(UserError):
        porous(grid, filled=1.0)


@pytest.mark.parametrize(
    "layout", ["parallel", "fan", "fan-curved", "parallel3d", "cone", "cone-curved", "helical", "laminography"]
)
def test_scanner_sees_the_object_whole(layout):
    """A ball that fills the volume throws its shadow on the detector in every view, with room around it."""
    geometry, grid = scanner(layout, 20.0, 16, 7)
    assert (grid.shape[0] == 1) == (layout in FLAT) == (geometry.rows == 1)
    flat = torch.linspace(0, 2 * math.pi, 30, dtype=DOUBLE)
    height = torch.zeros(()) if layout in FLAT else torch.linspace(-1, 1, 9, dtype=DOUBLE)
    if layout == "helical":
        height = torch.zeros(())
    x, z = torch.meshgrid(flat, height.reshape(-1).double(), indexing="ij")
    ring = (1 - z.square()).clamp_min(0).sqrt()
    points = 10 * torch.stack([ring * x.cos(), ring * x.sin(), z], dim=-1).view(-1, 3)
    columns, rows, _ = geometry.shadows(points)
    assert columns.min() > -0.5 - 1e-9 and columns.max() < geometry.columns - 0.5 + 1e-9
    if geometry.rows > 1 and layout != "helical":
        assert rows.min() > -0.5 - 1e-9 and rows.max() < geometry.rows - 0.5 + 1e-9


@pytest.mark.parametrize(
    ("phantom", "layout", "tolerance"),
    [("ellipses", "fan", 0.05), ("porous", "parallel", 0.1), ("porous", "cone", 0.1)],
)
def test_scans_of_phantoms_fit_their_truth(phantom, layout, tolerance):
    """The projected truth is the scan but for the size of voxels, which are as large as the bone's struts."""
    from recon3d.classical import Projector

    geometry, grid = scanner(layout, 20.0, 32, 5)
    scan, truth = scan_phantom(phantom, geometry, grid, density=0.1)
    image = Projector(geometry, grid).forward(truth)
    measured = torch.from_numpy(np.asarray(scan.projections))
    assert (image - measured).square().mean().sqrt() < tolerance * measured.square().mean().sqrt()


def test_command_writes_scan_and_truth(tmp_path):
    out = tmp_path / "deep" / "scan.npz"
    options = ["--geometry", "fan", "--voxels", "24", "--views", "9", "--photons", "1e4", "--seed", "3"]
    result = data_command.main(["phantom", "--out", str(out), *options])
    scan = load_scan(out)
    assert scan.projections.shape == (9, 1, result["columns"]) and scan.counts == 1e4
    truth = np.load(tmp_path / "deep" / "scan-truth.npy")
    assert truth.shape == scan.grid.shape == (1, 24, 24)
    assert 0.01 < truth.max() <= 0.02
    assert sorted(path.name for path in out.parent.iterdir()) == ["scan-truth.npy", "scan.npz"]
    clean = scan_phantom("shepp-logan", scan.geometry, scan.grid)[0].projections
    difference = np.asarray(scan.projections) - clean
    assert 0.001 < difference.std() < 0.03
    assert isinstance(scan.geometry, ScanGeometry) and scan.geometry.divergent


@pytest.mark.parametrize(
    "wrong", [["--out", "x.png"], ["--out", "x.npz", "--voxels", "2"], ["--out", "x.npz", "--photons", "0"]]
)
def test_command_refuses(wrong):
    with pytest.raises(UserError):
        data_command.main(["phantom", *wrong])
