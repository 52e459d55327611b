"""Everything a user can get wrong: one line that names file and frame, exit code 2, no traceback, nothing lost."""

import json
import shutil

import pytest
from PIL import Image
from training.disks import grow, tiny_disk

from recon3d.training.checkpoints import load, newest

from .command import LOOK, refused, refused_at_once, run, succeed, train

TRAIN_JSON = "transforms_train.json"


def edit(change):
    """A spoiler that changes the content of the training JSON."""

    def spoil(scene):
        path = scene / TRAIN_JSON
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return spoil


def edit_frame(index, **values):
    return edit(lambda content: content["frames"][index].update(values))


def edit_pose(index, row, column, value):
    def change(content):
        content["frames"][index]["transform_matrix"][row][column] = value

    return edit(change)


def write_over(text):
    return lambda scene: (scene / TRAIN_JSON).write_text(text)


def truncate(scene):
    path = scene / "train" / "r_003.png"
    path.write_bytes(path.read_bytes()[:200])


def shrink(scene):
    path = scene / "train" / "r_005.png"
    Image.open(path).resize((20, 20)).save(path)


def blank(scene):
    for path in (scene / "train").glob("*.png"):
        Image.new("RGBA", (32, 32), (0, 0, 0, 0)).save(path)


def climb(scene):
    shutil.copy(scene / "train" / "r_000.png", scene.parent / "secret.png")
    edit_frame(1, file_path="../secret")(scene)


CASES = {
    "missing folder": (shutil.rmtree, ["scene: no such folder"]),
    "missing JSON": (lambda scene: (scene / TRAIN_JSON).unlink(), [TRAIN_JSON, "not found"]),
    "invalid JSON": (write_over('{"frames": [,]}'), [TRAIN_JSON, "invalid JSON", "line 1"]),
    "no frames": (edit(lambda content: content["frames"].clear()), [TRAIN_JSON, "frames is empty"]),
    "missing image": (
        lambda scene: (scene / "train" / "r_002.png").unlink(),
        [TRAIN_JSON, "frame 2", "train/r_002", "no image"],
    ),
    "truncated PNG": (truncate, [TRAIN_JSON, "frame 3", "r_003.png", "cannot read"]),
    "sizes differ": (shrink, [TRAIN_JSON, "frame 5", "r_005.png", "20x20", "32x32"]),
    "pose not finite": (edit_pose(4, 0, 3, float("nan")), [TRAIN_JSON, "frame 4", "transform_matrix", "finite"]),
    "pose not rigid": (edit_pose(6, 1, 1, 3.0), [TRAIN_JSON, "frame 6", "transform_matrix", "rigid"]),
    "zero focal length": (
        edit(lambda content: (content.pop("camera_angle_x"), content.update(fl_x=0.0))),
        [TRAIN_JSON, "frame 0", "fl_x", "0"],
    ),
    "path that climbs out": (climb, [TRAIN_JSON, "frame 1", "../secret", "leaves"]),
    "blank images": (blank, ["scene", "silhouettes", "alpha"]),
}


@pytest.mark.parametrize("case", CASES)
def test_data(scene, tmp_path, case):
    spoil, parts = CASES[case]
    spoil(scene)
    refused_at_once(run(*train(scene, tmp_path, "run", "--steps", "5")), *parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("case", ["contradiction", "field", "preset", "command"])
def test_options(ball, tmp_path, case):
    arguments, parts = {
        "contradiction": (
            train(ball, tmp_path, "run", "--field.hash-grid.coarsest", "512"),
            ["hash_grid.coarsest (512)", "hash_grid.finest (128)"],
        ),
        "field": (train(ball, tmp_path, "a/b", "--steps", "5"), ["name", "'a/b'"]),
        "preset": (["train", "nerfs", "--data", ball], ["'nerfs'", "nerf_lego"]),
        "command": (["trian", "nerf"], ["'trian'", "train"]),
    }[case]
    refused_at_once(run(*arguments), *parts)
    assert not list(tmp_path.iterdir())


def test_a_preset_of_ones_own_with_a_mistake(ball, tmp_path):
    (tmp_path / "mine.yaml").write_text("base: nerf\nfield: {hash_gird: {levels: 3}}\n")
    refused_at_once(run("train", tmp_path / "mine.yaml", "--data", ball), "mine.yaml", "field", "hash_gird")


def test_a_folder_that_is_no_run(tmp_path):
    refused_at_once(run("eval", tmp_path), tmp_path, "not a run folder")


def test_a_run_that_never_saved_and_one_that_is_damaged(trained, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(trained.path, path)
    file = newest(path / "checkpoints")
    file.write_bytes(file.read_bytes()[:1000])
    refused_at_once(run("resume", path), file, "remove it")
    file.unlink()  # as it says: the one before serves
    assert succeed("resume", path, "--steps", "152")["steps"] == 152
    shutil.rmtree(path / "checkpoints")
    refused_at_once(run("eval", path, *LOOK), path / "checkpoints", "no checkpoint")


def test_a_place_that_cannot_be_written(ball, tmp_path):
    (tmp_path / "file").write_text("in the way")
    refused_at_once(run(*train(ball, tmp_path / "file", "run", "--steps", "5")), tmp_path / "file", "cannot be written")


def test_a_reference_mesh_that_is_none(trained, tmp_path):
    (tmp_path / "x.ply").write_text("not a mesh")
    options = ["--resolution", "48", "--output", tmp_path / "out", *LOOK]
    refused(run("export", "mesh", trained.path, *options, "--reference", tmp_path / "x.ply"), tmp_path / "x.ply")


def test_a_loss_that_is_not_finite(ball, tmp_path):
    """It stops, says which term, and the last good checkpoint is there."""
    options = ["--steps", "500", "--optimizer.learning-rate", "1e20", "--optimizer.warmup-steps", "20"]
    done = run(*train(ball, tmp_path, "run", *options, "--precision", "float32", "--checkpoint-every", "1"))
    lines = refused(done, "not finite", "learning-rate")
    assert "term: color" in lines[-1] or "weights" in lines[-1] or "occupancy" in lines[-1]
    kept = newest(tmp_path / "run" / "checkpoints")
    assert str(kept) in lines[-1]
    assert load(kept)[1]["step"] >= 1


@pytest.mark.slow
def test_a_full_disk(ball, tmp_path):
    """Full in the middle of a run: what was saved stays, and with space again the run goes on to its end."""
    with tiny_disk(tmp_path / "disk", "3m") as disk:  # two checkpoints of 1.4 MB fit, a third beside them does not
        done = run(*train(ball, disk, "run", "--steps", "40", "--checkpoint-every", "5", "--log-every", "1"))
        refused(done, disk, "disk is full", "resume")
        kept = newest(disk / "run" / "checkpoints")
        assert load(kept)[1]["step"] >= 5
        grow(disk, "64m")
        assert succeed("resume", disk / "run")["steps"] == 40


def test_debug_shows_where(tmp_path):
    done = run("eval", tmp_path, "--debug")
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "not a run folder" in done.stderr
