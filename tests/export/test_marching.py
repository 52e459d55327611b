from __future__ import annotations

import math

import mcubes
import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from recon3d.errors import UserError
from recon3d.export.marching import Surface, extract_surface

from .shapes import Counted, ball, covering, lattice, torus


def as_mesh(surface: Surface) -> trimesh.Trimesh:
    return trimesh.Trimesh(surface.vertices, surface.faces, process=False)


def everywhere(cells: int) -> np.ndarray:
    return np.ones((cells, cells, cells), bool)


@pytest.mark.parametrize("resolution", [64, 100, 128])
def test_same_surface_as_the_dense_run(resolution: int) -> None:
    n = resolution + 1
    dense = torus(lattice(n)).reshape(n, n, n).numpy()
    vertices, faces = mcubes.marching_cubes(dense, 0.0)
    vertices = vertices * 2 / resolution - 1
    surface = extract_surface(torus, 0.0, resolution, covering(torus, 0.0, 32))
    assert surface.vertices.shape == vertices.shape
    assert surface.faces.shape == faces.shape
    assert cKDTree(vertices).query(surface.vertices)[0].max() < 1e-5
    assert cKDTree(surface.vertices).query(vertices)[0].max() < 1e-5
    # The same triangles, too: each dense face, with its vertices named by the nearest of ours, is one of ours.
    names = cKDTree(surface.vertices).query(vertices)[1][faces.astype(int)]
    np.testing.assert_array_equal(turned(names), turned(surface.faces))


def turned(faces: np.ndarray) -> np.ndarray:
    """The faces in a fixed order, each begun at its lowest vertex, so that only the sense of rotation counts."""
    corner = (faces.argmin(axis=1)[:, None] + np.arange(3)) % 3
    begun = np.take_along_axis(faces, corner, axis=1)
    return begun[np.lexsort(begun.T)]


@pytest.mark.parametrize("fn, euler", [(ball(0.7), 2), (torus, 0)])
def test_closed_oriented_and_of_the_right_kind(fn, euler: int) -> None:
    mesh = as_mesh(extract_surface(fn, 0.0, 70, covering(fn, 0.0, 16)))
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume > 0  # normals point to lower values
    assert mesh.euler_number == euler
    assert len(np.unique(mesh.vertices, axis=0)) == len(mesh.vertices)


def test_two_components() -> None:
    def both(x):
        return torch.maximum(ball(0.3, (-0.5, 0.0, 0.1))(x), ball(0.25, (0.5, 0.2, 0.0))(x))

    mesh = as_mesh(extract_surface(both, 0.0, 64, covering(both, 0.0, 32)))
    assert mesh.is_watertight
    parts = mesh.split(only_watertight=True)
    assert len(parts) == 2
    expected = sorted(4 / 3 * math.pi * r**3 for r in (0.25, 0.3))
    assert sorted(part.volume for part in parts) == pytest.approx(expected, rel=0.02)


@settings(max_examples=20, deadline=None)
@given(
    radius=st.floats(0.2, 0.6),
    center=st.tuples(*[st.floats(-0.3, 0.3)] * 3),
    resolution=st.integers(24, 48),
    block=st.integers(3, 40),
    cells=st.integers(5, 60),
)
def test_any_ball_is_recovered_with_any_blocks_and_any_grid(radius, center, resolution, block, cells) -> None:
    fn = ball(radius, center)
    active = np.zeros((cells,) * 3, bool)
    reach = math.sqrt(3) / cells  # half the diagonal of a coarse cell: every cell that the ball touches is active
    active[:] = (fn(lattice(cells, centers=True)) > -reach).reshape(active.shape).numpy()
    surface = extract_surface(fn, 0.0, resolution, active, block=block, batch_points=1000)
    distance = np.linalg.norm(surface.vertices - np.asarray(center), axis=1)
    cell = 2 / resolution
    assert np.abs(distance - radius).max() < cell**2 / (4 * radius) + 1e-3 * cell
    assert as_mesh(surface).is_watertight


