"""Every task and what comes after it on an emulated GPU: no mixing of devices, no waiting in recorded steps."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from emulated_gpu import AFTERWARDS, MISTAKES
from together import MADE, train, write_data

TESTS, TORCH = Path(__file__).parent, Path(torch.__file__).parent
RECORDED = {"nerf", "image"}
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(sys.platform != "linux", reason="preloads a library as Linux does"),
    pytest.mark.skipif(torch.version.cuda is not None, reason="this torch knows real GPUs"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler (c++) here"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def found(data, tmp_path_factory):
    """What a process with such a GPU found."""
    out = tmp_path_factory.mktemp("out")
    library = out / "emulated_gpu.so"
    torch_here = [f"-I{TORCH / 'include'}", f"-L{TORCH / 'lib'}", f"-Wl,-rpath,{TORCH / 'lib'}", "-lc10", "-ltorch_cpu"]
    source = TESTS / "emulated_gpu.cpp"
    subprocess.run(["c++", "-std=c++20", "-shared", "-fPIC", source, "-o", library, *torch_here], check=True)
    command = [sys.executable, TESTS / "emulated_gpu.py", data, out]
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out / "found.pt", weights_only=False)


@pytest.mark.parametrize("name", MISTAKES)
def test_what_a_gpu_refuses_is_refused(found, name):
    assert MISTAKES[name] in found["told"][name]


@pytest.mark.parametrize("name", MADE)
def test_a_task_does_what_it_does_on_the_cpu(found, data, tmp_path, name):
    ours = found["tasks"][name][0]
    figures, _ = train(name, data, tmp_path)
    for mine, theirs in zip(ours, figures, strict=True):
        assert mine.keys() == theirs.keys()
        for key in mine.keys() - {"step_ms", "rays_per_second", "points_per_second"}:
            assert mine[key] == pytest.approx(theirs[key], rel=1e-3, abs=1e-5), key


@pytest.mark.parametrize("name", MADE)
def test_steps_are_recorded_where_they_can_be(found, name):
    _, repeats, (recorded, told) = found["tasks"][name]
    assert (repeats > 0) == (name in RECORDED)
    if name == "image":  # all of it at every step; of photographs a recorded step draws other rays
        torch.testing.assert_close(recorded, told, rtol=0, atol=0)


@pytest.mark.parametrize("line", AFTERWARDS.split("\n")[1:-1])
def test_what_comes_after(found, line):
    assert found["commands"][line] == 0
