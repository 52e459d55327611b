"""The tree of triangles against brute force, and volumes against geometry."""

from __future__ import annotations

import math

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from recon3d.kernels.triangles import TriangleTree, enclosed_volumes


def distance_by_brute_force(point: np.ndarray, triangles: np.ndarray) -> float:
    """The nearest place on any triangle, by projecting onto planes and onto edges, one triangle after another."""
    best = math.inf
    for triangle in triangles:
        normal = np.cross(triangle[1] - triangle[0], triangle[2] - triangle[0])
        if (area := np.linalg.norm(normal)) > 0:
            foot = point - (point - triangle[0]) @ normal / area**2 * normal
            turns = [np.cross(b - a, foot - a) @ normal for a, b in zip(triangle, np.roll(triangle, -1, axis=0))]
            if min(turns) >= 0:
                best = min(best, float(np.linalg.norm(point - foot)))
        for a, b in zip(triangle, np.roll(triangle, -1, axis=0)):
            along = np.clip((point - a) @ (b - a) / max(float((b - a) @ (b - a)), 1e-300), 0, 1)
            best = min(best, float(np.linalg.norm(point - a - along * (b - a))))
    return best


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 40), seed=st.integers(0, 10**6), shift=st.floats(-1e3, 1e3))
def test_nearest_is_nearest(count: int, seed: int, shift: float) -> None:
    generator = np.random.default_rng(seed)
    triangles = generator.normal(size=(count, 3, 3)) + shift
    if seed % 3 == 0:
        triangles[0, 2] = triangles[0, 1]  # a segment
    points = generator.normal(size=(10, 3)) * 2 + shift
    distance, face = TriangleTree(triangles).nearest(points)
    wanted = [distance_by_brute_force(point, triangles) for point in points]
    np.testing.assert_allclose(distance, wanted, rtol=1e-7, atol=1e-9)
    of_that_face = [distance_by_brute_force(p, triangles[f][None]) for p, f in zip(points, face)]
    np.testing.assert_allclose(of_that_face, wanted, rtol=1e-7, atol=1e-9)


def crossing_pairs(mesh: trimesh.Trimesh) -> int:
    return TriangleTree(np.asarray(mesh.triangles)).crossings(np.asarray(mesh.faces))[0]


@settings(max_examples=25, deadline=None)
@given(count=st.integers(2, 25), seed=st.integers(0, 10**6))
def test_crossings_are_those_of_all_pairs(count: int, seed: int) -> None:
    """Two triangles in general position cross where an edge of one meets the inside of the other."""
    triangles = np.random.default_rng(seed).random((count, 3, 3))

    def pierces(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> bool:
        system = np.column_stack([a - b, t[1] - t[0], t[2] - t[0]])
        along, u, v = np.linalg.solve(system, a - t[0])
        return 0 < along < 1 and u > 0 and v > 0 and u + v < 1

    def cross(s: np.ndarray, t: np.ndarray) -> bool:
        return any(pierces(x[i], x[i - 1], y) for x, y in ((s, t), (t, s)) for i in range(3))

    pairs = [(i, j) for i in range(count) for j in range(i) if cross(triangles[i], triangles[j])]
    found, which = TriangleTree(triangles).crossings(np.arange(3 * count).reshape(count, 3))
    assert found == len(pairs)
    assert set(np.flatnonzero(which)) == {face for pair in pairs for face in pair}


def test_a_smooth_surface_does_not_cross_itself() -> None:
    turned = trimesh.creation.icosphere(4)
    turned.apply_transform(trimesh.transformations.rotation_matrix(0.7, (1, 2, 3), (5, 5, 5)))
    turned.vertices = turned.vertices.astype(np.float32)  # faces that are nearly in one plane, and rounded
    assert crossing_pairs(turned) == 0
    plane = trimesh.creation.box((1, 1, 1)).subdivide().subdivide().subdivide()
    plane.apply_transform(trimesh.transformations.rotation_matrix(0.7, (1, 2, 3)))
    assert crossing_pairs(plane) == 0


def test_touching_is_not_crossing() -> None:
    boxes = [trimesh.creation.box((1, 1, 1)) for _ in range(2)]
    boxes[1].apply_translation((1, 0.25, 0.25))  # side on side
    assert crossing_pairs(trimesh.util.concatenate(boxes)) == 0
    boxes[1].apply_translation((-0.25, 0, 0))
    assert crossing_pairs(trimesh.util.concatenate(boxes)) > 0


def test_a_fan_that_folds_through_itself_crosses_at_a_shared_vertex() -> None:
    vertices = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0], [0.5, 0.5, 1], [0.5, 0.5, -1.0]])
    faces = np.array([[0, 1, 2], [0, 3, 4]])  # the second stands in the first, and both have vertex 0
    found, which = TriangleTree(vertices[faces]).crossings(faces)
    assert (found, which.tolist()) == (1, [True, True])


def solid(mesh: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces)


def test_enclosed_volumes_of_boxes_and_balls() -> None:
    first, second = trimesh.creation.box((1, 1, 1)), trimesh.creation.box((1, 1, 1))
    second.apply_translation((0.5, 0.5, 0.5))
    intersection, union = enclosed_volumes(solid(first), solid(second), 256)
    assert intersection == pytest.approx(1 / 8, rel=1e-3)
    assert union == pytest.approx(2 - 1 / 8, rel=1e-3)
    inner, outer = trimesh.creation.icosphere(3, 1.0), trimesh.creation.icosphere(3, 1.2)
    intersection, union = enclosed_volumes(solid(inner), solid(outer), 256)
    assert intersection == pytest.approx(inner.volume, rel=1e-3)
    assert union == pytest.approx(outer.volume, rel=1e-3)


def test_overlapping_parts_of_one_mesh_count_once_and_cavities_not_at_all() -> None:
    box, cavity = trimesh.creation.box((1, 1, 1)), trimesh.creation.box((0.5, 0.5, 0.5))
    cavity.invert()
    shell = trimesh.util.concatenate([box, cavity])
    twice = trimesh.util.concatenate([box, box.copy()])
    assert enclosed_volumes(solid(shell), solid(box), 256) == pytest.approx((1 - 1 / 8, 1), rel=1e-3)
    assert enclosed_volumes(solid(twice), solid(box), 256) == pytest.approx((1, 1), rel=1e-3)
