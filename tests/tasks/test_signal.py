"""The signal task: exact gradients however a step is cut, samples where they belong, what it learns and shows."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from training.host import NoHost

from recon3d.config import AudioConfig, FieldConfig, ImageConfig, OptimizerConfig, VideoConfig
from recon3d.config.fields import ChebyshevConfig, HashGridConfig, IdentityConfig
from recon3d.config.signals import PLAIN_ADAM
from recon3d.data.signal import Signal
from recon3d.geometry.grids import grid_points
from recon3d.tasks import new_task, restore_task
from recon3d.tasks.evaluation import Rendering, alignment, evaluate, upsampled
from recon3d.tasks.measurements import read_signal
from recon3d.tasks.signal import Header, SignalTask, aligned, decibels
from recon3d.training.run_folder import RunFolder
from recon3d.training.trainer import Trainer

from .pictures import write_film, write_image, write_sound

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
FIELDS = {
    "siren": FieldConfig(encoder=("identity",), network="siren", width=16, depth=2),
    "spder": FieldConfig(encoder=("identity",), network="spder", width=16, depth=2),
    "sl2a": FieldConfig(
        encoder=("chebyshev",), network="fusion", width=16, depth=2, chebyshev=ChebyshevConfig(degree=12)
    ),
}
SIREN = FIELDS["siren"]
HASH = FieldConfig(
    encoder=("hash_grid",),
    network="relu",
    width=16,
    depth=1,
    hash_grid=HashGridConfig(levels=4, log2_size=10, coarsest=4, finest=16),
)
QUICK = dataclasses.replace(PLAIN_ADAM, learning_rate=1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("signals")


@pytest.fixture(scope="module")
def image(folder):
    return write_image(folder / "image.png")


def config(data, kind=ImageConfig, field=SIREN, optimizer=QUICK, **values):
    return kind(
        **{"data": data, "steps": 10, "chunk": 100, "field": field, "optimizer": optimizer, **values}
    ).resolved()


def make(made, seed=0):
    torch.manual_seed(seed)
    return new_task(made, CPU, torch.float32)


def trained(made, tmp_path, name, resume=False):
    """The task after its budget, and its trainer."""
    task = make(made)
    made = dataclasses.replace(made, out=tmp_path, name=name)
    run = RunFolder(tmp_path / name) if resume else RunFolder.create(made, name)
    trainer = Trainer(task, made, made.optimizer, run, CPU, torch.float32, resume=resume)
    trainer.train()
    return task, trainer


def gradients(task, chunk, step=0):
    task.chunk = chunk
    task.zero_grad()
    result = task.training_step(step, lambda loss: loss.backward())
    return torch.cat([p.grad.flatten() for p in task.parameters()]), float(result.terms["error"])


# --- steps in parts ---


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("batch", [None, 90])
def test_chunks_add_up_to_the_batch(image, name, batch):
    task = make(config(image, field=FIELDS[name], batch=batch))
    whole, error = gradients(task, 10**6)
    for chunk in (320, 77, 16):
        parts, error_of_parts = gradients(task, chunk)
        assert float((parts - whole).norm() / whole.norm()) < 1e-5
        assert error_of_parts == pytest.approx(error, rel=1e-5)


def test_the_error_is_the_mean_square_over_points_and_channels(image):
    task = make(config(image))
    truth = torch.from_numpy(read_signal(task.config).normalized())
    expected = float((task.render() - truth).square().mean())
    result = task.training_step(0, lambda loss: None)
    assert float(result.terms["error"]) == pytest.approx(expected, rel=1e-4)
    assert result.score == pytest.approx(decibels(expected), abs=1e-3)


def test_random_batches_and_tiles(image):
    task = make(config(image, batch=64))
    drawn = [task._batch(step) for step in (0, 1, 0)]
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
    assert len(drawn[0]) == 64
    task = make(config(image, batch=70, tile=4))
    tiles = task._batch(3)
    assert len(tiles) == 64  # four tiles of 4 x 4
    rows, columns = tiles.view(4, 16) // 20, tiles.view(4, 16) % 20
    assert ((rows.amax(1) - rows.amin(1) == 3) & (columns.amax(1) - columns.amin(1) == 3)).all()
    assert task.training_step(0, lambda loss: loss.backward()).score is None  # a part does not tell of the whole


@pytest.mark.parametrize("more", [{"batch": 30}, {"batch": 64, "tile": 4}, {}])
def test_what_is_hidden_is_never_drawn(image, more):
    task = make(config(image, keep=0.4, **more))
    shown = set(task.measurements.train.tolist())
    for step in range(5):
        assert set(task._batch(step).tolist()) <= shown


def test_tiles_that_hold_nothing_to_train_on_are_survived(image, tmp_path):
    task, _ = trained(config(image, keep=0.02, batch=4, tile=2), tmp_path, "run")
    assert all(bool(torch.isfinite(p).all()) for p in task.parameters())


# --- samples where they belong ---


class Itself(nn.Module):
    """A field whose first value is its first coordinate, and so on."""

    def forward(self, x):
        return torch.cat([x, x[:, :1]], dim=1)[:, :3]


@pytest.mark.parametrize("factor", [2, 4])
def test_a_field_sampled_at_two_rates_is_where_it_should_be(factor):
    """The mean of the fine samples that a coarse one covers is the coarse one: no half pixel is lost."""
    task = SignalTask(config(Path("x")), CPU, header=Header("image", (8, 6), 3, 0.0, 255.0, 8, None))
    task.field = Itself()
    coarse, fine = task.render(), task.render((8 * factor, 6 * factor))
    pooled = fine.view(8, factor, 6, factor, 3).mean((1, 3))
    assert torch.allclose(pooled, coarse, atol=1e-6)
    assert torch.allclose(coarse[..., 0] - coarse[..., 0].flip(0).neg(), torch.zeros(8, 6), atol=1e-6)


def test_super_resolution_sees_the_small_image_and_is_measured_on_the_whole(image):
    task = make(config(image, train_scale=4, field=FIELDS["sl2a"]))
    assert (task.header.grid, task.measurements.grid, task.measurements.count) == ((16, 20), (4, 5), 20)
    truth = read_signal(task.config)
    figures = evaluate(Rendering(task), truth).figures
    small = task.measurements.values(None).view(4, 5, 3)
    bicubic = upsampled(small, (16, 20))
    expected = decibels(float((bicubic - torch.from_numpy(truth.normalized())).square().mean()))
    assert figures["psnr_bicubic"] == pytest.approx(expected, abs=1e-3)
    assert "psnr_hidden" not in figures


def test_bicubic_keeps_a_ramp_where_it_is():
    x = grid_points((12, 12)).view(12, 12, 2)
    fine = upsampled(x, (48, 48))
    assert torch.allclose(fine[12:-12, 12:-12], grid_points((48, 48)).view(48, 48, 2)[12:-12, 12:-12], atol=1e-5)


# --- training ---


@pytest.mark.parametrize("more", [{}, {"batch": 64}, {"holdout": 0.2, "noise": 0.05}], ids=["full", "batch", "holdout"])
def test_a_resumed_run_is_bit_for_bit_an_uninterrupted_one(image, tmp_path, more):
    made = config(image, steps=24, checkpoint_every=11, preview_every=7, **more)
    whole, first = trained(made, tmp_path, "whole")
    trained(dataclasses.replace(made, steps=11), tmp_path, "parts")
    parts, second = trained(made, tmp_path, "parts", resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    assert (first.best.step, first.best.score) == (second.best.step, second.best.score)


def test_holdout_chooses_an_early_state_of_a_noisy_image(tmp_path):
    """The noise is learned in the end; what was held out tells when to stop, and the clean image agrees."""
    data = write_image(tmp_path / "image.png", 20, 20, 1)
    field = FieldConfig(encoder=("identity",), network="siren", width=32, depth=2)
    optimizer = dataclasses.replace(QUICK, learning_rate=3e-3)
    made = config(data, field=field, optimizer=optimizer, steps=150, noise=0.2, holdout=0.1, chunk=400)
    task, trainer = trained(made, tmp_path, "run")
    assert trainer.best.step < 100
    run = RunFolder.open(tmp_path / "run")
    scores = {}
    for state in ("best", "last"):
        restored, _ = restore_task(made, run, CPU, torch.float32, state)
        scores[state] = evaluate(Rendering(restored), read_signal(made)).figures
    assert scores["best"]["psnr"] > scores["last"]["psnr"] + 1
    assert scores["best"]["psnr"] > scores["best"]["psnr_noisy"] + 1
    assert scores["last"]["psnr_noisy"] == scores["best"]["psnr_noisy"]
    assert task.measurements.held is not None


@pytest.mark.parametrize(("supervision", "floor"), [("gradient", 28.0), ("laplacian", 20.0)])
def test_an_image_comes_back_from_its_derivatives(tmp_path, supervision, floor):
    data = write_image(tmp_path / "image.png", 16, 16, 1)
    field = FieldConfig(encoder=("identity",), network="siren", width=24, depth=1)
    field = dataclasses.replace(field, siren=dataclasses.replace(field.siren, omega=10.0))
    optimizer = dataclasses.replace(QUICK, learning_rate=2e-3)
    made = config(data, field=field, optimizer=optimizer, steps=120, supervision=supervision, chunk=256)
    task, _ = trained(made, tmp_path, "run")
    truth = read_signal(made)
    shift = alignment(task, truth)
    figures = evaluate(Rendering(task, shift), truth).figures
    assert figures["aligned"] == {"gradient": "constant", "laplacian": "linear"}[supervision]
    assert figures["psnr"] > floor
    target = torch.from_numpy(truth.normalized())
    expected = aligned(task.render(), target, made)
    assert torch.allclose(Rendering(task, shift).values(truth.grid, 0, 256), expected.view(256, 1), atol=1e-4)
    if supervision == "gradient":
        assert float(shift[1:].abs().max()) < 1e-5


# --- sounds and films ---


def test_a_sound(folder, tmp_path):
    field = dataclasses.replace(SIREN, identity=IdentityConfig(scale=20.0))
    data = write_sound(folder / "sound.wav", channels=2)
    made = config(data, AudioConfig, field, steps=40, preview_every=20, train_every=2)
    task, _ = trained(made, tmp_path, "run")
    assert task.header == Header("audio", (400,), 2, -1.0, 1.0, 16, 8000.0)
    assert {p.name.split("_")[0] for p in (tmp_path / "run" / "previews").iterdir()} == {"waveform", "spectrogram"}
    evaluation = evaluate(Rendering(task), read_signal(made))
    assert {"psnr", "rho_ag", "exact_share", "psnr_trained", "psnr_hidden"} <= evaluation.figures.keys()
    assert "ssim" not in evaluation.figures
    assert evaluation.picture.dtype == np.uint8


def test_a_film(folder, tmp_path):
    data = write_film(folder / "film.mp4")
    made = config(data, VideoConfig, HASH, steps=30, preview_every=15, batch=400, train_every=2)
    optimizer = OptimizerConfig(learning_rate=1e-2, warmup_steps=0)
    made = dataclasses.replace(made, optimizer=optimizer)
    task, trainer = trained(made, tmp_path, "run")
    assert trainer.best is not None and trainer.best.step in (15, 30)  # previews score runs with random batches
    assert len(list((tmp_path / "run" / "previews").glob("frame_*.png"))) == 2
    truth, put = read_signal(made), []
    figures = evaluate(Rendering(task), truth, lambda begin, values: put.append((begin, len(values)))).figures
    assert put == [(256 * frame, 256) for frame in range(6)]  # frame by frame
    prediction = task.render()
    target = torch.from_numpy(truth.normalized())
    assert figures["psnr"] == pytest.approx(decibels(float((prediction - target).square().mean())), abs=1e-3)
    seen = decibels(float((prediction - target)[::2].square().mean()))
    assert figures["psnr_trained"] == pytest.approx(seen, abs=1e-3)


# --- without the data ---


def test_a_run_opens_without_its_file(tmp_path):
    data = write_image(tmp_path / "gone.png", channels=1)
    made = config(data)
    task, _ = trained(made, tmp_path, "run")
    data.unlink()
    restored, step = restore_task(made, RunFolder.open(tmp_path / "run"), CPU, torch.float32)
    assert step == 10
    assert restored.header == task.header == Header("image", (16, 20), 1, 0.0, 255.0, 8, None)
    assert torch.equal(restored.render(), task.render())


def test_values_go_back_to_the_files_numbers():
    header = Header("image", (2, 2), 1, 0.0, 65535.0, 16, None)
    signal = header.signal(torch.tensor([-1.0, 0.0, 1.0, 3.0]).view(2, 2, 1))
    assert signal.values.dtype == np.uint16
    assert signal.values.flatten().tolist() == [0, 32768, 65535, 65535]
    assert isinstance(signal, Signal) and Header.of(signal) == header


def test_networks_that_see_the_signal_see_what_is_trained_on(folder):
    image = write_image(folder / "seen.png")
    whole = make(config(image))._glimpse()
    kept = make(config(image, keep=0.5))
    seen, shown = kept._glimpse(), kept._trained().view(whole.shape[1:])
    torch.testing.assert_close(seen[:, shown], whole[:, shown])
    assert not shown.all() and not seen[:, ~shown].any()
    height, width = whole.shape[1:]
    assert make(config(image, train_scale=4))._glimpse().shape == (len(whole), height // 4, width // 4)
    assert not make(config(image, supervision="gradient"))._glimpse().any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", FIELDS)
def test_a_step_on_the_gpu_is_a_step_on_the_cpu(image, name):
    made = config(image, field=FIELDS[name])
    task = make(made)
    on_gpu = new_task(made, torch.device("cuda"), torch.float32)
    on_gpu.load_state_dict(task.state_dict())
    (ours, _), (theirs, _) = gradients(task, 100), gradients(on_gpu, 100)
    assert float((ours - theirs.cpu()).norm() / ours.norm()) < 1e-3


@pytest.mark.parametrize("kind", ["siren", "incode", "hash"])
def test_a_device_step_is_a_training_step_without_a_word_to_the_host(kind, image):
    field = {"siren": SIREN, "hash": HASH, "incode": dataclasses.replace(SIREN, network="incode")}[kind]
    told, silent = make(config(image, field=field)), make(config(image, field=field))
    told.training_step(0, torch.Tensor.backward)
    silent.prepare_step(0)
    with NoHost():
        silent.device_step(torch.Tensor.backward)
    for a, b in zip(silent.parameters(), told.parameters()):
        torch.testing.assert_close(a.grad, b.grad)
