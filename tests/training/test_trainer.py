"""The trainer, on a task of a few lines: budgets, stops, exact resumption, and what may go wrong."""

import json
import math
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from recon3d.config import OptimizerConfig
from recon3d.errors import UserError
from recon3d.training import checkpoints
from recon3d.training.run_folder import RunFolder
from recon3d.training.trainer import Progress, learning_rate_factor, load_task_state

from .disks import fill, grow, tiny_disk
from .test_checkpoints import same
from .toy import CPU, Toy, config_in, trainer_for


def at(step, action):
    """A hook that acts at one step."""
    return lambda task, now: action(task) if now == step else None


def raising(error):
    def action(task):
        raise error

    return action


def entries(folder):
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def saved_steps(folder):
    return [int(path.stem.removeprefix("step_")) for path in sorted((folder / "run" / "checkpoints").iterdir())]


def newest(folder):
    return checkpoints.load(checkpoints.newest(folder / "run" / "checkpoints"))


# --- budget ---


def test_ends_after_its_steps(tmp_path):
    trainer = trainer_for(tmp_path)
    figures = trainer.train()
    assert trainer.task.steps == list(range(20))
    assert (figures["steps"], figures["stopped"]) == (20, False)
    assert saved_steps(tmp_path) == [20]
    assert figures["psnr"] > 10  # and it learns
    assert float(trainer.task.weight.detach().mean()) == pytest.approx(1, abs=0.3)
    assert figures["loss"] > 0


def test_ends_after_its_seconds(tmp_path):
    trainer = trainer_for(tmp_path, lambda task, step: time.sleep(0.01), steps=None, max_seconds=0.3)
    figures = trainer.train()
    assert not figures["stopped"]
    assert figures["seconds"] >= 0.3
    assert 1 <= figures["steps"] <= 30
    assert saved_steps(tmp_path) == [figures["steps"]]
    assert newest(tmp_path)[1]["seconds"] == pytest.approx(figures["seconds"], abs=1e-3)


def test_whichever_budget_ends_first(tmp_path):
    assert trainer_for(tmp_path, steps=3, max_seconds=1000.0).train()["steps"] == 3


def test_previews_do_not_count_as_training(tmp_path, monkeypatch):
    trainer = trainer_for(tmp_path, steps=4, preview_every=1)
    preview = trainer.task.preview
    monkeypatch.setattr(trainer.task, "preview", lambda: (time.sleep(0.5), preview())[1])
    figures = trainer.train()
    assert trainer.task.previews == 4
    assert figures["seconds"] < 1.5  # of the 2 that the previews took


def test_checkpoints_and_previews_come_when_told(tmp_path):
    trainer = trainer_for(tmp_path, steps=11, checkpoint_every=3, preview_every=5)
    trainer.train()
    assert saved_steps(tmp_path) == [9, 11]
    assert sorted(path.name for path in (tmp_path / "run" / "previews").iterdir()) == [
        "view_00000005.png",
        "view_00000010.png",
    ]


def test_metrics_are_logged_line_by_line(tmp_path):
    trainer_for(tmp_path, steps=11, preview_every=10).train()
    steps = [entry["step"] for entry in entries(tmp_path) if "loss" in entry]
    assert steps == [1, 5, 10]
    for entry in entries(tmp_path):
        if "loss" in entry:
            assert {"psnr", "learning_rate", "step_ms", "rays_per_second", "seconds"} <= entry.keys()
    assert {"step": 10, "preview_psnr": 12.5} in entries(tmp_path)


# --- schedule ---

SCHEDULE = OptimizerConfig(learning_rate=1.0, warmup_steps=9, final_share=0.1)


def factor(tmp_path, step, seconds=0.0, schedule=SCHEDULE, **budget):
    return learning_rate_factor(Progress(step, seconds), config_in(tmp_path, **budget), schedule)


def test_warm_up_is_linear(tmp_path):
    values = [factor(tmp_path, step, steps=10**6) for step in range(12)]
    assert values == pytest.approx([(step + 1) / 10 for step in range(10)] + [1.0, 1.0], rel=1e-6)


@pytest.mark.parametrize(
    ("share", "value"), [(0.25, 0.1 + 0.9 * (2 + 2**0.5) / 4), (0.5, 0.55), (1.0, 0.1), (2.0, 0.1)]
)
def test_decay_is_half_a_cosine(tmp_path, share, value):
    assert factor(tmp_path, int(1000 * share), steps=1000) == pytest.approx(value)
    by_time = factor(tmp_path, 500, seconds=60 * share, steps=None, max_seconds=60.0)
    assert by_time == pytest.approx(value)


def test_the_nearer_end_decides(tmp_path):
    both = {"steps": 1000, "max_seconds": 60.0}
    assert factor(tmp_path, 500, seconds=15.0, **both) == pytest.approx(0.55)
    assert factor(tmp_path, 250, seconds=30.0, **both) == pytest.approx(0.55)


