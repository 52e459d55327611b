"""Frames on disk."""

import numpy as np
import pytest

from recon3d.errors import UserError
from recon3d.export.video import FrameFolder, frame_writer


def frames(folder, count):
    with FrameFolder(folder) as writer:
        for value in range(count):
            writer.add(np.full((2, 2, 3), value, np.uint8))
    return sorted(path.name for path in folder.iterdir())


def test_a_shorter_rendering_takes_the_place_of_a_longer_one(tmp_path):
    assert frames(tmp_path / "frames", 4) == ["000.png", "001.png", "002.png", "003.png"]
    (tmp_path / "frames" / "010.png").write_bytes(b"somebody's")
    assert frames(tmp_path / "frames", 2) == ["000.png", "001.png", "010.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["frames"]


def test_nothing_appears_of_a_rendering_that_fails(tmp_path):
    with pytest.raises(KeyError), FrameFolder(tmp_path / "frames") as writer:
        writer.add(np.zeros((2, 2, 3), np.uint8))
        raise KeyError
    assert not list((tmp_path / "frames").iterdir())


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"a video that ends in \.mp4"):
        frame_writer(tmp_path / "a.gif", 30.0)
