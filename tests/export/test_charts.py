from __future__ import annotations

import numpy as np
import pytest
import trimesh

from recon3d.export.atlas import unwrap
from recon3d.export.charts import Charts, cut
from recon3d.export.raster import cells_under, weights_at


def of(mesh: trimesh.Trimesh) -> Charts:
    return cut(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces))


def areas(charts: Charts) -> np.ndarray:
    """Of the faces as they lie, negative where they lie on their backs."""
    corners = charts.flat[charts.faces]
    ab, ac = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return 0.5 * (ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0])


def covered_twice(charts: Charts, spacing: float) -> float:
    """Share of the cells that faces of one chart cover which more than one covers."""
    twice = cells = 0
    for number in range(int(charts.chart.max()) + 1):
        corners = charts.flat[charts.faces[charts.chart == number]]
        corners = (corners - corners.reshape(-1, 2).min(axis=0)) / spacing
        extent = np.ceil(corners.reshape(-1, 2).max(axis=0)).astype(int) + 1
        count = np.zeros(extent[::-1], int)
        for face, column, row in cells_under(corners, np.tile(extent, (len(corners), 1))):
            weights, distance = weights_at(np.stack([column, row], axis=1) + 0.5, corners[face])
            inside = (distance == 0) & (weights.min(axis=1) > 1e-9)
            np.add.at(count, (row[inside], column[inside]), 1)
        twice, cells = twice + (count > 1).sum(), cells + (count > 0).sum()
    return twice / cells


def helicoid(turns: float = 2.5, rise: float = 0.5) -> trimesh.Trimesh:
    """A spiral ramp around z: every chart of it that faces up would lie over itself."""
    along, across = np.meshgrid(np.linspace(0, 2 * np.pi * turns, 300), np.linspace(0.4, 1, 12), indexing="ij")
    points = np.stack([across * np.cos(along), across * np.sin(along), rise * along / (2 * np.pi)], axis=-1)
    i, j = np.meshgrid(np.arange(299), np.arange(11), indexing="ij")
    a, b, c, d = (((i + p) * 12 + j + q).ravel() for p, q in ((0, 0), (0, 1), (1, 1), (1, 0)))
    return trimesh.Trimesh(points.reshape(-1, 3), np.concatenate([np.c_[a, c, b], np.c_[a, d, c]]), process=False)


def test_a_box_has_six_charts_without_distortion() -> None:
    mesh = trimesh.creation.box((1.0, 2.0, 3.0)).subdivide().subdivide()
    charts = of(mesh)
    assert charts.chart.max() + 1 == 6
    np.testing.assert_allclose(areas(charts), mesh.area_faces, rtol=1e-9)


def test_a_ball_lies_flat_in_a_few_charts_and_nothing_twice() -> None:
    mesh = trimesh.creation.icosphere(4)
    charts = of(mesh)
    assert 6 <= charts.chart.max() + 1 <= 12
    flat = areas(charts)
    assert flat.min() > 0  # no face on its back
    assert flat.sum() > 0.75 * mesh.area  # and none far from its true size
    assert covered_twice(charts, 0.02) == 0


def test_faces_and_vertices_are_the_meshs_own() -> None:
    mesh = trimesh.creation.icosphere(3)
    charts = of(mesh)
    np.testing.assert_array_equal(charts.source[charts.faces], mesh.faces)
    owner = np.full(len(charts.source), -1)
    for face, chart in zip(charts.faces, charts.chart):
        assert ((owner[face] == -1) | (owner[face] == chart)).all()  # a vertex belongs to one chart
        owner[face] = chart
    again = of(mesh)
    np.testing.assert_array_equal(again.chart, charts.chart)
    np.testing.assert_array_equal(again.flat, charts.flat)


def test_a_spiral_ramp_is_cut_between_its_turns() -> None:
    mesh = helicoid()
    charts = of(mesh)
    assert areas(charts).min() > 0
    assert covered_twice(charts, 0.01) < 0.005
    assert charts.chart.max() + 1 < 30


def test_a_crumpled_surface_keeps_to_few_charts() -> None:
    """Noise of a third of an edge turns many faces away; patches of a few faces stay in the chart around them."""
    mesh = trimesh.creation.icosphere(5)
    edge = mesh.edges_unique_length.mean()
    noise = np.random.default_rng(0).normal(size=len(mesh.vertices)) * edge / 3
    mesh.vertices = mesh.vertices * (1 + noise)[:, None]
    charts = of(mesh)
    size = np.bincount(charts.chart)
    assert len(size) < len(mesh.faces) / 100
    assert size.min() >= 6


@pytest.mark.filterwarnings("error")
def test_faces_without_area_stay_with_their_charts() -> None:
    """A needle between two faces has no place of its own: it must not stretch across the picture."""
    pytest.importorskip("xatlas")
    plain = trimesh.creation.icosphere(2)
    vertices = np.concatenate([plain.vertices, plain.vertices[plain.faces[:1, :2]].mean(axis=1)])
    a, b, _ = plain.faces[0]
    needle = len(vertices) - 1
    faces = np.concatenate([plain.faces, [[a, needle, b], [a, b, a]]])
    atlas = unwrap(vertices, faces, 128, 2)
    longest = np.linalg.norm(atlas.uv[atlas.faces] - np.roll(atlas.uv[atlas.faces], 1, axis=1), axis=2).max(axis=1)
    assert np.isfinite(atlas.uv).all()
    assert longest.max() < 1.5 * np.median(longest[:-2])


def test_weights_and_distances() -> None:
    corners = np.tile([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]], (4, 1, 1))
    points = np.array([[1.0, 1.0], [2.0, -1.5], [-3.0, -4.0], [3.0, 3.0]])
    weights, distance = weights_at(points, corners)
    np.testing.assert_allclose(distance, [0, 1.5, 5, np.sqrt(2)])
    nearest = np.einsum("nk,nkd->nd", weights, corners)
    np.testing.assert_allclose(nearest, [[1, 1], [2, 0], [0, 0], [2, 2]], atol=1e-12)
    flipped, again = weights_at(points, corners[:, ::-1])
    np.testing.assert_allclose(flipped[:, ::-1], weights, atol=1e-12)
    np.testing.assert_allclose(again, distance)
