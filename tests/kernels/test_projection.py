"""The projector as its users see it: transposes, gradients, exact line integrals, and ASTRA."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import DEVICES, SCANS, projection_inputs
from torch.testing import assert_close

from recon3d.data.phantoms import Ellipsoids, random_ellipsoids
from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.voxels import VolumeGrid
from recon3d.kernels import back_project, project

LENGTHS = st.floats(0.3, 3)
SHIFTS = st.floats(-2, 2)


def forward(volume, geometry, grid):
    device = volume.device
    rays = geometry.divergent, geometry.curved
    vectors = geometry.vectors.to(device)
    return project(volume, vectors, geometry.rows, geometry.columns, grid.spacing, grid.center, *rays)


def backward(projections, geometry, grid):
    rays = geometry.divergent, geometry.curved
    vectors = geometry.vectors.to(projections.device)
    return back_project(projections, vectors, grid.shape, grid.spacing, grid.center, *rays)


@st.composite
def random_scans(draw):
    """Any source, detector and steps, about a volume of any small shape."""
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    views = draw(st.integers(1, 4))
    grid = VolumeGrid(
        draw(st.tuples(*[st.integers(1, 9)] * 3)), draw(st.tuples(*[LENGTHS] * 3)), draw(st.tuples(*[SHIFTS] * 3))
    )
    kind = draw(st.sampled_from(["parallel", "divergent"]))
    curved = kind == "divergent" and draw(st.booleans())
    away = torch.nn.functional.normalize(torch.randn(views, 3, generator=generator).double(), dim=1)
    u = torch.nn.functional.normalize(torch.linalg.cross(away, torch.randn(views, 3, generator=generator).double()))
    v = torch.linalg.cross(away, u) * draw(LENGTHS)
    reach = draw(st.floats(2, 1e4))
    detector = reach * away + (0 if curved else torch.randn(views, 3, generator=generator))
    geometry = ScanGeometry(
        kind,
        away if kind == "parallel" else -reach * away,
        detector,
        u * draw(LENGTHS),
        v,
        draw(st.integers(1, 6)),
        draw(st.integers(1, 9)),
        curved,
    )
    return geometry, grid, generator


@pytest.mark.parametrize("device", DEVICES)
@settings(deadline=None, max_examples=60)
@given(scan=random_scans())
def test_back_projection_is_the_transpose(device, scan):
    """<A x, y> = <x, A^T y>, in float32."""
    geometry, grid, generator = scan
    x = torch.rand(grid.shape, generator=generator)
    y = torch.rand(geometry.shape, generator=generator)
    image, back = forward(x.to(device), geometry, grid).cpu(), backward(y.to(device), geometry, grid).cpu()
    left, right = (image.double() * y).sum(), (x.double() * back).sum()
    assert abs(left - right) <= 1e-5 * max(abs(left), 1e-12)


@settings(deadline=None, max_examples=20)
@given(scan=random_scans(), factor=st.floats(-10, 10))
def test_linear(scan, factor):
    geometry, grid, generator = scan
    x, y = torch.randn(2, *grid.shape, generator=generator, dtype=torch.float64)
    together = forward(x + factor * y, geometry, grid)
    assert_close(together, forward(x, geometry, grid) + factor * forward(y, geometry, grid), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["fan", "cylinder", "laminography"])
def test_gradients_are_each_other(device, name):
    geometry, grid = SCANS[name]
    volume, projections, _, _ = projection_inputs(name, torch.float64)
    x, y = volume.to(device).requires_grad_(), projections.to(device).requires_grad_()
    image = forward(x, geometry, grid)
    (grad,) = torch.autograd.grad(image, x, y, create_graph=True)
    assert_close(grad, backward(y, geometry, grid))
    # Once more: what is linear in y has the projector as its gradient.
    (second,) = torch.autograd.grad(grad, y, x.detach())
    assert_close(second, image.detach())
    (grad_y,) = torch.autograd.grad(backward(y, geometry, grid), y, x.detach())
    assert_close(grad_y, image.detach())


def test_compiles_and_checks_as_an_op():
    volume, projections, given_forward, given_back = projection_inputs("cone", torch.float64)
    ops = torch.ops.recon3d
    torch.library.opcheck(ops.project, (volume.requires_grad_(), *given_forward))
    torch.library.opcheck(ops.back_project, (projections.requires_grad_(), *given_back))


def test_voxels_by_hand():
    """One voxel of 2 x 3 mm: seen along x through 2 mm, along y through 3; beside it nothing."""
    grid = VolumeGrid((1, 1, 1), (2.0, 3.0, 1.0))
    geometry = ScanGeometry.parallel([0.0, math.pi / 2], 3, 4.0)
    assert_close(forward(torch.ones(1, 1, 1), geometry, grid)[:, 0], torch.tensor([[0.0, 3.0, 0.0], [0.0, 2.0, 0.0]]))


def test_a_slice_is_as_thick_as_it_likes():
    """In the plane, z is not looked at: whatever the slice's thickness, and the same as in space."""
    geometry = ScanGeometry.fan(torch.arange(5) * 1.3, 12, 1.5, 20.0, 10.0)
    x = torch.rand(1, 8, 11, dtype=torch.float64)
    thin, thick = VolumeGrid((1, 8, 11), (1.0, 1.0, 1e-3)), VolumeGrid((1, 8, 11), (1.0, 1.0, 50.0))
    expected = forward(x, geometry, thin)
    assert_close(forward(x, geometry, thick), expected)
    # The same slice between empty ones, by the path for volumes.
    block = torch.cat([torch.zeros_like(x), x, torch.zeros_like(x)])
    assert_close(forward(block, geometry, VolumeGrid((3, 8, 11), (1.0, 1.0, 1.0))), expected)


