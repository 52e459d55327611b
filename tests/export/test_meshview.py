from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from recon3d.errors import UserError
from recon3d.export.meshfiles import read_mesh, write_mesh
from recon3d.export.meshview import MeshView, render_mesh, sampled, side_by_side
from recon3d.geometry.cameras import Cameras, look_at
from recon3d.geometry.paths import turntable

pytest.importorskip("open3d")


def camera(size: int = 64, distance: float = 4.0, distortion=(0.0, 0.0, 0.0, 0.0), away=(0.0, 0.0, 0.0)) -> Cameras:
    """In front of ``away`` on the -y side, z up in the picture, focal length of one picture's width."""
    target = torch.tensor(away, dtype=torch.float64)
    pose = look_at(
        target + torch.tensor([0.0, -distance, 0.0]), target, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    )
    one = torch.ones(1, 2)
    return Cameras(pose.float()[None], one * size, one * size / 2, size, size, torch.tensor([distortion]))


def colored_ball(away=(0.0, 0.0, 0.0)) -> trimesh.Trimesh:
    mesh = trimesh.creation.icosphere(4)
    mesh.visual.vertex_colors = np.rint(127.5 * (mesh.vertices + 1)).astype(np.uint8)
    mesh.apply_translation(away)
    return mesh


def test_a_ball_covers_what_it_should() -> None:
    """Seen from distance d, a unit ball covers a disc of tangent 1 / sqrt(d^2 - 1)."""
    _, mask = render_mesh(colored_ball(), camera(), 0, supersample=4)
    radius = 64 / math.sqrt(4.0**2 - 1)
    assert mask.sum() == pytest.approx(math.pi * radius**2, rel=0.005)
    assert set(np.unique(mask[28:36, 28:36])) == {1.0} and mask[0, 0] == 0
    assert ((mask > 0) & (mask < 1)).any()  # antialiased


def test_colours_are_where_they_belong() -> None:
    """x to the right, z upwards; the vertex colours are positions."""
    rgb, mask = render_mesh(colored_ball(), camera(), 0)
    right, left, top, bottom = rgb[32, 46], rgb[32, 17], rgb[17, 32], rgb[46, 32]
    assert right[0] > 0.85 > 0.15 > left[0]
    assert top[2] > 0.85 > 0.15 > bottom[2]
    assert rgb[32, 32, 1] < 0.02  # the near side is -y
    np.testing.assert_array_equal(rgb[0, 0], 1)
    black = MeshView(colored_ball()).picture(camera(), 0).over("black")
    np.testing.assert_allclose(rgb - black, np.repeat(1 - mask[..., None], 3, axis=2), atol=1e-12)


def test_far_from_the_origin_nothing_changes() -> None:
    here, _ = render_mesh(colored_ball(), camera(), 0)
    away = (3000.0, -2000.0, 1000.0)
    there, _ = render_mesh(colored_ball(away), camera(away=away), 0)
    assert np.abs(here - there).mean() < 2e-3


def test_distortion_is_the_cameras_own() -> None:
    """A pixel is covered where its own ray meets the ball."""
    cameras = camera(distortion=(-0.3, 0.05, 0.01, -0.02))
    _, mask = render_mesh(colored_ball(), cameras, 0, supersample=1)
    rays = cameras.image_rays(0)
    closest = torch.linalg.cross(rays.origins, rays.directions).norm(dim=1).reshape(64, 64).numpy()
    assert (mask[closest < 0.99] == 1).all() and (mask[closest > 1.0] == 0).all()
    straight = render_mesh(colored_ball(), camera(), 0, supersample=1)[1]
    assert mask.sum() < 0.99 * straight.sum() or mask.sum() > 1.01 * straight.sum()


def test_portions_of_rows_change_nothing(monkeypatch) -> None:
    from recon3d.export import meshview

    whole, _ = render_mesh(colored_ball(), camera(), 0)
    monkeypatch.setattr(meshview, "_RAYS", 1)
    np.testing.assert_array_equal(render_mesh(colored_ball(), camera(), 0)[0], whole)


