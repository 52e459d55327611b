"""sweep: every combination is a run, gone on with where it ended; failures and means in the table; on Ray, too."""

import csv
import importlib.util
import json
import sys
from types import SimpleNamespace

import pytest
import yaml
from tasks.pictures import write_image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from recon3d import cli
from recon3d.commands import eval as evaluation
from recon3d.commands import jobs
from recon3d.commands.jobs import Placement
from recon3d.config.sweeps import Sweep
from recon3d.errors import UserError

from .signals import call, told

pytestmark = pytest.mark.usefixtures("as_before")

SMALL = {
    "steps": 3,
    "threads": 1,
    "device": "cpu",
    "chunk": 100,
    "field": {"network": "siren", "width": 16},
    "field.depth": 1,
}


@pytest.fixture
def folder(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    return tmp_path


def spec(folder, **changes):
    """A sweep's file; what is None is left out."""
    values = {"presets": ["image"], "scenes": ["a.png"], "settings": SMALL, **changes}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
    return path


def sweep(path, *options):
    return ["sweep", path, "--out", path.parent / "runs", *options]


def test_every_combination_is_a_run(capsys, folder, monkeypatch):
    rates = [1e-3, "1e-2"]  # YAML takes the second for a string
    path = spec(folder, scenes=["a.png", "b.png"], seeds=[0, 7], grid={"optimizer.learning_rate": rates})
    figures, out = call(capsys, *sweep(path))
    assert (figures["runs"], figures["failed"]) == (8, 4)
    good = [row for row in figures["rows"] if "error" not in row]
    assert [(row["scene"], row["optimizer.learning_rate"], row["seed"]) for row in good] == [
        *(("a", rate, seed) for rate in (1e-3, 1e-2) for seed in (0, 7))
    ]
    assert all("cannot read the image" in row["error"] for row in figures["rows"][4:])

    # Means and standard deviations are over seeds.
    first, second, *failed = figures["summary"]
    one, two = (row["psnr"] for row in good[:2])
    assert (first["seeds"], first["failed"]) == (2, 0)
    assert first["psnr_mean"] == pytest.approx((one + two) / 2)
    assert first["psnr_std"] == pytest.approx(abs(one - two) / 2**0.5)
    assert [(row["seeds"], row["failed"], row["psnr_mean"]) for row in failed] == [(0, 2, None)] * 2
    assert second["steps_mean"] == 3

    # The table, in every form.
    study = folder / "runs" / "study"
    assert json.loads((study / "table.json").read_text()) == figures
    rows = list(csv.DictReader((study / "table.csv").open()))
    assert [row["run"] for row in rows] == [row["run"] for row in figures["rows"]]
    assert float(rows[0]["psnr"]) == one and "cannot read" in rows[-1]["error"]
    assert len(list(csv.DictReader((study / "summary.csv").open()))) == 4
    for part in ("learning_rate", "psnr", "seconds", "failed: image-b", "±"):
        assert part in out
    runs = sorted(path.name for path in (study / "tensorboard").iterdir())
    assert runs == sorted(row["run"] for row in good)
    settings = EventAccumulator(str(study / "tensorboard" / runs[-1])).Reload()
    told = HParamsPluginData.FromString(settings.SummaryMetadata("_hparams_/session_start_info").plugin_data.content)
    values = told.session_start_info.hparams
    assert values["optimizer.learning_rate"].number_value == 0.01 and values["seed"].number_value == 7
    assert settings.Scalars("final/psnr")[0].value == pytest.approx(good[-1]["psnr"], abs=1e-3)

    # A second call does what has failed, and nothing else.
    write_image(folder / "b.png")
    trained, measured = [], []
    fit, evaluate = jobs.fit, evaluation.main
    monkeypatch.setattr(jobs, "fit", lambda *args, **kwargs: trained.append(args[1].name) or fit(*args, **kwargs))
    monkeypatch.setattr("recon3d.commands.eval.main", lambda args: measured.append(args) or evaluate(args))
    again, _ = call(capsys, *sweep(path))
    assert again["failed"] == 0 and again["rows"][:4] == good
    assert len(trained) == len(measured) == 4 and all(name.startswith("image-b") for name in trained)


def test_names_devices_and_budgets(folder):
    (folder / "other").mkdir()
    write_image(folder / "other" / "a.png")
    values = {"presets": ["image", "nerf"], "scenes": ["a.png", "other/a.png"], "settings": {"max_seconds": 5}}
    cpu, gpu = (Sweep.read(spec(folder, **values)).runs(device, folder) for device in ("cpu", "cuda"))
    assert [run.config.name for run in cpu] == [
        *("image-a-seed=0", "image-a.2-seed=0", "nerf-a-seed=0", "nerf-a.2-seed=0"),
    ]
    assert [run.config.data for run in cpu[:2]] == [folder / "a.png", folder / "other" / "a.png"]
    assert all((run.config.steps, run.config.max_seconds) == (None, 5.0) for run in cpu)
    assert cpu[2].config.samples < gpu[2].config.samples  # the preset's section for the device
    assert all(run.config.out == folder for run in cpu)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"presets": ["imagine"]}, ["no preset 'imagine'", "image_spder"]),
        ({"presets": None}, ["presets missing"]),
        ({"scenes": ["nowhere.png"]}, ["nowhere.png", "no such file"]),
        ({"seeds": []}, ["seeds is an empty axis"]),
        ({"seeds": ["x"]}, ["seeds", "whole numbers"]),
        ({"grid": {"steps": 3}}, ["grid: steps", "a list"]),
        ({"grid": {"steps": []}}, ["grid: steps is an empty axis"]),
        ({"grid": {"steps": [0]}}, ["steps is 0"]),
        ({"settings": {"field": {"netwrok": "siren"}}}, ["'field.netwrok'", "nearest: field.network"]),
        ({"settings": {"steps": "many"}}, ["preset image: steps", "'many'"]),
        ({"settings": {"seed": 3}}, ["'seed'", "seeds"]),
        ({"settings": [1]}, ["settings", "names and values"]),
        ({"eval": True}, ["eval", "options or false"]),
        ({"preset": ["image"]}, ["unknown key 'preset'", "nearest: presets"]),
    ],
)
def test_what_a_file_cannot_say(capsys, folder, changes, parts):
    told(capsys, sweep(spec(folder, **changes)), "study.yaml" if "presets" not in changes else "", *parts)
    assert not (folder / "runs").exists()


