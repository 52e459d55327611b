"""Depths of known bodies, fused: is the surface where it was?"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recon3d.errors import UserError
from recon3d.export.fusion import DepthView, along_axis, fuse, fused_surface, truncation_for, views_of
from recon3d.export.mesh import export_mesh
from recon3d.geometry.boxes import Normalizer
from recon3d.geometry.cameras import Cameras, look_at

from .shapes import lattice

open3d = pytest.importorskip("open3d")

SIZE = 96
CENTER = torch.tensor([0.3, -0.2, 1.0])
RADIUS = 0.7
HOME = Normalizer((float(CENTER[0]), float(CENTER[1]), float(CENTER[2])), 1.0)
CELLS = (lattice(16, centers=True).norm(dim=1) < 0.8).view(16, 16, 16).numpy()  # those that all cameras see
LOW, HIGH = [(CENTER - 1).tolist(), (CENTER + 1).tolist()]


def around(count: int, distance: float = 3.0) -> Cameras:
    """Cameras on a sphere (a Fibonacci spiral) that look at the ball; pixels are not square, centres off the middle."""
    poses = []
    for i in range(count):
        z = 1 - (2 * i + 1) / count
        angle = i * math.pi * (3 - math.sqrt(5))
        r = math.sqrt(1 - z * z)
        away = torch.tensor([r * math.cos(angle), r * math.sin(angle), z])
        poses.append(look_at(CENTER + distance * away, CENTER, torch.tensor([0.1, 0.2, 1.0])))
    focal = torch.tensor([150.0, 160.0]).expand(count, 2)
    center = torch.tensor([SIZE / 2 + 3.0, SIZE / 2 - 2.0]).expand(count, 2)
    return Cameras(torch.stack(poses), focal, center, SIZE, SIZE, torch.zeros(count, 4))


class Ball:
    """A task whose field is a solid ball, with depths along rays as a renderer gives them."""

    def __init__(self, haze: float = 0.0) -> None:
        self.haze = haze

    def surface_depth(self, cameras: Cameras, index: int):
        rays = cameras.image_rays(index)
        to_center = CENTER - rays.origins
        along = (to_center * rays.directions).sum(-1)
        inside = RADIUS**2 - (to_center.square().sum(-1) - along.square())
        hit = inside > 0
        depth = torch.where(hit, along - inside.clamp_min(0).sqrt(), 0.1)
        shape = cameras.height, cameras.width
        return depth.view(shape), torch.where(hit, 1.0, self.haze).view(shape)


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


def test_depth_is_along_the_axis_not_the_ray() -> None:
    cameras = around(2)
    wall = torch.full((SIZE, SIZE), 2.0) / along_axis(cameras, 0)  # distances along rays to a wall across the axis

    class Wall:
        def surface_depth(self, cameras: Cameras, index: int):
            return wall, torch.ones(SIZE, SIZE)

    (view,) = views_of(Wall(), cameras, [0])
    np.testing.assert_allclose(view.depth, 2.0, rtol=1e-6)
    rays = cameras.image_rays(0)
    cosine = (rays.directions * cameras.forward_axes[0]).sum(-1).view(SIZE, SIZE)
    torch.testing.assert_close(along_axis(cameras, 0), cosine)


def test_only_what_is_opaque_is_seen() -> None:
    class Thin(Ball):
        def surface_depth(self, cameras: Cameras, index: int):
            depth, opacity = super().surface_depth(cameras, index)
            return depth, 0.49 * opacity

    (view,) = views_of(Thin(), around(1))
    assert np.isinf(view.depth).all()
    assert not view.seen.any()
    with pytest.raises(UserError, match="no surface: none of 1 views sees anything that is opaque"):
        truncation_for([view], 0.1)
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


def test_the_truncation_spans_voxels_and_pixels() -> None:
    views = list(views_of(Ball(), around(3)))
    assert truncation_for(views, 1.0) == 3
    footprint = 2.4 / 150  # depths are 2.3 to 2.85, the focal length 150 pixels
    assert truncation_for(views, 1e-6) == pytest.approx(2.5 * footprint, rel=0.05)


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
