"""Poses found from photographs alone: right up to a similarity on a real capture, and what cannot be done."""

import numpy as np
import pytest
import torch
from PIL import Image

from recon3d.data import poses
from recon3d.data.poses import find_poses
from recon3d.data.scene_files import load_scene
from recon3d.errors import UserError


def test_each_pair_once():
    names = [f"{k}" for k in range(40)]
    for neighbours in (None, 1, 5, 100):
        found = list(poses._pairs(names, neighbours))
        assert len(set(found)) == len(found) and all(int(a) < int(b) for a, b in found)
        reach = 40 if neighbours is None else neighbours
        wanted = {(a, b) for a in range(40) for b in range(a + 1, 40) if b - a <= reach or (b - a) & (b - a - 1) == 0}
        assert {(int(a), int(b)) for a, b in found} == wanted


def aligned(found, true):
    """``found`` points (N, 3) after the similarity that brings them closest to ``true`` (Umeyama 1991)."""
    middle, target = found.mean(0), true.mean(0)
    u, s, v = np.linalg.svd((true - target).T @ (found - middle))
    signs = np.array([1, 1, np.linalg.det(u @ v)])
    rotation = u * signs @ v
    scale = (s * signs).sum() / ((found - middle) ** 2).sum()
    return scale * (found - middle) @ rotation.T + target, rotation


def test_fern(tmp_path, shared_data):
    """As LLFF's file has them, which COLMAP made of the same photographs at eight times the size."""
    pytest.importorskip("pycolmap")
    fern = shared_data / "nerf" / "fern"
    (tmp_path / "images").mkdir()
    names = sorted(path.name for path in (fern / "images_8").iterdir())[::2]
    for name in names:
        (tmp_path / "images" / name).write_bytes((fern / "images_8" / name).read_bytes())
    found = find_poses(tmp_path)
    assert found.placed == found.photographs == 10 and found.points > 300 and found.error < 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "sparse"]
    train, test = (load_scene(tmp_path, split, test_every=5) for split in ("train", "test"))
    true = {name: pose for split in ("train", "test") for name, pose in by_name(load_scene(fern, split))}
    ours = dict([*by_name(train), *by_name(test)])
    positions = np.array([ours[name][:3, 3] for name in names]), np.array([true[name][:3, 3] for name in names])
    moved, rotation = aligned(*positions)
    spread = np.linalg.norm(positions[1] - positions[1].mean(0), axis=1).mean()
    assert np.linalg.norm(moved - positions[1], axis=1).max() < 0.05 * spread
    for name in names:
        turn = np.trace((rotation @ ours[name][:3, :3]).T @ true[name][:3, :3])
        assert np.degrees(np.arccos(np.clip((turn - 1) / 2, -1, 1))) < 1.5
    assert train.cameras.focal.mean().item() == pytest.approx(407.6, rel=0.1)
    up = torch.cat([train.cameras.poses, test.cameras.poses])[:, :3, 1].mean(0)
    torch.testing.assert_close(up / up.norm(), torch.tensor([0.0, 0.0, 1.0]), atol=1e-4, rtol=0)
    with pytest.raises(UserError, match="there is a model already"):
        find_poses(tmp_path)


def by_name(scene):
    return [(name.rpartition("/")[2], pose.double().numpy()) for name, pose in zip(scene.names, scene.cameras.poses)]


def test_what_cannot_be_done(tmp_path):
    pytest.importorskip("pycolmap")
    with pytest.raises(UserError, match="no photographs; put them into"):
        find_poses(tmp_path)
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (64, 48)).save(images / "a.png")
    with pytest.raises(UserError, match="holds one photograph"):
        find_poses(tmp_path)
    Image.new("RGB", (64, 48)).save(images / "b c.png")
    with pytest.raises(UserError, match=r"b c\.png: .* rename it"):
        find_poses(tmp_path)
    (images / "b c.png").rename(images / "b.png")
    with pytest.raises(UserError, match="no photographs could be placed"):
        find_poses(tmp_path)
    assert not (tmp_path / "sparse").exists()
