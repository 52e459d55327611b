"""The NeRF task on photographs of a ball: where it looks, what it learns, what it shows."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from geometry.ball import DISTANCE, RADIUS, ball_scene, cameras_around, photographs, write_ball_folder
from training.host import NoHost

from recon3d.config import HashGridConfig, NerfConfig, RadianceFieldConfig, RenderConfig
from recon3d.data.scene import Scene
from recon3d.errors import UserError
from recon3d.geometry.boxes import Normalizer
from recon3d.geometry.hull import cell_centers
from recon3d.kernels.threads import kernel_threads
from recon3d.metrics.image import psnr
from recon3d.tasks import new_task, restore_task
from recon3d.tasks.nerf import NerfTask
from recon3d.tasks.photographs import (
    composite_pixels,
    find_space,
    pixels_across,
    reference_image,
)
from recon3d.training.adam import Adam
from recon3d.training.checkpoints import save
from recon3d.training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
VIEWS = 40
CONFIG = NerfConfig(
    data=Path("ball"),
    steps=150,
    samples=4096,
    max_rays=1024,
    field=RadianceFieldConfig(
        hash_grid=HashGridConfig(levels=6, log2_size=12, coarsest=4, finest=64), width=16, color_width=16
    ),
    head=RenderConfig(grid=32, samples_per_diagonal=96, update_every=8, warmup_steps=32),
).resolved()


@pytest.fixture(scope="module")
def scene():
    return ball_scene(VIEWS, size=32)


def make(scene, config=CONFIG, seed=0):
    torch.manual_seed(seed)
    normalizer, allowed = find_space(scene, config, CPU)
    return NerfTask(config, CPU, torch.float32, normalizer, allowed, scene)


def fit(task, steps, first=0):
    """A training loop in its barest form; returns the figures of every step."""
    optimizer = torch.optim.Adam(task.parameter_groups(task.config.optimizer), betas=(0.9, 0.99), eps=1e-15)
    figures = []
    for step in range(first, first + steps):
        optimizer.zero_grad()
        result = task.training_step(step, torch.Tensor.backward)
        optimizer.step()
        figures.append({"loss": sum(float(term) for term in result.terms.values()), **result.scalars})
    return figures


@pytest.fixture(scope="module")
def trained(scene):
    task = make(scene)
    return task, fit(task, 150)


# --- its finest cells ---


def test_cells_are_pixels_where_that_is_left_to_the_photographs(tmp_path):
    write_ball_folder(tmp_path, train=12, test=2, size=64)

    def finest(value, encoder=("hash_grid",)):
        field = RadianceFieldConfig(
            encoder=encoder, hash_grid=HashGridConfig(levels=3, log2_size=8, coarsest=4, finest=value), width=16
        )
        config = dataclasses.replace(CONFIG, data=tmp_path, field=field).resolved()
        task = new_task(config, CPU, torch.float32)
        return task, task.config.field.hash_grid.finest

    task, chosen = finest(None)
    assert task.train_cameras is not None
    assert chosen == pixels_across(task.train_cameras, task.normalizer) and 16 <= chosen < 100
    assert task.field.encoder.layout.scales[-1] == pytest.approx(chosen - 1)
    assert finest(500)[1] == 500
    assert finest(None, ("frequency",))[1] is None
    run = RunFolder(tmp_path / "run")
    save(run.checkpoints, 0, {f"task.{name}": value for name, value in task.state_dict().items()}, {})
    run.write_config(task.config)
    again, _ = restore_task(run.read_config(), run, CPU, torch.float32)
    assert again.field.encoder.layout == task.field.encoder.layout


# --- its threads ---


@pytest.mark.parametrize(("network", "small"), [("relu", True), ("siren", False)])
def test_operations_are_small_where_kernels_do_the_work(scene, network, small):
    """Beside kernels torch's operations keep to one thread, in a step and in a view; large networks get all."""
    task = make(scene, dataclasses.replace(CONFIG, field=dataclasses.replace(CONFIG.field, network=network)))
    seen, encode = [], task.field.encode

    def told():
        seen.append((kernel_threads(), torch.get_num_threads()))

    def encoded(*args):
        told()
        return encode(*args)

    task.field.encode = encoded
    torch.set_num_threads(2)
    task.training_step(0, lambda loss: told())
    task.render(scene.cameras, 0)
    assert len(seen) >= 3
    assert set(seen) == {(2, 1 if small else 2)}
    assert torch.get_num_threads() == 2


