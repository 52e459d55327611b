"""Files that are written whole or not at all."""

import errno
import os
import tempfile
from pathlib import Path

import pytest

from recon3d.errors import UserError
from recon3d.files import write_bytes


@pytest.mark.parametrize("step_of_writing", [(tempfile, "NamedTemporaryFile"), (os, "fsync"), (Path, "replace")])
@pytest.mark.parametrize(
    ("code", "said"), [(errno.ENOSPC, "disk is full"), (errno.EDQUOT, "disk is full"), (errno.EIO, "cannot be written")]
)
def test_a_failure_in_the_middle_leaves_the_old_file(tmp_path, monkeypatch, step_of_writing, code, said):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    owner, name = step_of_writing
    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(UserError, match=said) as caught:
        write_bytes(path, b"new")
    monkeypatch.undo()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("place", ["a_file", "a_file/below"])
def test_a_folder_that_cannot_be_is_told(tmp_path, place):
    (tmp_path / "a_file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written") as caught:
        write_bytes(tmp_path / place / "file", b"x")
    assert "a_file" in str(caught.value)
