from __future__ import annotations

import json
import math

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from recon3d.errors import UserError
from recon3d.metrics.mesh import compare_meshes, sample_surface

FEW = 5000


def sphere(radius: float = 1.0, subdivisions: int = 4) -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions, radius)


def test_equal_meshes_score_perfectly() -> None:
    scores = compare_meshes(sphere(), sphere(), FEW)
    assert scores.chamfer == pytest.approx(0, abs=1e-15)
    assert scores.hausdorff == pytest.approx(0, abs=1e-14)
    assert scores.normal_consistency == pytest.approx(1)
    assert all(score.f_score == 1 for score in scores.thresholds)


def test_concentric_spheres_are_their_radii_apart() -> None:
    scores = compare_meshes(sphere(1.1), sphere(1.0), 100_000, thresholds=(0.02, 0.04))
    assert scores.accuracy == pytest.approx(0.1, abs=5e-4)  # faces of an icosphere lie up to 1.7e-3 inside the sphere
    assert scores.completeness == pytest.approx(0.1, abs=5e-4)
    assert scores.hausdorff == pytest.approx(0.1, abs=2e-3)
    assert 0.099 < scores.hausdorff_95 <= scores.hausdorff
    assert scores.diagonal == pytest.approx(2 * math.sqrt(3))
    assert scores.chamfer_share == pytest.approx(0.1 / (2 * math.sqrt(3)), rel=0.02)
    assert scores.normal_consistency > 0.99
    assert (scores.f_score(0.02), scores.f_score(0.04)) == (0, 1)  # 0.07 and 0.14


def test_other_triangulation_of_the_same_surface() -> None:
    box = trimesh.creation.box((1, 2, 3))
    scores = compare_meshes(box.subdivide().subdivide(), box, 50_000)
    assert scores.chamfer < 1e-12
    assert scores.f_score(0.01) == 1
    assert scores.normal_consistency == pytest.approx(1, abs=1e-9)


def test_a_thin_spike_shows_in_the_hausdorff_distance_alone() -> None:
    ball = sphere()
    spike = trimesh.creation.cone(0.02, 1.0, sections=8)
    spike.apply_translation((0, 0, 0.9))
    scores = compare_meshes(trimesh.util.concatenate([ball, spike]), ball, 50_000)
    assert scores.hausdorff == pytest.approx(0.9, abs=0.1)
    assert scores.hausdorff_95 < 0.01
    assert scores.chamfer < 0.01


def test_faces_without_area_take_no_part() -> None:
    ball = sphere(subdivisions=2)
    needle = np.array([[0, 0, 5.0], [0, 0, 6.0], [0, 0, 7.0]])
    faces = np.concatenate([ball.faces, [[len(ball.vertices) + k for k in range(3)]]])
    with_needle = trimesh.Trimesh(np.concatenate([ball.vertices, needle]), faces, process=False)
    assert compare_meshes(ball, with_needle, 1000).hausdorff < 1e-12


def test_half_a_surface_is_precise_but_incomplete() -> None:
    whole = trimesh.creation.box((2, 2, 2)).subdivide().subdivide().subdivide()
    half = whole.submesh([np.flatnonzero(whole.triangles_center[:, 2] > 0)], append=True)
    score = compare_meshes(half, whole, 50_000, thresholds=(0.01,)).thresholds[0]
    assert score.precision > 0.98
    assert score.recall == pytest.approx(0.5, abs=0.02)
    assert score.f_score == pytest.approx(2 * score.precision * score.recall / (score.precision + score.recall))


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(0.01, 100), shift=st.tuples(*[st.floats(-10, 10)] * 3))
def test_moving_and_scaling_both_scales_the_distances_only(scale: float, shift) -> None:
    a, b = trimesh.creation.box((1, 1.1, 1.2)), sphere(0.7, 2)
    before = compare_meshes(a, b, 2000)
    for mesh in (a, b):
        mesh.apply_scale(scale)
        mesh.apply_translation(np.asarray(shift) * scale)
    after = compare_meshes(a, b, 2000)
    assert after.chamfer == pytest.approx(before.chamfer * scale, rel=1e-6)
    assert after.chamfer_share == pytest.approx(before.chamfer_share, rel=1e-6)
    assert after.f_score(0.02) == pytest.approx(before.f_score(0.02), abs=2e-3)
    assert after.normal_consistency == pytest.approx(before.normal_consistency, abs=2e-3)


@settings(max_examples=15, deadline=None)
@given(size=st.floats(0.8, 1.2), seed=st.integers(0, 1000))
def test_swapping_swaps_precision_and_recall(size: float, seed: int) -> None:
    a, b = trimesh.creation.box((1, 1, size)), sphere(0.6, 2)
    there = compare_meshes(a, b, 2000, thresholds=(0.03,), seed=seed)
    share = 0.03 * there.diagonal / np.linalg.norm(a.extents)  # the same distance, as a share of the other diagonal
    back = compare_meshes(b, a, 2000, thresholds=(share,), seed=seed)
    assert (there.accuracy, there.completeness) == (back.completeness, back.accuracy)
    assert there.thresholds[0].f_score == pytest.approx(back.thresholds[0].f_score, abs=1e-3)
    assert there.thresholds[0].precision == pytest.approx(back.thresholds[0].recall, abs=1e-3)


def test_samples_lie_on_the_surface_spread_by_area() -> None:
    box = trimesh.creation.box((1, 1, 4))
    points, normals = sample_surface(box, 9000, seed=3)
    on_face = np.isclose(np.abs(points), np.array([0.5, 0.5, 2.0]))
    assert (on_face.sum(axis=1) == 1).all()
    np.testing.assert_allclose(normals, on_face * np.sign(points))
    assert on_face[:, 2].sum() == pytest.approx(9000 * 2 / 18, abs=12)  # stratified: right to a sample a face
    again, _ = sample_surface(box, 9000, seed=3)
    np.testing.assert_array_equal(points, again)


def test_flat_for_json() -> None:
    flat = compare_meshes(sphere(), sphere(), 100, thresholds=(0.01,)).as_dict()
    assert {"chamfer", "chamfer_share", "f_score_0.01", "precision_0.01", "recall_0.01"} <= set(flat)
    json.dumps(flat)


def test_bad_meshes_are_named() -> None:
    good = sphere(subdivisions=1)
    with pytest.raises(UserError, match="predicted mesh: no faces"):
        compare_meshes(trimesh.Trimesh(), good)
    flat = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]], process=False)
    with pytest.raises(UserError, match="reference mesh: all 1 faces have zero area"):
        compare_meshes(good, flat)
    broken = sphere(subdivisions=1)
    broken.vertices[3] = math.nan
    with pytest.raises(UserError, match="predicted mesh: coordinates that are not finite"):
        compare_meshes(broken, good)