# --- the space it looks in ---


def test_the_box_is_around_the_ball(scene):
    box, allowed = find_space(scene, CONFIG, CPU)
    assert box.center == pytest.approx((0, 0, 0), abs=0.15)
    assert RADIUS < box.half_size < 1.3 * RADIUS
    assert allowed.shape == (32, 32, 32)
    assert 0.4 < float(allowed.float().mean()) < 0.8  # a ball is 0.52 of its cube


def test_a_ball_that_leaves_the_first_guess_is_still_inside():
    cameras = cameras_around(30, size=48)
    center, radius = (1.0, 0.0, 0.0), 0.5
    images = photographs(cameras, center, radius)
    box, allowed = find_space(Scene(cameras, images, ("",) * 30, Path("ball")), CONFIG, CPU)
    points = torch.nn.functional.normalize(torch.randn(500, 3), dim=-1) * 0.95 * radius + torch.tensor(center)
    field = box.to_field(points)
    assert float(field.abs().max()) <= 1
    index = ((field + 1) * 16).long().clamp(0, 31).unbind(-1)
    assert allowed[index].all()


def test_without_alpha_the_cameras_tell_the_box(scene):
    opaque = dataclasses.replace(scene, images=scene.images[..., :3].contiguous())
    box, allowed = find_space(opaque, CONFIG, CPU)
    assert box.half_size == pytest.approx(DISTANCE * np.tan(0.35), rel=1e-3)
    assert allowed.float().mean() > 0.9


def test_a_larger_box_where_no_silhouette_bounds_the_scene(scene):
    """Of captures without alpha; silhouettes find their own."""
    opaque = dataclasses.replace(scene, images=scene.images[..., :3].contiguous())
    larger = dataclasses.replace(CONFIG, box_scale=4.0)
    box, allowed = find_space(opaque, larger, CPU)
    assert box.half_size == pytest.approx(4 * DISTANCE * np.tan(0.35), rel=1e-3)
    assert allowed.any()
    assert find_space(scene, larger, CPU)[0] == find_space(scene, CONFIG, CPU)[0]
    with pytest.raises(UserError, match="box_scale"):
        dataclasses.replace(CONFIG, box_scale=0.0)


def test_the_data_may_tell_the_box(scene):
    """Of captures without alpha it is the box, but for its scale; silhouettes find their own."""
    told = Normalizer((0.1, 0.2, 0.3), 5.0)
    with_box = dataclasses.replace(scene, box=told)
    opaque = dataclasses.replace(with_box, images=scene.images[..., :3].contiguous())
    assert find_space(opaque, CONFIG, CPU)[0] == told
    half = find_space(opaque, dataclasses.replace(CONFIG, box_scale=0.5), CPU)[0]
    assert half == Normalizer(told.center, 2.5)
    assert find_space(with_box, CONFIG, CPU)[0] == find_space(scene, CONFIG, CPU)[0]


def test_without_the_hull_alpha_is_not_used(scene):
    config = dataclasses.replace(CONFIG, head=dataclasses.replace(CONFIG.head, visual_hull=False))
    box, _ = find_space(scene, config, CPU)
    assert box.half_size == pytest.approx(DISTANCE * np.tan(0.35), rel=1e-3)


def test_blank_images_are_told(scene):
    blank = dataclasses.replace(scene, images=torch.zeros_like(scene.images))
    with pytest.raises(UserError, match="silhouettes") as caught:
        find_space(blank, CONFIG, CPU)
    assert "ball" in str(caught.value)
    assert "\n" not in str(caught.value)


# --- training ---


