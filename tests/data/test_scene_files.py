"""Reading NeRF-synthetic and instant-ngp folders: accepted variants, bad input, and the real scenes."""

import json
import logging
import math
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from recon3d.data.images import box_downscale, read_image
from recon3d.data.scene_files import load_scene
from recon3d.errors import UserError
from recon3d.geometry.boxes import Normalizer, cube_of_depths

ANGLE = 0.8
SPLITS = ("train", "val", "test")


def pose(k=0):
    matrix = np.eye(4)
    matrix[:2, :2] = [[math.cos(k), -math.sin(k)], [math.sin(k), math.cos(k)]]
    matrix[:3, 3] = [k, 1.0, 4.0]
    return matrix.tolist()


def frame(name, k=0, **extra):
    return {"file_path": name, "transform_matrix": pose(k), **extra}


def picture(width=8, height=6, mode="RGBA", seed=0):
    channels = {"RGBA": 4, "RGB": 3, "L": 1}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze())


def write_json(path, frames, **common):
    path.write_text(json.dumps({"camera_angle_x": ANGLE, "frames": frames, **common}))
    return path


@pytest.fixture
def split_folder(tmp_path):
    """A folder with three split files of 3 frames each, named without extension as in NeRF-synthetic."""
    for split in SPLITS:
        (tmp_path / split).mkdir()
        for k in range(3):
            picture(seed=k).save(tmp_path / split / f"r_{k}.png")
        write_json(tmp_path / f"transforms_{split}.json", [frame(f"./{split}/r_{k}", k) for k in range(3)])
    return tmp_path


@pytest.fixture
def one_file_folder(tmp_path):
    """A folder with one transforms.json of 10 frames, listed in reverse."""
    (tmp_path / "images").mkdir()
    for k in range(10):
        picture(mode="RGB", seed=k).save(tmp_path / "images" / f"{k:04d}.png")
    write_json(tmp_path / "transforms.json", [frame(f"images/{k:04d}.png", k) for k in reversed(range(10))])
    return tmp_path


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# ----------------------------------------------------------------------------------------------------- what is accepted


def test_split_files(split_folder):
    scene = load_scene(split_folder, "train")
    assert len(scene) == 3
    assert scene.images.shape == (3, 6, 8, 4)
    assert scene.images.dtype == torch.uint8
    assert scene.cameras.poses.dtype == torch.float32
    assert scene.names == ("train/r_0.png", "train/r_1.png", "train/r_2.png")
    assert scene.path == split_folder
    torch.testing.assert_close(scene.cameras.poses[2], torch.tensor(pose(2)))
    focal = 0.5 * 8 / math.tan(0.5 * ANGLE)
    torch.testing.assert_close(scene.cameras.focal, torch.full((3, 2), focal))
    torch.testing.assert_close(scene.cameras.center, torch.tensor([[4.0, 3.0]] * 3))
    np.testing.assert_array_equal(scene.images[1].numpy(), np.asarray(picture(seed=1)))


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_file_stands_for_its_folder(split_folder, split):
    scene = load_scene(split_folder / "transforms_train.json", split)
    assert scene.names[0] == f"{split}/r_0.png"


def test_one_file_is_split_by_file_name(one_file_folder):
    train, val, test = (load_scene(one_file_folder, split, test_every=4) for split in SPLITS)
    assert test.names == val.names == ("images/0000.png", "images/0004.png", "images/0008.png")
    assert sorted(train.names + test.names) == [f"images/{k:04d}.png" for k in range(10)]
    torch.testing.assert_close(test.cameras.poses[1], torch.tensor(pose(4)))
    assert test.images.shape == (3, 6, 8, 3)


def test_json_file_of_any_name(one_file_folder):
    (one_file_folder / "transforms.json").rename(one_file_folder / "mine.json")
    assert len(load_scene(one_file_folder / "mine.json", "train")) == 8


def test_boxes_that_files_tell(one_file_folder):
    path = one_file_folder / "transforms.json"
    assert load_scene(one_file_folder, "train").box is None
    edit(path, lambda c: c.update(aabb_scale=2))
    # Instant-ngp's cube of this side, whose lengths are 0.33 of the world's.
    assert load_scene(one_file_folder, "train").box == Normalizer((0.0, 0.0, 0.0), 1 / 0.33)
    edit(path, lambda c: c["frames"][0].update(near=1, far=4))
    assert load_scene(one_file_folder, "train").box == Normalizer((0.0, 0.0, 0.0), 1 / 0.33), "one frame tells"
    edit(path, lambda c: c.update(near=1, far=6))
    test = load_scene(one_file_folder, "test", test_every=4)  # without the frame that has its own
    assert test.box == cube_of_depths(test.cameras, 1.0, 6.0)
    edit(path, lambda c: (c.update(aabb_scale=0), [c.pop(key) for key in ("near", "far")]))
    assert "aabb_scale is 0" in one_line_error(one_file_folder, "val")


