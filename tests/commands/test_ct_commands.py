"""CT through the command line: classical methods, training, measuring, rendering, exporting, and bad input."""

import dataclasses
import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from tasks.scans import cone_scan, slice_scan

from recon3d.config import from_plain, load_preset, preset_names, to_plain
from recon3d.config.ct import CtConfig
from recon3d.data.scan import load_scan
from recon3d.data.volume_files import read_volume

from .signals import call, told

LOOK = ["--device", "cpu", "--threads", "1"]
SMALL = [
    *LOOK,
    *("--field.width", "16", "--field.hash-grid.levels", "4", "--field.hash-grid.log2-size", "10"),
    *("--field.hash-grid.coarsest", "4", "--field.hash-grid.finest", "32", "--optimizer.warmup-steps", "5"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ct_commands")


@pytest.fixture(scope="module")
def flat(folder):
    path, truth = slice_scan(folder / "slice.npz")
    np.save(folder / "truth.npy", truth.numpy())
    np.save(folder / "mask.npy", (truth > 0.01).numpy().astype(np.uint8))
    return path


@pytest.fixture(scope="module")
def deep(folder):
    path, truth = cone_scan(folder / "cone.npz")
    np.save(folder / "block.npy", truth.numpy())
    return path


def train(capsys, preset, data, out, name, *options, steps=40):
    args = ["train", preset, data, "--out", out, "--name", name, "--steps", steps, *SMALL, *options]
    call(capsys, *args)
    return out / name


@pytest.mark.parametrize(
    ("method", "options", "least"),
    [
        ("fbp", ["--filter", "hann"], 15),
        ("sirt", ["--iterations", "50"], 20),
        ("cgls", [], 14),
        ("tv", ["--weight", "1e-3", "--iterations", "100"], 20),
    ],
)
def test_classical_methods(flat, folder, capsys, method, options, least):
    reference, mask = folder / "truth.npy", folder / "mask.npy"
    figures, out = call(
        capsys, "ct", method, flat, "--out", folder, *LOOK, "--reference", reference, "--mask", mask, *options
    )
    assert figures["psnr"] > least, figures
    assert 0 < figures["mcc"] <= 1 and figures["views"] == 20
    assert ("chosen_iterations" in figures) == (method == "cgls")
    volume, picture, values = figures["files"]
    found, scan = read_volume(Path(volume)), load_scan(flat)
    assert found.values.shape == (1, 32, 32)
    np.testing.assert_allclose(found.grid.spacing, scan.grid.spacing)
    np.testing.assert_allclose(found.grid.center, scan.grid.center, atol=1e-9)
    assert iio.imread(picture).ndim == 3
    assert json.loads(Path(values).read_text())["psnr"] == figures["psnr"]
    assert "PSNR" in out


def test_classical_methods_prepare_the_scan(flat, deep, folder, capsys):
    figures, _ = call(
        capsys,
        "ct",
        "fbp",
        flat,
        *LOOK,
        "--views",
        "10",
        "--bin",
        "2",
        "--photons",
        "1e5",
        "--output",
        folder / "a.nrrd",
    )
    assert figures["views"] == 10 and figures["shape_zyx"] == [1, 16, 16]
    assert figures["residual_to_noise"] > 1
    assert figures["files"][0].endswith("a.nrrd")
    figures, _ = call(capsys, "ct", "fdk", deep, *LOOK, "--out", folder, "--reference", folder / "block.npy")
    assert figures["ssim_3d"] > 0.2


def test_a_run_from_training_to_pictures(flat, folder, capsys):
    run = train(capsys, "ct_sparse", flat, folder, "run", "--ensemble", "2", "--holdout", "0.05")
    figures, out = call(capsys, "eval", run, *LOOK, "--reference", folder / "truth.npy", "--mask", folder / "mask.npy")
    assert figures["task"] == "ct" and figures["psnr"] > 15
    assert figures["held_out_psnr"] > 13 and "held-out rays" in out and "MCC" in out
    assert figures["mean_spread"] > 0
    names = {path.rsplit("/", 1)[1] for path in figures["files"]}
    assert names == {"volume.npz", "spread.npz", "slices.png", "sinogram.png", "metrics.json"}
    mean, spread = (read_volume(run / "eval" / f"{name}.npz").values for name in ("volume", "spread"))
    assert mean.min() >= 0 and spread.mean() == pytest.approx(figures["mean_spread"], rel=1e-5)

    figures, _ = call(capsys, "render", run, *LOOK, "--scale", "2")
    assert iio.imread(figures["file"]).shape[:2] == (64, 64)

    figures, _ = call(capsys, "export", "volume", run, *LOOK, "--format", "nrrd")
    exported = read_volume(Path(figures["file"]))
    np.testing.assert_allclose(exported.values, mean, atol=1e-7)
    np.testing.assert_allclose(exported.grid.center, (0, 0, 0), atol=1e-6)
    np.testing.assert_allclose(read_volume(Path(figures["spread"])).values, spread, atol=1e-7)

    resumed, _ = call(capsys, "resume", run, "--steps", "50", "--threads", "1")
    assert resumed["steps"] == 50
    told(capsys, ["export", "mesh", run, *LOOK], "one slice has no surface")
    told(capsys, ["render", run, "--axis", "x", *LOOK], "one slice")


def test_a_volume_is_rendered_and_exported(deep, folder, capsys):
    run = train(capsys, "ct_cone", deep, folder, "volume", "--tv", "1e-5")
    figures, _ = call(capsys, "render", run, *LOOK, "--axis", "y", "--output", folder / "slices.mp4")
    assert figures["slices"] == 16 and len(iio.imread(figures["file"])) == 16
    figures, _ = call(capsys, "render", run, *LOOK, "--at", "3.5")
    assert iio.imread(figures["file"]).shape == (16, 16, 3)
    told(capsys, ["render", run, "--at", "99", *LOOK], "reaches from -32 to 32")

    figures, _ = call(
        capsys, "export", "volume", run, *LOOK, "--resolution", "32", "--crop", *("-16", "-32", "-8", "16", "32", "8")
    )
    assert figures["shape_zyx"] == [8, 32, 16] and figures["spread"] is None
    assert figures["origin_xyz"] == pytest.approx([-15, -31, -7])

    told(capsys, ["export", "mesh", run, *LOOK, "--level", "7"], "no surface at attenuation 7", "choose a level")
    call(capsys, "export", "mesh", run, *LOOK, "--resolution", "32", "--output", folder / "mesh")
    import trimesh

    mesh = trimesh.load(folder / "mesh" / "mesh.ply")
    low, high = mesh.bounds
    assert (low > -34).all() and (high < 34).all() and (high - low > 20).all()  # the skull, in mm


# --- presets and bad input ------------------------------------------------------------------------------------------


def test_presets():
    names = {name for name in preset_names() if name.startswith("ct_")}
    assert names == {"ct_parallel", "ct_fan", "ct_cone", "ct_sparse", "ct_limited_angle", "ct_one_material"}
    for name in names:
        for device in ("cpu", "cuda"):
            made = load_preset(name).config(device, Path("scan.npz"))
            assert isinstance(made, CtConfig)
    assert load_preset("ct_sparse").config("cpu", Path("scan.npz")).tv > 0


def test_a_configuration_is_its_own_image(folder):
    made = load_preset("ct_sparse").config("cpu", folder).resolved()
    made = dataclasses.replace(made, scan=dataclasses.replace(made.scan, axis_column=295.5, angle_range=(0.0, 90.0)))
    assert from_plain(CtConfig, json.loads(json.dumps(to_plain(made))), "config.yaml") == made


def test_a_wrong_reference_is_told_before_the_reconstruction(flat, folder, capsys, monkeypatch):
    monkeypatch.setattr("recon3d.classical.reconstruct", None)
    for option in ("--reference", "--mask"):
        told(capsys, ["ct", "tv", flat, *LOOK, "--out", folder / "y", option, folder / "typo.npy"], "no such file")


def test_bad_input_is_told_in_one_line(flat, folder, capsys):
    told(capsys, ["ct", "art", flat], "no method 'art'", "fbp|fdk")
    told(capsys, ["ct", "fbp", folder / "none.npz"], "no such file")
    told(capsys, ["ct", "fbp", flat, *LOOK, "--output", folder / "volume.xyz"], "volumes are written as")
    told(capsys, ["ct", "fbp", flat, *LOOK, "--views", "99"], "99 views asked for, but there are 20")
    wrong = folder / "wrong.npy"
    np.save(wrong, np.zeros((1, 8, 8), np.float32))
    told(capsys, ["ct", "fbp", flat, *LOOK, "--out", folder / "x", "--reference", wrong], wrong, "8 x 8 x 1 voxels")
    assert not (folder / "x").exists()
    told(capsys, ["train", "ct_sparse", flat, "--mask", wrong, "--out", folder, *LOOK], wrong, "(1, 8, 8)")
    told(capsys, ["train", "ct_sparse", flat, "--holdout", "2", "--out", folder], "holdout")
    (folder / "scan.pkl").write_bytes(b"\x80\x04N.")
    told(capsys, ["train", "ct_sparse", folder / "scan.pkl", "--out", folder, *LOOK], "pickle")
    scan = load_scan(flat).load()
    values = scan.projections.copy()
    values[3, 0, 7] = np.nan
    dataclasses.replace(scan, projections=values).save(folder / "nan.npz")
    told(capsys, ["train", "ct_sparse", folder / "nan.npz", "--out", folder, *LOOK], "not finite", "view 3")
