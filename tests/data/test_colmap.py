"""Reading COLMAP's models: what stands for what, in both kinds of files, bad input, and the poses of a real capture."""

import struct
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from recon3d.data import colmap
from recon3d.data.scene_files import load_scene
from recon3d.errors import UserError
from recon3d.geometry.boxes import cube_of_depths

WIDTH, HEIGHT = 64, 48
LENS = ("OPENCV", (50.0, 52.0, 31.0, 25.0, 0.01, 0.002, 0.0003, 0.0004))
NUMBERS = {"SIMPLE_PINHOLE": 0, "PINHOLE": 1, "SIMPLE_RADIAL": 2, "RADIAL": 3, "OPENCV": 4, "OPENCV_FISHEYE": 5}
POINTS = {7: (0.3, 0.2, 4.0), 9: (-0.5, 0.1, 6.0), 12: (0.1, -0.4, 5.0)}


def views(count=10):
    """Cameras at (k, 0, 0) that look along z, and see all points but the last; point -1 is none."""
    return [(k + 1, (1.0, 0, 0, 0), (-float(k), 0.0, 0.0), 1, f"a{k}.png", (7, -1, 9)) for k in range(count)]


def write_binary(folder, seen, lens=LENS):
    folder.mkdir(parents=True)
    name, values = lens
    camera = struct.pack(f"<QiiQQ{len(values)}d", 1, 1, NUMBERS[name], WIDTH, HEIGHT, *values)
    (folder / "cameras.bin").write_bytes(camera)
    parts = [struct.pack("<Q", len(seen))]
    for number, rotation, shift, camera_number, image, points in seen:
        parts.append(struct.pack("<i7di", number, *rotation, *shift, camera_number) + image.encode() + b"\0")
        parts.append(struct.pack("<Q", len(points)))
        parts += [struct.pack("<2dq", 1.5, 2.5, point) for point in points]
    (folder / "images.bin").write_bytes(b"".join(parts))
    parts = [struct.pack("<Q", len(POINTS))]
    parts += [struct.pack("<Q3d3BdQ4i", n, *place, 9, 9, 9, 0.5, 2, 1, 0, 2, 0) for n, place in POINTS.items()]
    (folder / "points3D.bin").write_bytes(b"".join(parts))


def write_text(folder, seen, lens=LENS):
    folder.mkdir(parents=True)
    name, values = lens
    numbers = " ".join(map(str, values))
    (folder / "cameras.txt").write_text(f"# Camera list\n1 {name} {WIDTH} {HEIGHT} {numbers}\n")
    lines = ["# Image list with two lines of data per image:"]
    for number, rotation, shift, camera_number, image, points in seen:
        lines.append(" ".join(map(str, (number, *rotation, *shift, camera_number, image))))
        lines.append(" ".join(f"1.5 2.5 {point}" for point in points))
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    rows = [f"{n} {x} {y} {z} 9 9 9 0.5 1 0 2 0" for n, (x, y, z) in POINTS.items()]
    (folder / "points3D.txt").write_text("\n".join(rows))


WRITERS = {"binary": write_binary, "text": write_text}


