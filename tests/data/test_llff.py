"""Reading LLFF folders: what stands for what, bad input, and the real capture."""

import numpy as np
import pytest
import torch
from PIL import Image

from recon3d.data.scene_files import load_scene
from recon3d.errors import UserError
from recon3d.geometry.boxes import cube_of_depths

WIDTH, HEIGHT, FOCAL = 64, 48, 50.0


def row(x: float, near: float = 2.0, far: float = 9.0) -> np.ndarray:
    """A camera at (x, 0, 0) that looks along -z: its axes down, right and backwards are -y, x and z."""
    matrix = np.array([[0, 1, 0, x, HEIGHT], [-1, 0, 0, 0, WIDTH], [0, 0, 1, 0, FOCAL]], dtype=np.float64)
    return np.concatenate([matrix.ravel(), [near, far]])


def photographs(folder, factor=1, count=10):
    folder.mkdir()
    for k in range(count):
        Image.new("RGB", (WIDTH // factor, HEIGHT // factor), (20 * k, 0, 0)).save(folder / f"IMG_{k:02d}.png")


@pytest.fixture
def capture(tmp_path):
    photographs(tmp_path / "images_4", 4)
    photographs(tmp_path / "images_8", 8)
    np.save(tmp_path / "poses_bounds.npy", np.stack([row(k, 2 + 0.1 * k, 9 + k) for k in range(10)]))
    return tmp_path


def test_a_capture(capture):
    scene = load_scene(capture, "train")
    assert len(scene) == 8 and scene.images.shape[1:] == (12, 16, 3), "of the larger ones"
    assert scene.names[0] == "images_4/IMG_01.png" and scene.images[0, 0, 0].tolist() == [20, 0, 0]
    cameras = scene.cameras
    assert cameras.positions[:, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 9]
    torch.testing.assert_close(cameras.focal, torch.full((8, 2), FOCAL / 4))
    torch.testing.assert_close(cameras.center[0], torch.tensor([8.0, 6.0]))
    assert cameras.forward_axes[0].tolist() == [0, 0, -1]
    # What is right of a camera and above it is seen right of the middle and above.
    uv, depth = cameras[:1].project(torch.tensor([[1.5, 0.25, -3.0]]))
    assert depth.item() == pytest.approx(3)
    assert uv[0, 0].tolist() == pytest.approx([8 + 0.5 / 3 * FOCAL / 4, 6 - 0.25 / 3 * FOCAL / 4])
    assert scene.box == cube_of_depths(cameras, 2.1, 18.0) == scene[:1].box
    assert load_scene(capture / "poses_bounds.npy", "test").names == ("images_4/IMG_00.png", "images_4/IMG_08.png")


def test_full_size_comes_first(capture):
    photographs(capture / "images")
    (capture / "images_2").mkdir()  # empty
    scene = load_scene(capture, "train", downscale=2)
    assert scene.names[0] == "images/IMG_01.png" and scene.images.shape[1:] == (24, 32, 3)
    torch.testing.assert_close(scene.cameras.focal, torch.full((8, 2), FOCAL / 2))


def test_a_transforms_file_comes_before_it(capture):
    (capture / "transforms.json").write_text("{}")
    with pytest.raises(UserError, match=r"transforms.json: has no list under the key frames"):
        load_scene(capture, "train")


def not_rigid():
    rows = np.stack([row(k) for k in range(10)])
    rows[3, :2] = 0.5
    return rows


BAD = {
    "fewer rows": (np.stack([row(k) for k in range(9)]), "has 9 rows, but .*images_4 holds 10 photographs"),
    "other rows": (np.zeros((10, 15)), r"holds \(10, 15\); LLFF's file has a row of 17 numbers"),
    "words": (np.full((10, 17), "a"), "a row of 17 numbers"),
    "objects": (np.full((10, 17), None), "not a NumPy array of numbers"),
    "not finite": (np.stack([row(np.nan if k == 4 else k) for k in range(10)]), "row 4 has a number"),
    "not rigid": (not_rigid(), "frame 3: transform_matrix is not rigid"),
    "bounds": (np.stack([row(k, 5, 5 - (k == 2)) for k in range(10)]), "near is 5, far is 5"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(capture, case):
    rows, expected = BAD[case]
    np.save(capture / "poses_bounds.npy", rows, allow_pickle=True)
    with pytest.raises(UserError, match=expected) as caught:
        load_scene(capture, "train")
    assert "\n" not in str(caught.value)


def test_no_array_and_no_photographs(tmp_path):
    path = tmp_path / "poses_bounds.npy"
    path.write_bytes(b"PK not an array")
    with pytest.raises(UserError, match="not a NumPy array of numbers"):
        load_scene(tmp_path, "train")
    np.save(path, np.stack([row(0), row(1)]))
    with pytest.raises(UserError, match="no photographs"):
        load_scene(tmp_path, "train")


def test_photographs_outside_the_folder(capture, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "mine.png"
    (capture / "images_4" / "IMG_03.png").rename(outside)
    (capture / "images_4" / "IMG_03.png").symlink_to(outside)
    with pytest.raises(UserError, match="leaves the scene's folder"):
        load_scene(capture, "train")


def test_fern(shared_data):
    scene = load_scene(shared_data / "nerf" / "fern", "train")
    assert scene.images.shape == (17, 378, 504, 3)
    torch.testing.assert_close(scene.cameras.focal, torch.full((17, 2), 3260.526 / 8))
    assert scene.box is not None and scene.box.half_size == pytest.approx(56.06, abs=0.01)
    assert len(load_scene(shared_data / "nerf" / "fern", "test")) == 3
    # The cameras look the same way, and stand beside one another.
    assert float((scene.cameras.forward_axes @ scene.cameras.forward_axes.T).min()) > 0.9
    assert float(scene.cameras.positions.std(0).max()) < 5
