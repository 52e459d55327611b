"""Stopping a run and going on: by Ctrl-C, by SIGTERM, by kill -9; exactly, on one thread."""

import random
import shutil
import signal
import time

import pytest
import torch

from recon3d.training.checkpoints import load, newest

from .command import figures, logged_steps, refused_at_once, run, start, succeed, train, wait_until

STEPS = 60


def stop_after(process, folder, steps, number):
    """Send a signal once some steps are logged (with --log-every 1); the finished process with what it said."""
    assert wait_until(lambda: len(logged_steps(folder)) >= steps, process), process.communicate()[1][-2000:]
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


def steps_saved(folder):
    return sorted(int(path.stem.removeprefix("step_")) for path in (folder / "checkpoints").glob("step_*.safetensors"))


@pytest.mark.slow
def test_stopped_and_resumed_is_bit_for_bit_the_same(ball, tmp_path):
    """Ctrl-C at a random step, then resume: the same weights and optimiser state as an uninterrupted run."""
    options = ["--steps", STEPS, "--log-every", "1", "--seed", "3"]
    assert succeed(*train(ball, tmp_path, "whole", *options))["steps"] == STEPS
    for _ in range(3):  # a busy machine may let the run end before the signal comes
        shutil.rmtree(tmp_path / "parts", ignore_errors=True)
        process = start(*train(ball, tmp_path, "parts", *options, "--json"))
        code, stdout, stderr = stop_after(process, tmp_path / "parts", random.randint(1, 25), signal.SIGINT)
        assert code == 0, stderr[-2000:]
        assert "recon3d resume" in stdout  # it says how to go on
        (stopped_at,) = steps_saved(tmp_path / "parts")
        if stopped_at < STEPS:
            break
    print(f"stopped at step {stopped_at}")
    assert 0 < stopped_at < STEPS
    assert succeed("resume", tmp_path / "parts")["steps"] == STEPS
    whole, header = load(newest(tmp_path / "whole" / "checkpoints"))
    parts, _ = load(newest(tmp_path / "parts" / "checkpoints"))
    assert header["step"] == STEPS
    assert whole.keys() == parts.keys()
    assert any(name.startswith("optimizer.") for name in whole)
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name


@pytest.mark.slow
def test_sigterm_saves_and_leaves_cleanly(ball, tmp_path):
    """With a checkpoint interval that is never reached: what is saved is saved because of the signal."""
    folder = tmp_path / "run"
    options = ["--steps", "100000", "--checkpoint-every", "100000", "--log-every", "1"]
    process = start(*train(ball, tmp_path, "run", *options, "--json"))
    code, stdout, stderr = stop_after(process, folder, 5, signal.SIGTERM)
    assert code == 0, stderr[-2000:]
    assert "Traceback" not in stderr
    (step,) = steps_saved(folder)
    assert step >= 5
    assert logged_steps(folder)[-1] in (step, step - 1)
    assert "stopped at step" in stdout
    assert f'"steps": {step}' in stdout.splitlines()[-1]
    assert '"stopped": true' in stdout.splitlines()[-1]
    assert not list((folder / "checkpoints").glob(".*"))
    assert succeed("resume", folder, "--steps", step + 4)["steps"] == step + 4
    before = (folder / "config.yaml").read_text()
    refused_at_once(run("resume", folder, "--max-seconds", "0.001"), "already trained for", "give --max-seconds S")
    assert (folder / "config.yaml").read_text() == before


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_a_whole_checkpoint(ball, tmp_path):
    """Again and again: killed while it saves at every few steps, looked at, resumed, killed again."""
    folder = tmp_path / "run"
    draw = random.Random()
    every = [1, 2, 3]
    command = train(ball, tmp_path, "run", "--steps", "100000", "--log-every", "1", "--checkpoint-every", every[0])
    before = 0
    for round_, interval in enumerate(every):
        if round_:
            text = (folder / "config.yaml").read_text()
            config = text.replace(f"checkpoint_every: {every[round_ - 1]}", f"checkpoint_every: {interval}")
            (folder / "config.yaml").write_text(config)
            command = ["resume", folder]
        process = start(*command)
        assert wait_until(lambda before=before: max(steps_saved(folder), default=0) > before, process)
        time.sleep(draw.uniform(0, 0.5))
        process.kill()
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, stderr[-2000:]
        path = newest(folder / "checkpoints")
        tensors, header = load(path)
        print(f"killed after step {header['step']}, left: {sorted(p.name for p in path.parent.iterdir())}")
        assert header["step"] > before
        assert all(torch.isfinite(value).all() for value in tensors.values() if value.is_floating_point())
        before = header["step"]
    done = run("resume", folder, "--steps", before + 3, "--json")
    assert figures(done)["steps"] == before + 3
    assert not list((folder / "checkpoints").glob(".*"))  # what a kill left half-written is gone
