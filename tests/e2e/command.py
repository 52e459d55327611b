"""Running the installed command as a user does: in a process of its own."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

RECON3D = Path(sys.executable).with_name("recon3d")

# What eval, render and export take to do as the runs below.
LOOK = ["--device", "cpu", "--threads", "1"]

# Small enough for a step to take some hundredths of a second on one core.
SMALL = [
    *LOOK,
    *("--samples", "4096", "--max-rays", "1024"),
    *("--field.hash-grid.levels", "6", "--field.hash-grid.log2-size", "13", "--field.hash-grid.finest", "128"),
    *("--head.grid", "32", "--head.samples-per-diagonal", "128"),
]


def environment():
    """Ours, without what would change the command's output, and with the command on the path."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("COV_")}
    return {**kept, "PATH": f"{RECON3D.parent}{os.pathsep}{kept.get('PATH', '')}", "COLUMNS": "200", "NO_COLOR": "1"}


def run(*args, cwd=None, timeout=120):
    """The finished command; its output is text."""
    command = [str(RECON3D), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=timeout, env=environment())


def figures(done):
    """The JSON object on the last line of standard output of a command that succeeded."""
    assert done.returncode == 0, done.stderr[-3000:]

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(done.stdout.splitlines()[-1], parse_constant=refuse)


def succeed(*args, **kwargs):
    return figures(run(*args, "--json", **kwargs))


def refused(done, *parts):
    """The command said what is wrong in one line, without a traceback, and left with code 2."""
    assert done.returncode == 2, (done.returncode, done.stdout[-1000:], done.stderr[-3000:])
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("recon3d: ")]
    assert len(told) == 1, done.stderr
    assert lines[-1] == told[0], done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert str(part) in told[0], (part, told[0])
    return lines


def refused_at_once(done, *parts):
    """As :func:`refused`, and that line is all there is."""
    assert len(refused(done, *parts)) == 1, done.stderr
    assert done.stdout == ""


def train(data, out, name, *options):
    """The arguments of a small run."""
    return ["train", "nerf", "--data", data, "--out", out, "--name", name, *SMALL, *options]


def start(*args):
    """The command, running; what it says is kept for ``communicate``."""
    command = [str(RECON3D), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


def wait_until(condition, process, timeout=60):
    """Wait for ``condition()`` while the process lives; whether it came true."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return True
        if process.poll() is not None:
            return bool(condition())
        time.sleep(0.002)
    process.kill()
    raise AssertionError(f"waited {timeout} s in vain; stderr: {process.communicate()[1][-2000:]}")


def logged_steps(run_folder):
    """The steps in metrics.jsonl, whole lines only."""
    try:
        text = (run_folder / "metrics.jsonl").read_text()
    except FileNotFoundError:
        return []
    lines = text[: text.rfind("\n") + 1].splitlines()
    return [entry["step"] for entry in map(json.loads, lines) if "loss" in entry]
