"""recon3d eval mesh A B, from files to figures, and everything that can be wrong with a file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import trimesh

from recon3d.cli import main
from recon3d.export.meshfiles import write_mesh


def ball(path: Path, radius: float, subdivisions: int = 3) -> Path:
    trimesh.creation.icosphere(subdivisions, radius).export(path)
    return path


def told(capsys) -> str:
    """The one line of a refusal."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert lines[0].startswith("recon3d: ")
    return lines[0]


@pytest.mark.parametrize("suffix", ["ply", "obj", "stl", "off", "glb"])
def test_balls_in_every_format(suffix: str, tmp_path: Path, capsys) -> None:
    a, b = ball(tmp_path / f"a.{suffix}", 1.05), ball(tmp_path / "b.ply", 1.0)
    options = ["--samples", "5000", "--lines", "128", "--thresholds", "0.01", "0.02", "--json"]
    assert main(["eval", "mesh", str(a), str(b), *options]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    diagonal = 2 * math.sqrt(3)
    assert figures["chamfer"] == pytest.approx(0.05, abs=2e-3)
    assert figures["hausdorff"] == pytest.approx(0.05, abs=6e-3)
    assert figures["iou"] == pytest.approx(1.05**-3, rel=5e-3)
    assert (figures["f_score_0.01"], figures["f_score_0.02"]) == (0, 1)
    assert figures["diagonal"] == pytest.approx(diagonal, rel=0.01)
    for which in ("mesh", "reference"):
        facts = figures["topology"][which]
        assert (facts["watertight"], facts["components"], facts["euler_number"]) == (True, 1, 2)
        assert (facts["boundary_edges"], facts["nonmanifold_edges"], facts["self_intersections"]) == (0, 0, 0)
    kept = json.loads((tmp_path / "mesh_metrics.json").read_text())
    assert kept["chamfer"] == figures["chamfer"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        {a.name, "b.ply", "mesh_metrics.json", "mesh_errors.ply"}
    )


def test_errors_are_colours_of_vertices(tmp_path: Path, capsys) -> None:
    reference = ball(tmp_path / "b.ply", 1.0, 4)
    dented = trimesh.load(reference, process=False)
    far = dented.vertices[:, 2] > 0.8
    dented.vertices[far] *= 1.2
    dented.export(tmp_path / "a.ply")
    out = tmp_path / "out"
    assert (
        main(["eval", "mesh", str(tmp_path / "a.ply"), str(reference), "--output", str(out), "--samples", "2000"]) == 0
    )
    assert "mesh_errors.ply" in capsys.readouterr().out
    shown = trimesh.load(out / "mesh_errors.ply", process=False)
    colors = np.asarray(shown.visual.vertex_colors)[:, :3]
    dark, bright = (68, 1, 84), (253, 231, 36)  # the ends of viridis
    np.testing.assert_allclose(colors[~far] - np.array(dark), 0, atol=2)
    np.testing.assert_allclose(colors[far] - np.array(bright), 0, atol=2)
    figures = json.loads((out / "mesh_metrics.json").read_text())
    assert figures["error_range"] == [0.0, pytest.approx(0.02 * figures["diagonal"])]
    assert figures["largest_vertex_error"] == pytest.approx(0.2, abs=0.01)


def test_an_open_mesh_has_no_iou(tmp_path: Path, capsys) -> None:
    closed = ball(tmp_path / "b.ply", 1.0)
    mesh = trimesh.load(closed, process=False)
    trimesh.Trimesh(mesh.vertices, mesh.faces[1:], process=False).export(tmp_path / "a.ply")
    assert main(["eval", "mesh", str(tmp_path / "a.ply"), str(closed), "--samples", "1000", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["iou"] is None
    assert figures["topology"]["mesh"]["boundary_edges"] == 3


def test_our_own_glb_lies_where_our_ply_does(tmp_path: Path, capsys) -> None:
    mesh = trimesh.creation.box((1, 2, 3))
    mesh.apply_translation((4, 5, 6))
    mesh = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    glb, ply = write_mesh(mesh, tmp_path, "box", ("glb", "ply"))
    assert main(["eval", "mesh", str(glb), str(ply), "--samples", "1000", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["hausdorff"] < 1e-6
    assert figures["iou"] == pytest.approx(1, abs=1e-6)


def write_empty(path: Path) -> None:
    path.write_bytes(b"")


def write_noise(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 4)


def write_points(path: Path) -> None:
    trimesh.PointCloud(np.random.default_rng(0).random((10, 3))).export(path)


def write_nan(path: Path) -> None:
    mesh = trimesh.creation.icosphere(1)
    mesh.vertices[3] = math.nan
    mesh.export(path)


def write_flat(path: Path) -> None:
    trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]], process=False).export(path)


def write_no_such_vertex(path: Path) -> None:
    path.write_text(
        "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
        "element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n"
    )


BAD = {
    "missing": (lambda path: None, "no such mesh file"),
    "empty file": (write_empty, "cannot be read as a mesh"),
    "noise": (write_noise, "cannot be read as a mesh"),
    "points": (write_points, "without faces"),
    "nan": (write_nan, "not finite"),
    "flat": (write_flat, "all 1 faces have zero area"),
    "no such vertex": (write_no_such_vertex, "bad.ply"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("side", ["mesh", "reference"])
def test_bad_files_are_named_in_one_line(case: str, side: str, tmp_path: Path, capsys) -> None:
    spoil, part = BAD[case]
    bad, good = tmp_path / "bad.ply", ball(tmp_path / "good.ply", 1.0, 1)
    spoil(bad)
    before = sorted(tmp_path.iterdir())
    pair = [bad, good] if side == "mesh" else [good, bad]
    assert main(["eval", "mesh", *map(str, pair)]) == 2
    line = told(capsys)
    assert part in line
    assert str(bad) in line
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--thresholds", "0.5", "-1"], "--thresholds"),
        (["--samples", "0"], "--samples is 0"),
        (["--lines", "0"], "--lines is 0"),
        (["--error-range", "0"], "--error-range is 0"),
    ],
)
def test_bad_options(options: list[str], part: str, tmp_path: Path, capsys) -> None:
    good = str(ball(tmp_path / "good.ply", 1.0, 1))
    assert main(["eval", "mesh", good, good, *options]) == 2
    assert part in told(capsys)