@pytest.mark.parametrize("extension", ["png", "jpg", "jpeg", "webp", "bmp", "tif"])
@pytest.mark.parametrize("given", [True, False])
def test_extensions(tmp_path, extension, given):
    picture(mode="RGB").save(tmp_path / f"a.b.{extension}")
    write_json(tmp_path / "transforms_test.json", [frame(f"a.b.{extension}" if given else "a.b")])
    assert load_scene(tmp_path, "test").images.shape == (1, 6, 8, 3)


def test_mixed_alpha_is_opaque_where_missing(tmp_path):
    picture(mode="RGB").save(tmp_path / "a.png")
    picture(mode="RGBA").save(tmp_path / "b.png")
    write_json(tmp_path / "transforms_test.json", [frame("a"), frame("b")])
    images = load_scene(tmp_path, "test").images
    assert images.shape == (2, 6, 8, 4)
    assert (images[0, ..., 3] == 255).all()


def test_intrinsics_of_a_frame_come_before_common_ones(tmp_path):
    picture().save(tmp_path / "a.png")
    frames = [
        frame("a"),
        frame("a", fl_x=20.0, cx=3.5, k1=0.01),
        frame("a", fl_x=20.0, fl_y=21.0, cy=2.5),
        frame("a", camera_angle_x=1.0),
    ]
    write_json(tmp_path / "transforms_test.json", frames, fl_x=10.0, k1=0.1, k2=0.2, p1=0.3, p2=0.4, camera_angle_x=2)
    cameras = load_scene(tmp_path, "test").cameras
    by_angle = 4 / math.tan(0.5)
    torch.testing.assert_close(
        cameras.focal, torch.tensor([[10.0, 10.0], [20.0, 20.0], [20.0, 21.0], [by_angle, by_angle]])
    )
    torch.testing.assert_close(cameras.center, torch.tensor([[4.0, 3.0], [3.5, 3.0], [4.0, 2.5], [4.0, 3.0]]))
    torch.testing.assert_close(cameras.distortion[1], torch.tensor([0.01, 0.2, 0.3, 0.4]))


def test_two_angles(tmp_path):
    picture().save(tmp_path / "a.png")
    write_json(tmp_path / "transforms_test.json", [frame("a")], camera_angle_y=0.5)
    focal = load_scene(tmp_path, "test").cameras.focal[0]
    torch.testing.assert_close(focal, torch.tensor([4 / math.tan(ANGLE / 2), 3 / math.tan(0.25)]))


@pytest.mark.parametrize(("w", "h"), [(32, 24), (35, 27)])
def test_images_smaller_than_stated_scale_the_intrinsics(tmp_path, w, h):
    picture().save(tmp_path / "a.png")
    write_json(tmp_path / "transforms_test.json", [frame("a")], fl_x=40.0, cx=w / 2, cy=h / 2, w=w, h=h)
    cameras = load_scene(tmp_path, "test").cameras
    torch.testing.assert_close(cameras.center, torch.tensor([[4.0, 3.0]]))
    assert float(cameras.focal[0, 0]) == pytest.approx(40 * 8 / w)


def test_downscale_rounds_sizes_down_and_scales_cameras(tmp_path):
    picture(width=17, height=13).save(tmp_path / "a.png")
    write_json(tmp_path / "transforms_test.json", [frame("a")])
    full, half = load_scene(tmp_path, "test"), load_scene(tmp_path, "test", downscale=2)
    assert half.images.shape == (1, 6, 8, 4)
    assert (half.cameras.width, half.cameras.height) == (8, 6)
    torch.testing.assert_close(half.cameras.focal, full.cameras.focal / 2)
    torch.testing.assert_close(half.cameras.center, full.cameras.center / 2)


def test_missing_images_of_one_file_are_left_out_with_a_warning(one_file_folder, caplog):
    for k in (3, 5, 7):
        (one_file_folder / "images" / f"{k:04d}.png").unlink()
    with caplog.at_level(logging.WARNING):
        scene = load_scene(one_file_folder, "train", test_every=4)
    assert len(scene) == 5
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "3 of 10 frames" in caplog.text
    assert "images/0007.png" in caplog.text  # the first in the file's order


