"""eval, render, export signal and decode on runs of images, sounds and films."""

import dataclasses
import json

import imageio.v3 as iio
import numpy as np
import pytest
import soundfile
import torch
from tasks.pictures import write_film, write_image, write_sound

from recon3d.commands import rendered
from recon3d.commands.opened import _task_among
from recon3d.commands.rendered import SUFFIXES, Sampling
from recon3d.data.signal import Signal
from recon3d.errors import UserError
from recon3d.export.signals import write_signal
from recon3d.export.weights import read_weights, write_weights
from recon3d.tasks.evaluation import Rendering
from recon3d.tasks.signal import Header, SignalTask

from .signals import LOOK, call, told, train, trained_image

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def same_threads_after():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_an_image_from_training_to_a_file_and_back(capsys, tmp_path):
    run = trained_image(capsys, tmp_path)
    best, out = call(capsys, "eval", run, *LOOK)
    assert (best["state"], best["task"], best["size"], best["channels"]) == ("best", "image", [16, 20], 3)
    assert f"best state, step {best['step']}" in out and best["step"] <= 12
    assert {"psnr", "mse", "ssim", "rho_ag", "exact_share", "parameters"} <= best.keys()
    assert best["psnr"] == pytest.approx(10 * np.log10(4 / best["mse"]))
    assert json.loads((run / "eval" / "metrics.json").read_text())["psnr"] == best["psnr"]
    assert iio.imread(run / "eval" / "prediction.png").shape == (16, 20, 3)
    assert iio.imread(run / "eval" / "comparison.png").shape == (16, 60, 3)
    last, _ = call(capsys, "eval", run, *LOOK, "--state", "last")
    assert (last["state"], last["step"]) == ("last", 12)

    again, _ = call(capsys, "render", run, *LOOK)
    assert (iio.imread(again["file"]) == iio.imread(run / "exports" / "render.png")).all()
    larger, _ = call(capsys, "render", run, *LOOK, "--scale", "2.5", "--output", tmp_path / "x.tif")
    assert larger["size"] == [40, 50] and iio.imread(tmp_path / "x.tif").shape == (40, 50, 3)
    call(capsys, "render", run, *LOOK, "--edges", "--size", "8", "9")
    assert iio.imread(run / "exports" / "edges.png").shape == (8, 9)

    exact, _ = call(capsys, "export", "signal", run, *LOOK, "--precision", "float32")
    assert exact["psnr_to_rendering"] == 180 and exact["psnr"] == pytest.approx(best["psnr"])
    small, out = call(capsys, "export", "signal", run, *LOOK)
    assert small["bytes"] < exact["bytes"] and small["raw_bytes"] == 16 * 20 * 3
    assert small["original_bytes"] == (tmp_path / "image.png").stat().st_size
    assert 35 < small["psnr_to_rendering"] < 180
    file = tmp_path / "alone.safetensors"
    file.write_bytes((run / "exports" / "signal.safetensors").read_bytes())
    (tmp_path / "image.png").unlink()
    decoded, _ = call(capsys, "decode", file, *LOOK)
    assert np.abs(iio.imread(decoded["file"]).astype(int) - iio.imread(again["file"])).max() <= 4
    assert call(capsys, "decode", file, *LOOK, "--scale", "2")[0]["size"] == [32, 40]
    # The run itself does without its file for everything but the comparison.
    assert "psnr" not in call(capsys, "export", "signal", run, *LOOK)[0]
    call(capsys, "render", run, *LOOK)
    told(capsys, ["eval", run, *LOOK], "image.png")


@pytest.mark.parametrize(
    ("options", "present"),
    [
        (["--keep", "0.5"], {"psnr_trained", "psnr_hidden"}),
        (["--holdout", "0.1", "--noise", "0.1"], {"psnr_noisy", "ssim_noisy", "psnr_hidden"}),
        (["--train-scale", "4"], {"psnr_bicubic", "ssim_bicubic"}),
        (["--supervision", "gradient"], {"aligned"}),
    ],
)
def test_what_an_evaluation_tells_besides(capsys, tmp_path, options, present):
    run = trained_image(capsys, tmp_path, "run", *options)
    figures, out = call(capsys, "eval", run, *LOOK)
    every = {"psnr_trained", "psnr_hidden", "psnr_noisy", "ssim_noisy", "psnr_bicubic", "ssim_bicubic", "aligned"}
    trained = {"psnr_trained"} if "--holdout" in options else set()
    assert every & figures.keys() == present | trained
    for word, name in (("hidden", "psnr_hidden"), ("noisy", "psnr_noisy"), ("bicubic", "psnr_bicubic")):
        assert (word in out.split("written")[0]) == (name in figures)
    assert ("aligned" in out) == ("aligned" in figures)
    call(capsys, "render", run, *LOOK, "--scale", "2")
    call(capsys, "export", "signal", run, *LOOK)
    decoded, _ = call(capsys, "decode", run / "exports" / "signal.safetensors", *LOOK)
    if "aligned" in figures:
        gap = iio.imread(decoded["file"]).astype(int) - iio.imread(run / "eval" / "prediction.png")
        assert np.abs(gap).max() <= 4  # the constant travels with the weights


