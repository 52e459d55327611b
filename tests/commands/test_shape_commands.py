"""Shapes through the command line: train, eval, export, resume, and what is told of bad input."""

import json
import shutil

import numpy as np
import pytest
import trimesh
from tasks.shapes import CENTER, box, write_ball, write_points

from recon3d.tasks import shape_pictures

from .signals import LOOK, call, told

pytest.importorskip("open3d", reason="open3d is not here")

SMALL = [
    *LOOK,
    *("--batch", "1024", "--chunk", "4096", "--samples.pool", "16384"),
    *("--field.width", "16", "--field.depth", "1", "--field.hash-grid.levels", "5"),
    *("--field.hash-grid.log2-size", "12", "--field.hash-grid.coarsest", "4", "--field.hash-grid.finest", "48"),
]


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr(shape_pictures, "SIZE", 32)


def train(preset, data, out, name, *options, steps=100):
    return ["train", preset, data, "--out", out, "--name", name, "--steps", steps, *SMALL, *options]


@pytest.fixture(scope="module")
def block(tmp_path_factory):
    path = tmp_path_factory.mktemp("shapes") / "block.stl"
    box().export(path)
    return path


def test_from_a_file_to_figures_and_a_mesh_in_its_own_units(block, tmp_path, capsys):
    trained, _ = call(capsys, *train("shape", block, tmp_path, "run", steps=250))
    assert trained["steps"] == 250 and trained["sign_accuracy"] > 0.8
    run = tmp_path / "run"
    figures, out = call(capsys, "eval", run, *LOOK, "--grid", 32, "--resolution", 48, "--samples", 5000)
    assert figures["iou"] > 0.95 and "IoU" in out
    assert figures["near_error"] < 0.05  # the box is 3 long
    assert figures["chamfer_share"] < 0.01 and figures["normal_consistency"] > 0.9
    assert figures["shape"]["watertight"] and figures["shape"]["sign"] == "parity"
    assert figures["shape"]["merged_vertices"] == 3 * 12 - 8  # STL has no shared vertices
    assert figures["mesh"]["watertight"]
    saved = json.loads((run / "eval" / "metrics.json").read_text())
    assert saved["iou"] == figures["iou"] and (run / "eval" / "shape.png").stat().st_size > 0
    call(capsys, "export", "mesh", run, *LOOK, "--resolution", 48)
    mesh = trimesh.load(run / "exports" / "mesh.ply")
    assert np.allclose(mesh.bounds.mean(axis=0), CENTER, atol=0.1)
    assert np.allclose(mesh.extents, [3, 2, 1], atol=0.15)
    resumed, _ = call(capsys, "resume", run, "--steps", 260, "--device", "cpu", "--threads", 1)
    assert resumed["steps"] == 260


def test_occupancy_at_the_papers_protocol(block, tmp_path, capsys):
    call(capsys, *train("shape_hash", block, tmp_path, "run", steps=200))
    figures, out = call(capsys, "eval", tmp_path / "run", *LOOK, "--grid", 32, "--resolution", 0)
    assert figures["iou"] > 0.95 and "near_error" not in figures and "mesh" not in figures
    assert (figures["supervision"], figures["grid"]) == ("occupancy", 32)
    assert "IoU" in out


def test_points_are_fitted_and_measured_by_what_they_have(tmp_path, capsys):
    data = write_points(tmp_path / "ball.xyz")
    options = ["--field.siren.omega", "5", "--optimizer.learning-rate", "1e-3"]
    call(capsys, *train("shape_siren", data, tmp_path, "run", *options, "--batch", 256, steps=60))
    figures, _ = call(capsys, "eval", tmp_path / "run", *LOOK, "--resolution", 24)
    assert figures["surface_error"] < 0.05 and "iou" not in figures and "chamfer" not in figures
    assert figures["shape"]["vertices"] == 2000 and figures["mesh"]["faces"] > 100


def test_an_open_mesh_is_named_as_such_in_one_line(tmp_path, capsys, caplog):
    ball = trimesh.creation.icosphere(3)
    trimesh.Trimesh(ball.vertices, ball.faces[40:], process=False).export(tmp_path / "open.ply")
    call(capsys, *train("shape", tmp_path / "open.ply", tmp_path, "run", steps=3))
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "boundary edges" in record.getMessage() and "--sign" in record.getMessage()


def test_a_run_whose_file_has_moved(tmp_path, capsys):
    data = write_ball(tmp_path / "ball.ply", subdivisions=2)
    call(capsys, *train("shape_hash", data, tmp_path, "run", steps=3))
    shutil.move(data, tmp_path / "moved.ply")
    look = [tmp_path / "run", *LOOK, "--grid", 8, "--resolution", 0]
    told(capsys, ["eval", *look], data, "cannot be read")
    assert call(capsys, "eval", *look, "--data", tmp_path / "moved.ply")[0]["iou"] >= 0


BAD = {
    "no faces": ("x.obj", b"v 0 0 0\n", ["no faces"]),
    "NaN": ("x.obj", b"v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", ["vertex 0", "not finite"]),
    "zero area": ("x.obj", b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", ["zero area"]),
    "a sheet": ("x.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", ["one plane", "--sign unsigned"]),
    "no points": ("x.xyz", b"", ["no points"]),
    "points in a plane": ("x.xyz", b"0 0 0\n1 0 0\n0 1 0\n1 1 0\n", ["one plane"]),
    "points for a mesh": ("x.xyz", b"0 0 0\n1 0 0\n0 1 0\n1 1 1\n", ["sdf needs a mesh", "shape_siren"]),
    "unknown": ("x.blend", b"BLENDER", ["x.blend", "OBJ, PLY"]),
    "damaged": ("x.ply", b"ply\nformat", ["x.ply", "cannot be read"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_shapes_are_told_in_one_line_and_leave_no_run(case, tmp_path, capsys):
    name, content, parts = BAD[case]
    (tmp_path / name).write_bytes(content)
    told(capsys, train("shape", tmp_path / name, tmp_path / "runs", "run"), tmp_path / name, *parts)
    assert not (tmp_path / "runs").exists()


def test_what_shapes_do_not_do(tmp_path, capsys):
    data = write_ball(tmp_path / "ball.ply", subdivisions=2)
    told(capsys, ["tune", "shape", data, "--out", tmp_path, *LOOK], "tune")
    told(capsys, train("shape", data, tmp_path, "run", "--loss", "bce"), "loss (bce)", "supervision (sdf)")
    told(capsys, train("shape", tmp_path / "no.obj", tmp_path, "run"), "no.obj", "cannot be read")
    call(capsys, *train("shape_hash", data, tmp_path, "run", steps=2))
    told(capsys, ["eval", tmp_path / "run", *LOOK, "--grid", "5"], "--grid is 5")
    told(capsys, ["export", "signal", tmp_path / "run", *LOOK], "run of shape")


def test_an_open_mesh_by_its_points_has_no_sides_to_compare(tmp_path, capsys):
    ball = trimesh.creation.icosphere(3)
    trimesh.Trimesh(ball.vertices, ball.faces[400:], process=False).export(tmp_path / "open.ply")
    options = ["--field.siren.omega", "5", "--optimizer.learning-rate", "1e-3", "--batch", 128]
    call(capsys, *train("shape_siren", tmp_path / "open.ply", tmp_path, "run", *options, steps=30))
    figures, _ = call(capsys, "eval", tmp_path / "run", *LOOK, "--resolution", 0)
    assert "iou" not in figures and figures["surface_error"] > 0
    assert figures["shape"]["boundary_edges"] > 0
