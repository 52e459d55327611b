"""What is done to a mesh after it was extracted."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import trimesh

from recon3d.errors import UserError
from recon3d.export.postprocess import (
    Crop,
    DropCavities,
    DropPieces,
    FillHoles,
    KeepLargest,
    Simplify,
    Smooth,
    apply_steps,
)
from recon3d.export.triangles import boundary_edges


def arrays(*meshes: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    mesh = trimesh.util.concatenate(meshes)
    return np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int32)


def ball(radius: float = 1.0, x: float = 0.0, detail: int = 4) -> trimesh.Trimesh:
    mesh = trimesh.creation.icosphere(detail, radius)
    mesh.apply_translation((x, 0, 0))
    return mesh


def after(vertices, faces, *steps):
    vertices, faces, reports = apply_steps(vertices, faces, steps)
    assert len(np.unique(faces)) == len(vertices)
    return trimesh.Trimesh(vertices, faces, process=False), reports


def test_steps_are_done_in_the_order_given_and_each_reports() -> None:
    vertices, faces = arrays(ball(), ball(0.3, 3.0))
    first, reports = after(vertices, faces, KeepLargest(), Simplify(2000))
    assert [report.step for report in reports] == ["keep the largest piece", "simplify"]
    assert [(r.faces_before, r.faces_after) for r in reports] == [(10240, 5120), (5120, 2000)]
    assert "1 piece" in reports[0].did
    second, reports = after(vertices, faces, Simplify(2000), KeepLargest())
    assert [report.step for report in reports] == ["simplify", "keep the largest piece"]
    assert first.body_count == second.body_count == 1
    assert len(second.faces) < len(first.faces)


def test_no_steps_change_nothing() -> None:
    vertices, faces = arrays(ball())
    mesh, reports = after(vertices, faces)
    np.testing.assert_array_equal(mesh.vertices, vertices)
    assert reports == []


def test_pieces_go_by_their_share_of_the_area() -> None:
    vertices, faces = arrays(ball(), ball(0.3, 3.0), ball(0.1, 5.0))  # areas 1 : 0.09 : 0.01
    for share, left in ((0.0, 3), (0.02, 2), (0.5, 1), (1.0, 1)):
        mesh, _ = after(vertices, faces, DropPieces(share))
        assert mesh.body_count == left
    with pytest.raises(UserError, match=r"must lie in 0\.\.1"):
        DropPieces(1.5)


def test_cavities_go_and_an_inside_out_mesh_stays() -> None:
    inner = ball(0.4)
    inner.invert()
    mesh, (report,) = after(*arrays(ball(), inner), DropCavities())
    assert mesh.volume == pytest.approx(ball().volume)
    assert report.did == "1 cavity dropped"
    mesh, (report,) = after(*arrays(inner), DropCavities())
    assert len(mesh.faces) == len(inner.faces)


@pytest.mark.parametrize("x", [-30.0, 0.0, 30.0])
def test_a_room_seen_from_within_is_no_cavity(x: float) -> None:
    """Neither an open one, whose volume depends on where the origin is, nor a closed one, beside crumbs."""
    room = ball(2.0)
    room.invert()
    half = trimesh.Trimesh(room.vertices, room.faces[room.triangles_center[:, 0] > 0])
    bubble = ball(0.2)
    bubble.invert()
    crumb, around_bubble = ball(0.3, 1.0), ball(0.4)
    for shell in (room, half):
        things = shell, crumb, around_bubble, bubble
        vertices, faces = arrays(*things)
        mesh, (report,) = after(vertices + np.array([x, 0, 0]), faces, DropCavities())
        assert report.did == "1 cavity dropped"
        assert mesh.area == pytest.approx(sum(thing.area for thing in things) - bubble.area)


def test_simplified_within_the_budget_closed_and_near() -> None:
    mesh, (report,) = after(*arrays(ball(detail=5)), Simplify(1000))
    assert report.faces_after == len(mesh.faces) <= 1000
    assert mesh.is_watertight
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - 1).max() < 0.01
    _, (report,) = after(*arrays(ball()), Simplify(10**6))
    assert report.faces_before == report.faces_after


def test_smoothing_takes_noise_away_and_does_not_shrink() -> None:
    vertices, faces = arrays(ball(detail=5))
    noisy = vertices * (1 + 0.01 * np.random.default_rng(0).standard_normal((len(vertices), 1)))
    mesh, _ = after(noisy, faces, Smooth(20))
    radius = np.linalg.norm(mesh.vertices, axis=1)
    assert radius.std() < 0.004
    assert radius.mean() == pytest.approx(1, abs=0.002)
    np.testing.assert_array_equal(mesh.faces, faces)


def test_a_crop_cuts_at_the_box_and_stays_open() -> None:
    mesh, (report,) = after(*arrays(ball()), Crop((-2.0, -2.0, -2.0), (2.0, 2.0, 0.3)))
    assert mesh.bounds[1][2] == pytest.approx(0.3, abs=1e-9)
    assert mesh.bounds[0] == pytest.approx([-1, -1, -1], abs=1e-3)
    edges = boundary_edges(np.asarray(mesh.faces))
    np.testing.assert_allclose(mesh.vertices[edges][..., 2], 0.3, atol=1e-9)
    assert len(np.unique(mesh.vertices.round(9), axis=0)) == len(mesh.vertices)
    assert "[-2, 0.3]" in report.did
    whole, _ = after(*arrays(ball()), Crop((-2.0, -2.0, -2.0), (2.0, 2.0, 2.0)))
    assert len(whole.faces) == len(ball().faces)
    with pytest.raises(UserError, match="nothing is left of the mesh after crop"):
        after(*arrays(ball()), Crop((2.0, 2.0, 2.0), (3.0, 3.0, 3.0)))
    with pytest.raises(UserError, match="is empty"):
        Crop((0.0, 0.0, 0.0), (1.0, 0.0, 1.0))


def test_holes_up_to_the_radius_are_closed_the_right_way_round() -> None:
    mesh = ball(detail=4)
    center = mesh.triangles_center
    cut = (center[:, 2] < 0.9) & (center[:, 0] < 0.98)  # radii 0.44 and 0.2
    open_, faces = mesh.vertices, np.asarray(mesh.faces[cut], np.int32)
    filled, (report,) = after(np.asarray(open_), faces, FillHoles(1.0))
    assert filled.is_watertight
    assert filled.is_winding_consistent
    assert mesh.volume * 0.9 < filled.volume < mesh.volume
    assert report.did == "2 holes filled, 0 left open"
    partly, (report,) = after(np.asarray(open_), faces, FillHoles(0.3))
    assert report.did == "1 hole filled, 1 left open"
    assert not partly.is_watertight
    _, (report,) = after(*arrays(mesh), FillHoles(1.0))
    assert report.did == "no holes"


def test_a_cropped_mesh_can_be_closed_again() -> None:
    mesh, _ = after(*arrays(ball()), Crop((-2.0, -2.0, -2.0), (2.0, 2.0, 0.3)), FillHoles(2.0))
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(np.pi * 1.3**2 * (3 - 1.3) / 3, rel=0.01)


def test_open3d_is_asked_for_by_name_where_it_is_missing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(UserError, match=r"meshes are simplified with open3d, .* pip install .*open3d"):
        after(*arrays(ball()), Simplify(100))
    after(*arrays(ball()), DropCavities(), DropPieces(0.1), FillHoles(1.0))  # need none


@pytest.mark.parametrize("make", [lambda: Simplify(3), lambda: Smooth(0), lambda: FillHoles(0.0)])
def test_impossible_steps_are_refused(make) -> None:
    with pytest.raises(UserError, match=r"at least|above 0"):
        make()