def test_it_learns(trained, scene):
    task, figures = trained
    assert np.mean([f["psnr"] for f in figures[-10:]]) > np.mean([f["psnr"] for f in figures[:10]]) + 5
    held_out = ball_scene(3, size=32, shift=0.5)
    scores = [
        psnr(task.render_view(held_out.cameras, i, "white")["color"], reference_image(held_out, i, "white"))
        for i in range(3)
    ]
    assert np.mean(scores) > 31


def test_the_figures_it_logs(trained):
    _, figures = trained
    last = figures[-1]
    assert last["samples_per_ray"] == pytest.approx(last["samples"] / last["rays"])
    assert 0 < last["occupied_fraction"] < 1
    assert last["psnr"] > 10


def test_the_number_of_samples_is_kept_not_that_of_rays(scene):
    config = dataclasses.replace(CONFIG, max_rays=2**16)
    figures = fit(make(scene, config), 25)
    assert all(0.7 * 4096 < f["samples"] < 1.5 * 4096 for f in figures[-5:])
    rays = [f["rays"] for f in figures]
    assert all(0.49 <= b / a <= 2.01 for a, b in zip(rays, rays[1:]))
    # With a lower bound on rays, the rays are at their bound.
    few = fit(make(scene, dataclasses.replace(CONFIG, max_rays=64)), 5)
    assert all(f["rays"] == 64 for f in few)


def test_pixels_that_are_not_drawn_change_nothing(scene):
    """The mean over the drawn pixels, times their share, has the value and the gradient of the mean over all."""
    task = make(scene)
    task.prepare_step(0)
    assert task.drawn is not None and 0.2 < task.drawn_share < 0.8
    every = torch.arange(len(task.pixels))
    background = torch.tensor([[0.2, 0.5, 0.9]])

    def loss(index):
        area = 32 * 32
        uv = torch.stack([index % area % 32, index % area // 32], dim=-1) + 0.5
        rendering = task.head(task.field, task.cameras_inside.rays(index // area, uv))
        prediction = rendering.color + (1 - rendering.opacity)[:, None] * background
        return (prediction - composite_pixels(task.pixels[index], background)).square().mean()

    def gradient(value):
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(task.field.parameters()))])

    whole, drawn = loss(every), task.drawn_share * loss(task.drawn.long())
    assert drawn.item() == pytest.approx(whole.item(), rel=1e-5)
    torch.testing.assert_close(gradient(drawn), gradient(whole), rtol=1e-4, atol=1e-9)


def test_without_alpha_all_pixels_are_drawn(scene):
    task = make(dataclasses.replace(scene, images=scene.images[..., :3].contiguous()))
    task.prepare_step(0)
    assert task.drawn_share == 1 and task.drawn is None


def test_a_step_depends_on_seed_and_number_only(scene):
    losses = []
    for noise in (1, 2):
        task = make(scene)
        torch.manual_seed(noise)  # the global generator plays no part
        losses.append([f["loss"] for f in fit(task, 5)])
    assert losses[0] == losses[1]
    other = dataclasses.replace(CONFIG, seed=1)
    assert [f["loss"] for f in fit(make(scene, other), 5)] != losses[0]


def test_a_copy_goes_on_as_the_original(scene):
    task = make(scene)
    fit(task, 10)
    copy = NerfTask(CONFIG, CPU)
    copy.load_state_dict(task.state_dict())
    copy.use_training_data(scene)
    # Neither has an optimiser's memory here: both start a new one.
    assert [f["loss"] for f in fit(copy, 10, first=10)] == [f["loss"] for f in fit(task, 10, first=10)]


@pytest.mark.parametrize("loss", ["mse", "huber"])
@pytest.mark.parametrize("background", ["random", "white", "black"])
def test_every_loss_and_background(scene, loss, background):
    figures = fit(make(scene, dataclasses.replace(CONFIG, loss=loss, background=background)), 40)
    assert figures[-1]["loss"] < figures[0]["loss"]


def test_opaque_photographs_train_too(scene):
    white = composite_pixels(scene.images.reshape(-1, 4), torch.ones(1, 3)).view(VIEWS, 32, 32, 3)
    opaque = dataclasses.replace(scene, images=(white * 255 + 0.5).to(torch.uint8))
    figures = fit(make(opaque, dataclasses.replace(CONFIG, background="white")), 40)
    assert figures[-1]["loss"] < 0.7 * figures[0]["loss"]


@pytest.mark.parametrize("encoder", ["hash_grid", "frequency"])
def test_weight_decay_is_for_networks_only(encoder):
    field = dataclasses.replace(CONFIG.field, encoder=(encoder,))
    task = NerfTask(dataclasses.replace(CONFIG, field=field), CPU)
    groups = task.parameter_groups(CONFIG.optimizer)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(decay) == sum(len(group["params"]) for group in groups) == len(list(task.parameters()))
    for name, parameter in task.named_parameters():
        assert (decay[id(parameter)] > 0) == ("encoder" not in name), name


# --- looking ---


def test_depth_is_in_world_units(trained):
    task, _ = trained
    cameras = cameras_around(3, size=32, shift=0.3)
    view = task.render_view(cameras, 1, "white")
    middle = slice(14, 18)
    depth = view["depth"][middle, middle] / view["opacity"][middle, middle]
    assert float(depth.mean()) == pytest.approx(DISTANCE - RADIUS, abs=0.25)
    assert float(view["opacity"][middle, middle].min()) > 0.9
    assert float(view["opacity"][:2].max()) < 0.1


def test_backgrounds_show_where_nothing_is(trained):
    task, _ = trained
    cameras = cameras_around(3, size=32)
    white, black = (task.render_view(cameras, 0, name)["color"] for name in ("white", "black"))
    torch.testing.assert_close(white[0, 0], torch.ones(3), atol=0.05, rtol=0)
    torch.testing.assert_close(black[0, 0], torch.zeros(3), atol=0.05, rtol=0)
    torch.testing.assert_close(white[16, 16], black[16, 16], atol=0.1, rtol=0)


def limited(task, rays_that_fit, error, asked):
    forward = type(task.head).forward

    def call(field, rays, jitter=None):
        asked.append(len(rays))
        if len(rays) > rays_that_fit:
            raise error
        return forward(task.head, field, rays, jitter)

    return call


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_rendering_halves_its_chunk_until_it_fits(trained, monkeypatch, error):
    task, _ = trained
    cameras = cameras_around(1, size=32)
    whole, asked = task.render(cameras, 0), []
    monkeypatch.setattr(task.head, "forward", limited(task, 100, error, asked))
    parts = task.render(cameras, 0)
    assert max(asked) > 100 >= min(asked)
    for name in ("color", "depth", "opacity"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), atol=1e-5, rtol=0)
    assert parts.samples == whole.samples


