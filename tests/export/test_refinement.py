"""Where the surface is searched, and that nothing else shows in the surface that is found."""

from __future__ import annotations

import mcubes
import numpy as np
import pytest
import torch
import trimesh
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial import cKDTree

from recon3d.errors import UserError
from recon3d.export.levelset import LevelSet, NoSurfaceError
from recon3d.export.marching import extract_surface
from recon3d.export.refinement import FINEST_GRID, narrow_band

from .shapes import Counted, ball, lattice, torus


def shell(x):
    return torch.minimum(ball(0.7)(x), -ball(0.3)(x))


def extracted(surface: LevelSet, resolution: int):
    band = narrow_band(surface, resolution)
    return band, extract_surface(surface.value_fn, surface.level, resolution, band.active, band.inside)


@pytest.mark.parametrize("fn, level", [(torus, 0.0), (shell, 0.05), (ball(0.5, (0.1, 0.2, 0.0)), -0.2)])
@pytest.mark.parametrize("slope", [1.0, None], ids=["intervals", "probing"])
def test_the_same_surface_as_the_dense_run(fn, level: float, slope: float | None) -> None:
    resolution = 128
    n = resolution + 1
    dense = fn(lattice(n)).reshape(n, n, n).numpy()
    vertices, faces = mcubes.marching_cubes(dense, level)
    vertices = vertices * 2 / resolution - 1
    band, surface = extracted(LevelSet(fn, level, slope=slope, probed=True), resolution)
    assert surface.vertices.shape == vertices.shape
    assert surface.faces.shape == faces.shape
    assert cKDTree(vertices).query(surface.vertices)[0].max() < 1e-5
    assert cKDTree(surface.vertices).query(vertices)[0].max() < 1e-5
    assert len(np.unique(surface.vertices, axis=0)) == len(surface.vertices)
    mesh = trimesh.Trimesh(surface.vertices, surface.faces, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume > 0
    assert (band.evaluations + surface.evaluations) / surface.dense_evaluations < 0.35


def test_the_band_holds_the_surface_and_the_rest_has_the_fields_sign() -> None:
    band = narrow_band(LevelSet(shell, 0.0, slope=1.0), 256)
    cells = band.active.shape[0]
    assert cells == 64
    centers = shell(lattice(cells, centers=True)).reshape(band.active.shape).numpy()
    assert band.active[np.abs(centers) < np.sqrt(3) / cells].all()
    assert not band.active[np.abs(centers) > 1.2 * np.sqrt(3) / cells].any()
    np.testing.assert_array_equal(band.inside[~band.active], centers[~band.active] > 0)
    assert not (band.inside & band.active).any()


@settings(max_examples=30, deadline=None)
@given(
    radius=st.floats(0.1, 0.8),
    center=st.tuples(*[st.floats(-0.5, 0.5)] * 3),
    slope=st.floats(0.3, 4.0),
    told=st.floats(1.0, 2.0),
    cells=st.integers(1, 40),
)
def test_intervals_miss_nothing_whatever_the_slope_and_the_grid(radius, center, slope, told, cells) -> None:
    fn = ball(radius, center)
    surface = LevelSet(lambda x: slope * fn(x), 0.0, slope=slope * told)
    resolution = 4 * cells
    n = resolution + 1
    inside = fn(lattice(n)).reshape(n, n, n).numpy() > 0
    assume(inside.any())
    band = narrow_band(surface, resolution)
    found = extract_surface(surface.value_fn, 0.0, resolution, band.active, band.inside)
    vertices, _ = mcubes.marching_cubes(np.pad(inside, 1).astype(np.int8), 0.5)
    assert len(found.vertices) == len(vertices)


def test_a_bound_that_does_not_hold_never_opens_the_band() -> None:
    table = torch.randn(33, 33, 33, generator=torch.Generator().manual_seed(0))

    def noise(x):
        i = ((x + 1) * 16).round().long()
        return table[i[:, 0], i[:, 1], i[:, 2]]

    band = narrow_band(LevelSet(noise, 0.0, slope=0.5), 128)
    cube = np.ones((3, 3, 3), bool)
    within, without = band.inside & ~band.active, ~band.inside & ~band.active
    assert within.any() and without.any()
    assert not (ndimage.binary_dilation(within, cube) & without).any()


@pytest.mark.parametrize("cells", [16, 40])
def test_probes_are_asked_in_the_allowed_cells_only(cells: int) -> None:
    centers = lattice(cells, centers=True)
    allowed = (ball(0.6)(centers) > -2 * np.sqrt(3) / cells).reshape(cells, cells, cells).numpy()
    field = Counted(ball(0.6))
    surface = LevelSet(field, active=allowed, probed=True)
    band = narrow_band(surface, 128)
    asked = torch.cat(field.asked)
    assert len(asked) == band.evaluations < 0.6 * (32**3 + 33**3)
    assert asked.norm(dim=1).max() < 0.6 + 4 * np.sqrt(3) / cells + 2 * np.sqrt(3) / 32
    found = extract_surface(ball(0.6), 0.0, 128, band.active, band.inside)
    mesh = trimesh.Trimesh(found.vertices, found.faces, process=False)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.6**3, rel=0.01)


