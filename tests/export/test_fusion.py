"""Depths of known bodies, fused: is the surface where it was?"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from geometry.seen_ball import CENTER, HOME, RADIUS, Ball, Thin, around

from recon3d.errors import UserError
from recon3d.export.fusion import fuse, fused_surface
from recon3d.export.mesh import export_mesh
from recon3d.geometry.depth_views import DepthView, truncation_for, views_of

from .shapes import lattice

open3d = pytest.importorskip("open3d")

CELLS = (lattice(16, centers=True).norm(dim=1) < 0.8).view(16, 16, 16).numpy()  # those that all cameras see
LOW, HIGH = [(CENTER - 1).tolist(), (CENTER + 1).tolist()]


@pytest.mark.parametrize("voxel", [0.04, 0.02])
def test_a_ball_has_its_radius_within_half_a_voxel(voxel: float) -> None:
    vertices, faces = fuse(views_of(Ball(haze=0.4), around(20)), voxel, LOW, HIGH)
    distance = np.linalg.norm(vertices - CENTER.numpy(), axis=1)
    assert abs(distance.mean() - RADIUS) < 0.15 * voxel
    assert np.percentile(np.abs(distance - RADIUS), 99) < 0.5 * voxel
    corners = vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normal, axis=1).sum() / 2
    assert area == pytest.approx(4 * math.pi * RADIUS**2, rel=0.05)
    outward = np.einsum("ij,ij->i", normal, corners.mean(axis=1) - CENTER.numpy())
    assert (outward >= -1e-12).mean() > 0.999


def test_nothing_opaque_makes_no_surface() -> None:
    with pytest.raises(UserError, match="no surface: none of 3 views sees anything opaque"):
        fuse(views_of(Thin(), around(3)), 0.05, LOW, HIGH)


@pytest.mark.parametrize("resolution", [48, 96])
def test_the_closed_surface_of_a_ball(resolution: int) -> None:
    views = list(views_of(Ball(haze=0.4), around(20)))
    voxel = 2 / resolution
    surface = fused_surface(views, HOME, CELLS, truncation_for(views, voxel))
    mesh, report = export_mesh(surface, HOME, resolution=resolution)
    distance = np.linalg.norm(mesh.vertices - CENTER.numpy(), axis=1)
    assert abs(distance.mean() - RADIUS) < 0.15 * voxel
    assert np.percentile(np.abs(distance - RADIUS), 99) < 0.5 * voxel
    assert (report.watertight, report.components) == (True, 1)
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.03)


def test_what_no_camera_saw_is_solid() -> None:
    """Cameras on one side alone see half of the ball: the rest is closed by the silhouette's shadow and the cells."""
    cameras = around(40)
    above = cameras[[i for i in range(40) if cameras.positions[i, 2] > CENTER[2] + 1]]
    views = list(views_of(Ball(), above))
    surface = fused_surface(views, HOME, CELLS, truncation_for(views, 2 / 64))
    points = torch.tensor([[0, 0, 0.0], [0, 0, -0.6], [0, 0, -0.75], [0, 0, 0.75], [0.6, 0, 0.5]])
    assert (surface.value_fn(points) > 0).tolist() == [True, True, True, False, False]
    mesh, _ = export_mesh(surface, HOME, resolution=64)
    assert mesh.is_watertight
    top = mesh.vertices[mesh.vertices[:, 2] > float(CENTER[2]) + 0.2]
    assert abs(np.linalg.norm(top - CENTER.numpy(), axis=1).mean() - RADIUS) < 0.01


def test_the_box_bounds_what_is_fused() -> None:
    vertices, _ = fuse(views_of(Ball(), around(12)), 0.02, LOW, [*CENTER.tolist()[:2], HIGH[2]])
    assert vertices[:, 0].max() < float(CENTER[0]) + 16 * 0.02  # whole blocks of 16 voxels stay
    assert vertices[:, 2].max() > float(CENTER[2]) + 0.6
    with pytest.raises(UserError, match="no surface"):
        fuse(views_of(Ball(), around(4)), 0.02, [9.0, 9.0, 9.0], [10.0, 10.0, 10.0])


def test_what_too_few_views_saw_is_left_out() -> None:
    one = list(views_of(Ball(), around(6), [0]))
    with pytest.raises(UserError, match="seen by 2 of 1 views"):
        fuse(one, 0.04, LOW, HIGH)
    vertices, _ = fuse(one, 0.04, LOW, HIGH, min_views=1)
    assert len(vertices) > 0


def test_memory_is_bounded() -> None:
    with pytest.raises(UserError, match=r"voxels of 0.005 takes more than 0.0 GiB"):
        fuse(views_of(Ball(), around(4)), 0.005, LOW, HIGH, budget_bytes=2**20)


def test_an_empty_view_is_passed_over() -> None:
    empty = DepthView(np.zeros((8, 8), np.float32), np.eye(3), np.eye(4))
    vertices, _ = fuse([empty, *views_of(Ball(), around(12)), empty], 0.05, LOW, HIGH)
    assert len(vertices) > 0