def test_block_and_batch_change_nothing() -> None:
    table = torch.randn(21, 21, 21, generator=torch.Generator().manual_seed(0))

    def noise(x):  # as rough as can be: a surface through every block, and every kind of cell
        i = ((x + 1) * 10).round().long()
        return table[i[:, 0], i[:, 1], i[:, 2]]

    one = extract_surface(noise, 0.1, 20, everywhere(4), block=64)
    one_order = np.lexsort(one.vertices.T)
    one_rank = np.argsort(one_order)
    for block, batch in ((5, 10**6), (8, 777), (2, 10**4)):
        other = extract_surface(noise, 0.1, 20, everywhere(4), block=block, batch_points=batch)
        order = np.lexsort(other.vertices.T)
        np.testing.assert_array_equal(one.vertices[one_order], other.vertices[order])
        np.testing.assert_array_equal(turned(one_rank[one.faces]), turned(np.argsort(order)[other.faces]))
    mesh = as_mesh(one)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent


def test_values_equal_to_the_level_give_no_duplicates() -> None:
    def steps(x):  # exactly the level on whole planes of lattice points
        return 8 - (16 * x).round().abs().sum(dim=1)

    mesh = as_mesh(extract_surface(steps, 0.0, 32, everywhere(4)))
    assert mesh.is_watertight
    assert len(np.unique(mesh.vertices, axis=0)) == len(mesh.vertices)
    assert mesh.area_faces.min() > 0


@pytest.mark.parametrize("resolution, cells", [(40, 10), (33, 10), (10, 30)])
def test_asks_only_for_corners_of_active_cells_and_each_once(resolution: int, cells: int) -> None:
    generator = np.random.default_rng(0)
    active = generator.random((cells,) * 3) < 0.02
    field = Counted(lambda x: 0.1 + 0 * x[:, 0])
    surface = extract_surface(field, 0.0, resolution, active, block=7, batch_points=500)
    asked = torch.cat(field.asked)
    assert max(len(some) for some in field.asked) <= 500
    index = ((asked.double() + 1) * resolution / 2).round().long().numpy()
    got = {tuple(i) for i in index.tolist()}
    assert len(got) == len(asked) == surface.evaluations < surface.dense_evaluations == (resolution + 1) ** 3
    expected = set()
    for cell in np.ndindex(*(resolution,) * 3):
        low = [i * cells // resolution for i in cell]
        high = [-(-(i + 1) * cells // resolution) for i in cell]
        if active[low[0] : high[0], low[1] : high[1], low[2] : high[2]].any():
            expected |= {tuple(c + o for c, o in zip(cell, corner)) for corner in np.ndindex(2, 2, 2)}
    assert got == expected


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_closed_at_the_cube_and_at_the_end_of_the_active_region(axis: int) -> None:
    def bar(x):  # leaves the cube along one axis
        return 0.4 - torch.cat([x[:, :axis], x[:, axis + 1 :]], dim=1).norm(dim=1)

    active = np.moveaxis(everywhere(8), axis, 0).copy()
    active[6:] = False  # the bar leaves the active region at +0.5
    mesh = as_mesh(extract_surface(bar, 0.0, 64, np.moveaxis(active, 0, axis).copy()))
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(math.pi * 0.4**2 * 1.5, rel=0.03)
    low, high = mesh.bounds[:, axis]
    assert low == pytest.approx(-1, abs=1 / 64 + 1e-9)
    assert high == pytest.approx(0.5, abs=1 / 64 + 1e-9)


def test_the_grid_is_indexed_x_y_z() -> None:
    active = np.zeros((8, 8, 8), bool)
    active[1, 4, 6] = True
    mesh = as_mesh(extract_surface(lambda x: 1 + 0 * x[:, 0], 0.0, 64, active))
    np.testing.assert_allclose(mesh.bounds.mean(axis=0), (np.array([1, 4, 6]) + 0.5) / 4 - 1, atol=1e-9)


def test_progress_ends_at_one() -> None:
    seen: list[float] = []
    extract_surface(ball(0.5), 0.0, 50, covering(ball(0.5), 0.0, 16), block=8, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_no_surface_names_the_range() -> None:
    with pytest.raises(UserError, match=r"no surface at level 7: .* span \[0\.25, 0\.25\]"):
        extract_surface(lambda x: 0.25 + 0 * x[:, 0], 7.0, 16, everywhere(4))


def test_empty_grid_and_bad_values_are_user_errors() -> None:
    with pytest.raises(UserError, match="active region is empty"):
        extract_surface(torus, 0.0, 16, ~everywhere(4))
    with pytest.raises(UserError, match="not finite"):
        extract_surface(lambda x: x[:, 0] / 0 * 0, 0.0, 16, everywhere(4))
    with pytest.raises(UserError, match="level is nan"):
        extract_surface(torus, math.nan, 16, everywhere(4))
