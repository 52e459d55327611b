"""Facts of meshes whose facts are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import trimesh

from recon3d.errors import UserError
from recon3d.metrics.mesh_topology import Topology, topology, volume_iou, welded


def facts(mesh: trimesh.Trimesh) -> Topology:
    return topology(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces))


def solid(mesh: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces)


def test_a_sphere() -> None:
    found = facts(trimesh.creation.icosphere(3, 2.0))
    assert (found.components, found.boundary_edges, found.nonmanifold_edges, found.self_intersections) == (1, 0, 0, 0)
    assert found.euler_number == 2
    assert found.watertight
    assert found.volume == pytest.approx(4 / 3 * math.pi * 8, rel=0.02)
    assert found.area == pytest.approx(16 * math.pi, rel=0.02)


def test_a_torus_has_euler_number_0() -> None:
    found = facts(trimesh.creation.torus(1.0, 0.3, 32, 16))
    assert (found.euler_number, found.watertight, found.components) == (0, True, 1)


def test_a_box_with_a_side_missing_has_four_boundary_edges() -> None:
    box = trimesh.creation.box((1, 1, 1))
    top = np.isclose(box.triangles_center[:, 2], 0.5)
    assert top.sum() == 2
    found = facts(trimesh.Trimesh(box.vertices, box.faces[~top], process=False))
    assert (found.boundary_edges, found.watertight, found.volume, found.euler_number) == (4, False, None, 1)
    assert found.area == pytest.approx(5)


def test_two_boxes_that_cross() -> None:
    boxes = [trimesh.creation.box((1, 1, 1)) for _ in range(2)]
    boxes[1].apply_translation((0.4, 0.3, 0.2))
    found = facts(trimesh.util.concatenate(boxes))
    assert found.self_intersections is not None
    assert found.self_intersections > 0
    assert (found.components, found.euler_number, found.watertight) == (2, 4, True)
    boxes[1].apply_translation((2, 0, 0))
    assert facts(trimesh.util.concatenate(boxes)).self_intersections == 0
    assert topology(*solid(boxes[0]), crossings=False).self_intersections is None


def test_three_faces_at_an_edge_are_no_manifold() -> None:
    vertices = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [-1, 0, 0.0]])
    found = topology(vertices, np.array([[0, 1, 2], [0, 1, 3], [0, 1, 4]]))
    assert (found.nonmanifold_edges, found.boundary_edges, found.watertight) == (1, 6, False)


def test_a_face_the_wrong_way_round_is_not_watertight() -> None:
    ball = trimesh.creation.icosphere(1)
    faces = np.asarray(ball.faces).copy()
    faces[0] = faces[0, ::-1]
    found = topology(np.asarray(ball.vertices), faces)
    assert (found.boundary_edges, found.nonmanifold_edges, found.watertight) == (0, 0, False)


def test_vertices_in_one_place_are_one_and_idle_ones_are_none() -> None:
    ball = trimesh.creation.icosphere(2)
    soup = np.concatenate([np.asarray(ball.triangles).reshape(-1, 3), [[9.0, 9, 9]]])
    faces = np.arange(3 * len(ball.faces)).reshape(-1, 3)
    extra = np.array([[0, 1, 1], [2, 0, 1]])  # without area; and the first face once more
    found = topology(soup, np.concatenate([faces, extra]))
    assert (found.degenerate_faces, found.duplicate_faces) == (1, 1)
    assert (found.vertices, found.faces) == (len(ball.vertices), len(ball.faces))
    assert (found.watertight, found.components, found.euler_number) == (True, 1, 2)
    (vertices, kept), degenerate, repeated = welded(soup, faces)
    assert (len(vertices), degenerate, repeated) == (len(ball.vertices), 0, 0)
    np.testing.assert_array_equal(vertices[kept], soup[faces])


def test_iou_of_concentric_balls_and_of_boxes() -> None:
    inner, outer = trimesh.creation.icosphere(4, 1.0), trimesh.creation.icosphere(4, 1.1)
    assert volume_iou(solid(inner), solid(outer), 256) == pytest.approx(1 / 1.1**3, rel=1e-3)
    assert volume_iou(solid(inner), solid(inner), 64) == 1
    boxes = [trimesh.creation.box((1, 1, 1)) for _ in range(2)]
    boxes[1].apply_translation((0.5, 0, 0))
    assert volume_iou(solid(boxes[0]), solid(boxes[1]), 256) == pytest.approx(1 / 3, rel=1e-3)
    boxes[1].apply_translation((5, 0, 0))
    assert volume_iou(solid(boxes[0]), solid(boxes[1]), 64) == 0


def test_nothing_but_degenerate_faces_is_named() -> None:
    with pytest.raises(UserError, match="all 2 faces are degenerate"):
        topology(np.eye(3), np.array([[0, 0, 1], [2, 2, 2]]))
