"""recon3d export pointcloud and export volume, from runs of every kind to files, and what is told of bad input."""

import numpy as np
import pytest
import trimesh
from geometry.ball import RADIUS, write_ball_folder
from tasks.shapes import CENTER, box

from recon3d.kernels.triangles import TriangleTree

from .signals import LOOK, call, told, trained_image

pytest.importorskip("open3d", reason="open3d is not here")

GRID = ["--field.hash-grid.levels", "5", "--field.hash-grid.log2-size", "12", "--field.hash-grid.finest", "48"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of a box's signed distance, and one of photographs of a ball."""
    from recon3d import cli

    folder = tmp_path_factory.mktemp("runs")
    box().export(folder / "block.stl")
    shape = ["train", "shape", folder / "block.stl", "--name", "shape", "--steps", 200, "--batch", 1024]
    pool = ["--chunk", 4096, "--samples.pool", 16384, "--field.width", 16, "--field.depth", 1]
    pool += ["--field.hash-grid.coarsest", 4]
    photographs = ["train", "nerf", "--data", write_ball_folder(folder / "ball"), "--name", "nerf", "--steps", 120]
    small = ["--samples", 8192, "--max-rays", 1024, "--head.grid", 32, "--head.samples-per-diagonal", 128]
    for args in ([*shape, *pool], [*photographs, *small]):
        assert cli.main([str(arg) for arg in [*args, "--out", folder, *GRID, *LOOK]]) == 0
    return folder


@pytest.mark.parametrize("format_", ["ply", "pcd"])
def test_points_of_a_shape_in_its_own_units(runs, format_, tmp_path, capsys):
    import open3d

    file = tmp_path / f"points.{format_}"
    options = ["--points", 3000, "--format", format_, "--resolution", 48, "--output", file]
    figures, out = call(capsys, "export", "pointcloud", runs / "shape", *LOOK, *options)
    assert (figures["points"], figures["route"], figures["colors"]) == (3000, "level", False)
    assert str(file) in out
    cloud = open3d.io.read_point_cloud(str(file))
    points, normals = np.asarray(cloud.points), np.asarray(cloud.normals)
    reference = box()
    away = TriangleTree(np.asarray(reference.triangles)).nearest(points)[0]
    assert away.mean() < 0.05
    np.testing.assert_allclose(points.min(axis=0), reference.bounds[0], atol=0.2)
    np.testing.assert_allclose(points.max(axis=0), reference.bounds[1], atol=0.2)
    outward = np.einsum("ij,ij->i", normals, points - np.asarray(CENTER))
    assert (outward > 0).mean() > 0.99


def test_points_of_photographs_have_their_colours(runs, capsys):
    figures, _ = call(capsys, "export", "pointcloud", runs / "nerf", *LOOK, "--points", 2000, "--resolution", 48)
    assert (figures["route"], figures["colors"]) == ("fusion", True)
    cloud = trimesh.load(runs / "nerf" / "exports" / "points.ply")
    outward = cloud.vertices / np.linalg.norm(cloud.vertices, axis=1, keepdims=True)
    assert abs(np.median(np.linalg.norm(cloud.vertices, axis=1)) - RADIUS) < 0.09  # a pixel of the photographs
    error = np.asarray(cloud.colors)[:, :3] / 255 - (0.5 + 0.5 * outward)  # the ball's colour is its normal
    assert np.abs(error).mean() < 0.12


def test_a_volume_of_a_shape_has_the_distance_in_world_units(runs, tmp_path, capsys):
    file = tmp_path / "box.npz"
    figures, _ = call(capsys, "export", "volume", runs / "shape", *LOOK, "--resolution", 24, "--output", file)
    assert figures["quantity"] == "signed_distance" and figures["shape_zyx"] == [24, 24, 24]
    with np.load(file) as volume:
        values, origin, spacing = volume["values"], volume["origin"], volume["spacing"]
    assert [values.min(), values.max()] == pytest.approx(figures["range"])
    points = np.argwhere(values > -np.inf)[:, ::-1] * spacing + origin
    beyond = np.abs(points - np.asarray(CENTER)) - box().extents / 2
    wanted = np.linalg.norm(beyond.clip(0), axis=1) + beyond.max(axis=1).clip(max=0)
    near = np.abs(wanted) < 0.2  # farther out a short training knows less
    assert np.abs(values.reshape(-1) - wanted)[near].mean() < 0.06
    assert ((values.reshape(-1) < 0) == (wanted < 0))[~near].mean() > 0.99


@pytest.mark.parametrize("format_", ["npz", "nrrd", "vti"])
def test_a_volume_of_photographs_is_dense_where_the_ball_is(runs, format_, capsys):
    crop = ["--crop", -1, -1, -1, 1, 1, 0]
    figures, out = call(
        capsys, "export", "volume", runs / "nerf", *LOOK, "--resolution", 32, "--format", format_, *crop
    )
    assert figures["quantity"] == "density" and "density" in out
    nz, ny, nx = figures["shape_zyx"]
    assert nz < ny == nx
    low, spacing = np.array(figures["origin_xyz"]), np.array(figures["spacing_xyz"])
    high = low + (np.array([nx, ny, nz]) - 1) * spacing
    assert (low >= -1 - 1e-6).all() and (high <= [1 + 1e-6, 1 + 1e-6, 1e-6]).all()
    assert figures["file"].endswith(f"volume.{format_}")
    if format_ == "npz":
        with np.load(figures["file"]) as volume:
            values = volume["values"]
        place = np.argwhere(values > 5)[:, ::-1] * spacing + low
        assert np.linalg.norm(place, axis=1).max() < RADIUS + 0.3
        assert len(place) > 10


def test_what_cannot_be_exported_is_told_in_one_line(runs, tmp_path, capsys):
    image = trained_image(capsys, tmp_path)
    for kind in ("pointcloud", "volume"):
        told(capsys, ["export", kind, image, *LOOK], "run of image")
        told(capsys, ["export", kind, tmp_path / "nowhere", *LOOK], "nowhere")
        told(capsys, ["export", kind, runs / "shape", *LOOK, "--resolution", 1], "resolution is 1")
    told(capsys, ["export", "pointcloud", runs / "shape", *LOOK, "--points", 0], "--points is 0")
    told(capsys, ["export", "pointcloud", runs / "shape", *LOOK, "--route", "fusion"], "photographs")
    options = ["--resolution", 24, "--output"]
    told(capsys, ["export", "volume", runs / "shape", *LOOK, "--crop", 9, 9, 9, 8, 8, 8], "low < high")
    told(capsys, ["export", "volume", runs / "shape", *LOOK, "--crop", 90, 90, 90, 91, 91, 91], "holds no sample")
    told(capsys, ["export", "volume", runs / "shape", *LOOK, *options, tmp_path / "v.raw"], "v.raw")
    assert not (tmp_path / "v.raw").exists()
