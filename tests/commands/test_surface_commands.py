"""A surface through the command line: trained, resumed, measured, rendered and exported."""

import json

import pytest
import trimesh
from geometry.ball import RADIUS, write_ball_folder

from recon3d.cli import main

SMALL = {
    "steps": 280,
    "fog-steps": 0,
    "samples": 4096,
    "max-rays": 512,
    "space-points": 128,
    "eikonal": 0.1,
    "mask": 0.1,
    "head.weights": "neus",
    "threads": 1,
    "device": "cpu",
    "precision": "float32",
    "field.hash-grid.levels": 5,
    "field.hash-grid.log2-size": 13,
    "field.hash-grid.coarsest": 8,
    "field.hash-grid.finest": 64,
    "field.first-levels": 2,
    "field.level-every": 10,
    "field.width": 16,
    "field.color-width": 32,
    "head.grid": 32,
    "head.samples-per-diagonal": 128,
    "head.sharpness-rate": 0.05,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("surface")
    data = write_ball_folder(folder / "ball", train=30, test=2, size=64)
    options = [part for name, value in SMALL.items() for part in (f"--{name}", str(value))]
    assert main(["train", "surface", str(data), "--out", str(folder), "--name", "ball", *options]) == 0
    return folder / "ball"


def figures(capsys, *args):
    """The figures of a command that succeeds."""
    assert main([*args, "--threads", "1", "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_eval_tells_how_well_silhouettes_fit(run, capsys):
    scores = figures(capsys, "eval", str(run))
    assert scores["psnr"] > 20
    assert scores["silhouette_iou"] > 0.93
    assert (run / "eval_test" / "comparison.png").is_file()


def test_the_mesh_is_closed_and_in_world_units(run, capsys):
    report = figures(capsys, "export", "mesh", str(run), "--resolution", "48")
    assert report["watertight"]
    mesh = trimesh.load(run / "exports" / "mesh.ply", process=False)
    assert mesh.bounding_box.extents == pytest.approx([2 * RADIUS] * 3, rel=0.08)


def test_render_and_resume(run, capsys):
    assert figures(capsys, "render", str(run), "--frames", "2", "--size", "16")["frames"] == 2
    assert figures(capsys, "resume", str(run), "--steps", "282")["steps"] == 282
