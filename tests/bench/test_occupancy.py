"""The benchmark of occupancies at its smallest."""

import json

import imageio.v3 as iio
import pytest
import torch
import trimesh

from recon3d.bench import BENCHES, occupancy
from recon3d.bench.models import OCCUPANCY_MODELS
from recon3d.bench.options import Options
from recon3d.config.shapes import SampleConfig
from recon3d.data.shape_files import read_shape
from recon3d.errors import UserError
from recon3d.tasks import shape_pictures

pytest.importorskip("open3d", reason="open3d is not here")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(shape_pictures, "SIZE", 32)
    monkeypatch.setattr(occupancy, "BATCH", {False: 1024})
    monkeypatch.setattr(occupancy, "PICTURE_CELLS", {False: 16})
    monkeypatch.setattr(occupancy, "ANYWHERE", SampleConfig(near=0.0, pool=4096))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def options(tmp_path, **changes):
    return Options(**{"out": tmp_path, "steps": (4, 120), "size": 16, "device": "cpu", "threads": 1, **changes})


def test_models_on_a_file_side_by_side(tmp_path, monkeypatch):
    trimesh.creation.icosphere(3).export(tmp_path / "ball.ply")
    chosen = options(tmp_path, images=(str(tmp_path / "ball.ply"),), models=("hash_grid", "siren"))
    report = BENCHES["sl2a-occupancy"](chosen)
    assert list(report.figures) == ["hash_grid", "siren"]
    for figures in report.figures.values():
        assert 0.9 < figures["iou_120"] <= 1
        assert figures["iou_4"] < figures["iou_120"]
        assert figures["seconds_per_step"] > 0 and figures["parameters"] > 0
    assert [path.suffix for path in report.write(chosen.out)] == [".json", ".csv", ".png"]
    picture = iio.imread(tmp_path / "sl2a-occupancy" / "surfaces.png")
    assert picture.shape == (32, 3 * 32, 3)  # the truth and two models
    truth, first = picture[:, :32], picture[:, 32:64]
    assert truth.std() > 20 and abs(truth.astype(int) - first).mean() < 20
    monkeypatch.setattr(occupancy.Trainer, "train", lambda *_: pytest.fail("trained again"))
    assert json.dumps(BENCHES["sl2a-occupancy"](chosen).figures) == json.dumps(report.figures)


def test_the_knot_is_closed_and_looks_outwards(tmp_path):
    report = read_shape(occupancy.knot_file(tmp_path)).report
    assert (report.watertight, report.flipped_edges, report.inverted) == (True, 0, False)
    assert report.vertices == 21_600 and report.cleaned() is None


def test_every_model_is_a_field_of_space():
    for model in OCCUPANCY_MODELS.values():
        assert model.field.resolved().width


@pytest.mark.parametrize(
    ("changes", "part"), [({"models": ("no-such",)}, "no-such"), ({"images": ("x.obj",)}, "x.obj")]
)
def test_bad_input_is_told(changes, part, tmp_path):
    with pytest.raises(UserError, match=part):
        BENCHES["sl2a-occupancy"](options(tmp_path, **changes))