def test_what_cannot_be(capsys, folder, monkeypatch):
    told(capsys, ["sweep", folder / "nothing.yaml"], "nothing.yaml", "cannot be read")
    told(capsys, sweep(spec(folder), "--cpus", "2"), "--cpus is for --ray")
    told(capsys, sweep(spec(folder), "--jobs", "0"), "--jobs is 0")
    told(capsys, sweep(spec(folder, scenes=["b.png"])), "all 1 runs failed", "cannot read the image")
    monkeypatch.setitem(sys.modules, "ray", None)
    told(capsys, sweep(spec(folder), "--ray"), "needs Ray", "recon3d[sweep]")


def test_ctrl_c_ends_all_of_it(capsys, folder, monkeypatch):
    monkeypatch.setattr(jobs, "fit", lambda *args, **kwargs: {"stopped": True})
    assert cli.main([str(arg) for arg in sweep(spec(folder, seeds=[0, 1]))]) == 130
    assert "same command again" in capsys.readouterr().err
    assert not (folder / "runs" / "study" / "table.json").exists()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install recon3d[sweep]")
def test_on_ray(capsys, folder, monkeypatch):
    """A real one on this machine: runs in its workers, failures in the table, nothing that the world could reach."""
    monkeypatch.setenv("RAY_worker_niceness", "0")
    addresses, row_of = set(), jobs._row

    def looked_at(ray, *rest):
        addresses.update(node["NodeManagerAddress"] for node in ray.nodes())
        return row_of(ray, *rest)

    monkeypatch.setattr(jobs, "_row", looked_at)
    figures, _ = call(capsys, *sweep(spec(folder, scenes=["a.png", "b.png"]), "--ray"))
    assert (figures["runs"], figures["failed"]) == (2, 1)
    assert figures["rows"][0]["psnr"] > 0 and "cannot read the image" in figures["rows"][1]["error"]
    assert addresses == {"127.0.0.1"}


def test_what_no_machine_of_a_cluster_has():
    machines = [({"CPU": 8.0, "GPU": 2.0}, True), ({"CPU": 99.0, "GPU": 9.0}, False)]
    nodes = [{"Resources": resources, "Alive": alive} for resources, alive in machines]
    cluster = SimpleNamespace(nodes=lambda: nodes, shutdown=lambda: None)
    assert jobs._gpus(cluster, Placement(ray=True), 8) == 1
    assert jobs._gpus(cluster, Placement(ray=True, gpus=0.5), 1) == 0.5
    for placement, cpus in ((Placement(ray=True, gpus=3.0), 1), (Placement(ray=True), 9)):
        with pytest.raises(UserError, match="8 cores and 2 GPUs"):
            jobs._gpus(cluster, placement, cpus)