def photographs(folder, factor=1, count=10):
    folder.mkdir()
    for k in range(count):
        Image.new("RGB", (WIDTH // factor, HEIGHT // factor), (20 * k, 0, 0)).save(folder / f"a{k}.png")


@pytest.fixture(params=["binary", "text"])
def capture(tmp_path, request):
    photographs(tmp_path / "images_2", 2)
    WRITERS[request.param](tmp_path / "sparse" / "0", views())
    return tmp_path


def test_a_model(capture):
    scene = load_scene(capture, "train")
    assert len(scene) == 8 and scene.images.shape[1:] == (24, 32, 3)
    assert scene.names[0] == "images_2/a1.png" and scene.images[0, 0, 0].tolist() == [20, 0, 0]
    cameras = scene.cameras
    assert cameras.positions[:, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 9]
    assert cameras.forward_axes[0].tolist() == [0, 0, 1]
    torch.testing.assert_close(cameras.focal[0], torch.tensor([25.0, 26.0]))
    torch.testing.assert_close(cameras.center[0], torch.tensor([15.5, 12.5]))
    torch.testing.assert_close(cameras.distortion[0], torch.tensor(LENS[1][4:]))
    assert scene.box is not None and scene.box.half_size == pytest.approx(
        cube_of_depths(cameras, 4 + 2e-3, 6 - 2e-3).half_size
    )
    assert load_scene(colmap.find_model(capture), "test").names == ("images_2/a0.png", "images_2/a8.png")


@pytest.mark.parametrize("place", ["sparse", "colmap/sparse/0"])
def test_other_places(tmp_path, place):
    photographs(tmp_path / "images")
    write_binary(tmp_path / place, views())
    assert len(load_scene(tmp_path, "test")) == 2


def test_of_several_models_the_largest(tmp_path):
    photographs(tmp_path / "images")
    write_binary(tmp_path / "sparse/0", views(4))
    write_binary(tmp_path / "sparse/1", views())
    assert len(load_scene(tmp_path, "test")) == 2
    assert len(load_scene(tmp_path / "sparse/0/images.bin", "test")) == 1


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("SIMPLE_PINHOLE", (40.0, 30, 20), (40, 40, 30, 20, 0, 0, 0, 0)),
        ("PINHOLE", (40.0, 41, 30, 20), (40, 41, 30, 20, 0, 0, 0, 0)),
        ("SIMPLE_RADIAL", (40.0, 30, 20, 0.1), (40, 40, 30, 20, 0.1, 0, 0, 0)),
        ("RADIAL", (40.0, 30, 20, 0.1, 0.2), (40, 40, 30, 20, 0.1, 0.2, 0, 0)),
        ("OPENCV", (40.0, 41, 30, 20, 0.1, 0.2, 0.3, 0.4), (40, 41, 30, 20, 0.1, 0.2, 0.3, 0.4)),
    ],
)
@pytest.mark.parametrize("kind", WRITERS)
def test_lenses(tmp_path, kind, name, values, expected):
    photographs(tmp_path / "images")
    WRITERS[kind](tmp_path / "sparse/0", views(), (name, values))
    cameras = load_scene(tmp_path, "test").cameras
    found = torch.cat([cameras.focal[0], cameras.center[0], cameras.distortion[0]])
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))


number = st.floats(-1, 1, allow_subnormal=False)


@given(rotation=st.tuples(number, number, number, number), shift=st.tuples(number, number, number), scale=st.just(3.0))
def test_poses_project_as_the_format_says(tmp_path_factory, rotation, shift, scale):
    """x = R X + t with the axes right, down and forwards, R of the quaternion by Hamilton's product q X q*."""
    q = np.array(rotation)
    if np.linalg.norm(q) < 0.1:
        q = np.array([1.0, 0, 0, 0])
    folder = tmp_path_factory.mktemp("model")
    photographs(folder / "images", count=2)
    seen = [(k, tuple(q), shift, 1, f"a{k}.png", (7, 9)) for k in range(2)]
    write_text(folder / "sparse/0", seen, ("PINHOLE", (50.0, 52.0, 31.0, 25.0)))
    cameras = load_scene(folder, "test").cameras

    def times(a, b):
        real = a[0] * b[0] - a[1:] @ b[1:]
        return np.concatenate([[real], a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:])])

    unit = q / np.linalg.norm(q)
    conjugate = unit * [1, -1, -1, -1]
    local = np.array([0.2, -0.3, scale])
    world = times(times(conjugate, np.concatenate([[0.0], local - shift])), unit)[1:]
    uv, depth = cameras.project(torch.tensor(world[None], dtype=torch.float32))
    assert depth.item() == pytest.approx(scale, abs=1e-4)
    assert uv[0, 0].tolist() == pytest.approx([31 + 50 * 0.2 / scale, 25 - 52 * 0.3 / scale], abs=1e-3)


def test_what_sees_no_points_has_no_bounds(tmp_path):
    photographs(tmp_path / "images")
    seen = views()
    seen[3] = (*seen[3][:5], ())
    write_text(tmp_path / "sparse/0", seen)
    assert load_scene(tmp_path, "train").box is None
    assert len(load_scene(tmp_path, "train")) == 8


