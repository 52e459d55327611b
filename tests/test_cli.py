"""The command line itself: help, options, what goes to which stream, and exit codes."""

import contextlib
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from recon3d import __version__, cli, distributed
from recon3d.commands import train as train_command
from recon3d.config import preset_names

EVERY_HELP = [
    (["train", "nerf"], ["--data", "--downscale", "--background", "--steps", "--max-seconds", "--checkpoint-every"]),
    (["train", "nerf"], ["--device", "--threads", "--seed", "--field.encoder", "--name", "--out", "--precision"]),
    (["train"], preset_names()),
    (["resume"], ["--steps", "--max-seconds"]),
    (["eval"], ["--background", "--split", "--data"]),
    (["render"], ["--path", "orbit", "--frames"]),
    (["eval"], ["--state", "image"]),
    (["render"], ["--scale", "--size", "--render-fps", "--rate", "--edges", "--state", "--output"]),
    (["export"], ["mesh", "signal"]),
    (["export", "signal"], ["--precision", "--state", "--output"]),
    (["decode"], ["--output", "--scale", "--size", "--rate"]),
    (["fit-many"], ["PRESET", "FOLDER", "--jobs", "--ray"]),
    (["sweep"], ["SPEC", "--jobs", "--ray", "--address", "--cpus", "--gpus", "--overwrite"]),
    (["export", "mesh"], ["--resolution", "--level", "--reference"]),
    (["data"], ["toy"]),
    (["data", "toy"], ["--out", "--size", "--train", "--test", "--seed"]),
    (["doctor"], ["doctor"]),
    (["ct"], ["fbp", "fdk", "sirt", "cgls", "tv"]),
    (["ct", "fbp"], ["--filter", "--views", "--angle-range", "--output"]),
    (["ct", "tv"], ["--weight", "--iterations", "--reference", "--mask", "--geometry"]),
    (["train", "ct_sparse"], ["--views", "--tv", "--projector", "--ensemble", "--holdout", "--volume.shape"]),
    (["eval"], ["--reference", "--mask", "ct"]),
    (["render"], ["--axis", "--window"]),
]


@pytest.fixture(autouse=True)
def same_threads_after():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def told(capsys, args, *parts):
    """``main(args)`` says what is wrong in one line on standard error and returns 2."""
    assert cli.main([str(arg) for arg in args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("recon3d: ") and err.count("\n") == 1, err
    for part in parts:
        assert str(part) in err, err


# --- help ---


@pytest.mark.parametrize("args", [[], ["-h"], ["--help"], ["--help", "--json"]])
def test_usage_names_every_command(capsys, args):
    assert cli.main(args) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for command in cli.COMMANDS:
        assert f"\n  {command} " in out
    assert "--json" in out and "--debug" in out


@pytest.mark.parametrize(("command", "parts"), EVERY_HELP, ids=lambda value: "-".join(value[:2]))
def test_every_command_has_help(capsys, monkeypatch, command, parts):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as caught:
        cli.main([*command, "--help"])
    assert caught.value.code in (0, None)
    out = capsys.readouterr().out
    for part in parts:
        assert part in out


def test_every_command_is_a_module():
    for command in cli.COMMANDS:
        assert callable(importlib.import_module(f"recon3d.commands.{command.replace('-', '_')}").main)


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize("args", [["--help"], ["train", "nerf", "--help"], ["eval", "--help"], ["trian"]])
def test_help_does_not_wait_for_torch(args):
    """What makes help quick: nothing heavy is imported for it."""
    code = (
        "import sys\nfrom recon3d.cli import main\n"
        f"try: main({args!r})\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'numba', 'tensorboard', 'trimesh', 'open3d') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout[-300:] + done.stderr[-300:]


def test_help_is_quick():
    """Promised: under a second. The bound here is wider, for machines that do other things beside."""
    command = [Path(sys.executable).with_name("recon3d"), "--help"]
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - begin)
    print(f"recon3d --help: {min(seconds):.2f} s")
    assert min(seconds) < 3


# --- errors and exit codes ---


def test_unknown_command(capsys):
    told(capsys, ["trian"], "'trian'", *cli.COMMANDS)


@pytest.mark.parametrize("command", [["eval"], ["resume"], ["render"], ["export", "mesh"]])
def test_a_folder_that_is_no_run(capsys, tmp_path, command):
    told(capsys, [*command, tmp_path], tmp_path, "not a run folder")


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["train", "--data", "x"], ["preset", "nerf_lego"]),
        (["train", "nowhere.yaml", "--data", "x"], ["nowhere.yaml"]),
        (["train", "nerf", "--data", "x", "--steps", "0"], ["steps is 0"]),
        (["train", "nerf", "--data", "x", "--downscale", "0"], ["downscale is 0"]),
        (["train", "nerf", "--data", "x", "--optimizer.betas", "0.9", "1.5"], ["optimizer.betas"]),
        (["export", "hologram", "x"], ["export", "mesh"]),
        (["export"], ["export", "mesh"]),
        (["data", "cube"], ["data", "toy"]),
        (["data", "toy", "--out", "x", "--size", "1"], ["size is 1"]),
        (["render", "x", "--frames", "0"], ["frames is 0"]),
        (["train", "nerf"], ["name the data", "recon3d train nerf DATA"]),
    ],
)
def test_what_cannot_be(capsys, tmp_path, monkeypatch, args, parts):
    monkeypatch.chdir(tmp_path)
    told(capsys, args, *parts)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "args",
    [["eval"], ["train", "nerf", "--data", "x", "--stepz", "3"], ["eval", "x", "--split", "y"]],
)
def test_options_that_are_none_leave_with_two(capsys, args):
    with pytest.raises(SystemExit) as caught:
        cli.main(args)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err


