"""Benchmarks at their smallest: every one runs, keeps its fits, and reports ours beside theirs."""

import csv
import dataclasses
import json
import math

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from recon3d.bench import BENCHES, fresh
from recon3d.bench import fits as fits_module
from recon3d.bench.fits import Fit, fit
from recon3d.bench.models import MODELS, Model
from recon3d.bench.options import Options
from recon3d.bench.pictures import image_file
from recon3d.bench.report import Report
from recon3d.bench.sl2a import rounded_wave
from recon3d.bench.spder_images import image_config
from recon3d.bench.step_variants import difference
from recon3d.config import FieldConfig
from recon3d.errors import UserError

STEPS = (2, 4)


@pytest.fixture
def picture(tmp_path):
    y, x = np.mgrid[:40, :48]
    path = tmp_path / "waves.png"
    iio.imwrite(path, (127 + 60 * np.sin(x / 3) + 60 * np.cos(y / 5)).astype(np.uint8))
    return str(path)


def options(tmp_path, **changes):
    return Options(**{"out": tmp_path / "bench", "steps": STEPS, "size": 24, "device": "cpu", **changes})


def small(name, chunk=256):
    return Model(FieldConfig(encoder=("identity",), network=name, width=16, depth=1))


def test_the_curve_is_of_the_weights_after_so_many_updates(tmp_path, picture):
    config = image_config(options(tmp_path), "test", picture, "siren", 24)
    found = fit(small("siren").into(config), STEPS, fits_module.whole)
    assert len(found.psnr) == STEPS[-1] + 1
    for step in STEPS:
        assert found.last(step) == pytest.approx(found.measured[step]["psnr"], abs=1e-3)
    assert found.best(4) == max(found.psnr)
    assert found.seconds_per_step > 0
    assert found.parameters == 16 * 3 + 16 * 17 + 17


def test_a_finished_fit_is_not_trained_again(tmp_path, picture, monkeypatch):
    config = small("siren").into(image_config(options(tmp_path), "test", picture, "siren", 24))
    first = fit(config, STEPS)
    monkeypatch.setattr(fits_module.Trainer, "train", lambda *_: pytest.fail("trained again"))
    assert fit(config, STEPS) == first
    monkeypatch.undo()
    assert len(fit(config, (3,)).psnr) == 4  # other steps are another fit


@pytest.mark.parametrize("name", ["spder-image", "spder-damping", "sl2a-image"])
def test_tables_of_images(name, tmp_path, picture):
    models = ("siren", "spder") if name != "sl2a-image" else ("siren3", "sl2a_128")
    chosen = options(tmp_path, images=(picture,), models=models)
    report = BENCHES[name](chosen)
    assert list(report.figures) == list(models)
    for figures in report.figures.values():
        assert all(math.isfinite(figures[f"psnr_{step}"]) for step in STEPS)
        assert figures["seconds_per_step"] > 0
    written = report.write(chosen.out)
    assert [path.suffix for path in written] == [".json", ".csv", ".png"]
    assert json.loads(written[0].read_text())["models"] == report.figures
    rows = list(csv.DictReader(written[1].open()))
    assert {row["model"] for row in rows} == set(models)


def test_a_fit_that_diverges_has_no_figures(tmp_path, picture, monkeypatch):
    monkeypatch.setitem(MODELS, "spder_wild", dataclasses.replace(MODELS["spder_square"], learning_rate=1e30))
    chosen = options(tmp_path, images=(picture,), models=("spder_wild", "siren"))
    report = BENCHES["spder-damping"](chosen)
    assert report.figures["spder_wild"][f"psnr_{STEPS[-1]}"] is None
    assert math.isfinite(report.figures["siren"][f"psnr_{STEPS[-1]}"])
    assert report.notes[-1] == "spder_wild diverged"
    assert len(report.write(chosen.out)) == 3


def test_super_resolution_stands_beside_bicubic(tmp_path, picture):
    report = BENCHES["spder-superres"](options(tmp_path, images=(picture,), models=("siren",), size=64))
    assert set(report.figures) == {"siren", "bicubic"}
    bicubic = report.figures["bicubic"]
    assert bicubic["psnr_2x"] > bicubic["psnr_4x"] > bicubic["psnr_8x"]  # of a smooth picture


def test_inpainting_and_sl2as_super_resolution(tmp_path, picture):
    chosen = options(tmp_path, images=(picture,), models=("siren3",))
    for name in ("sl2a-inpaint", "sl2a-superres"):
        figures = BENCHES[name](chosen).figures["siren3"]
        assert math.isfinite(figures["psnr"])
        assert figures["psnr"] != figures["psnr_trained"]


def test_fresh(tmp_path, picture, monkeypatch):
    monkeypatch.setitem(fresh.GRIDS, "siren", (10.0, 30.0))
    figures = BENCHES["fresh-image"](options(tmp_path, images=(picture,), models=("siren",))).figures["siren"]
    assert figures["grid_best"] >= figures["default"]  # the default, 30, is in the grid
    assert figures["images"]["waves"]["radial_value"] in range(10, 201, 10)


def test_poisson(tmp_path, picture):
    report = BENCHES["siren-poisson"](options(tmp_path, images=(picture,), models=("siren",), size=16))
    assert set(report.figures) == {"siren gradient", "siren laplacian"}


def test_the_rounded_wave_is_the_papers():
    wave = rounded_wave()
    assert wave.shape == (300,)
    assert set(np.unique(4 * wave)) <= set(range(-4, 5, 1))
    assert np.allclose(wave, -wave[::-1])  # a sum of sines is odd


def test_spectral_bias(tmp_path):
    report = BENCHES["sl2a-spectral-bias"](options(tmp_path, models=("siren",)))
    assert {"error_3", "error_9", "learnt_3"} <= set(report.figures["siren"])
    assert (tmp_path / "bench" / "sl2a-spectral-bias" / "siren.png").is_file()


@pytest.mark.parametrize("model", ["siren", "spder", "spder_arctan", "sl2a"])
def test_chunks_change_gradients_by_rounding_only(model, tmp_path):
    torch.manual_seed(0)
    assert difference(model, options(tmp_path, size=48)) < 1e-5


def test_every_model_makes_a_field():
    for model in MODELS.values():
        assert model.field.resolved().width


# --- report and bad input ---


def test_the_papers_figures_stand_in_brackets():
    report = Report("x", "X", ["psnr_25"], {"a": {"psnr_25": 30.123}, "b": {}}, {"a": {"psnr_25": 29.0}})
    assert report.table() == [["model", "psnr_25"], ["a", "30.12 (29.00)"], ["b", "-"]]


def test_best_is_the_largest_so_far():
    assert Fit([1.0, 5.0, 2.0], {}, 1.0, 1).best(2) == 5.0
    assert Fit([1.0, 5.0, 2.0], {}, 1.0, 1).last(2) == 2.0


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("spder-image", {"models": ("no-such",)}, "no-such"),
        ("spder-image", {"images": ("no-such.png",), "models": ("siren",)}, "no-such.png"),
        ("spder-audio", {}, "--images"),
    ],
)
def test_bad_input_is_told(name, changes, expected, tmp_path):
    with pytest.raises(UserError, match=expected):
        BENCHES[name](options(tmp_path, **changes))


def test_scikit_images_own_images(tmp_path):
    pytest.importorskip("skimage", reason="scikit-image's images are not here")
    assert iio.imread(image_file("camera", tmp_path)).shape == (512, 512)
