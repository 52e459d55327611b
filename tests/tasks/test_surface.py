"""The surface task on photographs of a ball: the shape and the colours that it learns, and what exporters ask of it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from geometry.ball import DISTANCE, RADIUS, ball_scene, cameras_around, write_ball_folder

from recon3d.config import HashGridConfig, SurfaceConfig, SurfaceFieldConfig, SurfaceRenderConfig
from recon3d.errors import UserError
from recon3d.export.sources import Solid
from recon3d.geometry.hull import distance_to_cells
from recon3d.metrics.image import psnr, silhouette_iou
from recon3d.tasks import new_task
from recon3d.tasks.photographs import find_space, reference_image
from recon3d.tasks.surface import EXCESS, FOG_SHARE, SHARPEST, SurfaceTask

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
STEPS = 120
CONFIG = SurfaceConfig(
    data=Path("ball"),
    steps=STEPS,
    samples=4096,
    max_rays=512,
    space_points=128,
    fog_steps=0,
    eikonal=0.1,
    mask=0.1,
    field=SurfaceFieldConfig(
        hash_grid=HashGridConfig(levels=5, log2_size=13, coarsest=8, finest=64),
        width=16,
        color_width=16,
        first_levels=2,
        level_every=10,
    ),
    head=SurfaceRenderConfig(
        weights="neus", grid=32, samples_per_diagonal=128, update_every=8, warmup_steps=32, sharpness_rate=0.05
    ),
).resolved()


@pytest.fixture(scope="module")
def scene():
    return ball_scene(40, size=32)


def make(scene, config=CONFIG):
    torch.manual_seed(0)
    normalizer, allowed = find_space(scene, config, CPU)
    return SurfaceTask(config, CPU, torch.float32, normalizer, allowed, scene)


def fit(task, steps, first=0):
    optimizer = torch.optim.Adam(task.parameter_groups(task.config.optimizer), betas=(0.9, 0.99), eps=1e-15)
    figures = []
    for step in range(first, first + steps):
        optimizer.zero_grad()
        result = task.training_step(step, torch.Tensor.backward)
        optimizer.step()
        terms = {name: float(term) for name, term in result.terms.items()}
        figures.append({**result.scalars, **terms, "loss": sum(terms.values())})
    return figures


@pytest.fixture(scope="module")
def trained(scene):
    task = make(scene)
    figures = fit(task, STEPS)
    return task.eval(), figures


def on_the_ball(task, radius=RADIUS):
    """Points (500, 3) of a ball around the origin, in field coordinates, and its normals."""
    normal = torch.nn.functional.normalize(torch.randn(500, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    return task.normalizer.to_field(radius * normal), normal


def opaque(scene):
    white = torch.full((3,), 255, dtype=torch.uint8)
    seen = scene.images[..., 3:] > 127
    return dataclasses.replace(scene, images=torch.where(seen, scene.images[..., :3], white).contiguous())


# --- what it learns ---


def test_it_learns_the_distance(trained):
    task, _ = trained
    scale = task.normalizer.half_size
    for radius in (0.97 * RADIUS, RADIUS, 1.03 * RADIUS):
        error = -task.inside(on_the_ball(task, radius)[0]) * scale - (radius - RADIUS)
        assert float(error.abs().mean()) < 0.02 * RADIUS, radius


def test_it_learns_the_normals_and_the_colours(trained):
    task, _ = trained
    points, normal = on_the_ball(task)
    with torch.no_grad():
        gradient = task.field.slope(points)
    assert float((torch.nn.functional.normalize(gradient, dim=-1) * normal).sum(-1).mean()) > 0.98
    assert float(gradient.norm(dim=-1).mean()) == pytest.approx(1, abs=0.1)
    color = task.color(points, -normal)
    assert float((color - (0.5 + 0.5 * normal)).abs().mean()) < 0.08
    torch.testing.assert_close(task.color(points, normal), color)  # no view dependence


def test_held_out_views(trained):
    task, _ = trained
    held_out = ball_scene(3, size=32, shift=0.5)
    for index in range(3):
        view = task.render_view(held_out.cameras, index, "white")
        assert psnr(view["color"], reference_image(held_out, index, "white")) > 24
        assert silhouette_iou(view["opacity"] > 0.5, held_out.images[index, ..., 3] > 127) > 0.95
        facing = view["normal"][16, 16] @ held_out.cameras.forward_axes[index]
        assert float(facing) < -0.9
    depth, opacity = task.surface_depth(held_out.cameras, 0)
    assert float(depth[16, 16]) == pytest.approx(DISTANCE - RADIUS, abs=0.05)
    assert float(opacity[16, 16]) > 0.99


def test_the_surface_sharpens(trained):
    _, figures = trained
    sharpness = [f["sharpness"] for f in figures]
    assert sharpness[-1] > 1.5 * sharpness[20]
    assert figures[-1]["eikonal"] < 0.1 * 0.1  # slopes within about 0.3 of 1
    assert figures[-1]["psnr"] > figures[0]["psnr"] + 5
    assert set(figures[0]) >= {"color", "eikonal", "mask"}


def test_the_surface_is_no_sharper_than_the_levels_in_use(scene):
    task = make(scene)
    limits = []
    for step in (0, 10, 30):
        task.begin_step(step)
        limits.append(SHARPEST / task.field.detail)
        assert float(task.head.sharpness.detach()) == pytest.approx(limits[-1] if step == 0 else limits[0], rel=1e-4)
        assert limits[-1] == pytest.approx(0.5 * SHARPEST * (8 * 8 ** ((1 + step // 10) / 4) - 1))


def test_without_alpha_it_starts_as_a_sphere_and_has_no_mask_term(scene):
    task = make(opaque(scene), dataclasses.replace(CONFIG, background="white"))
    points = 2 * torch.rand(200, 3) - 1
    expected = points.norm(dim=-1) - CONFIG.field.radius
    torch.testing.assert_close(task.field.distance(points), expected, atol=0.03, rtol=0)
    figures = fit(task, 30)
    assert "mask" not in figures[0]
    assert figures[-1]["loss"] < figures[0]["loss"]


def test_with_alpha_it_starts_as_the_visual_hull(scene):
    task = make(scene)
    inside = task.inside(on_the_ball(task, 0.9 * RADIUS)[0])
    assert (inside > 0).all()
    hull = find_space(scene, CONFIG, CPU)[1]
    points = 0.95 * (2 * torch.rand(200, 3) - 1)
    torch.testing.assert_close(task.inside(points), -distance_to_cells(hull)(points) - EXCESS / 16, atol=0.02, rtol=0)
    assert task.head.grid.allowed[hull].all()
    assert task.head.grid.allowed.sum() > hull.sum()


@pytest.mark.parametrize(
    "changes",
    [
        {"head": dataclasses.replace(CONFIG.head, weights="volsdf")},
        {"curvature": 1e-4},
        {"loss": "huber", "field": dataclasses.replace(CONFIG.field, normals="analytic")},
        {"eikonal": 0.0, "mask": 0.0, "loss": "mse"},
    ],
    ids=["volsdf", "curvature", "analytic", "colour alone"],
)
def test_the_other_choices_train_too(scene, changes):
    config = dataclasses.replace(CONFIG, **changes)
    figures = fit(make(scene, config), 30)
    assert figures[-1]["color"] < figures[0]["color"]
    assert ("curvature" in figures[0]) == ("curvature" in changes)
    assert ("eikonal" in figures[0], "mask" in figures[0]) == (config.eikonal > 0, config.mask > 0)


# --- fog first ---


@pytest.fixture(scope="module")
def condensed(scene):
    """A run of 20 steps of fog and 20 of surface, its figures, and its state after 16."""
    task = make(
        scene, dataclasses.replace(CONFIG, fog_steps=20, head=dataclasses.replace(CONFIG.head, weights="volsdf"))
    )
    early = fit(task, 16)
    state = {name: value.clone() for name, value in task.state_dict().items()}
    return task, early, state, fit(task, 24, first=16)


def test_fog_condenses_to_a_surface(condensed):
    task, early, _, late = condensed
    assert "eikonal" not in early[-1]
    assert "eikonal" in late[-1]
    with torch.no_grad():
        assert 0 < float(task.field.gain) < 1


def test_the_first_guess_is_where_the_cameras_see_the_fog_end(scene, monkeypatch):
    """Depths of a smaller ball inside the hull: the distance starts as that ball's."""
    task, radius = make(scene, dataclasses.replace(CONFIG, fog_steps=1)), 0.7 * RADIUS

    def depth_of_the_ball(cameras, index):
        rays = cameras.image_rays(index)
        along = -(rays.origins * rays.directions).sum(-1)
        inside = radius**2 - rays.origins.square().sum(-1) + along.square()
        shape = cameras.height, cameras.width
        return (along - inside.clamp_min(0).sqrt()).view(shape), (inside > 0).float().view(shape)

    monkeypatch.setattr(task, "surface_depth", depth_of_the_ball)
    task.in_hull = False  # what is seen through is empty
    task.condense(mature=True)
    assert task.phase == "surface"
    for at in (0.8 * radius, radius, 1.2 * radius):
        error = -task.inside(on_the_ball(task, at)[0]) * task.normalizer.half_size - (at - radius)
        assert float(error.abs().mean()) < 0.06 * RADIUS, at
    occupied = task.head.grid.occupied[((on_the_ball(task, radius)[0] + 1) * 16).long().unbind(-1)]
    assert occupied.all()