def test_when_not_even_a_row_fits_it_is_told(trained, monkeypatch):
    task, _ = trained
    monkeypatch.setattr(task.head, "forward", limited(task, 10, MemoryError(), []))
    with pytest.raises(UserError, match="out of memory while rendering") as caught:
        task.render(cameras_around(1, size=32), 0)
    assert "--downscale" in str(caught.value)


def test_other_errors_of_rendering_are_not_hidden(trained, monkeypatch):
    task, _ = trained
    monkeypatch.setattr(task.head, "forward", limited(task, 0, RuntimeError("a mistake"), []))
    with pytest.raises(RuntimeError, match="a mistake"):
        task.render(cameras_around(1, size=32), 0)


def test_preview(trained):
    task, _ = trained
    preview = task.preview()
    (image,) = preview.images.values()
    assert image.shape == (32, 4 * 32, 3)
    assert image.dtype == np.uint8
    assert preview.scalars["psnr"] > 20


def test_light_reaches_the_surface_and_not_the_inside(trained):
    task, _ = trained
    lit = task.lit_cells()
    distance = task.normalizer.to_world(cell_centers(32)).norm(dim=-1).view(32, 32, 32)
    shell = task.head.grid.occupied & ((distance - RADIUS).abs() < task.normalizer.half_size / 32)
    assert float(lit[shell].float().mean()) > 0.9
    assert not lit[distance < 0.5 * RADIUS].any()