def test_shading_shows_the_shape() -> None:
    plain = trimesh.creation.icosphere(4)
    shaded, mask = render_mesh(plain, camera(), 0, look="shaded")
    np.testing.assert_array_equal(render_mesh(plain, camera(), 0)[0], shaded)  # there are no colours to show
    inside = mask == 1
    assert shaded[20, 25].mean() > shaded[44, 40].mean() + 0.1  # light comes from the upper left
    assert shaded[inside].min() > 0.1 and shaded[inside].max() < 1
    inverted = plain.copy()
    inverted.invert()
    np.testing.assert_allclose(render_mesh(inverted, camera(), 0, look="shaded")[0], shaded, atol=1e-6)


def test_a_texture_is_the_right_way_up(tmp_path: Path) -> None:
    """A square in the x-z plane; its picture has red on top and blue below."""
    square = trimesh.Trimesh([[-1, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]], [[0, 1, 2], [0, 2, 3]], process=False)
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[:2, :, 0], picture[2:, :, 2] = 255, 255
    uv = [[0, 0], [1, 0], [1, 1], [0, 1]]
    square.visual = trimesh.visual.TextureVisuals(uv, image=Image.fromarray(picture))
    rgb, _ = render_mesh(square, camera(), 0)
    np.testing.assert_allclose(rgb[22, 32], [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(rgb[42, 32], [0, 0, 1], atol=1e-6)


def test_bilinear_samples() -> None:
    image = np.array([[[0, 0, 0], [200, 0, 0]], [[0, 100, 0], [200, 100, 0]]], np.uint8)
    uv = np.array([[0.25, 0.75], [0.5, 0.75], [0.5, 0.5], [0.0, 1.0], [1.0, 0.0]])
    expected = np.array([[0, 0, 0], [100, 0, 0], [100, 50, 0], [0, 0, 0], [200, 100, 0]]) / 255
    np.testing.assert_allclose(sampled(image, uv), expected, atol=1e-12)
    np.testing.assert_allclose(sampled(image[:1, :1], uv), 0)


@pytest.mark.parametrize("kind", ["glb", "ply", "obj"])
def test_every_file_of_a_mesh_looks_the_same(kind: str, tmp_path: Path) -> None:
    (path,) = write_mesh(colored_ball(), tmp_path, "ball", [kind])
    expected, _ = render_mesh(colored_ball(), camera(), 0)
    rgb, _ = render_mesh(read_mesh(path), camera(), 0)
    np.testing.assert_allclose(rgb, expected, atol=0.005)


def test_files_that_hold_no_mesh_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such mesh file"):
        read_mesh(tmp_path / "gone.ply")
    (tmp_path / "bad.ply").write_text("nothing")
    with pytest.raises(UserError, match="cannot be read as a mesh"):
        read_mesh(tmp_path / "bad.ply")
    trimesh.PointCloud(np.eye(3)).export(tmp_path / "points.ply")
    with pytest.raises(UserError, match="without faces"):
        read_mesh(tmp_path / "points.ply")
    broken = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, math.nan, 0]], [[0, 1, 2]], process=False)
    broken.export(tmp_path / "nan.obj")
    with pytest.raises(UserError, match="not finite"):
        read_mesh(tmp_path / "nan.obj")


def test_a_turntable_shows_the_whole_box_from_all_sides() -> None:
    low, high = (-1.0, 2.0, 3.0), (2.0, 3.0, 9.0)
    cameras = turntable(low, high, 8, 50)
    corners = torch.tensor(np.stack(np.meshgrid(*zip(low, high)), axis=-1).reshape(-1, 3), dtype=torch.float32)
    uv, depth = cameras.project(corners)
    assert depth.min() > 0 and uv.min() >= 0 and uv.max() <= 50
    assert uv.amax(dim=1).max() - uv.amin(dim=1).min() > 25  # and fills the picture
    offset = cameras.positions - cameras.positions.mean(dim=0)
    assert torch.allclose(offset.sum(dim=0), torch.zeros(3), atol=1e-3)
    up = -cameras.project(corners[:1] + torch.tensor([[0.0, 0.0, 0.1]]))[0][:, 0, 1] + uv[:, 0, 1]
    assert (up > 0).all()  # z is up in every picture


def test_pictures_side_by_side() -> None:
    row = side_by_side(np.zeros((2, 3, 3), np.uint8), np.ones((2, 1, 3)))
    assert row.shape == (2, 4, 3) and row.dtype == np.uint8
    assert row[:, :3].max() == 0 and row[:, 3].min() == 255
