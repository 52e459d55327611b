"""Checkpoints: exact, whole or not at all, and damaged ones are told."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import recon3d
from recon3d.errors import UserError
from recon3d.training import checkpoints
from recon3d.training.checkpoints import load, newest, save

from .disks import grow, tiny_disk

TENSORS = {
    "a.float32": torch.randn(3, 4),
    "a.bfloat16": torch.randn(5).bfloat16(),
    "a.float16": torch.randn(5).half(),
    "b.float64": torch.randn(2, dtype=torch.float64),
    "b.bool": torch.tensor([[True, False], [False, True]]),
    "b.int64": torch.tensor(2**60),
    "b.uint8": torch.arange(5, dtype=torch.uint8),
    "empty": torch.zeros(0, 3),
    "turned": torch.arange(6.0).view(2, 3).T,  # not contiguous
    "needs_gradient": torch.ones(2, requires_grad=True),
    "extremes": torch.tensor([float("inf"), -0.0, 1e-45, float("nan")]),
}


def same(a, b):
    """Bit for bit, whatever the type."""
    a, b = a.detach().contiguous(), b.detach().contiguous()
    return (
        a.dtype == b.dtype and a.shape == b.shape and a.view(-1).view(torch.uint8).equal(b.view(-1).view(torch.uint8))
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- round trip ---


def test_round_trip_is_exact(tmp_path):
    path = save(tmp_path / "new" / "checkpoints", 17, TENSORS, {"seconds": 1.25, "scaler": {}})
    assert path.name == "step_00000017.safetensors"
    tensors, header = load(path)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert same(tensors[name], tensor), name
    assert header == {
        "seconds": 1.25,
        "scaler": {},
        "step": 17,
        "recon3d": recon3d.__version__,
        "torch": torch.__version__,
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(max_size=8).filter(lambda key: key not in ("step", "recon3d", "torch")), JSON))
def test_any_header_comes_back(tmp_path_factory, header):
    path = save(tmp_path_factory.mktemp("header"), 1, {"x": torch.zeros(1)}, header)
    found = load(path)[1]
    assert {key: found[key] for key in header} == header


def test_is_plain_safetensors(tmp_path):
    """Other programs can read it: no format of our own."""
    from safetensors.torch import load_file

    path = save(tmp_path, 1, {"x": torch.arange(3)}, {})
    assert load_file(path)["x"].tolist() == [0, 1, 2]


def test_the_last_ones_are_kept(tmp_path):
    for step in (5, 10, 15, 100, 1000):
        save(tmp_path, step, {"x": torch.tensor(step)}, {})
    assert names(tmp_path) == ["step_00000100.safetensors", "step_00001000.safetensors"]
    assert len(names(tmp_path)) == checkpoints.KEPT
    assert newest(tmp_path) == tmp_path / "step_00001000.safetensors"


def test_saving_a_step_again_replaces_it(tmp_path):
    for value in (1, 2):
        path = save(tmp_path, 5, {"x": torch.tensor(value)}, {})
    assert int(load(path)[0]["x"]) == 2
    assert len(names(tmp_path)) == 1


def test_no_checkpoint_is_told(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match="no checkpoint") as caught:
            newest(folder)
        assert str(folder) in str(caught.value)


# --- damage ---


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.99])
def test_a_truncated_file_is_told(tmp_path, share):
    path = save(tmp_path, 3, {"x": torch.randn(1000)}, {})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    damaged(path)


@pytest.mark.parametrize(
    "content", [b"not a checkpoint at all", b"\xff" * 64, b"\x08\x00\x00\x00\x00\x00\x00\x00notjson!", b"\x00" * 16]
)
def test_a_file_that_is_none_is_told(tmp_path, content):
    path = tmp_path / "step_00000001.safetensors"
    path.write_bytes(content)
    damaged(path)


def test_safetensors_of_others_are_told(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "step_00000001.safetensors"
    for metadata in (None, {"format": "pt"}, {"recon3d": "{"}):
        save_file({"x": torch.zeros(2)}, path, metadata=metadata)
        damaged(path)


def test_an_absent_file_is_told(tmp_path):
    damaged(tmp_path / "step_00000001.safetensors")


def damaged(path):
    with pytest.raises(UserError) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "not a whole checkpoint" in message
    assert "\n" not in message


# --- whole or not at all ---


def test_an_interruption_in_the_middle_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    first = save(tmp_path, 1, {"x": torch.tensor(1)}, {})

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 2, {"x": torch.tensor(2)}, {})
    monkeypatch.undo()
    assert newest(tmp_path) == first
    assert int(load(first)[0]["x"]) == 1
    # What was left half-written goes with the next one.
    save(tmp_path, 3, {"x": torch.tensor(3)}, {})
    assert names(tmp_path) == ["step_00000001.safetensors", "step_00000003.safetensors"]


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from recon3d.training import checkpoints
folder, moment = Path(sys.argv[1]), sys.argv[2]
checkpoints.save(folder, 1, {"x": torch.tensor(1)}, {})
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
setattr({"fsync": os, "replace": Path, "unlink": Path}[moment], moment, die)
checkpoints.save(folder, 2, {"x": torch.tensor(2)}, {})
checkpoints.save(folder, 3, {"x": torch.tensor(3)}, {})
"""


@pytest.mark.parametrize(("moment", "left"), [("fsync", 1), ("replace", 1), ("unlink", 3)])
def test_killed_at_the_worst_moment(tmp_path, moment, left):
    """kill -9 before the data is flushed, before it has its name, before an old checkpoint is dropped."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), moment])
    assert done.returncode == -signal.SIGKILL
    tensors, header = load(newest(tmp_path))
    assert int(tensors["x"]) == header["step"] == left


def test_a_full_disk(tmp_path):
    """A real one: what was saved stays, nothing is left lying about, and with space again it goes on."""
    with tiny_disk(tmp_path / "disk", "1m") as disk:
        old = save(disk, 1, {"x": torch.ones(50_000)}, {})
        with pytest.raises(UserError, match="disk is full") as caught:
            save(disk, 2, {"x": torch.ones(500_000)}, {})
        assert "step_00000002" in str(caught.value)
        assert names(disk) == [old.name]
        assert torch.equal(load(newest(disk))[0]["x"], torch.ones(50_000))
        grow(disk, "8m")
        save(disk, 2, {"x": torch.ones(500_000)}, {})
        assert newest(disk).name == "step_00000002.safetensors"