def test_after_warm_up_it_only_falls(tmp_path):
    values = [factor(tmp_path, step, steps=200) for step in range(9, 201)]
    assert all(a >= b for a, b in zip(values, values[1:]))


def test_the_optimiser_gets_the_scheduled_rate(tmp_path):
    trainer = trainer_for(tmp_path, optimizer=SCHEDULE, steps=10, log_every=1)
    trainer.train()
    rates = [entry["learning_rate"] for entry in entries(tmp_path)]
    assert rates == pytest.approx([factor(tmp_path, step, steps=10) for step in range(10)])
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(rates[-1])


# --- stop and go ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_and_saves(tmp_path, number):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    figures = trainer_for(tmp_path, at(6, lambda task: os.kill(os.getpid(), number))).train()
    assert (figures["steps"], figures["stopped"]) == (7, True)
    assert saved_steps(tmp_path) == [7]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.fixture
def interrupts():
    """Python's own handling of Ctrl-C, which a process that was started in the background lacks."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


def test_a_second_ctrl_c_does_not_wait(tmp_path, interrupts):
    def twice(task):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

    trainer = trainer_for(tmp_path, at(6, twice), checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert saved_steps(tmp_path) == [4, 6]


@pytest.mark.parametrize("stop_at", [0, 7, 18])
def test_resumed_is_bit_for_bit_the_same(tmp_path, stop_at):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer_for(whole).train()
    trainer_for(parts, at(stop_at, lambda task: os.kill(os.getpid(), signal.SIGINT))).train()
    resumed = trainer_for(parts, resume=True)
    figures = resumed.train()
    assert resumed.task.steps == list(range(stop_at + 1, 20))
    assert (figures["steps"], figures["stopped"]) == (20, False)
    expected, found = newest(whole)[0], newest(parts)[0]
    assert expected.keys() == found.keys()
    for name in expected:
        assert same(expected[name], found[name]), name
    assert any(name.startswith("optimizer.") for name in found)


def test_resuming_goes_on_where_the_checkpoint_was(tmp_path):
    """What was done after the last checkpoint is done again, and the seconds go on."""
    with pytest.raises(ZeroDivisionError):
        trainer_for(tmp_path, at(8, raising(ZeroDivisionError())), checkpoint_every=5).train()
    seconds = newest(tmp_path)[1]["seconds"]
    resumed = trainer_for(tmp_path, resume=True)
    assert resumed.progress == Progress(5, seconds)
    resumed.train()
    assert resumed.task.steps == list(range(5, 20))
    assert newest(tmp_path)[1]["seconds"] > seconds


def test_resuming_without_a_checkpoint_is_told(tmp_path):
    RunFolder.create(config_in(tmp_path), "toy")
    with pytest.raises(UserError, match="no checkpoint"):
        trainer_for(tmp_path, resume=True)


# --- what may go wrong ---


def told(trainer, *parts):
    with pytest.raises(UserError) as caught:
        trainer.train()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def set_extra(value):
    def action(task):
        task.extra = torch.tensor(value)

    return action


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_names_the_term(tmp_path, value):
    trainer = trainer_for(tmp_path, at(7, set_extra(value)), checkpoint_every=2)
    told(trainer, "not finite", "step 7", "term: size", "step_00000006", "learning-rate")
    assert saved_steps(tmp_path) == [4, 6]
    assert torch.isfinite(newest(tmp_path)[0]["task.weight"]).all()
    assert entries(tmp_path)[-1]["step"] == 5


def test_a_loss_that_is_not_finite_before_anything_was_saved(tmp_path):
    told(trainer_for(tmp_path, at(1, set_extra(math.nan))), "step 1", "nothing was saved")


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    """The loss may be finite and its gradient not: the last good checkpoint is kept, and pointed to."""

    def poison(task):
        task.extra = (0 * task.weight).sum().sqrt()  # 0, with a gradient of 0 * infinity

    trainer = trainer_for(tmp_path, at(7, poison), checkpoint_every=1)
    told(trainer, "weights", "not finite", "step 8", "step_00000007")
    assert saved_steps(tmp_path) == [6, 7]
    assert torch.isfinite(newest(tmp_path)[0]["task.weight"]).all()
    resumed = trainer_for(tmp_path, resume=True)
    assert resumed.train()["steps"] == 20


@pytest.mark.parametrize("kind", ["torch", "numpy", "cuda"])
def test_out_of_memory_says_what_to_lower(tmp_path, kind):
    def exhaust(task):
        if kind == "torch":
            torch.empty(1 << 50, dtype=torch.uint8)
        elif kind == "numpy":
            raise MemoryError("Unable to allocate 8.00 PiB")
        else:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    trainer = trainer_for(tmp_path, at(5, exhaust), checkpoint_every=3)
    told(trainer, "out of memory", "step 5", "--samples", "--downscale", "cpu")
    assert saved_steps(tmp_path) == [3]


def test_errors_of_the_task_are_not_hidden(tmp_path):
    with pytest.raises(RuntimeError, match="a mistake"):
        trainer_for(tmp_path, at(2, raising(RuntimeError("a mistake")))).train()


def test_a_full_disk_keeps_what_was_saved(tmp_path):
    with tiny_disk(tmp_path / "disk", "2m") as disk:
        trainer = trainer_for(disk, at(6, lambda task: fill(disk)), checkpoint_every=3, log_every=100)
        told(trainer, "step_00000009", "disk is full", "resume")
        assert saved_steps(disk) == [3, 6]
        (disk / "other").unlink()
        grow(disk, "8m")
        assert trainer_for(disk, resume=True).train()["steps"] == 20


@pytest.mark.parametrize("every", ["log_every", "preview_every"])
def test_a_full_disk_while_logging(tmp_path, every):
    rare = {"checkpoint_every": 1000, "log_every": 1000, "preview_every": 1000}
    with tiny_disk(tmp_path / "disk", "2m") as disk:
        trainer = trainer_for(disk, at(6, lambda task: fill(disk)), steps=10**4, **{**rare, every: 1})
        trainer.save()
        told(trainer, "disk is full", str(disk))
        assert saved_steps(disk) == [0]


def test_tensorboard_has_what_came_before_an_error(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told(trainer_for(tmp_path, at(12, set_extra(math.nan))), "step 12")
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 5, 10]


def test_the_rate_may_fall_over_steps_of_its_own():
    config, short = config_in(Path("x"), steps=50), OptimizerConfig(learning_rate=1.0, warmup_steps=0, decay_steps=100)
    half = learning_rate_factor(Progress(50), config, short)
    assert half == pytest.approx(0.5 * (1 + short.final_share))
    assert learning_rate_factor(Progress(150), config, short) == pytest.approx(short.final_share)


# --- the best state ---


def scored(*scores):
    """A hook that lets the steps score so."""

    def hook(task, step):
        task.step_score = scores[step]

    return hook


def test_keeps_the_best_state_beside_the_last(tmp_path):
    trainer = trainer_for(tmp_path, hook=scored(1.0, 5.0, 2.0, 4.0), steps=4, log_every=1)
    weights = []
    figures = trainer.train(lambda step, scalars: weights.append(trainer.task.weight.detach().clone()))
    assert (figures["best_score"], figures["best_step"]) == (5.0, 1)
    run = RunFolder.open(tmp_path / "run")
    task = Toy()
    assert load_task_state(task, run, CPU, "best") == 1
    torch.testing.assert_close(task.weight.detach(), weights[0], rtol=0, atol=0)  # a score is of the weights before
    assert load_task_state(task, run, CPU) == 4
    torch.testing.assert_close(task.weight.detach(), weights[3], rtol=0, atol=0)


def test_the_very_last_state_may_be_the_best(tmp_path):
    trainer = trainer_for(tmp_path, hook=scored(1.0, 5.0), steps=2)
    trainer.task.last_score = 6.0
    figures = trainer.train()
    assert (figures["best_score"], figures["best_step"]) == (6.0, 2)


def test_the_best_state_outlives_a_resume(tmp_path):
    trainer_for(tmp_path, hook=scored(9.0, 1.0), steps=2).train()
    figures = trainer_for(tmp_path, hook=scored(0, 0, 3.0, 8.0), steps=4, resume=True).train()
    assert (figures["best_score"], figures["best_step"]) == (9.0, 0)
    assert load_task_state(Toy(), RunFolder.open(tmp_path / "run"), CPU, "best") == 0


def test_weights_of_another_field_are_told_in_a_line(tmp_path):
    trainer_for(tmp_path, steps=2).train()
    other = Toy()
    other.weight = torch.nn.Parameter(torch.zeros(9))
    told = r"^\S+: its weights are not those of the run's config.yaml \(size mismatch .*\); .* with --overwrite$"
    with pytest.raises(UserError, match=told):
        load_task_state(other, RunFolder.open(tmp_path / "run"), CPU)


def test_without_scores_there_is_no_best_state(tmp_path):
    figures = trainer_for(tmp_path).train()
    assert "best_score" not in figures
    assert not (tmp_path / "run" / "checkpoints" / checkpoints.BEST).exists()
    assert load_task_state(Toy(), RunFolder.open(tmp_path / "run"), CPU, "best") == 20


def test_parts_of_a_batch_add_up(tmp_path):
    """A task that calls backward for each half of its batch gets the gradient of the whole."""
    trainer = trainer_for(tmp_path)
    trainer._backward(trainer.task.weight[:4].sum())
    trainer._backward(2 * trainer.task.weight[4:].sum())
    assert trainer.task.weight.grad.tolist() == [1.0] * 4 + [2.0] * 4
