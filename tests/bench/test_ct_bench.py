"""The CT benchmarks: scans of known objects, figures chosen blind beside those that saw the truth, kept records."""

import dataclasses
import math

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from recon3d.bench import BENCHES
from recon3d.bench.ct_cases import PHANTOM, cone_case, slice_case, square_picture
from recon3d.bench.ct_fits import classical, neural, once, settings_of, tv_oracle
from recon3d.bench.options import Options
from recon3d.classical import Projector
from recon3d.data.scan import load_scan
from recon3d.errors import UserError


@pytest.fixture
def options(tmp_path):
    return Options(out=tmp_path, device="cpu", threads=1)


def test_a_slice_is_projected_as_it_is(tmp_path):
    """What is simulated finer agrees with the projections of the voxels, but for their size."""
    case = slice_case(PHANTOM, 12, False, 64, tmp_path)
    scan = load_scan(case.scan)
    assert scan.projections.shape == (12, 1, 91) and scan.counts is None
    assert float(np.max(scan.projections)) == pytest.approx(4)
    rough = case.scale * Projector(scan.geometry, scan.grid).forward(case.truth)
    assert float((rough - torch.from_numpy(np.array(scan.projections))).abs().mean()) < 0.03
    assert case.psnr(case.scale * case.truth) > 100
    assert case.psnr(case.scale * (case.truth + 0.1)) == pytest.approx(20, abs=1e-3)


def test_noise_is_that_of_the_photons(tmp_path):
    clean, noisy = (slice_case(PHANTOM, 8, noise, 32, tmp_path) for noise in (False, True))
    p, y = (np.array(load_scan(case.scan).projections, np.float64) for case in (clean, noisy))
    assert load_scan(noisy.scan).counts == 1e4
    assert np.std((y - p) * np.sqrt(1e4 * np.exp(-p))) == pytest.approx(1, abs=0.15)


def test_pictures_are_padded_and_resized(tmp_path):
    picture = np.zeros((40, 64), np.uint8)
    picture[4:8, 20:30] = 200  # near the top
    iio.imwrite(tmp_path / "picture.png", picture)
    square = square_picture(tmp_path / "picture.png", 32)
    assert square.shape == (1, 32, 32) and float(square.max()) == 1
    rows, columns = np.nonzero(square[0].numpy() > 0.5)
    assert rows.min() >= 21 and rows.max() <= 24  # y up: the top has the larger y
    assert columns.min() >= 10 and columns.max() <= 14
    iio.imwrite(tmp_path / "black.png", 0 * picture)
    with pytest.raises(UserError, match=r"black\.png"):
        square_picture(tmp_path / "black.png", 32)


@pytest.mark.parametrize("kind", ["porous", "shepp-logan"])
def test_cones_see_the_whole_phantom(kind, tmp_path):
    case = cone_case(kind, 3, 24, tmp_path)
    scan = load_scan(case.scan)
    projections = np.array(scan.projections)
    assert projections.shape == (3, 24, 24)
    assert abs(projections[:, :, 0]).max() < 0.2 and abs(projections[:, 0]).max() < 0.2
    rough = case.scale * Projector(scan.geometry, scan.grid).forward(case.truth)
    assert float((rough - torch.from_numpy(projections)).abs().mean()) < 0.1


def test_figures_are_made_once_for_a_question(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"psnr": float(len(made))}

    record = tmp_path / "record.json"
    assert [once(record, {"a": 1}, make)["psnr"] for _ in range(2)] == [1, 1]
    assert once(record, {"a": 2}, make)["psnr"] == 2


def test_the_question_is_all_settings(tmp_path, options):
    """So no figure of a preset as it was before is taken for one of today."""
    scan = slice_case(PHANTOM, 12, False, 32, tmp_path / "ct").scan
    asked = settings_of(scan, "ct_sparse", options)
    assert asked["steering"]["edge"] > 0 and asked["steps"] == 900
    assert "iterations" in settings_of(scan, "sirt", options)
    assert settings_of(scan, "ct_sparse", dataclasses.replace(options, steps=(5,))) != asked
    assert settings_of(scan, "ct_sparse", dataclasses.replace(options, threads=2)) == asked


def test_methods_and_presets_of_a_case(tmp_path, options):
    case = slice_case(PHANTOM, 12, False, 32, tmp_path / "ct")
    fbp, sirt, tv = (classical(case, name, options) for name in ("fbp", "sirt", "tv"))
    assert fbp["psnr"] < sirt["psnr"] and {"iterations", "weight"} <= {*sirt, *tv}
    assert tv_oracle(case, tv["weight"], options)["psnr"] >= tv["psnr"] - 1e-6
    found = neural(case, "ct_parallel", dataclasses.replace(options, steps=(60,)))
    assert found["psnr"] > 17 and found["best"] >= found["last"]
    assert 0 < found["step"] <= 60 and math.isfinite(found["seconds"])


def test_tables(options):
    small = dataclasses.replace(options, size=32, steps=(8,), views=(8, 12), models=("fbp", "ct_sparse"))
    report = BENCHES["ct-sparse"](small)
    assert set(report.figures) == {"fbp", "ct_sparse blind", "ct_sparse best", "ct_sparse start"}
    assert all(set(report.columns) <= set(row) for row in report.figures.values())
    assert list(report.columns) == ["8", "8 noisy", "12", "12 noisy"]
    assert set(report.curves) == {"fbp", "fbp noisy", "ct_sparse blind", "ct_sparse blind noisy"}
    assert report.write(options.out)[-1].suffix == ".png"
    deep = dataclasses.replace(options, size=16, steps=(2,), views=(6,), models=("fdk", "ct_cone"))
    assert set(BENCHES["ct-cone"](deep).figures) == {"fdk", "ct_cone blind", "ct_cone best", "ct_cone start"}
    one = dataclasses.replace(deep, models=("fdk",), images=("shepp-logan",))
    assert set(BENCHES["ct-cone"](one).figures["fdk"]) == {"shepp-logan 6", "shepp-logan 6 seconds"}
    with pytest.raises(UserError, match="no phantom 'bone': give porous or shepp-logan"):
        BENCHES["ct-cone"](dataclasses.replace(one, images=("bone",)))
    with pytest.raises(UserError, match="views"):
        dataclasses.replace(options, views=(1,))


def test_measured_scans(shared_data, options):
    small = dataclasses.replace(options, steps=(3,), models=("fbp", "ct_parallel"))
    tooth = dataclasses.replace(small, images=(str(shared_data / "ct" / "tooth.h5"),))
    report = BENCHES["ct-tooth"](tooth)
    column = float(report.title.rsplit(" ", 1)[1])
    assert abs(column - 295.5) < 0.5
    assert report.figures["all views, fbp"]["psnr_unseen"] > report.figures["fbp"]["psnr_unseen"]
    assert (options.out / "ct-tooth-slices.png").is_file()
    challenge = dataclasses.replace(small, images=(str(shared_data / "ct" / "htc2022"),), views=(360,), size=128)
    found = BENCHES["ct-helsinki"](dataclasses.replace(challenge, models=("fbp",)))
    assert found.figures["fbp"]["tb 360"] > 0.9


def test_measured_scans_need_their_data(options):
    for name in ("ct-tooth", "ct-helsinki"):
        with pytest.raises(UserError, match="--images"):
            BENCHES[name](options)
        with pytest.raises(UserError, match="no such file"):
            BENCHES[name](dataclasses.replace(options, images=("nowhere",)))