def test_a_sound(capsys, tmp_path):
    data = write_sound(tmp_path / "sound.wav", channels=2)
    call(capsys, *train("audio", data, tmp_path, "run"))
    figures, _ = call(capsys, "eval", tmp_path / "run", *LOOK)
    assert figures["size"] == [400] and "ssim" not in figures and 0 <= figures["exact_share"] <= 1
    assert soundfile.info(figures["prediction"]).subtype == "PCM_16"
    call(capsys, "render", tmp_path / "run", *LOOK, "--rate", "16000", "--output", tmp_path / "x.flac")
    assert (soundfile.info(tmp_path / "x.flac").frames, soundfile.info(tmp_path / "x.flac").samplerate) == (800, 16000)
    told(capsys, ["render", tmp_path / "run", *LOOK, "--scale", "2"], "--scale", "audio", "--rate")


def test_a_film(capsys, tmp_path):
    data = write_film(tmp_path / "film.mp4", frames=4)
    call(capsys, *train("video", data, tmp_path, "run", "--field.encoder", "identity", "--batch", "300"))
    figures, _ = call(capsys, "eval", tmp_path / "run", *LOOK)
    assert figures["size"] == [4, 16, 16] and "ssim" in figures
    rendering, _ = call(capsys, "render", tmp_path / "run", *LOOK, "--render-fps", "20", "--scale", "2")
    assert (rendering["size"], rendering["rate"]) == ([8, 32, 32], 20)
    film = iio.imread(rendering["file"])
    assert film.shape == (8, 32, 32, 3)
    call(capsys, "render", tmp_path / "run", *LOOK, "--output", tmp_path / "x.gif")
    told(capsys, ["render", tmp_path / "run", *LOOK, "--edges", "--output", tmp_path / "x.mp4"], "--edges", "video")


def test_best_is_only_where_one_was_kept(capsys, tmp_path):
    run = trained_image(capsys, tmp_path)
    (run / "checkpoints" / "best.safetensors").unlink()
    assert call(capsys, "eval", run, *LOOK)[0]["state"] == "last"
    told(capsys, ["eval", run, *LOOK, "--state", "best"], run, "no best state", "--state last")


def test_another_file_than_the_runs(capsys, tmp_path):
    run = trained_image(capsys, tmp_path)
    other = write_image(tmp_path / "other.png", 18, 18)
    told(capsys, ["eval", run, *LOOK, "--data", other], other, "not the file of this run")
    told(capsys, ["export", "signal", run, *LOOK, "--data", other], other)


def test_the_run_is_found_among_the_options(capsys, tmp_path):
    run = trained_image(capsys, tmp_path)
    assert _task_among(["--state", "last", str(run)]) == "image"
    assert _task_among([str(tmp_path), "--scale", "3"]) is None
    assert call(capsys, "eval", *LOOK, "--state", "last", run)[0]["state"] == "last"


# --- sizes ---

HEADERS = {
    "image": Header("image", (10, 20), 3, 0.0, 255.0, 8, None),
    "audio": Header("audio", (100,), 1, -1.0, 1.0, 16, 50.0),
    "video": Header("video", (10, 20, 30), 3, 0.0, 255.0, 8, 25.0),
}


@pytest.mark.parametrize(
    ("kind", "options", "grid", "rate"),
    [
        ("image", {}, (10, 20), None),
        ("image", {"scale": 0.5}, (5, 10), None),
        ("image", {"size": (7, 3)}, (7, 3), None),
        ("audio", {}, (100,), 50.0),
        ("audio", {"rate": 75}, (150,), 75.0),
        ("video", {"scale": 2.0}, (10, 40, 60), 25.0),
        ("video", {"render_fps": 50.0, "size": (4, 4)}, (20, 4, 4), 50.0),
    ],
)
def test_grids(kind, options, grid, rate):
    assert Sampling(**options).grid(HEADERS[kind]) == (grid, rate)