def test_debug_raises(tmp_path):
    with pytest.raises(cli.UserError, match="not a run folder"):
        cli.main(["eval", str(tmp_path), "--debug"])


def stand_in(monkeypatch, action):
    """Make ``recon3d doctor`` do ``action``."""
    module = importlib.import_module("recon3d.commands.doctor")
    monkeypatch.setattr(module, "main", action)


def test_an_error_of_several_lines_is_told_in_one(capsys, monkeypatch):
    def fail(args):
        raise cli.UserError("first\nsecond\nthird")

    stand_in(monkeypatch, fail)
    told(capsys, ["doctor"], "first second third")


def test_a_full_disk_anywhere_is_told_in_one_line(capsys, monkeypatch):
    def fail(args):
        raise OSError(28, "No space left on device", "/runs/lego/exports/orbit.mp4")

    stand_in(monkeypatch, fail)
    told(capsys, ["doctor"], "/runs/lego/exports/orbit.mp4", "No space left on device")


@pytest.mark.parametrize(
    "error", [MemoryError("Unable to allocate 112. GiB"), RuntimeError("you tried to allocate memory")]
)
def test_memory_that_ends_is_told_in_one_line(error, capsys, monkeypatch):
    def fail(args):
        raise error

    stand_in(monkeypatch, fail)
    told(capsys, ["doctor"], "out of memory: give smaller sizes", str(error))


def test_another_error_is_no_matter_of_memory(monkeypatch):
    def fail(args):
        raise RuntimeError("a mistake of ours")

    stand_in(monkeypatch, fail)
    with pytest.raises(RuntimeError, match="of ours"):
        cli.main(["doctor"])


def test_ctrl_c_is_130(capsys, monkeypatch):
    def interrupt(args):
        raise KeyboardInterrupt

    stand_in(monkeypatch, interrupt)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "recon3d: interrupted\n"


def test_mistakes_of_ours_are_not_hidden(monkeypatch):
    def fail(args):
        raise ZeroDivisionError

    stand_in(monkeypatch, fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["doctor"])


# --- doctor ---


def test_doctor_fits_one_screen(capsys):
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    text = "\n".join(lines)
    for part in ("torch", "device", "kernels", "numba", "tinycudann", "open3d", "memory free", "GiB"):
        assert part in text


def test_doctor_as_json(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["torch"] == torch.__version__
    assert facts["recon3d"] == __version__


# --- presets and options become a configuration ---


def parsed(*args):
    return train_command.parse([*args, "--data", "scene", "--device", "cpu"])


def test_the_preset_gives_and_the_options_change():
    name, config = parsed("nerf", "--field.encoder", "frequency", "--downscale", "2", "--no-overwrite")
    assert name == "nerf"
    assert (config.field.encoder, config.downscale, config.data) == (("frequency",), 2, Path("scene"))
    plain = parsed("nerf")[1]
    assert config.samples == plain.samples
    assert plain.field.encoder == ("hash_grid",)


def test_a_budget_on_the_command_line_stands_in_for_the_presets():
    plain = parsed("nerf")[1]
    assert plain.steps and plain.max_seconds is None
    config = parsed("nerf", "--max-seconds", "30")[1]
    assert (config.steps, config.max_seconds) == (None, 30.0)
    config = parsed("nerf", "--max-seconds=30", "--steps", "7")[1]
    assert (config.steps, config.max_seconds) == (7, 30.0)
    config = parsed("nerf", "--max_seconds", "30")[1]
    assert (config.steps, config.max_seconds) == (None, 30.0)


def test_a_budget_in_steps_stands_in_for_one_in_seconds(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("task: nerf\nmax_seconds: 60\n")
    assert parsed(str(path))[1].max_seconds == 60
    config = parsed(str(path), "--steps", "7")[1]
    assert (config.steps, config.max_seconds) == (7, None)


def test_the_device_picks_its_section(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("task: nerf\ndevices: {cpu: {steps: 1}, cuda: {steps: 2}}\n")
    for args, steps in ((["--device", "cpu"], 1), (["--device=cuda"], 2), (["--device", "cuda"], 2)):
        assert train_command.parse([str(path), "--data", "scene", *args])[1].steps == steps


def test_data_in_the_preset_need_not_be_given(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("task: nerf\nsteps: 3\ndata: there\n")
    assert train_command.parse([str(path), "--device", "cpu"])[1].data == Path("there")


# --- several processes ---


def as_torchrun_starts_it(monkeypatch, rank):
    """The command line believes to be one of two processes."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed, "joined", contextlib.nullcontext)
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: rank)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_of_several_processes_gives_the_figures(capsys, monkeypatch, rank):
    as_torchrun_starts_it(monkeypatch, rank)
    monkeypatch.setattr(train_command, "main", lambda args: {"steps": 5})
    assert cli.main(["train", "nerf", "--json"]) == 0
    assert capsys.readouterr().out == ('{"steps": 5}\n' if rank == 0 else "")


def test_what_several_processes_cannot_do_together(capsys, monkeypatch):
    as_torchrun_starts_it(monkeypatch, 0)
    told(capsys, ["eval", "runs/x"], "torchrun", "train and resume", "recon3d eval")