def test_what_is_still_fog_goes_on_as_it_would_have(scene, condensed):
    task, _, state, late = condensed
    copy = SurfaceTask(task.config, CPU)
    copy.use_training_data(scene)
    copy.load_state_dict(state)
    assert copy.phase == "fog"
    with pytest.raises(UserError, match="still a fog, before there was a surface: go on with recon3d resume"):
        copy.inside(torch.zeros(1, 3))
    assert [f["loss"] for f in fit(copy, 6, first=16)] == [f["loss"] for f in late[:6]]
    assert copy.phase == "surface"


def test_a_fog_of_few_steps_leaves_the_first_guess(scene):
    task = make(scene, dataclasses.replace(CONFIG, fog_steps=1000))
    points = 2 * torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) - 1
    guess = task.field.start(points)
    assert task.training_step(0, torch.Tensor.backward).phase == "fog"
    task.spent = FOG_SHARE
    assert task.training_step(1, torch.Tensor.backward).phase == "surface"
    torch.testing.assert_close(task.field.start(points), guess)


# --- what others rely on ---


def test_a_step_depends_on_seed_and_number_only(scene):
    losses = []
    for noise in (1, 2):
        task = make(scene)
        torch.manual_seed(noise)
        losses.append([f["loss"] for f in fit(task, 3)])
    assert losses[0] == losses[1]


