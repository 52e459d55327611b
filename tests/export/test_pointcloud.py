"""Points of known surfaces, and the files as open3d reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh

from recon3d.errors import UserError
from recon3d.export.pointcloud import PointCloud, points_on, write_pointcloud


def ball(colored: bool = True) -> trimesh.Trimesh:
    plain = trimesh.creation.icosphere(4, 2.0)
    plain.apply_translation((10, 20, 30))
    outward = (plain.vertices - (10, 20, 30)) / 2
    colors = np.rint((outward + 1) * 127.5).astype(np.uint8) if colored else None
    return trimesh.Trimesh(plain.vertices, plain.faces, vertex_normals=outward, vertex_colors=colors, process=False)


def test_points_normals_and_colours_lie_on_the_surface() -> None:
    cloud = points_on(ball(), 5000)
    away = cloud.points - (10, 20, 30)
    np.testing.assert_allclose(np.linalg.norm(away, axis=1), 2, rtol=2e-3)
    outward = away / np.linalg.norm(away, axis=1, keepdims=True)
    np.testing.assert_allclose(np.linalg.norm(cloud.normals, axis=1), 1, rtol=1e-9)
    np.testing.assert_allclose(cloud.normals, outward, atol=2e-3)
    assert cloud.colors is not None
    np.testing.assert_allclose(cloud.colors, (outward + 1) * 127.5, atol=2)
    octants = np.bincount((away > 0) @ [1, 2, 4], minlength=8)
    assert octants.min() > 0.9 * 5000 / 8  # evenly


def test_a_mesh_without_colours_gives_points_without() -> None:
    assert points_on(ball(colored=False), 10).colors is None


def test_cancelling_normals_fall_back_to_the_face() -> None:
    vertices = [[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]
    normals = [[1.0, 0, 0], [-0.5, 0.8660254, 0], [-0.5, -0.8660254, 0]]
    mesh = trimesh.Trimesh(vertices, [[0, 1, 2]], vertex_normals=normals, process=False)
    cloud = points_on(mesh, 200)
    np.testing.assert_allclose(np.linalg.norm(cloud.normals, axis=1), 1, rtol=1e-6)
    centre = points_on(mesh, 1)
    assert centre.points.shape == (1, 3)


@pytest.mark.parametrize("suffix", [".ply", ".pcd"])
@pytest.mark.parametrize("colored", [True, False])
def test_files_are_read_back_by_open3d(suffix: str, colored: bool, tmp_path: Path) -> None:
    open3d = pytest.importorskip("open3d")
    cloud = points_on(ball(colored), 777)
    path = write_pointcloud(cloud, tmp_path / f"points{suffix}")
    read = open3d.io.read_point_cloud(str(path))
    np.testing.assert_allclose(np.asarray(read.points), cloud.points, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(read.normals), cloud.normals, atol=1e-6)
    assert read.has_colors() == colored
    if colored:
        np.testing.assert_allclose(np.asarray(read.colors) * 255, cloud.colors, atol=0.01)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_ply_is_read_back_by_trimesh(tmp_path: Path) -> None:
    cloud = points_on(ball(), 50)
    read = trimesh.load(write_pointcloud(cloud, tmp_path / "points.ply"))
    np.testing.assert_allclose(read.vertices, cloud.points, rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(read.colors)[:, :3], cloud.colors)


def test_what_cannot_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give at least 1"):
        points_on(ball(), 0)
    flat = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]], process=False)
    with pytest.raises(UserError, match="zero area"):
        points_on(flat, 5)
    cloud = PointCloud(np.zeros((1, 3)), np.zeros((1, 3)), None)
    with pytest.raises(UserError, match=r"\.ply or \.pcd"):
        write_pointcloud(cloud, tmp_path / "points.xyz")
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        write_pointcloud(cloud, tmp_path / "taken" / "points.ply")
