"""Distances and sides: against a ball's own formula, by every rule, closed or open."""

import logging

import numpy as np
import pytest
import torch
import trimesh

from recon3d.data.shape_distance import ShapeDistance, sign_rule
from recon3d.data.shape_files import clean_mesh
from recon3d.data.shape_samples import SurfacePoints, cube_of_shape, points_near
from recon3d.errors import UserError

pytest.importorskip("open3d", reason="open3d is not here")

BALL = trimesh.creation.icosphere(4, 2.0)
BALL.apply_translation([3.0, -1.0, 5.0])
RANDOM = np.random.default_rng(0)


def shape_of(mesh, tmp_path):
    return clean_mesh(tmp_path / "x.obj", np.asarray(mesh.vertices), np.asarray(mesh.faces))


def distances(mesh, tmp_path, rule="parity", shell=0.01, padding=0.2):
    shape = shape_of(mesh, tmp_path)
    return ShapeDistance(shape, cube_of_shape(shape, padding), rule, shell)


def cut(mesh, share=0.9):
    """Without the faces at the top."""
    height = mesh.triangles_center[:, 2]
    low, high = mesh.bounds[:, 2]
    return trimesh.Trimesh(mesh.vertices, mesh.faces[height < low + share * (high - low)], process=False)


@pytest.mark.parametrize("rule", ["parity", "winding"])
def test_signed_distance_of_a_ball(rule, tmp_path):
    points = RANDOM.uniform(-1, 1, (3000, 3)).astype(np.float32)
    measured = distances(BALL, tmp_path, rule).signed(points)
    expected = np.linalg.norm(points, axis=1) - 0.8  # the ball fills all but the padding of the cube
    assert np.abs(measured - expected).max() < 3e-3  # its triangles are as far inside
    clear = np.abs(expected) > 3e-3
    assert np.array_equal((measured < 0)[clear], (expected < 0)[clear])


def test_points_far_from_the_cube_and_no_points(tmp_path):
    measured = distances(BALL, tmp_path)
    assert measured.signed(np.array([[10.0, 0, 0]], np.float32)) == pytest.approx(9.2, abs=3e-3)
    assert measured.signed(np.zeros((0, 3), np.float32)).shape == (0,)


def test_unsigned_distance_is_that_of_a_shell(tmp_path):
    points = RANDOM.uniform(-1, 1, (1000, 3)).astype(np.float32)
    measured = distances(BALL, tmp_path, "unsigned", shell=0.05)
    expected = np.abs(np.linalg.norm(points, axis=1) - 0.8) - 0.05
    assert np.abs(measured.signed(points) - expected).max() < 3e-3
    assert np.array_equal(measured.inside(points), measured.signed(points) < 0)


def test_rays_meet_the_front(tmp_path):
    hits = distances(BALL, tmp_path).cast(np.array([[0, 0, 3.0], [5, 5, 3]]), np.array([[0, 0, -1.0], [0, 0, -1]]))
    assert hits.distance[0] == pytest.approx(2.2, abs=3e-3) and np.isinf(hits.distance[1])
    assert np.allclose(hits.normal[0], [0, 0, 1], atol=0.1)


# --- which rule ---


def test_the_rule_is_parity_for_closed_meshes_and_winding_with_one_line_for_open_ones(tmp_path, caplog):
    assert sign_rule(shape_of(BALL, tmp_path), "auto") == "parity"
    assert not caplog.records
    opened = shape_of(cut(BALL), tmp_path)
    with caplog.at_level(logging.WARNING):
        assert sign_rule(opened, "auto") == "winding"
    (record,) = caplog.records
    said = record.getMessage()
    assert "\n" not in said and "--sign" in said and f"{opened.report.boundary_edges} boundary edges" in said
    caplog.clear()
    for asked in ("parity", "winding", "unsigned"):
        assert sign_rule(opened, asked) == asked
    assert not caplog.records


def test_a_flat_mesh_has_no_inside(tmp_path):
    sheet = clean_mesh(tmp_path / "x.obj", np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0.0]]), np.array([[0, 1, 2]]))
    for asked in ("auto", "parity", "winding"):
        with pytest.raises(UserError, match=r"one plane.*--sign unsigned"):
            sign_rule(sheet, asked)
    assert sign_rule(sheet, "unsigned") == "unsigned"


def test_a_hole_is_closed_by_the_winding_number(tmp_path):
    """A ball without its top: parity is wrong for points whose ray leaves through the hole, winding is not."""
    points = 0.75 * RANDOM.uniform(-1, 1, (4000, 3)).astype(np.float32)
    center = cube_of_shape(shape_of(cut(BALL), tmp_path), 0.2).to_field(torch.tensor([[3.0, -1.0, 5.0]])).numpy()
    radius = np.linalg.norm(points - center, axis=1)
    clear = (np.abs(radius - 0.8) > 0.05) & (points[:, 2] < 0.5)
    inside = distances(cut(BALL), tmp_path, "winding").inside(points)
    assert np.array_equal(inside[clear], (radius < 0.8)[clear])


# --- samples ---


def test_points_of_a_mesh_lie_on_it_evenly(tmp_path):
    shape = shape_of(trimesh.creation.box((3.0, 2.0, 1.0)), tmp_path)
    normalizer = cube_of_shape(shape, 0.25)
    assert normalizer.half_size == pytest.approx(2.0)
    surface = SurfacePoints.of(shape, normalizer, torch.device("cpu"))
    points, normals = surface.draw(22_000, torch.Generator().manual_seed(0))
    half = torch.tensor([0.75, 0.5, 0.25])
    on = (points.abs() - half).abs() < 1e-6
    assert on.any(dim=1).all()
    side = (normals.abs() > 0.5).long().argmax(dim=1)
    assert torch.equal(on.gather(1, side[:, None])[:, 0], torch.ones(len(points), dtype=torch.bool))
    assert (normals * points).sum(dim=1).gt(0).all()
    areas = torch.bincount(side) / len(points)
    assert torch.allclose(areas, torch.tensor([2.0, 3.0, 6.0]) / 11, atol=1e-3)
    again, _ = surface.draw(22_000, torch.Generator().manual_seed(0))
    assert torch.equal(points, again)


def test_points_near_a_surface_have_the_spread_asked_for(tmp_path):
    measured = distances(BALL, tmp_path)
    shape = shape_of(BALL, tmp_path)
    surface = SurfacePoints.of(shape, cube_of_shape(shape, 0.2), torch.device("cpu"))
    points = points_near(surface, 20_000, (0.01, 0.04), torch.Generator().manual_seed(0))
    distance = torch.from_numpy(measured.signed(points.numpy()))
    assert float(distance[0::2].std()) == pytest.approx(0.01, rel=0.05)
    assert float(distance[1::2].std()) == pytest.approx(0.04, rel=0.05)
    assert points.abs().max() <= 1