def test_a_copy_goes_on_as_the_original(scene):
    task = make(scene)
    fit(task, 25)
    copy = SurfaceTask(CONFIG, CPU)
    copy.use_training_data(scene)
    copy.load_state_dict(task.state_dict())
    assert copy.field.hash_grid.active == task.field.hash_grid.active == 4
    assert [f["loss"] for f in fit(copy, 3, first=25)] == [f["loss"] for f in fit(task, 3, first=25)]


def test_a_restored_task_shows_the_same(trained):
    task, _ = trained
    copy = SurfaceTask(CONFIG, CPU)
    copy.load_state_dict(task.state_dict())
    copy.eval()
    cameras = cameras_around(1, size=24)
    torch.testing.assert_close(copy.render(cameras, 0).color, task.render(cameras, 0).color, rtol=0, atol=0)
    points, _ = on_the_ball(task)
    torch.testing.assert_close(copy.inside(points), task.inside(points), rtol=0, atol=0)


def test_what_exporters_ask(trained):
    task, _ = trained
    assert isinstance(task, Solid)
    assert task.has_color
    points, _ = on_the_ball(task)
    steps = 0.1 * torch.randn(500, 3, generator=torch.Generator().manual_seed(3))
    moved = (task.inside(points + steps) - task.inside(points)).abs()
    assert (moved <= task.inside_slope * steps.norm(dim=-1)).float().mean() > 0.98
    cell = ((points + 1) * 16).long().clamp(0, 31).unbind(-1)
    assert task.occupied[cell].all()


def test_preview_shows_normals(trained):
    task, _ = trained
    (image,) = task.preview().images.values()
    assert image.shape == (32, 5 * 32, 3)
    assert image.dtype == np.uint8


def test_from_files(tmp_path):
    config = dataclasses.replace(CONFIG, data=write_ball_folder(tmp_path, size=64), downscale=2)
    task = new_task(config, CPU, torch.float32)
    assert isinstance(task, SurfaceTask)
    losses = []
    result = task.training_step(0, losses.append)
    assert torch.isfinite(losses[0])
    torch.testing.assert_close(sum(result.terms.values()), losses[0].detach())


def test_every_parameter_is_trained_at_its_rate():
    task = SurfaceTask(CONFIG, CPU)
    rates = {id(p): g["lr"] for g in task.parameter_groups(CONFIG.optimizer) for p in g["params"]}
    assert len(rates) == len(list(task.parameters()))
    assert rates[id(task.head.log_sharpness)] == CONFIG.head.sharpness_rate
