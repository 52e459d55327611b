"""The main job through the command line: photographs in, a trained field, honest numbers, a mesh and a video out."""

import json
import math
import shutil
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import trimesh
import yaml

from recon3d.config.fields import PUBLISHED
from recon3d.training.checkpoints import load, newest

from .command import LOOK, figures, refused_at_once, run, succeed, train
from .conftest import STEPS, TOY

# What the shared run reached when this was written, less 1 dB or a tenth.
PSNR_FLOOR = 25.7  # dB; measured 26.7
F_SCORE_FLOOR = 0.66  # at 1% of the diagonal; measured 0.73


@pytest.fixture(scope="module")
def evaluated(trained):
    return run("eval", trained.path, *LOOK, "--json")


@pytest.fixture(scope="module")
def exported(trained, toy):
    options = ["--resolution", "96", "--reference", toy / "mesh.ply", *LOOK, "--json"]
    return run("export", "mesh", trained.path, *options)


# --- train ---


@pytest.mark.slow  # the first to use the shared run waits for its training
def test_training_leaves_a_whole_run_folder(trained):
    assert trained.figures["steps"] == STEPS
    assert trained.figures["stopped"] is False
    assert trained.figures["run"] == str(trained.path)
    assert trained.figures["seconds"] > 0
    assert {"psnr", "loss", "device"} <= trained.figures.keys()
    assert sorted(path.name for path in (trained.path / "checkpoints").iterdir()) == [
        "step_00000150.safetensors",
        "step_00000300.safetensors",
    ]
    assert len(list((trained.path / "previews").glob("*.png"))) == 3
    assert list(trained.path.glob("events.out.tfevents.*"))
    entries = [json.loads(line) for line in (trained.path / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if "loss" in entry] == [1, 50, 100, 150, 200, 250, 300]


def test_the_configuration_shows_what_was_used(trained, toy):
    config = yaml.safe_load((trained.path / "config.yaml").read_text())
    assert config["task"] == "nerf"
    assert config["data"] == str(toy)
    assert config["steps"] == STEPS
    assert config["field"]["encoder"] == ["hash_grid"]
    assert config["field"]["width"] == 64
    assert config["optimizer"]["learning_rate"] == PUBLISHED["hash_grid"].learning_rate


@pytest.mark.slow
def test_frequency_trains_through_the_same_head(ball, tmp_path):
    options = ["--field.encoder", "frequency", "--field.width", "32", "--field.depth", "6", "--steps", "60"]
    options += ["--optimizer.learning-rate", "5e-3", "--optimizer.warmup-steps", "5", "--log-every", "10"]
    assert succeed(*train(ball, tmp_path, "f", *options))["steps"] == 60
    entries = [json.loads(line) for line in (tmp_path / "f" / "metrics.jsonl").read_text().splitlines()]
    assert entries[-1]["loss"] < 0.8 * entries[0]["loss"]
    scores = succeed("eval", tmp_path / "f", *LOOK)
    assert scores["psnr"] > 10


def test_a_budget_in_seconds_and_what_is_said_without_json(ball, tmp_path):
    done = run(*train(ball, tmp_path, "s", "--max-seconds", "1.0"))
    assert done.returncode == 0
    assert "{" not in done.stdout
    assert "finished at step" in done.stdout
    assert "recon3d eval" in done.stdout  # what to do next
    config = yaml.safe_load((tmp_path / "s" / "config.yaml").read_text())
    assert (config["steps"], config["max_seconds"]) == (None, 1.0)
    _, header = load(newest(tmp_path / "s" / "checkpoints"))
    assert header["step"] >= 1
    assert 1.0 <= header["seconds"] < 30


# --- eval ---


def test_quality_floor(evaluated):
    """300 small steps, 64 x 64 pixels."""
    scores = figures(evaluated)
    print(f"PSNR {scores['psnr']:.2f} dB, SSIM {scores['ssim']:.4f}")
    assert scores["psnr"] > PSNR_FLOOR


def test_evaluation_figures(evaluated, trained):
    scores = figures(evaluated)
    assert scores["run"] == str(trained.path)
    assert (scores["step"], scores["split"], scores["background"]) == (STEPS, "test", "white")
    assert (scores["views"], scores["size"]) == (TOY["test"], [TOY["size"], TOY["size"]])
    assert 0 < scores["ssim"] <= 1
    written = json.loads(Path(scores["metrics"]).read_text())
    assert len(written["views"]) == TOY["test"]
    for key in ("psnr", "ssim"):
        assert written[key] == scores[key] == pytest.approx(np.mean([view[key] for view in written["views"]]))
    assert written["views"][0]["name"] == "test/r_000.png"


def test_evaluation_images(evaluated, trained, toy):
    """The written image is what was measured: its PSNR against the photograph on white is the one in the table."""
    scores = json.loads((trained.path / "eval_test" / "metrics.json").read_text())
    for index, view in enumerate(scores["views"]):
        rendered = iio.imread(trained.path / "eval_test" / f"{index:03d}.png") / 255
        photograph = iio.imread(toy / view["name"]) / 255
        alpha = photograph[..., 3:]
        truth = photograph[..., :3] * alpha + 1 - alpha
        assert rendered.shape == truth.shape
        assert -10 * math.log10(np.square(rendered - truth).mean()) == pytest.approx(view["psnr"], abs=0.1)
    sheet = iio.imread(scores["comparison"])
    assert sheet.shape == (TOY["test"] * TOY["size"], 4 * TOY["size"], 3)


def test_black_background_and_other_splits(trained):
    scores = succeed(*("eval", trained.path, "--background", "black", "--split", "val", *LOOK))
    assert (scores["background"], scores["split"], scores["views"]) == ("black", "val", 4)
    image = iio.imread(trained.path / "eval_val" / "000.png")
    assert image[:3, :3].max() < 20


def test_a_run_folder_may_be_moved(trained, evaluated, tmp_path):
    shutil.copytree(trained.path, tmp_path / "moved and renamed")
    scores = succeed("eval", tmp_path / "moved and renamed", *LOOK)
    assert scores["psnr"] == figures(evaluated)["psnr"]
    assert str(tmp_path) in scores["comparison"]


def test_data_may_be_moved_too(trained, toy, evaluated, tmp_path):
    shutil.copytree(trained.path, tmp_path / "run")
    shutil.copytree(toy, tmp_path / "data")
    config = (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "run" / "config.yaml").write_text(config.replace(str(toy), str(tmp_path / "gone")))
    refused_at_once(run("eval", tmp_path / "run", *LOOK), tmp_path / "gone")
    scores = succeed("eval", tmp_path / "run", "--data", tmp_path / "data", *LOOK)
    assert scores["psnr"] == figures(evaluated)["psnr"]


# --- export and render ---


def test_mesh_is_near_the_truth(exported):
    scores = figures(exported)
    print(f"F-score {scores['f_score']:.4f}, {scores['faces']} faces")
    assert scores["f_score"] > F_SCORE_FLOOR
    assert 0 < scores["chamfer_share"] < 0.05
    assert 0 < scores["normal_consistency"] <= 1


def test_mesh_files(exported, trained, toy):
    scores = figures(exported)
    files = {Path(name).suffix: Path(name) for name in scores["files"]}
    assert {".glb", ".ply", ".obj"} <= files.keys()
    truth = trimesh.load(toy / "mesh.ply", force="mesh", process=False)
    for suffix in (".glb", ".ply", ".obj"):
        mesh = trimesh.load(files[suffix], force="mesh", process=False)
        assert len(mesh.faces) == scores["faces"] > 500
        if suffix != ".glb":  # glTF has y up by definition; the others keep the world's axes
            np.testing.assert_allclose(mesh.bounds, truth.bounds, atol=0.25)
    written = json.loads((trained.path / "exports" / "mesh.json").read_text())
    assert written["f_score"] == scores["f_score"]
    assert scores["watertight"] in (True, False)
    assert 0 < scores["evaluated_share"] <= 1
    assert scores["peak_memory_mb"] > 100


def test_video(trained, toy, tmp_path):
    """A run needs nothing but itself for it: neither its old place nor its data."""
    path = tmp_path / "run"
    shutil.copytree(trained.path, path)
    config = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(config.replace(str(toy), str(tmp_path / "gone")))
    options = ["--path", "orbit", "--frames", "3", "--size", "32", *LOOK]
    made = succeed("render", path, *options)
    assert (made["frames"], made["size"]) == (3, 32)
    assert Path(made["video"]) == path / "exports" / "orbit.mp4"
    frames = iio.imread(made["video"], plugin="FFMPEG")
    assert frames.shape == (3, 32, 32, 3)
    assert frames.std() > 5
    made = succeed("render", path, "--path", "spiral", "--frames", "2", "--size", "32", *LOOK)
    assert Path(made["video"]) == path / "exports" / "spiral.mp4"
    assert iio.imread(made["video"], plugin="FFMPEG").std() > 5


def test_the_mesh_beside_the_field(trained, exported, toy, tmp_path):
    """Held-out views: photograph, field, mesh; each of the three shows the same toy."""
    assert figures(exported)
    options = ["--path", "test", "--mesh", "--output", tmp_path / "views", *LOOK]
    made = succeed("render", trained.path, *options)
    assert (made["frames"], made["size"]) == (TOY["test"], TOY["size"])
    names = sorted(path.name for path in (tmp_path / "views").iterdir())
    assert names == [f"{index:03d}.png" for index in range(TOY["test"])]
    sheet = iio.imread(tmp_path / "views" / "000.png") / 255
    photograph, field, mesh = np.split(sheet, 3, axis=1)
    assert -10 * math.log10(np.square(field - photograph).mean()) > PSNR_FLOOR - 3
    assert -10 * math.log10(np.square(mesh - photograph).mean()) > 18  # measured 21: 96 cells a side
    assert [path.name for path in tmp_path.iterdir()] == ["views"]


def test_turntable(trained, exported, tmp_path):
    assert figures(exported)
    options = ["--turntable", "--frames", "2", "--size", "32", *LOOK]
    made = succeed("render", trained.path, *options, "--output", tmp_path / "t.mp4")
    frames = iio.imread(made["video"], plugin="FFMPEG")
    assert frames.shape == (2, 32, 32, 3)
    assert np.abs(frames[0].astype(float) - frames[1]).mean() > 2
    made = succeed("render", trained.path, *options, "--look", "shaded", "--output", tmp_path / "grey")
    grey = iio.imread(Path(made["folder"]) / "000.png").astype(float)
    assert np.ptp(grey, axis=2).max() < 30  # no colours
    assert grey.std() > 15


def test_what_render_refuses(trained, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(trained.path, path, ignore=shutil.ignore_patterns("exports"))
    refused_at_once(run("render", path, "--mesh", *LOOK), path, "export mesh")
    refused_at_once(run("render", path, "--turntable", "--mesh", tmp_path / "no.ply", *LOOK), "no.ply", "no such")
    refused_at_once(run("render", path, "--output", tmp_path / "a.gif", *LOOK), "a.gif", ".mp4")
    refused_at_once(run("render", path, "--path", "test", "--size", "20", *LOOK), "--size")


# --- what is said, and where ---


def test_progress_goes_to_standard_error(trained, evaluated, exported):
    for done in (evaluated, exported):
        assert done.returncode == 0
        assert "\r" not in done.stdout
        assert "it/s" not in done.stdout and "%|" not in done.stdout
        assert done.stderr  # progress
        assert not any(line.startswith("{") for line in done.stderr.splitlines())
        lines = done.stdout.splitlines()
        assert len(lines) >= 2  # words for people, then one line for programs
        assert sum(line.startswith("{") for line in lines) == 1


# --- resume, overwrite ---


@pytest.mark.slow
def test_resume_with_more_steps_and_overwrite(trained, toy, tmp_path):
    path = tmp_path / "r"
    shutil.copytree(trained.path, path)
    # Nothing is overwritten unasked.
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    refused_at_once(run(*train(toy, tmp_path, "r", "--steps", "5")), path, "--overwrite", "resume")
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before
    # A finished run says what to do, and goes on when told how far.
    refused_at_once(run("resume", path), path, "--steps")
    more = STEPS + 3
    assert succeed("resume", path, "--steps", more)["steps"] == more
    assert yaml.safe_load((path / "config.yaml").read_text())["steps"] == more
    assert newest(path / "checkpoints").name == f"step_{more:08d}.safetensors"
    assert succeed(*train(toy, tmp_path, "r", "--steps", "3", "--overwrite"))["steps"] == 3
    assert [file.name for file in (path / "checkpoints").iterdir()] == ["step_00000003.safetensors"]