def test_a_restored_task_shows_the_same(trained):
    task, _ = trained
    copy = NerfTask(CONFIG, CPU)
    copy.load_state_dict(task.state_dict())
    assert copy.normalizer == task.normalizer
    torch.testing.assert_close(copy.train_cameras.poses, task.train_cameras.poses, rtol=0, atol=0)
    cameras = cameras_around(1, size=24)
    torch.testing.assert_close(copy.render(cameras, 0).color, task.render(cameras, 0).color, rtol=0, atol=0)


# --- from files, and without a word to the host ---


def test_from_files(tmp_path):
    config = dataclasses.replace(CONFIG, data=write_ball_folder(tmp_path, size=64), downscale=2)
    task = new_task(config, CPU, torch.float32)
    assert RADIUS < task.normalizer.half_size < 2 * RADIUS
    assert (task.train_cameras.width, len(task.train_cameras)) == (32, VIEWS)
    losses = []
    result = task.training_step(0, losses.append)
    assert torch.isfinite(losses[0])
    torch.testing.assert_close(sum(result.terms.values()), losses[0].detach())


def test_a_device_step_is_a_training_step_without_a_word_to_the_host(scene):
    """The same rays give the same gradients."""
    config = dataclasses.replace(CONFIG, max_rays=160, background="white")
    told, silent = make(scene, config), make(scene, config)
    told.rays_per_step.fill_(160)
    silent.rays_per_step.fill_(160)
    result = told.training_step(3, torch.Tensor.backward)
    silent.prepare_step(3)
    with NoHost():
        silent.device_step(torch.Tensor.backward)
    assert 500 < result.scalars["samples"] < config.samples
    for a, b in zip(silent.parameters(), told.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-7)


def test_between_two_logs_the_host_is_asked_for_nothing(scene):
    """Steps with their optimiser and with updates of the occupancy grid, early ones and late ones."""
    config = dataclasses.replace(CONFIG, samples=1024, max_rays=128)
    task = make(scene, config)
    optimizer = Adam(task.parameter_groups(config.optimizer), (0.9, 0.99), 1e-15)

    def step(index):
        optimizer.set_rates([1e-2 / (1 + index)] * len(optimizer.param_groups))
        task.prepare_step(index)
        optimizer.zero_grad(set_to_none=True)
        task.device_step(torch.Tensor.backward)
        optimizer.step()

    step(0)
    before = task.head.grid.density.clone()
    with NoHost():
        for index in (8, 9, 40, 48):
            step(index)
    assert not torch.equal(task.head.grid.density, before)
    assert 0 < float(task.head.grid.occupied_share) < 1


def test_device_steps_learn_and_keep_the_number_of_samples(scene):
    config = dataclasses.replace(CONFIG, samples=2048, max_rays=2048)
    task = make(scene, config)
    optimizer = torch.optim.Adam(task.parameter_groups(config.optimizer), eps=1e-15)
    losses = []
    for step in range(40):
        optimizer.zero_grad()
        task.prepare_step(step)
        task.device_step(lambda loss: (losses.append(float(loss)), loss.backward()))
        optimizer.step()
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    samples = [task.training_step(step, lambda loss: None).scalars["samples"] for step in (41, 42)]
    assert all(0.6 * 2048 < count < 1.5 * 2048 for count in samples)


def test_a_run_of_tinycudann_is_opened_without_it(scene, tmp_path):
    """The checkpoint is the same, so is what it shows."""
    task = make(scene)
    run = RunFolder(tmp_path)
    save(run.checkpoints, 3, {f"task.{name}": value for name, value in task.state_dict().items()}, {})
    config = dataclasses.replace(CONFIG, field=dataclasses.replace(CONFIG.field, backend="tcnn"))
    opened, step = restore_task(config, run, CPU, torch.float32)
    assert step == 3 and opened.config.field.backend == "own"
    x = torch.rand(20, 3)
    assert torch.equal(opened.field.density(x), task.field.density(x))