def test_a_field_with_cells_of_its_own_is_searched_in_these_only() -> None:
    cells = 16
    radius = lattice(cells, centers=True).norm(dim=1).reshape(cells, cells, cells).numpy()
    allowed = np.abs(radius - 0.6) < 0.2
    field = Counted(ball(0.6))
    _, surface = extracted(LevelSet(field, 0.0, active=allowed, slope=1.0), 128)
    index = ((torch.cat(field.asked) + 1) * 0.5 * cells).long().clamp(0, cells - 1).unbind(-1)
    outside = ~allowed & (radius > 0.6)
    assert not ndimage.binary_erosion(outside, np.ones((3, 3, 3), bool))[tuple(i.numpy() for i in index)].any()
    mesh = trimesh.Trimesh(surface.vertices, surface.faces, process=False)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.6**3, rel=0.01)
    assert mesh.body_count == 1


def test_without_a_bound_the_cells_of_a_density_are_all_and_the_rest_is_outside() -> None:
    active = np.zeros((8, 8, 8), bool)
    active[2:5, 3:6, 4] = True
    band = narrow_band(LevelSet(ball(0.5), 0.0, active=active), 64)
    assert band.evaluations == 0
    np.testing.assert_array_equal(band.active, active)
    assert not band.inside.any()


def test_the_grid_does_not_grow_with_the_lattice_and_few_cells_are_asked() -> None:
    surface = LevelSet(torus, 0.0, slope=1.0)
    band = narrow_band(surface, 2048)
    assert band.active.shape == (FINEST_GRID,) * 3
    assert band.evaluations < 0.15 * FINEST_GRID**3
    assert narrow_band(surface, 10**6).evaluations == band.evaluations


@pytest.mark.parametrize("slope", [1.0, None])
def test_a_level_that_is_not_met_tells_the_range(slope: float | None) -> None:
    with pytest.raises(NoSurfaceError, match=r"no surface at level 7: .* span \[-1\.\d+, 0\.\d+\]") as raised:
        narrow_band(LevelSet(ball(0.5), 7.0, slope=slope, probed=True), 64)
    low, high = raised.value.span
    assert (low, high) == (pytest.approx(0.5 - 3**0.5, abs=0.12), pytest.approx(0.5, abs=0.12))


def test_bad_values_and_empty_grids_are_user_errors() -> None:
    with pytest.raises(UserError, match="not finite"):
        narrow_band(LevelSet(lambda x: x[:, 0] * torch.nan, 0.0, slope=1.0), 64)
    with pytest.raises(UserError, match="active region is empty"):
        narrow_band(LevelSet(torus, 0.0, active=np.zeros((4, 4, 4), bool)), 64)
    with pytest.raises(ValueError, match="slope is -1"):
        LevelSet(torus, 0.0, slope=-1.0)
    with pytest.raises(ValueError, match="nothing tells"):
        LevelSet(torus, 0.0)
