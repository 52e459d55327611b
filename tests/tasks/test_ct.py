"""The CT task: what is held out, what it learns of small scans, both projectors, resuming, ensembles."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from recon3d.classical.noise import noise_variance
from recon3d.classical.selection import SURPLUS
from recon3d.config import CtConfig, FieldConfig, OptimizerConfig
from recon3d.config.ct import RaysConfig, SteeringConfig
from recon3d.config.fields import HashGridConfig
from recon3d.config.scans import PreprocessConfig, VolumeConfig
from recon3d.data import stacks
from recon3d.data.phantoms import Ellipsoids
from recon3d.data.scan import Scan, load_scan
from recon3d.errors import UserError
from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.voxels import VolumeGrid
from recon3d.heads.projection import poisson_deviance
from recon3d.metrics.volume import psnr
from recon3d.tasks import ct_data, ct_start, new_task, restore_task
from recon3d.tasks.ct import CtHeader, CtTask
from recon3d.tasks.ct_refine import refined
from recon3d.training.run_folder import RunFolder
from recon3d.training.trainer import Trainer

from .scans import cone_scan, slice_scan

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
FIELD = FieldConfig(width=16, depth=1, hash_grid=HashGridConfig(levels=4, log2_size=12, coarsest=4, finest=32))
QUICK = OptimizerConfig(learning_rate=2e-2, warmup_steps=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ct")


@pytest.fixture(scope="module")
def flat(folder):
    return slice_scan(folder / "slice.npz")


@pytest.fixture(scope="module")
def deep(folder):
    return cone_scan(folder / "cone.npz")


def config(made, out, **changes):
    values = {"name": "run", "overwrite": True, "steps": 60, "field": FIELD, "optimizer": QUICK, "log_every": 10}
    return CtConfig(data=made[0], out=out, **{**values, **changes}).resolved()


def train(made, resume=False, steps=None):
    made = made if steps is None else dataclasses.replace(made, steps=steps)
    torch.manual_seed(made.seed)
    task = new_task(made, CPU, torch.float32)
    run = RunFolder(made.out / made.name) if resume else RunFolder.create(made, "ct")
    trainer = Trainer(task, made, made.optimizer, run, CPU, torch.float32, resume=resume)
    return task, trainer.train(), run


# --- what is trained on ---------------------------------------------------------------------------------------------


def test_held_out_rays_are_the_share_asked_for_and_the_same_every_time(flat, folder):
    made = config(flat, folder, holdout=0.1)
    held = ct_data.held_out(made, (20, 1, 45), CPU)
    assert torch.equal(held, ct_data.held_out(made, (20, 1, 45), CPU))
    assert 0.07 < float(held.float().mean()) < 0.13
    other = ct_data.held_out(dataclasses.replace(made, seed=1), (20, 1, 45), CPU)
    assert not torch.equal(held, other)


def test_held_out_views_are_whole_and_never_the_ends(flat, folder):
    held = ct_data.held_out(config(flat, folder, holdout=0.1, hold="views"), (20, 1, 45), CPU)
    assert held.any(2).equal(held.all(2))
    assert held[:, 0, 0].nonzero().flatten().tolist() == [6, 13]
    assert ct_data.held_out(config(flat, folder, holdout=0.0), (20, 1, 45), CPU) is None
    with pytest.raises(UserError, match="cannot be held out"):
        ct_data.held_out(config(flat, folder, holdout=0.4, hold="views"), (2, 1, 45), CPU)


def test_what_is_held_out_does_not_move_the_weights(flat, folder):
    """Gradients are the same whatever the held-out rays measured."""
    made = config(flat, folder, holdout=0.2)
    data = ct_data.measure(made, ct_data.Parts.of(made), CPU)
    wild = dataclasses.replace(data, projections=torch.where(data.held, 7.0, data.projections))
    found = []
    for one in (data, wild):
        torch.manual_seed(0)
        task = CtTask(made, CPU, header=CtHeader.of(data))
        task.use_training_data(one)
        task.training_step(0, lambda loss: loss.backward())
        found.append([p.grad for p in task.parameters()])
    for first, second in zip(*found):
        assert torch.equal(first, second)


def test_scale_is_about_the_densest_part(flat, folder):
    made = config(flat, folder)
    data = ct_data.measure(made, ct_data.Parts.of(made), CPU)
    assert 0.3 * 0.02 < data.scale < 1.5 * 0.02
    assert data.unit == pytest.approx(64 * data.scale)


def test_preprocessing_and_volume_are_as_configured(flat, folder):
    made = config(flat, folder, scan=PreprocessConfig(views=10), volume=VolumeConfig(shape=(1, 48, 48)))
    scan = ct_data.read(made.data, made)
    assert len(scan) == 10
    assert scan.grid.shape == (1, 48, 48) and scan.grid.size[0] == pytest.approx(64)
    finer = ct_data.wanted_grid(load_scan(flat[0]).grid, VolumeConfig(spacing=(0.5, 0.5, 0.5)))
    assert finer.shape == (1, 128, 128)
    block = ct_data.wanted_grid(VolumeGrid((8, 16, 16), (1.0, 1.0, 1.0)), VolumeConfig(spacing=(2.0, 2.0, 2.0)))
    assert block.shape == (4, 8, 8)


def test_the_circle_is_what_every_view_sees():
    angles = torch.arange(9) * 0.7
    assert ct_data.seen_radius(ScanGeometry.parallel(angles, 41, 2.0)) == pytest.approx(41)
    assert ct_data.seen_radius(ScanGeometry.parallel(angles, 41, 2.0, axis_offset=10.0)) == pytest.approx(51)
    fan = ScanGeometry.fan(angles, 40, 1.0, source_origin=30.0, origin_detector=10.0)
    assert ct_data.seen_radius(fan) == pytest.approx(30 * math.sin(math.atan(20 / 40)))


def test_support_is_the_circle_and_the_mask(flat, folder, monkeypatch):
    grid, geometry = VolumeGrid((1, 32, 32), (1.0, 1.0, 1.0)), ScanGeometry.parallel([0.0], 20, 1.0)
    inside = ct_data.support(config(flat, folder), geometry, grid)
    assert float(inside.float().mean()) == pytest.approx(math.pi * 100 / 1024, rel=0.03)
    assert ct_data.support(config(flat, folder, support="box"), geometry, grid) is None


def test_a_scan_larger_than_memory_is_taken_in_parts(folder, monkeypatch):
    """No block that is read, and nothing that is kept, is larger than is allowed; parts fill each other's gaps; and a
    resumed run goes on with the part that an uninterrupted one would have had."""
    made = slice_scan(folder / "large.npz", views=2000, pixels=32)
    size = 4 * 2000 * 45
    monkeypatch.setattr(stacks, "CHUNK_BYTES", size // 20)
    room = size / 10
    rays = RaysConfig(batch=64, grid=16, memory=room / 2**30, exchange_every=3)
    read, block = [0], stacks.block

    def recorded(*args, **options):
        found = block(*args, **options)
        read.append(found.nbytes)
        return found

    monkeypatch.setattr(stacks, "block", recorded)
    optimizer = dataclasses.replace(QUICK, decay_steps=100)
    run = config(made, folder, name="parts", steps=7, projector="rays", rays=rays, optimizer=optimizer)
    task, _, _ = train(run, steps=4)
    assert 0 < max(read) <= room
    assert task.parts.number == 10 and task.part == 1
    assert task.data.projections.shape == (task.parts.views, 1, 45)
    assert 4 * task.data.projections.numel() <= room
    places = [task.parts.places(part) for part in range(30)]
    assert all(len(np.unique(part)) == task.parts.views and part.max() < 2000 for part in places)
    assert len(np.unique(np.concatenate(places))) == 2000
    scan = load_scan(made[0])
    np.testing.assert_array_equal(task.data.projections.numpy(), np.asarray(scan.projections)[places[1]])
    whole = ct_data.held_out(task.config, (2000, 1, 45), CPU)
    assert torch.equal(task.data.held, whole[torch.from_numpy(places[1])])
    resumed, _, _ = train(run, resume=True)
    straight, _, _ = train(dataclasses.replace(run, name="straight"))
    for one, other in zip(resumed.parameters(), straight.parameters()):
        assert torch.equal(one, other)
    for wrong in ({"rays": dataclasses.replace(rays, memory=1e-7)}, {"rays": rays, "hold": "views"}):
        with pytest.raises(UserError):
            ct_data.Parts.of(config(made, folder, projector="rays", **wrong))


# --- what it learns -------------------------------------------------------------------------------------------------


def test_a_slice_is_learned(flat, folder):
    made = config(flat, folder, name="slice", steps=200, tv=1e-4)
    task, figures, run = train(made)
    quality = psnr(task.volume(), flat[1])
    assert quality > 23.2, quality  # SIRT, 200 iterations: 22.8; TV, blind: 22.5; FBP: 20.6
    assert figures["best_step"] > 100
    assert float(task.volume().min()) >= 0
    restored, _ = restore_task(made, run, CPU, torch.float32)
    assert torch.equal(restored.volume(), task.eval().volume())
    fine = restored.volume(VolumeGrid((1, 64, 64), (1.0, 1.0, 1.0)))
    assert psnr(torch.nn.functional.avg_pool2d(fine, 2), flat[1]) > 22


def test_a_field_begins_as_the_volume_of_total_variation_and_gets_better(flat, folder):
    made = config(
        flat,
        folder,
        name="steered",
        steps=60,
        holdout=0.0,
        start="tv",
        tv=2.0,
        steering=SteeringConfig(edge=0.02),
        finer=2,
    )
    task = new_task(made, CPU, torch.float32)
    began = task.volume()
    start = ct_start.by_variation(task.data)
    inside = task.data.inside
    torch.testing.assert_close(began[inside], start.volume[inside], atol=2e-4 * task.data.scale, rtol=1e-3)
    assert float(task.prior.weight) == pytest.approx(2 * start.weight)
    task, _, run = train(made)
    assert psnr(task.volume(), flat[1]) > psnr(began, flat[1]) + 0.2
    restored, _ = restore_task(made, run, CPU, torch.float32)
    assert torch.equal(restored.volume(), task.eval().volume())


def test_a_field_that_left_much_of_the_projections_is_refined_and_one_that_did_not_is_not(flat, folder):
    made = config(flat, folder, name="plain", steps=20, holdout=0.0, ensemble=2, activation="relu")
    field, _, _ = train(made)
    task, _, run = train(dataclasses.replace(made, name="refined", refine=8))
    noise = noise_variance(task.data.projections)

    def left(volume):
        return float(((task.projector.forward(volume) - task.data.projections).square() / noise).mean())

    assert left(task.volume()) < 0.5 * left(field.volume()) and left(field.volume()) > SURPLUS
    assert psnr(task.volume(), flat[1]) > psnr(field.volume(), flat[1]) + 0.5
    assert float(task.volume().min()) >= 0 and not task.volume()[~task.support.filled].any()
    torch.testing.assert_close(task.volume(spread=True), field.volume(spread=True), rtol=0, atol=1e-3)
    restored, _ = restore_task(dataclasses.replace(made, refine=8), run, CPU, torch.float32)
    assert torch.equal(restored.volume(), task.volume())
    task.finish()  # again, as a run that is resumed when it is over
    assert torch.equal(task.volume(), restored.volume())
    task.training_step(0, lambda loss: None)
    torch.testing.assert_close(task.volume(), field.volume(), rtol=0, atol=1e-6)
    near = flat[1].to(task.data.projections)
    exact = dataclasses.replace(task.data, projections=task.projector.forward(near))
    assert torch.equal(refined(task.projector, exact, near, 8, True), near)


def test_one_material_bounds_a_field_and_is_found(tmp_path):
    """A disc with a hole in it, seen over a third of half a turn."""
    grid = VolumeGrid((1, 32, 32), (2.0, 2.0, 2.0))
    geometry = ScanGeometry.parallel(torch.arange(12) * (math.pi / 36), 45, 2.0)
    disc = Ellipsoids(
        value=torch.tensor([0.02, -0.02]).double(),
        center=torch.tensor([[0.0, 0.0, 0.0], [8.0, 4.0, 0.0]]).double(),
        axes=torch.tensor([24.0, 7.0]).double()[:, None].expand(2, 3),
        turn=torch.eye(3).double().expand(2, 3, 3),
    )
    Scan(disc.project(geometry).numpy(), geometry, grid).save(tmp_path / "disc.npz")
    truth = disc.rasterize(grid)
    tasks = {}
    for activation in ("softplus", "material"):
        made = config(
            (tmp_path / "disc.npz",), tmp_path, name=activation, activation=activation, start="tv", tv=1.0, holdout=0.0
        )
        tasks[activation], _, run = train(made)
    task = tasks["material"]
    found = float(task.activate.most) * task.header.scale
    assert 0.018 < found < 0.03
    assert float(task.volume().max()) <= found * (1 + 1e-6) < float(tasks["softplus"].volume().max())
    assert psnr(task.volume(), truth) > psnr(tasks["softplus"].volume(), truth)
    restored, _ = restore_task(made, run, CPU, torch.float32)
    assert torch.equal(restored.volume(), task.eval().volume())
    decided, _, _ = train(dataclasses.replace(made, name="decided", decide=0.02))
    free, bound = (float(each.activate.indecision(each.volume() / each.header.scale)) for each in (task, decided))
    assert bound < 0.8 * free
    told = config((tmp_path / "disc.npz",), tmp_path, activation="material", material=0.02)
    assert float(new_task(told, CPU, torch.float32).volume().max()) <= 0.02 * (1 + 1e-6)
    # Nothing to begin as: found in the guess.
    guessed = new_task(dataclasses.replace(told, material=None), CPU, torch.float32)
    assert float(guessed.activate.most) * guessed.header.scale == pytest.approx(ct_start.material(guessed.data.guess))


@pytest.mark.parametrize(
    "values", [{}, {"activation": "material", "projector": "rays"}, {"activation": "material", "decide": -1.0}]
)
def test_deciding_needs_a_material_on_the_grid(values):
    with pytest.raises(UserError, match="decide is"):
        CtConfig(data=Path("scan.npz"), steps=10, **{"decide": 0.1, **values})


@pytest.mark.parametrize("values", [{"material": 0.02}, {"material": -1.0, "activation": "material"}])
def test_a_material_is_positive_and_asked_for(values):
    with pytest.raises(UserError, match=r"material is .*: give a positive number in 1/mm, with --activation material"):
        CtConfig(data=Path("scan.npz"), steps=10, **values)


def test_the_weight_beside_the_likelihood_is_that_of_its_noise(flat, folder):
    made = config(flat, folder, start="tv", tv=1.0, loss="auto")
    data = dataclasses.replace(ct_data.measure(made, ct_data.Parts.of(made), CPU), counts=1e4)
    task = CtTask(made, CPU, header=CtHeader.of(data))
    assert task.loss == "poisson"
    assert CtTask(made, CPU, header=dataclasses.replace(task.header, counts=None)).loss == "l2"
    y = torch.linspace(0, 4, 1000)
    share = ct_start.likelihood_share(y)
    # Errors d = a / sqrt(transmission), a noise of photons, weigh as much in both, in units of it.
    noise = 1e-3 * torch.exp(0.5 * y)
    assert float(poisson_deviance(noise, y, 1.0)) == pytest.approx(share * float(noise.square().mean()), rel=0.01)
    assert ct_start.likelihood_share(torch.full((5,), 3.0)) == pytest.approx(1)


@pytest.mark.parametrize("loss", ["l2", "poisson"])
def test_rays_learn_it_too(flat, folder, loss):
    rays = RaysConfig(batch=256, samples_per_diagonal=64, grid=16, warmup_steps=16, tv_points=256)
    made = config(flat, folder, name=f"rays-{loss}", projector="rays", rays=rays, steps=150, tv=1e-4, loss=loss)
    task, _, run = train(made)
    quality = psnr(task.volume(), flat[1])
    assert quality > 22.5, quality
    restored, _ = restore_task(made, run, CPU, torch.float32)
    assert torch.equal(restored.volume(), task.eval().volume())


def test_a_volume_is_learned(deep, folder):
    made = config(deep, folder, name="cone", steps=60, tv=1e-4, chunk=1000)
    task, _, _ = train(made)
    quality = psnr(task.volume(), deep[1])
    assert quality > 20.5, quality


@pytest.mark.parametrize("projector", ["grid", "rays"])
def test_a_layer_is_a_slice_of_the_volume(deep, folder, projector):
    """Along each axis: also where the layer has the shape of a scan of one slice."""
    rays = RaysConfig(batch=64, samples_per_diagonal=64, grid=16)
    task, _, _ = train(config(deep, folder, name=f"layers-{projector}", steps=10, projector=projector, rays=rays))
    grid, volume = task.header.grid, task.volume()
    for axis in range(3):
        place = 2 - axis
        shape, center = list(grid.shape), list(grid.center)
        shape[place], center[axis] = 1, float(grid.axis(axis)[5])
        layer = task.volume(VolumeGrid(tuple(shape), grid.spacing, tuple(center)))
        torch.testing.assert_close(layer, volume.narrow(place, 5, 1))


def test_nothing_lies_outside_the_support(deep, folder):
    task, _, _ = train(config(deep, folder, name="circle", steps=2))
    outside = task.data.inside.logical_not()
    assert outside.any() and not task.volume()[outside].any() and task.volume()[~outside].any()


def test_a_resumed_run_is_an_uninterrupted_one(flat, folder):
    rays = RaysConfig(batch=64, samples_per_diagonal=64, grid=16, warmup_steps=4)
    for projector in ("grid", "rays"):
        made = config(flat, folder, name=f"whole-{projector}", projector=projector, rays=rays, steps=20, ensemble=2)
        if projector == "grid":
            steering = SteeringConfig(edge=0.02, update_every=5)
            made = dataclasses.replace(made, start="tv", tv=1.0, steering=steering, refine=3)
        made = dataclasses.replace(made, optimizer=dataclasses.replace(made.optimizer, decay_steps=100))
        whole, _, _ = train(made)
        parts = dataclasses.replace(made, name=f"parts-{projector}")
        train(parts, steps=8)
        resumed, _, _ = train(parts, resume=True)
        for name, value in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], value), name


def test_an_ensemble_has_a_mean_and_a_spread(flat, folder):
    alone, _, _ = train(config(flat, folder, name="alone", steps=30))
    task, _, _ = train(config(flat, folder, name="both", steps=30, ensemble=3))
    spread = task.volume(spread=True)
    assert float(spread.max()) > 0 and not alone.volume(spread=True).any()
    points = task.voxels.points()
    members = task.members_at(points)
    torch.testing.assert_close(members.mean(0), task.attenuation(points))
    torch.testing.assert_close(members[0], alone.members_at(points)[0], rtol=0, atol=1e-6)  # the seed's first
    torch.testing.assert_close(members.std(0, correction=0).view(spread.shape), spread)


def test_a_preview_shows_slices_and_sinograms(flat, deep, folder):
    for scan, widths in ((flat, 2), (deep, 3)):
        task = new_task(config(scan, folder), CPU, torch.float32)
        preview = task.preview()
        picture, side = preview.images["slices"], task.header.shape[1]
        assert picture.dtype == np.uint8 and picture.shape[1] == widths * (side + 4) - 4
        assert picture.max() > 100  # filtered back-projection is beside it
        assert preview.images["sinogram"].ndim == 3
        assert preview.score == pytest.approx(task.score())


def test_networks_that_look_at_the_data_are_shown_a_guess(flat, folder):
    field = FieldConfig(encoder=("identity",), network="incode", width=16, depth=1)
    task = new_task(config(flat, folder, field=field), CPU, torch.float32)
    assert task.members[0].network.features.any()
    penalty = task.training_step(0, lambda loss: loss.backward()).terms["penalty"]
    assert penalty.isfinite()


# --- bad input ------------------------------------------------------------------------------------------------------


def test_configurations_that_make_no_sense_are_refused(flat, folder):
    for changes, told in (
        ({"tv": -1.0}, "tv"),
        ({"holdout": 0.95}, "holdout"),
        ({"ensemble": 0}, "ensemble"),
        ({"chunk": 0}, "chunk"),
        ({"finer": 0}, "finer"),
        ({"finer": 2, "projector": "rays"}, "finer"),
        ({"start": "tv", "projector": "rays"}, "start"),
        ({"refine": -1}, "refine"),
        ({"refine": 5, "projector": "rays"}, "refine"),
        ({"steering": SteeringConfig(edge=0.1), "projector": "rays"}, "steering"),
    ):
        with pytest.raises(UserError, match=told):
            config(flat, folder, **changes)
    with pytest.raises(UserError, match=r"rays\.batch"):
        RaysConfig(batch=0)
    with pytest.raises(UserError, match=r"steering\.window"):
        SteeringConfig(window=0.0)
    with pytest.raises(UserError, match=r"steering\.least is 1\.5: give 0 to 1"):
        SteeringConfig(least=1.5)


def test_an_empty_scan_is_refused(flat, folder):
    scan = load_scan(flat[0]).load()
    empty = dataclasses.replace(scan, projections=np.zeros_like(scan.projections))
    empty.save(folder / "empty.npz")
    with pytest.raises(UserError, match="no attenuation"):
        new_task(config((folder / "empty.npz",), folder), CPU, torch.float32)
