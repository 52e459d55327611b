"""The run folder: made once, read back exactly, and moved freely."""

import json
import shutil

import pytest
import yaml

from recon3d.errors import UserError
from recon3d.training.run_folder import RunFolder

from .toy import config_in


def refused(call, *parts):
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, message


def test_the_configuration_comes_back(tmp_path):
    config = config_in(tmp_path, max_seconds=12.5, seed=3, name="a name: with ünusual 'characters'").resolved()
    run = RunFolder.create(config, "toy")
    assert run.path == tmp_path / config.name
    assert RunFolder.open(run.path).read_config() == config
    assert yaml.safe_load(run.config_file.read_text())["task"] == "nerf"


def test_a_moved_folder_is_the_same_run(tmp_path):
    run = RunFolder.create(config_in(tmp_path), "toy")
    config = run.read_config()
    shutil.move(run.path, tmp_path / "elsewhere")
    moved = RunFolder.open(tmp_path / "elsewhere")
    assert moved.read_config() == config
    assert moved.checkpoints.parent == moved.path


def test_a_run_without_a_name_is_called_after_preset_and_data(tmp_path):
    data = tmp_path / "lego"
    run = RunFolder.create(config_in(tmp_path, name=None, data=data), "nerf")
    assert run.path == tmp_path / "nerf-lego"


def test_an_existing_run_is_kept(tmp_path):
    run = RunFolder.create(config_in(tmp_path), "toy")
    (run.path / "precious").write_text("x")
    refused(lambda: RunFolder.create(config_in(tmp_path), "toy"), run.path, "exists", "--overwrite", "resume")
    assert (run.path / "precious").exists()
    RunFolder.create(config_in(tmp_path, overwrite=True), "toy")
    assert not (run.path / "precious").exists()


def test_a_folder_that_is_no_run_is_never_removed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("x")
    RunFolder.create(config_in(tmp_path, overwrite=True), "toy")
    assert (tmp_path / "run" / "thesis.tex").exists()


def test_a_place_that_cannot_be_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    refused(lambda: RunFolder.create(config_in(tmp_path, out=tmp_path / "file"), "toy"), tmp_path / "file", "written")


def test_no_run_is_told(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        refused(lambda path=path: RunFolder.open(path), path, "not a run folder", "config.yaml")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("task: sculpture\n", ["sculpture", "nerf"]),
        ("task: [nerf]\n", ["nerf"]),
        ("steps: 3\n", ["task"]),
        ("task: nerf\nstepz: 3\n", ["stepz"]),
        ("task: nerf\nsteps: 3\ndata: x\nhead: {grid: 1}\n", ["head.grid"]),
        ("task: nerf\nsteps: [\n", ["YAML"]),
        ("just words\n", ["mapping"]),
    ],
)
def test_a_spoilt_configuration_is_told(tmp_path, text, parts):
    run = RunFolder.create(config_in(tmp_path), "toy")
    run.config_file.write_text(text)
    refused(run.read_config, run.config_file, *parts)


def test_logs_are_appended(tmp_path):
    run = RunFolder.create(config_in(tmp_path), "toy")
    for step in range(3):
        run.log({"step": step, "psnr": 1.5})
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2]


def test_json_is_written_into_folders_of_the_run(tmp_path):
    run = RunFolder.create(config_in(tmp_path), "toy")
    path = run.write_json("eval_test/metrics.json", {"psnr": 20.5})
    assert json.loads(path.read_text()) == {"psnr": 20.5}


def test_entries_ahead_of_a_checkpoint_are_dropped(tmp_path):
    run = RunFolder(tmp_path)
    run.forget_after(3)  # nothing was logged: nothing to do
    for step in (1, 2, 3, 4, 5):
        run.log({"step": step, "loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # what kill -9 leaves
    run.forget_after(3)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
