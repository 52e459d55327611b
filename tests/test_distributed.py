"""Two processes together do what one does: every task's figures and weights, stops, failures, and one writer."""

import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from together import MADE, STEPS, train, trainer_of, two_processes, write_data

from recon3d.training import checkpoints

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def two(data, out):
    """What the two processes found, each."""
    assert two_processes(data, out, out) == [0, 0]
    return [torch.load(out / f"{number}.pt", weights_only=False) for number in range(2)]


@pytest.mark.parametrize("name", MADE)
def test_two_do_what_one_does(two, data, tmp_path, name):
    figures, weights = train(name, data, tmp_path)
    for process in two:
        ours, made = process["tasks"][name]
        assert len(ours) == len(figures) == STEPS
        for mine, whole in zip(ours, figures, strict=True):
            assert mine.keys() == whole.keys()
            for key in mine.keys() - {"step_ms", "rays_per_second", "points_per_second"}:
                assert mine[key] == pytest.approx(whole[key], rel=1e-4, abs=1e-6), key
        assert made.keys() == weights.keys()
        assert all(torch.equal(made[key], two[0]["tasks"][name][1][key]) for key in made)
    if name == "image":  # elsewhere Adam makes steps of the noise in gradients that are nearly 0
        for key, value in weights.items():  # a hundredth of the length of a step
            torch.testing.assert_close(two[0]["tasks"][name][1][key], value, rtol=0, atol=1e-4)


def test_only_the_first_writes(two, out):
    for name in MADE:
        folder = out / name
        steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(1, STEPS + 1))
        writers = {path.name.split(".")[5] for path in folder.glob("events.*")}  # events.out.tfevents.TIME.HOST.PID.N
        assert len(writers) == 1
        assert [path.name for path in folder.glob("checkpoints/step_*")] == [f"step_{STEPS:08d}.safetensors"]
    events = EventAccumulator(str(out / "nerf")).Reload()
    assert len(events.Scalars("train/loss")) == STEPS


def test_one_process_goes_on_where_two_ended(two, data, out, tmp_path):
    """What two began, one ends as if it had done all of it."""
    whole, _ = train("ct", data, tmp_path, steps=STEPS + 2)
    trainer = trainer_of("ct", data, out, resume=True, steps=STEPS + 2)
    figures = trainer.train()
    assert figures["steps"] == STEPS + 2
    assert figures["loss"] == pytest.approx(whole[-1]["loss"], rel=1e-3)


def test_both_stop_after_the_same_step(two, out):
    assert two[0]["signal"] == two[1]["signal"] == 3
    assert checkpoints.newest(out / "signal" / "image" / "checkpoints").name == "step_00000003.safetensors"
    assert two[0]["clock"] == two[1]["clock"] >= 1


def test_one_fails_and_one_tells(two, out):
    assert (out / "1.txt").read_text() == "UserError('the disk is full')"
    assert (out / "0.txt").read_text() == "SystemExit(1)"


def test_parts(two):
    first, second = (process["parts"] for process in two)
    rows = torch.arange(7.0)
    assert torch.equal(torch.cat([first["own"], second["own"]]), rows)
    for found in (first, second):
        assert torch.equal(found["mapped"], rows.unsqueeze(1) ** 2)
        assert (found["mean"], found["once"], found["none"], found["largest"]) == (3.0, 3.0, 0.0, 1.0)
        assert found["from_first"] == [0]
        assert found["agreed"] == (True, 1.0)


def test_gradients_add_up(two):
    for process in two:
        large, small, lone, none = process["gradients"]
        assert torch.equal(large, torch.full_like(large, 3.0))
        assert torch.equal(small, 2 * torch.arange(3.0))
        assert torch.equal(lone, torch.ones(2))
        assert none is None