def smooth_error(make, voxels):
    """Of projections of a smooth blob, sampled at the voxels' centres, against the exact: root mean square."""
    geometry, size = make
    flat = geometry.rows == 1
    spacing = size / voxels
    grid = VolumeGrid((1 if flat else voxels, voxels, voxels), (spacing,) * 3)
    points, sigma = grid.points().double(), 1.2
    scaled = points.clone()
    if flat:
        scaled[..., 2] = 0
    volume = torch.exp(-scaled.square().sum(-1) / (2 * sigma**2))
    image = forward(volume, geometry, grid)
    exact = []
    for view in range(len(geometry)):
        rays = geometry.rays(view)
        nearest = rays.origins - (rays.origins * rays.directions).sum(1, keepdim=True) * rays.directions
        exact.append(sigma * math.sqrt(2 * math.pi) * torch.exp(-nearest.square().sum(1) / (2 * sigma**2)))
    return float((image - torch.stack(exact).view_as(image)).square().mean().sqrt())


TURN = torch.arange(6) * 1.1
BLOBS = {
    "parallel": ScanGeometry.parallel(TURN, 21, 0.4),
    "fan": ScanGeometry.fan(TURN, 21, 0.6, 20.0, 10.0),
    "arc": ScanGeometry.fan(TURN, 21, 0.6, 20.0, 10.0, curved=True),
    "cone": ScanGeometry.cone(TURN, 11, 9, 1.2, 20.0, 10.0),
    "cylinder": ScanGeometry.cone(TURN, 11, 9, 1.2, 20.0, 10.0, curved=True),
    "laminography": ScanGeometry.laminography(TURN, 11, 9, 0.8, inclination=0.7),
    "helical": ScanGeometry.helical(TURN, 11, 9, 1.2, 20.0, 10.0, rise=2.0),
}


@pytest.mark.parametrize("name", BLOBS)
def test_exact_integrals_of_a_blob_to_second_order(name):
    """Half the voxel, a quarter of the error: linear interpolation of something smooth."""
    coarse, fine = (smooth_error((BLOBS[name], 12.0), n) for n in (24, 48))
    assert fine < 0.01
    assert fine < 0.3 * coarse


@pytest.mark.parametrize("name", ["parallel", "fan", "cone"])
def test_exact_integrals_of_ellipsoids_within_the_voxel(name):
    """Edges are as sharp as voxels are: the error shrinks about as they do."""
    geometry = BLOBS[name]
    flat = geometry.rows == 1
    phantom: Ellipsoids = random_ellipsoids(8.0, 1.0, count=6, seed=1, flat=flat)
    exact = phantom.project(geometry)
    errors = []
    for voxels in (20, 40, 80):
        spacing = 8.0 / voxels
        grid = VolumeGrid((1 if flat else voxels, voxels, voxels), (spacing,) * 3)
        image = forward(phantom.rasterize(grid, 4 if flat else 2), geometry, grid)
        errors.append(float((image - exact).square().mean().sqrt() / exact.square().mean().sqrt()))
    assert errors[1] < 0.7 * errors[0] and errors[2] < 0.7 * errors[1]
    assert errors[2] < 0.025


@pytest.mark.parametrize("pitch", [1.0, 0.7])
def test_like_astra(pitch):
    """ASTRA's own Joseph projector, in 2D on its CPU: the same numbers but for the last digits of float32."""
    astra = pytest.importorskip("astra")
    rng = np.random.default_rng(0)
    image = rng.random((30, 40)).astype(np.float32)
    angles = np.linspace(0, math.pi, 17, endpoint=False) + 0.05
    volume = astra.create_vol_geom(30, 40)
    projector = astra.create_projector("linear", astra.create_proj_geom("parallel", pitch, 70, angles), volume)
    number, theirs = astra.create_sino(np.ascontiguousarray(image[::-1]), projector)
    back_number, back = astra.create_backprojection(theirs, projector)
    grid = VolumeGrid((1, 30, 40), (1.0, 1.0, 1.0))
    geometry = ScanGeometry.parallel(angles.tolist(), 70, pitch)
    ours = forward(torch.from_numpy(image)[None], geometry, grid)
    astra.data2d.delete([number, back_number])
    astra.projector.delete(projector)
    # ASTRA ends a ray's sum where the last neighbours do; both are within float32 of each other elsewhere.
    np.testing.assert_allclose(ours[:, 0].numpy(), theirs, atol=2e-3 * theirs.max())
    assert np.median(np.abs(ours[:, 0].numpy() - theirs)) < 1e-5 * theirs.max()
    mine = backward(torch.from_numpy(np.ascontiguousarray(theirs))[:, None], geometry, grid)[0].numpy()
    np.testing.assert_allclose(mine[::-1], back, atol=1e-3 * back.max())
