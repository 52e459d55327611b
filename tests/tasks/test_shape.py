"""The shape task: exact gradients however a step is cut, what every supervision learns, and what is left of a run."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from recon3d.config import FieldConfig, OptimizerConfig, ShapeConfig
from recon3d.config.fields import ChebyshevConfig, FourierConfig, HashGridConfig, SirenConfig, WireConfig
from recon3d.config.shapes import ImplicitConfig, SampleConfig
from recon3d.data.shape_files import read_shape
from recon3d.data.shape_samples import uniform_points
from recon3d.errors import UserError
from recon3d.geometry.grids import grid_points
from recon3d.tasks import new_task, restore_task, shape_pictures
from recon3d.tasks.shape_evaluation import Reference, distance_errors, grid_overlap, surface_errors
from recon3d.training.run_folder import RunFolder
from recon3d.training.trainer import Trainer

from .shapes import CENTER, box, write_ball, write_points

pytestmark = pytest.mark.usefixtures("one_thread")

pytest.importorskip("open3d", reason="open3d is not here")

CPU = torch.device("cpu")
HASH = FieldConfig(
    encoder=("hash_grid",),
    network="relu",
    width=16,
    depth=1,
    hash_grid=HashGridConfig(levels=5, log2_size=12, coarsest=4, finest=48),
)
SIREN = FieldConfig(encoder=("identity",), network="siren", width=32, depth=2, siren=SirenConfig(omega=5.0))
FIELDS = {
    "hash": HASH,
    "siren": SIREN,
    "frequency": FieldConfig(encoder=("frequency",), network="relu", width=16, depth=2),
    "fourier": FieldConfig(encoder=("fourier",), network="relu", width=16, depth=2, fourier=FourierConfig(features=8)),
    "spder": FieldConfig(encoder=("identity",), network="spder", width=16, depth=1),
    "finer": FieldConfig(encoder=("identity",), network="finer", width=16, depth=1),
    "gauss": FieldConfig(encoder=("identity",), network="gauss", width=16, depth=1),
    "wire": FieldConfig(encoder=("identity",), network="wire", width=16, depth=1, wire=WireConfig(omega=10.0)),
    "mfn": FieldConfig(encoder=("identity",), network="mfn", width=16, depth=1),
    "incode": FieldConfig(encoder=("identity",), network="incode", width=16, depth=1),
    "sl2a": FieldConfig(
        encoder=("chebyshev",), network="fusion", width=16, depth=2, chebyshev=ChebyshevConfig(degree=12)
    ),
    "hash_sl2a": dataclasses.replace(
        HASH, encoder=("hash_grid", "chebyshev"), network="fusion", chebyshev=ChebyshevConfig(degree=4)
    ),
}
POOL = SampleConfig(pool=2**14, passes=4)
QUICK = OptimizerConfig(learning_rate=1e-2, warmup_steps=5)
SUPERVISIONS = ("occupancy", "sdf", "oriented_points", "points")


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr(shape_pictures, "SIZE", 48)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shapes")


@pytest.fixture(scope="module")
def ball(folder):
    return write_ball(folder / "ball.ply")


@pytest.fixture(scope="module")
def block(folder):
    box().export(folder / "block.obj")
    return folder / "block.obj"


def config(data, supervision="sdf", field=HASH, **values):
    values = {"batch": 512, "chunk": 4096, "steps": 10, "samples": POOL, "optimizer": QUICK, **values}
    return ShapeConfig(data=data, supervision=supervision, field=field, **values).resolved()


def make(made, seed=0):
    torch.manual_seed(seed)
    return new_task(made, CPU, torch.float32)


def trained(made, tmp_path, name="run", resume=False):
    task = make(made)
    made = dataclasses.replace(made, out=tmp_path, name=name)
    run = RunFolder(tmp_path / name) if resume else RunFolder.create(made, name)
    Trainer(task, made, made.optimizer, run, CPU, torch.float32, resume=resume).train()
    return task.eval(), run


def reference(task):
    return Reference.of(task, read_shape(task.config.data))


def iou(task, grid=40):
    return grid_overlap(task, reference(task).distance, grid).iou


# --- steps ---


@pytest.mark.parametrize("supervision", SUPERVISIONS)
def test_chunks_add_up_to_the_batch(ball, supervision):
    made = config(ball, supervision, SIREN, implicit=ImplicitConfig(sphere_steps=2))
    task, found = make(made), []
    for step in (1, 5):
        for chunk in (10**6, 100, 37):
            task.chunk = chunk
            task.zero_grad()
            result = task.training_step(step, lambda loss: loss.backward())
            gradient = torch.cat([p.grad.flatten() for p in task.parameters()])
            found.append((gradient, float(sum(result.terms.values()))))
        whole, total = found[-3]
        for gradient, same in found[-2:]:
            assert float((gradient - whole).norm() / whole.norm()) < 1e-4
            assert same == pytest.approx(total, rel=1e-4)
    assert not torch.equal(found[0][0], found[3][0])


@pytest.mark.parametrize("supervision", SUPERVISIONS)
@pytest.mark.parametrize("name", FIELDS)
def test_every_encoder_and_network(ball, name, supervision):
    task = make(config(ball, supervision, FIELDS[name], batch=64, implicit=ImplicitConfig(sphere_steps=0)))
    result = task.training_step(0, lambda loss: loss.backward())
    assert all(bool(torch.isfinite(term)) for term in result.terms.values())
    gradients = [p.grad for p in task.field.parameters() if p.grad is not None]
    assert any(float(gradient.abs().sum()) > 0 for gradient in gradients)
    assert task.inside(grid_points((4, 4, 4))).shape == (64,)


def test_points_are_drawn_anew_at_every_step_and_pools_after_their_passes(ball):
    task = make(config(ball, samples=SampleConfig(pool=1024, passes=2)))
    steps_of_a_pool = 1024 * 2 // 512
    numbers = [task._pool_at(step).number for step in range(2 * steps_of_a_pool + 1)]
    assert numbers == [0] * steps_of_a_pool + [1] * steps_of_a_pool + [2]
    second = task._pool_at(steps_of_a_pool)
    again = make(config(ball, samples=SampleConfig(pool=1024, passes=2)))._pool_at(steps_of_a_pool)
    assert torch.equal(second.points, again.points) and torch.equal(second.target, again.target)
    assert not torch.equal(second.points, task._pool_at(0).points)


def test_samples_lie_where_their_shares_say(ball):
    shares = SampleConfig(surface=0.25, near=0.5, scales=(0.01,), pool=4000)
    pool = make(config(ball, samples=shares))._pool_at(0)
    on, near, anywhere = pool.target.abs().split([1000, 2000, 1000])
    assert on.max() < 1e-5
    assert near.max() < 0.06 and near.mean() > 0.005
    assert anywhere.mean() > 0.1


# --- what is learned ---


@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_occupancy_of_a_box(block, tmp_path, loss):
    task, _ = trained(config(block, "occupancy", loss=loss, steps=120, batch=2048), tmp_path)
    assert iou(task) > 0.96
    assert task.inside_slope is None
    inside = task.inside(grid_points((16, 16, 16))) > 0
    cells = task.occupied
    index = ((grid_points((16, 16, 16)) + 1) * (len(cells) / 2)).long()
    assert bool(cells[index[inside, 0], index[inside, 1], index[inside, 2]].all())
    assert not bool(cells.all())


@pytest.mark.parametrize("changes", [{}, {"loss": "l1"}, {"truncation": 0.1}], ids=["mape", "l1", "truncated"])
def test_distance_of_a_box(block, tmp_path, changes):
    shares = dataclasses.replace(POOL, surface=0.2, near=0.5)
    task, _ = trained(config(block, steps=150, batch=2048, samples=shares, **changes), tmp_path)
    assert iou(task) > 0.96
    errors = distance_errors(task, reference(task), 2**13)
    assert errors["near_error"] < 0.01 * task.normalizer.half_size
    assert errors["near_sign_accuracy"] > 0.9
    assert task.occupied is None
    # Nowhere is the value larger than the slope times the distance, but for the error.
    points = uniform_points(4000, torch.Generator().manual_seed(1))
    distance = torch.from_numpy(reference(task).distance.unsigned(points.numpy()))
    over = task.inside(points).abs() - task.inside_slope * distance
    assert float(over.detach().max()) < 0.03
    assert 1 <= task.inside_slope < 2
    if "truncation" in changes:
        assert float(task.inside(points).detach().abs().max()) <= 0.1 + 1e-6


def test_oriented_points_become_a_distance(ball, tmp_path):
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=0)
    task, _ = trained(config(ball, "oriented_points", SIREN, steps=150, optimizer=optimizer), tmp_path)
    assert iou(task) > 0.97
    assert surface_errors(task, reference(task), 2**12)["surface_error"] < 0.005
    assert 1 <= task.inside_slope < 2


def test_points_without_normals_find_their_inside(folder, tmp_path):
    data = write_points(folder / "bare.xyz", normals=False)
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=0)
    weights = ImplicitConfig(sphere_steps=50)
    task, _ = trained(config(data, "points", SIREN, steps=150, optimizer=optimizer, implicit=weights), tmp_path)
    points = grid_points((24, 24, 24))
    radius, inside = points.norm(dim=1), task.inside(points) > 0
    assert bool(inside[radius < 0.8].all())
    assert not bool(inside[radius > 1.0].any())


def test_unsigned_shapes_are_shells(ball, tmp_path):
    made = config(ball, "occupancy", sign="unsigned", shell=0.1, steps=200, batch=2048)
    task, _ = trained(made, tmp_path)
    points = grid_points((24, 24, 24))
    off = (points.norm(dim=1) - 0.9).abs()
    inside = task.inside(points) > 0
    assert bool(inside[off < 0.06].all())
    assert float(inside[off > 0.14].float().mean()) < 0.005
    assert bool(inside.any())


def test_what_was_found_out_is_of_the_field_as_it_is(ball):
    task = make(config(ball, "occupancy"))
    torch.nn.init.constant_(task.field.network.layers[-1].weight, 0.0)
    before = task.occupied
    assert bool(before.any()) and task.occupied is before
    task.load_state_dict({**task.state_dict(), "near_surface": torch.zeros_like(before)})
    assert not bool(task.occupied.any())
    task.training_step(0, lambda loss: None)
    torch.nn.init.constant_(task.field.encoder.table, 1.0)
    torch.nn.init.constant_(task.field.network.layers[0].weight, 1.0)
    torch.nn.init.constant_(task.field.network.layers[-1].weight, 1.0)
    assert bool(task.occupied.all())


# --- runs ---


@pytest.mark.parametrize("supervision", ["occupancy", "sdf", "points"])
def test_a_resumed_run_is_bit_for_bit_an_uninterrupted_one(ball, tmp_path, supervision):
    made = config(
        ball,
        supervision,
        HASH if supervision != "points" else SIREN,
        steps=14,
        batch=128,
        checkpoint_every=5,
        preview_every=7 if supervision == "occupancy" else 100,
        optimizer=dataclasses.replace(QUICK, final_share=1.0),
        samples=SampleConfig(pool=256, passes=3),
        implicit=ImplicitConfig(sphere_steps=4),
    )
    whole, _ = trained(made, tmp_path, "whole")
    trained(dataclasses.replace(made, steps=5), tmp_path, "parts")
    parts, _ = trained(made, tmp_path, "parts", resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name


def test_a_run_is_looked_at_without_its_data(folder, tmp_path):
    box().export(folder / "gone.obj")
    task, run = trained(config(folder / "gone.obj", "occupancy", steps=30), tmp_path)
    (folder / "gone.obj").unlink()
    again, step = restore_task(run.read_config(), run, CPU, torch.float32)
    points = grid_points((9, 9, 9))
    assert step == 30
    assert torch.equal(again.inside(points), task.inside(points))
    assert again.normalizer == task.normalizer
    assert np.allclose(again.normalizer.center, CENTER)
    assert again.normalizer.half_size == pytest.approx(1.5 / 0.9)
    assert torch.equal(again.occupied, task.occupied)
    assert (again.has_color, again.train_cameras) == (False, None)


def test_previews(ball, folder):
    for data, supervision, rows in ((ball, "sdf", 2), (write_points(folder / "p.xyz"), "oriented_points", 1)):
        preview = make(config(data, supervision)).preview()
        picture = preview.images["shape"]
        assert picture.dtype == np.uint8 and picture.shape[0] * 4 == picture.shape[1] * rows
        assert picture.std() > 10
        assert set(preview.scalars) == ({"iou"} if supervision == "sdf" else set())


# --- what does not go together ---


def test_point_clouds_need_a_supervision_of_points(folder):
    with_normals, bare = write_points(folder / "a.xyz"), write_points(folder / "b.xyz", normals=False)
    cases = [
        (with_normals, "sdf", "sdf needs a mesh: recon3d train shape_siren"),
        (bare, "occupancy", "--supervision points"),
        (bare, "oriented_points", "no normals: give --supervision points"),
    ]
    for data, supervision, part in cases:
        with pytest.raises(UserError, match=part):
            make(config(data, supervision, SIREN))


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"loss": "bce"}, ["loss (bce)", "supervision (sdf)", "mape or l1"]),
        ({"supervision": "points", "loss": "l1"}, ["loss (l1)", "supervision (points)"]),
        ({"supervision": "occupancy", "truncation": 0.1}, ["truncation", "occupancy"]),
        ({"supervision": "occupancy", "samples": SampleConfig(surface=0.1)}, ["samples.surface (0.1)", "occupancy"]),
        ({"truncation": 0.0}, ["truncation is 0"]),
        ({"shell": 0.0}, ["shell is 0"]),
        ({"padding": 1.0}, ["padding is 1"]),
        ({"batch": 0}, ["batch is 0"]),
    ],
)
def test_contradictions_are_refused_before_anything_is_read(values, parts):
    with pytest.raises(UserError) as caught:
        config(Path("nowhere.obj"), **values)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [{"surface": 0.7}, {"near": 1.5}, {"scales": ()}, {"scales": (0.1, 0.0)}, {"pool": 0}, {"passes": 0}],
)
def test_samples_that_cannot_be(values):
    with pytest.raises(UserError, match="samples"):
        SampleConfig(**values)
    with pytest.raises(UserError, match=r"implicit\.normal"):
        ImplicitConfig(normal=-1.0)


# --- a real scan ---


def test_a_scan_of_many_parts(shared_data, tmp_path):
    """Armadillo, 100k faces: closed as it comes, and most of it is there after some seconds."""
    data = shared_data / "shapes" / "armadillo.obj"
    report = read_shape(data).report
    assert (report.faces, report.watertight, report.cleaned()) == (99_976, True, None)
    grid = HashGridConfig(levels=8, log2_size=15, coarsest=8, finest=160)
    field = FieldConfig(encoder=("hash_grid",), network="relu", width=32, depth=2, hash_grid=grid)
    samples = SampleConfig(near=0.7, scales=(0.02, 0.004), pool=2**17, passes=4)
    task, _ = trained(
        config(data, "occupancy", field, steps=60, batch=8192, chunk=8192, samples=samples, preview_every=100), tmp_path
    )
    assert iou(task, 64) > 0.96