@pytest.mark.parametrize(
    ("kind", "options", "part"),
    [
        ("image", {"rate": 3}, "--rate is not for image"),
        ("image", {"render_fps": 3.0}, "--render-fps is not for image"),
        ("audio", {"size": (3, 3)}, "--size is not for audio"),
        ("video", {"rate": 3}, "--rate is not for video"),
        ("image", {"scale": 2.0, "size": (3, 3)}, "give one"),
        ("image", {"scale": 0.0}, "--scale is 0"),
        ("image", {"scale": float("nan")}, "--scale is nan"),
        ("image", {"scale": 0.01}, "sizes of 1 or more"),
        ("image", {"size": (0, 3)}, "sizes of 1 or more"),
    ],
)
def test_grids_that_cannot_be(kind, options, part):
    with pytest.raises(UserError, match=part):
        Sampling(**options).grid(HEADERS[kind])


@pytest.mark.parametrize("kind", SUFFIXES)
def test_what_is_offered_can_be_written(kind, tmp_path):
    shape = {"image": (16, 16, 1), "audio": (800, 1), "video": (2, 16, 16, 1)}[kind]
    values = np.zeros(shape, np.float32 if kind == "audio" else np.uint8)
    low, bits = (-1.0, 16) if kind == "audio" else (0.0, 8)
    signal = Signal(kind, values, low, 1.0 if kind == "audio" else 255.0, bits, 8000.0, tmp_path)
    for suffix in SUFFIXES[kind]:
        assert write_signal(signal, tmp_path / f"x{suffix}").stat().st_size > 0
    with pytest.raises(UserError, match="choose from"):
        Sampling(output=tmp_path / "x.bmp").target(HEADERS[kind], tmp_path / "y")


# --- blocks, and files of weights ---


@pytest.fixture
def task(tmp_path):
    from recon3d.config import FieldConfig, ImageConfig

    field = FieldConfig(encoder=("identity",), network="siren", width=8, depth=1).resolved()
    torch.manual_seed(0)
    return SignalTask(ImageConfig(data=tmp_path, steps=1, field=field), CPU, header=HEADERS["image"])


def test_renderings_are_the_same_in_blocks_and_in_a_file(task, monkeypatch):
    whole = rendered.rendered(Rendering(task), (33, 17)).values
    monkeypatch.setattr(rendered, "BLOCK", 50)
    monkeypatch.setattr(rendered, "IN_MEMORY", 100)
    parts = rendered.rendered(Rendering(task), (33, 17)).values
    assert isinstance(parts, np.memmap) and whole.dtype == parts.dtype == np.uint8
    assert np.abs(whole.astype(int) - parts).max() <= 1  # products of other sizes may round otherwise


def test_weights_too_large_for_float16(task, tmp_path):
    with torch.no_grad():
        task.field.network.layers[0].weight[0, 0] = 7e4
    with pytest.raises(UserError, match=r"layers\.0\.weight holds 7e\+04.*--precision float32"):
        write_weights(Rendering(task), tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())
    write_weights(Rendering(task), tmp_path / "x.safetensors", "float32")
    back = read_weights(tmp_path / "x.safetensors", CPU)
    assert torch.equal(back.task.render(), task.render())
    assert back.task.header == task.header


def test_files_that_are_no_weights(task, tmp_path):
    path = tmp_path / "x.safetensors"
    write_weights(Rendering(task), path)
    whole = path.read_bytes()
    cases = {
        "cut": whole[:-10],
        "empty": b"",
        "other": b"\x80\x04pickle",
        "layout": whole.replace(b'layout\\":1', b'layout\\":9'),
    }
    for name, content in cases.items():
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.safetensors") as caught:
            read_weights(path, CPU)
        assert "\n" not in str(caught.value), name
    with pytest.raises(UserError, match="no such file"):
        read_weights(tmp_path / "nowhere.safetensors", CPU)


def test_a_header_of_another_field(task, tmp_path):
    wider = dataclasses.replace(task.config, field=dataclasses.replace(task.config.field, width=9))
    write_weights(Rendering(task), tmp_path / "x.safetensors")
    task.config = wider
    tampered = write_weights(Rendering(task), tmp_path / "y.safetensors")
    with pytest.raises(UserError, match="weights are not those of its field"):
        read_weights(tampered.path, CPU)