# --------------------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_box_downscale_averages_premultiplied_colours(factor):
    image = np.asarray(picture(width=17, height=16)).copy()
    image[:6, :6] = [200, 100, 50, 0]  # a transparent corner whose colour must not show
    h, w = 16 // factor, 17 // factor
    blocks = image[: h * factor, : w * factor].astype(float).reshape(h, factor, w, factor, 4)
    alpha = blocks[..., 3:].sum(axis=(1, 3))
    colour = (blocks[..., :3] * blocks[..., 3:]).sum(axis=(1, 3)) / np.maximum(alpha, 1)
    expected = np.concatenate([colour, alpha / factor**2], axis=-1)
    assert np.abs(box_downscale(image, factor) - expected).max() <= 0.5 + 1e-9
    plain = image[..., :3]
    assert np.abs(box_downscale(plain, factor) - blocks[..., :3].mean(axis=(1, 3))).max() <= 0.5 + 1e-9


def test_transparent_pixels_do_not_bleed():
    image = np.zeros((2, 2, 4), dtype=np.uint8)
    image[0, 0] = [255, 128, 0, 255]
    np.testing.assert_array_equal(box_downscale(image, 2)[0, 0], [255, 128, 0, 64])


def test_sixteen_bit_grey_becomes_eight(tmp_path):
    wide = (np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040).astype(np.uint16)
    Image.fromarray(wide).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.shape == (8, 8, 3)
    assert np.abs(image[..., 0] - wide / 257.0).max() <= 0.5
    assert (image[..., :1] == image).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_sixteen_bit_colour_becomes_eight(tmp_path, mode):
    eight = np.asarray(picture(mode=mode))
    (tmp_path / "a.png").write_bytes(sixteen_bit_png(eight.astype(np.uint16) * 257))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), eight)


