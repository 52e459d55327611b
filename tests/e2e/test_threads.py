"""``--threads N`` is what every part of a run obeys: torch, numba's workers, the readers of images."""

import json
import subprocess
import sys

import pytest

from .command import SMALL, environment

# Trains, and tells what every thread that is alive has worked, in nanoseconds: those of pools live as long as the
# process. Threads are known to the system by number; Python knows its own, but not those of OpenMP.
TRAIN = """
import contextlib, json, os, sys
from pathlib import Path
from recon3d.cli import main
from recon3d.data import scene_files

reading, most, read = [], [], scene_files.read_image

def watched(path):
    reading.append(path)
    most.append(len(reading))
    try:
        return read(path)
    finally:
        reading.remove(path)

scene_files.read_image = watched

def worked():
    found = {}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            found[int(task.name)] = int((task / "schedstat").read_text().split()[0])
    return found

told = []
for threads in ("1", "2"):
    most.clear()
    before = worked()
    assert main([*sys.argv[1:], "--name", threads, "--threads", threads]) == 0
    spent = {thread: time - before.get(thread, 0) for thread, time in worked().items()}
    own = spent.pop(os.getpid())
    told.append({"own": own, "others": sorted(spent.values()), "readers": max(most)})
print(json.dumps(told))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux what each thread has worked")
def test_one_thread_does_everything_where_one_is_asked_for(ball, tmp_path):
    options = [option for option in SMALL if option not in ("--threads", "1")]
    command = ["train", "nerf", "--data", str(ball), "--out", str(tmp_path), "--steps", "20", *options]
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, *command], capture_output=True, text=True, timeout=120, env=environment()
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = json.loads(done.stdout.splitlines()[-1])
    assert one["readers"] == 1
    assert 1 <= two["readers"] <= 2
    assert sum(one["others"]) < 0.05 * one["own"], one  # the progress bar's, and the one that writes events
    assert max(two["others"]) > 0.05 * two["own"], two  # so a pool's work would have been seen
