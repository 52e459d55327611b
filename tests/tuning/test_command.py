"""recon3d tune, and recon3d train --tune, as called; and the preset that a tuning writes."""

import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from recon3d.cli import main
from recon3d.config import NerfConfig, load_preset, read_yaml
from recon3d.tuning.report import figures, picture, preset_yaml, table
from recon3d.tuning.search import SEARCHES
from recon3d.tuning.spectrum import Bins, spectrum
from recon3d.tuning.tune import Tuning

from .pictures import banded

SMALL = ["--threads", "1", "--device", "cpu", "--steps", "3"]
FIELD = ["--field.network", "siren", "--field.width", "16", "--field.depth", "1"]


@pytest.fixture
def photo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    iio.imwrite("photo.png", banded(32, 2, 6))
    return Path("photo.png")


def test_tune_then_train(photo, capsys):
    Path("mine.yaml").write_text("{task: image, steps: 5, field: {encoder: identity, network: spder}}")
    assert main(["tune", "mine.yaml", str(photo), *SMALL, *FIELD, "--draws", "1", "--json"]) == 0
    out = capsys.readouterr().out.splitlines()
    found = json.loads(out[-1])
    assert found["parameter"] == "field.siren.first_omega"
    assert found["distance"] == min(found["distances"].values())
    assert found["distances"][f"{found['chosen']:g}"] == found["distance"]
    assert (found["default"], found["draws"], found["binning"]) == (30, 1, "radial")
    assert sum("<- best" in line for line in out) == 1
    assert iio.imread(found["picture"]).ndim == 3

    path = Path(found["preset"])
    assert path.parent == Path("runs/tune-mine-photo")
    assert read_yaml(path) == {
        "base": str(Path("mine.yaml").resolve()),
        "steps": 3,
        "field": {"network": "siren", "width": 16, "depth": 1, "siren": {"first_omega": found["chosen"]}},
    }
    assert main(["train", str(path), str(photo), "--threads", "1", "--device", "cpu"]) == 0
    config = read_yaml(Path("runs/mine_tuned-photo/config.yaml"))
    assert config["field"]["siren"]["first_omega"] == found["chosen"]
    assert config["steps"] == 3


def test_train_tunes_first(photo, capsys):
    assert main(["train", "image", str(photo), *SMALL, *FIELD, "--tune"]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tuned ")]
    assert len(told) == 1
    chosen = read_yaml(Path("runs/image-photo/config.yaml"))["field"]["siren"]["first_omega"]
    assert told[0].startswith(f"tuned field.siren.first_omega {chosen:g}")


def test_preset_goes_under_devices_where_its_base_has_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_preset("nerf").config("cpu", data=Path("scene"))
    assert isinstance(config, NerfConfig)
    vector = spectrum(torch.randn(16, 16, 1), Bins(4))
    search = SEARCHES["hash_grid"]
    tuning = Tuning(search, Bins(4), 1, {256: 1.0, 512: 0.5}, 512, 1024, 2.0, vector, {512: vector}, vector, 0.0)
    Path("nerf_tuned.yaml").write_text(preset_yaml(tuning, config, "nerf", "cpu"))
    again = load_preset("nerf_tuned.yaml")
    for device in ("cpu", "cuda"):
        changed = again.config(device, data=Path("scene"))
        assert isinstance(changed, NerfConfig)
        assert changed.field.hash_grid.finest == 512
    assert again.config("cpu", data=Path("scene")) == tuning.apply(config)


def test_infinite_distances(photo):
    vector = spectrum(torch.randn(16, 16, 1), Bins(4))
    distances = {1.0: float("inf"), 2.0: 0.5}
    own = torch.zeros(4, dtype=torch.float64)
    tuning = Tuning(SEARCHES["finer"], Bins(4), 1, distances, 2.0, None, float("inf"), vector, {2.0: vector}, own, 0.0)
    assert json.loads(json.dumps(figures(tuning), allow_nan=False))["distances"] == {"1": None, "2": 0.5}
    assert "inf" in table(tuning)
    assert picture(tuning).shape[2] == 3


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["tune", "--bins", "64"], "name a preset first"),
        (["tune", "nothing", "photo.png"], "no preset 'nothing'"),
        (["tune", "image", "missing.png", *FIELD], "missing.png"),
        (["tune", "image", "photo.png", *FIELD, "--bins", "1"], "give 2 to 4096"),
        (["tune", "image", "photo.png", *FIELD, "--search", "fourier"], "without fourier"),
        (["tune", "image", "photo.png", "--field.network", "relu"], "no frequency to tune"),
        (["train", "image", "photo.png", "--field.network", "relu", "--tune"], "no frequency to tune"),
        (["train", "image", "flat.png", *FIELD, "--tune"], "flat.png: constant"),
    ],
)
def test_refused(photo, capsys, args, told):
    iio.imwrite("flat.png", np.full((16, 16), 90, np.uint8))
    assert main([*args, "--threads", "1", "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert "Traceback" not in err
    assert not Path("runs").exists()


@pytest.mark.parametrize("args", [["tune"], ["tune", "--help"], ["tune", "image", "--help"]])
def test_help(args, capsys):
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 0
    assert "tune" in capsys.readouterr().out