def sixteen_bit_png(pixels):
    """A PNG file of (h, w, 3 or 4) 16-bit pixels, which Pillow itself cannot write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("mode", "channels"), [("L", 3), ("LA", 4), ("P", 3), ("1", 3), ("CMYK", 3)])
def test_other_modes_become_colour(tmp_path, mode, channels):
    path = tmp_path / "a.tif"
    picture(mode="RGB").convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (6, 8, channels)
    assert image.dtype == np.uint8


def test_palette_with_transparency_has_alpha(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([9, 9, 9, 200, 100, 50])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "a.png", transparency=0)
    pixels = read_image(tmp_path / "a.png")
    assert pixels[0, 0, 3] == 0
    assert pixels[1, 1].tolist() == [200, 100, 50, 255]


# ------------------------------------------------------------------------------------------------------------ bad input


def set_in_frame(key, value):
    return lambda content: content["frames"][1].__setitem__(key, value)


def set_in_pose(row, column, value):
    return lambda content: content["frames"][1]["transform_matrix"][row].__setitem__(column, value)


def mirror(content):
    for row in content["frames"][1]["transform_matrix"][:3]:
        row[0] = -row[0]


def no_focal(content):
    del content["camera_angle_x"]


BAD_FRAMES = {
    "file_path missing": (lambda c: c["frames"][1].pop("file_path"), "file_path is None"),
    "file_path a number": (set_in_frame("file_path", 7), "file_path is 7"),
    "missing image": (set_in_frame("file_path", "./train/r_9"), "no image at file_path './train/r_9'"),
    "climbs out": (set_in_frame("file_path", "../secret.png"), "leaves the scene's folder"),
    "climbs out from within": (set_in_frame("file_path", "train/../../secret.png"), "leaves the scene's folder"),
    "absolute": (set_in_frame("file_path", "/etc/passwd"), "leaves the scene's folder"),
    "a drive": (set_in_frame("file_path", "C:\\secret.png"), "leaves the scene's folder"),
    "null byte": (set_in_frame("file_path", "a\0b"), "cannot be followed"),
    "endless name": (set_in_frame("file_path", "a" * 5000), "cannot be"),
    "pose missing": (lambda c: c["frames"][1].pop("transform_matrix"), "transform_matrix has shape ()"),
    "pose 3x4": (lambda c: c["frames"][1]["transform_matrix"].pop(), "has shape (3, 4)"),
    "pose ragged": (lambda c: c["frames"][1]["transform_matrix"][2].pop(), "not a 4x4 matrix"),
    "pose of words": (set_in_pose(0, 0, "one"), "not a 4x4 matrix"),
    "pose NaN": (set_in_pose(0, 3, math.nan), "transform_matrix is not finite"),
    "pose infinite": (set_in_pose(1, 1, math.inf), "transform_matrix is not finite"),
    "pose scaled": (set_in_pose(2, 2, 1.1), "not rigid"),
    "pose mirrored": (mirror, "not rigid"),
    "pose projective": (set_in_pose(3, 0, 0.5), "ends in the row"),
    "focal zero": (set_in_frame("fl_x", 0), "fl_x is 0"),
    "focal negative": (set_in_frame("fl_y", -3.0), "fl_y is -3"),
    "focal NaN": (set_in_frame("fl_x", math.nan), "fl_x is nan"),
    "focal a word": (set_in_frame("fl_x", "wide"), "fl_x is 'wide'"),
    "angle zero": (set_in_frame("camera_angle_x", 0.0), "camera_angle_x is 0"),
    "angle of a half turn": (set_in_frame("camera_angle_x", 3.2), "camera_angle_x is 3.2"),
    "centre infinite": (set_in_frame("cx", math.inf), "cx is inf"),
    "w without relation": (set_in_frame("w", 11), "w and h say 11x?, but train/r_1.png is 8x6"),
    "fisheye": (set_in_frame("camera_model", "OPENCV_FISHEYE"), "camera_model 'OPENCV_FISHEYE' is not supported"),
    "is_fisheye": (set_in_frame("is_fisheye", True), "is_fisheye lenses are not supported"),
    "k3": (set_in_frame("k3", 0.1), "distortion k3 is not supported"),
    "frame no object": (lambda c: c["frames"].__setitem__(1, 5), "is 5; it must be an object"),
}


def one_line_error(folder, split="train", **options):
    with pytest.raises(UserError) as caught:
        load_scene(folder, split, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_bad_frame(split_folder, case):
    change, expected = BAD_FRAMES[case]
    path = split_folder / "transforms_train.json"
    edit(path, change)
    message = one_line_error(split_folder)
    assert message.startswith(f"{path}: frame 1: ")
    assert expected in message


def test_no_focal_length(split_folder):
    edit(split_folder / "transforms_train.json", no_focal)
    assert "frame 0: no focal length" in one_line_error(split_folder)


BAD_FILES = {
    "not JSON": ('{"frames": [\n  {,}', "invalid JSON at line 2, column 4"),
    "cut off": ('{"frames": [{"file_path"', "invalid JSON at line 1"),
    "a list": ("[]", "holds a JSON list"),
    "no frames": ('{"camera_angle_x": 1}', "no list under the key frames"),
    "frames an object": ('{"frames": {}}', "no list under the key frames"),
    "empty frames": ('{"frames": []}', "frames is empty"),
    "too deep": ("[" * 100_000, "cannot read the JSON"),
    "huge number": ('{"frames": ' + "9" * 5000 + "}", "cannot read the JSON"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_json(split_folder, case):
    text, expected = BAD_FILES[case]
    path = split_folder / "transforms_train.json"
    path.write_text(text)
    message = one_line_error(split_folder)
    assert message.startswith(f"{path}: ")
    assert expected in message


def test_json_of_wrong_encoding(split_folder):
    path = split_folder / "transforms_train.json"
    path.write_bytes(b"\xff\xfe{}")
    assert one_line_error(split_folder).startswith(f"{path}: cannot read the JSON")


def test_missing_folder_and_files(tmp_path, split_folder):
    assert "no such folder" in one_line_error(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "neither transforms_train.json nor transforms.json" in one_line_error(tmp_path / "empty")
    assert "not a JSON file" in one_line_error(split_folder / "train" / "r_0.png")
    (split_folder / "transforms_val.json").unlink()
    message = one_line_error(split_folder, "val")
    assert "transforms_val.json: not found" in message
    assert "there is transforms_train.json, transforms_test.json" in message


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.005, 0.5, 0.99])
def test_truncated_image(split_folder, keep):
    image = split_folder / "train" / "r_1.png"
    picture(64, 64).save(image)
    for k in (0, 2):
        picture(64, 64).save(split_folder / "train" / f"r_{k}.png")
    content = image.read_bytes()
    image.write_bytes(content[: int(keep * len(content))])
    message = one_line_error(split_folder)
    assert f"{split_folder / 'transforms_train.json'}: frame 1: {image}: cannot read the image" in message


def test_file_that_is_no_image(split_folder):
    (split_folder / "train" / "r_2.png").write_bytes(b"\x80\x04K\x01.")  # a pickle under an image's name
    assert "frame 2: " in (message := one_line_error(split_folder))
    assert "not an image in a known format" in message


def test_float_image(tmp_path):
    Image.fromarray(np.zeros((8, 8), dtype=np.float32)).save(tmp_path / "a.tif")
    write_json(tmp_path / "transforms_test.json", [frame("a")])
    assert "floating-point pixels" in one_line_error(tmp_path, "test")


def test_images_of_different_sizes(split_folder):
    picture(9, 6).save(split_folder / "train" / "r_2.png")
    message = one_line_error(split_folder)
    assert "frame 2: train/r_2.png is 9x6, but train/r_0.png is 8x6" in message


def test_an_absolute_path_within_the_folder(split_folder):
    content = json.loads((split_folder / "transforms_train.json").read_text())
    content["frames"][1]["file_path"] = str(split_folder / "train" / "r_1")
    (split_folder / "transforms_train.json").write_text(json.dumps(content))
    assert len(load_scene(split_folder, "train")) == 3


def test_links_that_leave_the_folder(split_folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    picture().save(outside)
    image = split_folder / "train" / "r_1.png"
    image.unlink()
    image.symlink_to(outside)
    assert "frame 1: file_path './train/r_1' leaves the scene's folder" in one_line_error(split_folder)
    image.unlink()
    image.symlink_to(split_folder / "train" / "r_0.png")  # a link within the folder is fine
    assert len(load_scene(split_folder, "train")) == 3


def test_more_than_half_missing(one_file_folder):
    for k in range(6):
        (one_file_folder / "images" / f"{k:04d}.png").unlink()
    assert "6 of 10 frames lack theirs" in one_line_error(one_file_folder)
    assert "frame 4: " in one_line_error(one_file_folder)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"downscale": 0}, "downscale is 0"),
        ({"downscale": 2}, "downscale 2 leaves less than 4 pixels"),
        ({"test_every": 1}, "test_every is 1"),
    ],
)
def test_bad_options(one_file_folder, options, expected):
    assert expected in one_line_error(one_file_folder, **options)


def test_one_frame_cannot_be_split(tmp_path):
    picture().save(tmp_path / "a.png")
    write_json(tmp_path / "transforms.json", [frame("a.png")])
    assert "the train split of 1 frame(s) is empty" in one_line_error(tmp_path)


# ------------------------------------------------------------------------------------------------------------ real data


def test_lego(shared_data):
    train = load_scene(shared_data / "nerf" / "lego", "train", downscale=8)
    test = load_scene(shared_data / "nerf" / "lego", "test", downscale=8)
    assert train.images.shape == (100, 100, 100, 4)
    assert len(test) == 25
    # The published focal length: 1111.11 pixels at 800x800.
    torch.testing.assert_close(train.cameras.focal, torch.full((100, 2), 1111.1111 / 8), rtol=1e-5, atol=0)
    distance = train.cameras.positions.norm(dim=-1)
    torch.testing.assert_close(distance, torch.full((100,), 4.0311), rtol=1e-4, atol=0)
    assert test.names[:2] == ("test/r_0.png", "test/r_8.png")
    covered = (test.images[..., 3] > 127).float().mean()
    assert 0.15 < float(covered) < 0.45
    # The origin lies within the model, so every camera sees it on opaque pixels.
    uv, _ = test.cameras.project(torch.zeros(1, 3))
    column, row = uv[:, 0].long().unbind(-1)
    assert (test.images[torch.arange(25), row, column, 3] == 255).all()


def test_fox(shared_data, caplog):
    with caplog.at_level(logging.WARNING):
        train = load_scene(shared_data / "nerf" / "fox", "train", downscale=12)
    test = load_scene(shared_data / "nerf" / "fox" / "transforms.json", "test", downscale=12)
    assert "left out 17 of 67 frames" in caplog.text
    assert (len(train), len(test)) == (43, 7)
    assert train.images.shape == (43, 160, 90, 3)
    assert not set(train.names) & set(test.names)
    torch.testing.assert_close(train.cameras.focal[0], torch.tensor([1375.52, 1374.49]) / 12)
    torch.testing.assert_close(train.cameras.center[0], torch.tensor([554.558, 965.268]) / 12)
    torch.testing.assert_close(
        train.cameras.distortion[0], torch.tensor([0.0578421, -0.0805099, -0.000980296, 0.00015575])
    )