def test_bad_models(tmp_path):
    photographs(tmp_path / "images")
    model = tmp_path / "sparse" / "0"
    write_binary(model, views())

    def refused(*words):
        with pytest.raises(UserError) as caught:
            load_scene(tmp_path, "train")
        message = str(caught.value)
        assert "\n" not in message and all(word in message for word in words), message

    for name in ("cameras.bin", "images.bin", "points3D.bin"):
        whole = (model / name).read_bytes()
        for length in (0, 5, 20, len(whole) // 2, len(whole) - 1):
            (model / name).write_bytes(whole[:length])
            refused(str(model / name))
        (model / name).write_bytes(b"\xff" * len(whole))
        refused(str(model / name))
        (model / name).write_bytes(whole)
    (model / "cameras.bin").rename(model / "hidden")
    refused("cameras.bin", "no such file")
    (model / "hidden").rename(model / "cameras.bin")
    write_binary(tmp_path / "b", [(1, (1.0, 0, 0, 0), (0.0, 0, 0), 5, "a1.png", ())])
    (model / "images.bin").write_bytes((tmp_path / "b/images.bin").read_bytes())
    refused("images.bin", "a1.png", "camera 5")
    write_binary(tmp_path / "c", [(1, (0.0, 0, 0, 0), (0.0, 0, 0), 1, "a1.png", ())] * 2)
    (model / "images.bin").write_bytes((tmp_path / "c/images.bin").read_bytes())
    refused("images.bin", "frame 1", "not finite")


@pytest.mark.parametrize("kind", WRITERS)
def test_lenses_that_are_not_known(tmp_path, kind):
    photographs(tmp_path / "images")
    WRITERS[kind](tmp_path / "sparse/0", views(), ("OPENCV_FISHEYE", (1.0,) * 8))
    with pytest.raises(UserError, match=r"cameras\.\w+: camera model .* is not supported; undistort"):
        load_scene(tmp_path, "train")


def test_photographs_outside_or_missing(tmp_path):
    write_text(tmp_path / "sparse/0", views())
    with pytest.raises(UserError, match="no photographs; they belong in images"):
        load_scene(tmp_path, "train")
    photographs(tmp_path / "images")
    outside = views()
    outside[2] = (*outside[2][:4], "../../secret.png", ())
    write_text(tmp_path / "other/sparse/0", outside)
    photographs(tmp_path / "other/images")
    with pytest.raises(UserError, match="leaves the scene's folder"):
        load_scene(tmp_path / "other", "train")
    (tmp_path / "images.txt").write_text("")
    with pytest.raises(UserError, match="give the folder that holds sparse and images"):
        load_scene(tmp_path / "images.txt", "train")


def test_every_lens_that_has_a_name_is_described():
    assert typing.get_args(colmap.Lens) == tuple(colmap.LENSES)


def test_the_same_capture_in_two_formats(tmp_path, shared_data):
    """Fern's poses written as COLMAP would: the same cameras as LLFF's file gives."""
    fern = shared_data / "nerf" / "fern"
    true = load_scene(fern, "train", test_every=100)
    cameras = true.cameras
    (tmp_path / "images").mkdir()
    seen = []
    for k, name in enumerate(true.names):
        image = Path(name).name
        (tmp_path / "images" / image).write_bytes((fern / name).read_bytes())
        pose = cameras.poses[k].double().numpy()
        to_camera = (pose[:3, :3] * [1, -1, -1]).T
        seen.append((k, quaternion(to_camera), tuple(-to_camera @ pose[:3, 3]), 1, image, (7,)))
    fx, fy = cameras.focal[0].tolist()
    cx, cy = cameras.center[0].tolist()
    write_text(tmp_path / "sparse/0", seen, ("PINHOLE", (fx, fy, cx, cy)))
    path = tmp_path / "sparse/0/cameras.txt"
    path.write_text(path.read_text().replace(f"{WIDTH} {HEIGHT}", f"{cameras.width} {cameras.height}"))
    found = load_scene(tmp_path, "train", test_every=100)
    order = [[Path(name).name for name in true.names].index(Path(name).name) for name in found.names]
    torch.testing.assert_close(found.cameras.poses, cameras.poses[order], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.cameras.focal, cameras.focal[order])
    assert torch.equal(found.images, true.images[order])


def quaternion(rotation: np.ndarray) -> tuple[float, ...]:
    """w, x, y, z of a rotation by less than half a turn."""
    w = 0.5 * np.sqrt(1 + np.trace(rotation))
    skew = rotation - rotation.T
    return (w, *(np.array([skew[2, 1], skew[0, 2], skew[1, 0]]) / (4 * w)))
