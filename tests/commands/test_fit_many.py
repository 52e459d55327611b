"""fit-many: a run for each file, gone on with where it ended, failures in the table."""

import csv
import json

import pytest
from tasks.pictures import write_image

from recon3d import cli
from recon3d.commands import jobs

from .signals import SMALL, call, told

pytestmark = pytest.mark.usefixtures("as_before")


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "pictures"
    made.mkdir()
    write_image(made / "b.png")
    write_image(made / "a.png", 12, 12, 1)
    (made / "c.png").write_text("no image")
    (made / "notes.txt").write_text("not looked at")
    return made


def arguments(folder, *options, steps=6):
    return ["fit-many", "image", folder, "--out", folder.parent, "--name", "many", "--steps", steps, *SMALL, *options]


def test_a_folder(capsys, folder, monkeypatch):
    figures, out = call(capsys, *arguments(folder))
    assert [row["file"] for row in figures["rows"]] == ["a.png", "b.png", "c.png"]
    assert (figures["files"], figures["failed"]) == (3, 1)
    a, b, c = figures["rows"]
    assert "cannot read the image" in c["error"] and "psnr_best" not in c
    assert figures["mean"]["psnr_best"] == pytest.approx((a["psnr_best"] + b["psnr_best"]) / 2)
    assert figures["deviation"]["psnr_best"] == pytest.approx(abs(a["psnr_best"] - b["psnr_best"]) / 2**0.5)
    for part in ("PSNR best", "PSNR last", "SSIM", "seconds", "mean", "standard deviation", "failed"):
        assert part in out
    many = folder.parent / "many"
    assert json.loads((many / "table.json").read_text()) == figures
    rows = list(csv.DictReader((many / "table.csv").open()))
    assert [row["file"] for row in rows] == ["a.png", "b.png", "c.png", "mean", "standard deviation"]
    assert float(rows[0]["psnr_best"]) == a["psnr_best"]

    # A second call trains nothing that is finished.
    monkeypatch.setattr(jobs, "fit", None)
    again, _ = call(capsys, *arguments(folder))
    assert again["mean"] == figures["mean"]


def test_what_was_begun_goes_on_and_other_settings_are_refused(capsys, folder):
    call(capsys, *arguments(folder))
    # Half-finished: as if it had been stopped.
    config = folder.parent / "many" / "a" / "config.yaml"
    config.write_text(config.read_text().replace("\nsteps: 6\n", "\nsteps: 9\n"))
    figures, _ = call(capsys, *arguments(folder, steps=9))
    assert "other settings" in figures["rows"][1]["error"] and figures["failed"] == 2
    saved = sorted(path.name for path in (config.parent / "checkpoints").glob("step_*"))
    assert saved == ["step_00000006.safetensors", "step_00000009.safetensors"]
    figures, _ = call(capsys, *arguments(folder, "--overwrite", steps=4))
    assert figures["failed"] == 1


def test_files_of_one_stem_are_runs_of_their_own(capsys, folder):
    write_image(folder / "a.bmp", 12, 12)
    figures, _ = call(capsys, *arguments(folder, steps=2))
    assert [row["run"].split("/")[-1] for row in figures["rows"]] == ["a.bmp", "a.png", "b", "c"]


def test_nothing_but_failures(capsys, folder):
    for name in ("a.png", "b.png"):
        (folder / name).write_text("no image")
    assert cli.main([str(arg) for arg in arguments(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-1].startswith("recon3d: ")
    assert "all 3 files failed" in err and "Traceback" not in err


def test_ctrl_c_ends_all_of_it(capsys, folder, monkeypatch):
    monkeypatch.setattr(jobs, "fit", lambda *args, **kwargs: {"stopped": True})
    assert cli.main([str(arg) for arg in arguments(folder)]) == 130
    assert "same command again" in capsys.readouterr().err
    assert not (folder.parent / "many" / "b").exists()


@pytest.mark.slow
def test_several_at_a_time(capsys, folder):
    figures, _ = call(capsys, *arguments(folder, "--jobs", "2", steps=3))
    assert (figures["files"], figures["failed"]) == (3, 1)


def test_what_cannot_be(capsys, tmp_path, folder):
    told(capsys, ["fit-many", "--jobs", "2"], "name a preset first")
    told(capsys, ["fit-many", "nerf", folder], "image, audio, video", "nerf")
    told(capsys, ["fit-many", "image", tmp_path / "nowhere"], "nowhere", "no such folder")
    told(capsys, ["fit-many", "audio", folder], folder, "no audio files")
    told(capsys, ["fit-many", "image", folder, "--jobs", "0"], "--jobs is 0")
    told(capsys, ["fit-many", "image", folder, "--gpus", "1"], "--gpus is for --ray")
