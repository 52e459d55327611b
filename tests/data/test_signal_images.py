"""Image files of every format, depth and channel count; crops and sizes; bad input."""

import struct
import zlib
from pathlib import Path

import numpy as np
import png
import pytest
import skimage.data
import tifffile
import torch
from PIL import Image

from recon3d.data.image_files import center_square, luma, read_image_signal
from recon3d.errors import UserError

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def pixels(channels: int, dtype: type = np.uint8, height: int = 6, width: int = 9) -> np.ndarray:
    top = np.iinfo(dtype).max
    return np.random.default_rng(channels).integers(0, top + 1, (height, width, channels)).astype(dtype)


def save(path: Path, values: np.ndarray, **options: object) -> Path:
    Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values).save(path, **options)
    return path


def save_png16(path: Path, values: np.ndarray, **options: object) -> Path:
    height, width, channels = values.shape
    writer = png.Writer(width, height, greyscale=channels < 3, alpha=channels % 2 == 0, bitdepth=16, **options)
    with path.open("wb") as file:
        writer.write(file, values.reshape(height, -1))
    return path


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_8_bits(tmp_path: Path, channels: int, suffix: str) -> None:
    values = pixels(channels)
    path = tmp_path / f"a.{suffix}"
    np.save(path, values) if suffix == "npy" else save(path, values)
    signal = read_image_signal(path)
    np.testing.assert_array_equal(signal.values, values)
    assert (signal.kind, signal.low, signal.high, signal.bits, signal.rate) == ("image", 0, 255, 8, None)
    assert signal.values.dtype == np.uint8


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_16_bits_are_all_kept(tmp_path: Path, channels: int, suffix: str) -> None:
    values = pixels(channels, np.uint16)
    path = tmp_path / f"a.{suffix}"
    if suffix == "png":
        save_png16(path, values)
    elif suffix == "tif":
        extra = {"extrasamples": ["unassalpha"]} if channels % 2 == 0 else {}
        layout = {"planarconfig": "contig", **extra} if channels > 1 else {}
        tifffile.imwrite(path, values, photometric="rgb" if channels > 2 else "minisblack", **layout)
    else:
        np.save(path, values)
    signal = read_image_signal(path)
    np.testing.assert_array_equal(signal.values, values)
    assert (signal.values.dtype, signal.low, signal.high, signal.bits) == (np.uint16, 0, 65535, 16)


@pytest.mark.parametrize("suffix, options", [("bmp", {}), ("ppm", {}), ("webp", {"lossless": True})])
def test_other_lossless_formats(tmp_path: Path, suffix: str, options: dict) -> None:
    values = pixels(3)
    signal = read_image_signal(save(tmp_path / f"a.{suffix}", values, **options))
    np.testing.assert_array_equal(signal.values, values)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg(tmp_path: Path, channels: int) -> None:
    values = np.full((16, 16, channels), 77, np.uint8)
    signal = read_image_signal(save(tmp_path / "a.jpg", values, quality=95))
    assert signal.values.shape == values.shape
    assert np.abs(signal.values.astype(int) - 77).max() <= 2


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", ["jpg", "webp", "png"])
def test_pictures_of_a_camera_held_on_its_side_are_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    upright = np.zeros((32, 64, 3), np.uint8)
    upright[:16, :32] = 255  # white where upright pictures begin
    turns = {1: 0, 3: 2, 6: 1, 8: -1}[orientation]  # quarters, counter-clockwise, by which the camera stored it
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(upright, turns)))
    exif = stored.getexif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"a.{suffix}", exif=exif)
    read = read_image_signal(tmp_path / f"a.{suffix}").values
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright).mean() < 8


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_orientation_is_no_rotation(tmp_path: Path) -> None:
    Image.fromarray(pixels(3)).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    np.testing.assert_array_equal(read_image_signal(tmp_path / "a.png").values, pixels(3))


def test_printing_colours_become_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert read_image_signal(tmp_path / "a.jpg").values.shape == (4, 4, 3)


def test_palettes_are_looked_up_and_few_bits_widened(tmp_path: Path) -> None:
    colours = pixels(3) // 64 * 64
    flat = Image.fromarray(colours).quantize(64, dither=Image.Dither.NONE)
    flat.save(tmp_path / "a.png")
    expected = np.asarray(flat.convert("RGB"))
    np.testing.assert_array_equal(read_image_signal(tmp_path / "a.png").values, expected)
    flat.save(tmp_path / "b.png", transparency=3)
    assert read_image_signal(tmp_path / "b.png").values.shape[-1] == 4
    bits = np.eye(5, dtype=bool)
    Image.fromarray(bits).save(tmp_path / "c.png")
    np.testing.assert_array_equal(read_image_signal(tmp_path / "c.png").values[..., 0], bits * 255)


def test_16_bits_with_one_transparent_colour_or_interlaced(tmp_path: Path) -> None:
    values = pixels(3, np.uint16)
    values[2, 3] = values[4, 5] = (1, 2, 3)
    read = read_image_signal(save_png16(tmp_path / "a.png", values, transparent=(1, 2, 3))).values
    np.testing.assert_array_equal(read[..., :3], values)
    assert [tuple(p) for p in np.argwhere(read[..., 3] == 0)] == [(2, 3), (4, 5)]
    assert set(np.unique(read[..., 3])) == {0, 65535}
    signal = read_image_signal(save_png16(tmp_path / "b.png", values, interlace=True))
    np.testing.assert_array_equal(signal.values, values)


@pytest.mark.parametrize("channels", [1, 3])
def test_ppm_of_16_bits(tmp_path: Path, channels: int) -> None:
    values = pixels(channels, np.uint16) % 1024
    header = f"P{5 if channels == 1 else 6}\n# a remark\n9 6\n1023\n".encode()
    (tmp_path / "a.ppm").write_bytes(header + values.astype(">u2").tobytes())
    signal = read_image_signal(tmp_path / "a.ppm")
    np.testing.assert_array_equal(signal.values, values)
    assert (signal.high, signal.bits) == (1023, 16)
    (tmp_path / "a.ppm").write_bytes(header + b"\0\1")
    with pytest.raises(UserError, match="cannot read the image"):
        read_image_signal(tmp_path / "a.ppm")


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 3)])
@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_floats(tmp_path: Path, shape: tuple[int, ...], kind: str) -> None:
    values = np.random.default_rng(0).random(shape).astype(kind)
    np.save(tmp_path / "a.npy", values)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb" if len(shape) == 3 else "minisblack")
    for name in ("a.npy", "a.tif"):
        signal = read_image_signal(tmp_path / name)
        np.testing.assert_array_equal(signal.values.reshape(shape), values.astype(np.float32))
        assert (signal.values.dtype, signal.low, signal.high, signal.bits) == (np.float32, 0, 1, 32)


def test_floats_beyond_one_are_scaled_by_their_extremes(tmp_path: Path) -> None:
    values = np.linspace(-3, 5, 24, dtype=np.float32).reshape(4, 6)
    np.save(tmp_path / "a.npy", values)
    signal = read_image_signal(tmp_path / "a.npy")
    assert (signal.low, signal.high) == (-3, 5)
    assert (signal.normalized().min(), signal.normalized().max()) == (-1, 1)
    np.save(tmp_path / "b.npy", np.full((4, 6), 7.0))
    signal = read_image_signal(tmp_path / "b.npy")
    np.testing.assert_allclose(signal.denormalized(signal.normalized()), 7)


def test_tiff_variants(tmp_path: Path) -> None:
    values = pixels(3, np.uint16)
    tifffile.imwrite(tmp_path / "planes.tif", np.moveaxis(values, -1, 0), photometric="rgb", planarconfig="separate")
    tifffile.imwrite(tmp_path / "deflate.tif", values, photometric="rgb", compression="zlib", byteorder=">")
    for name in ("planes.tif", "deflate.tif"):
        np.testing.assert_array_equal(read_image_signal(tmp_path / name).values, values)
    grey = values[..., 0]
    tifffile.imwrite(tmp_path / "white.tif", 65535 - grey, photometric="miniswhite")
    np.testing.assert_array_equal(read_image_signal(tmp_path / "white.tif").values[..., 0], grey)
    Image.fromarray(grey).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(read_image_signal(tmp_path / "lzw.tif").values[..., 0], grey)
    save(tmp_path / "lzw8.tif", pixels(4), compression="tiff_lzw")
    np.testing.assert_array_equal(read_image_signal(tmp_path / "lzw8.tif").values, pixels(4))
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([grey, grey * 0]), photometric="minisblack")
    np.testing.assert_array_equal(read_image_signal(tmp_path / "stack.tif").values[..., 0], grey)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_conversions_agree_with_pillow(tmp_path: Path, channels: int) -> None:
    values = pixels(channels)
    path = save(tmp_path / "a.png", values)
    with Image.open(path) as image:
        grey, rgb = np.asarray(image.convert("L"))[..., None], np.asarray(image.convert("RGB"))
        rgba = np.asarray(image.convert("RGBA"))
    np.testing.assert_array_equal(read_image_signal(path, channels="grey").values, grey)
    np.testing.assert_array_equal(read_image_signal(path, channels="rgb").values, rgb)
    np.testing.assert_array_equal(read_image_signal(path, channels="rgba").values, rgba)


def test_luma_is_the_same_in_every_depth() -> None:
    rgb = pixels(3, np.uint16, 40, 40)
    exact = rgb @ np.array([0.299, 0.587, 0.114])
    assert np.abs(luma(rgb)[..., 0] - exact).max() < 1
    np.testing.assert_allclose(luma(rgb.astype(np.float32))[..., 0], exact, rtol=1e-6)
    assert luma(np.full((1, 1, 3), 65535, np.uint16)) == 65535


def test_crop_then_size(tmp_path: Path) -> None:
    values = pixels(3, height=40, width=51)
    path = save(tmp_path / "a.png", values)
    cut = read_image_signal(path, crop=(3, 5, 20, 31))
    np.testing.assert_array_equal(cut.values, values[3:23, 5:36])
    square = values[:, 5:45]
    np.testing.assert_array_equal(read_image_signal(path, crop="square").values, square)
    np.testing.assert_array_equal(center_square(read_image_signal(path)).values, square)
    small = read_image_signal(path, crop="square", size=(16, 12))
    batch = torch.from_numpy(square.astype(np.float32)).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(batch, size=(16, 12), mode="bilinear", antialias=True)
    np.testing.assert_array_equal(small.values, expected[0].permute(1, 2, 0).numpy())
    assert (small.values.dtype, small.low, small.high, small.bits) == (np.float32, 0, 255, 8)
    assert (small.values % 1 != 0).any()


def test_the_protocol_of_the_papers_on_camera(tmp_path: Path) -> None:
    camera = skimage.data.camera()
    signal = read_image_signal(save(tmp_path / "camera.png", camera[..., None]), size=(256, 256))
    assert signal.grid == (256, 256)
    assert signal.normalized().mean() == pytest.approx(camera.mean() / 127.5 - 1, abs=1e-3)


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    def refused(name: str, match: str, content: bytes | np.ndarray | None = None, **options: object) -> None:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            np.save(path, content)
        with pytest.raises(UserError, match=match) as caught:
            read_image_signal(path, **options)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)

    refused("none.png", "No such file")
    (tmp_path / "folder.png").mkdir()
    refused("folder.png", "Is a directory")
    refused("empty.png", "the file is empty", b"")
    refused("noise.png", "not an image in a known format", b"noise" * 9)
    refused("short.npy", "cannot read the image", b"\x93NUMPY\x01\0")
    refused("objects.npy", "cannot read the image", np.array([[None]]))
    refused("text.npy", "type <U1", np.array([["a"]]))
    refused("whole.npy", "type int64", np.ones((3, 3), np.int64))
    refused("wide.npy", "type uint32", np.ones((3, 3), np.uint32))
    refused("row.npy", "1 axes", np.ones(5, np.float32))
    refused("deep.npy", "64 channels", np.ones((3, 3, 64), np.float32))
    refused("zero.npy", "0 x 5 pixels", np.ones((0, 5), np.float32))
    flawed = np.ones((4, 5, 3))
    flawed[2, 3, 1] = np.nan
    flawed[3, 0] = np.inf
    refused("nan.npy", r"pixel at row 2, column 3 is nan \(4 of 60", flawed)
    refused("huge.npy", "row 0, column 0 is inf", np.full((2, 2), 1e300))
    whole = save_png16(tmp_path / "b.png", pixels(3, np.uint16)).read_bytes()
    refused("cut.png", "cannot read the image", whole[: len(whole) // 2])
    refused("flipped.png", "cannot read the image", whole[:60] + b"\xff" + whole[61:])
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 10**6, 10**6, 16, 2, 0, 0, 0)
    bomb = whole[:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + whole[33:]
    refused("bomb.png", "exceeds limit", bomb)
    tiff = tmp_path / "a.tif"
    tifffile.imwrite(tiff, pixels(3, np.uint16), photometric="rgb")
    refused("cut.tif", "cannot read the image", tiff.read_bytes()[:-100])
    good = save(tmp_path / "good.png", pixels(3))
    for crop in ((0, 0, 7, 9), (-1, 0, 2, 2), (0, 0, 0, 3), (5, 8, 1, 2)):
        refused(good.name, "not inside the 6 x 9 image", crop=crop)
    with pytest.raises(UserError, match="cannot resize to 0 x 4"):
        read_image_signal(good, size=(0, 4))


def test_real_files(shared_data: Path) -> None:
    chest = read_image_signal(shared_data / "ct" / "chest.png")
    assert (chest.grid, chest.bits, chest.channels) == ((326, 435), 16, 1)
    with Image.open(shared_data / "ct" / "chest.png") as image:
        np.testing.assert_array_equal(chest.values[..., 0], np.asarray(image))
    for path in sorted((shared_data / "images").rglob("*.png")):
        with Image.open(path) as image:
            np.testing.assert_array_equal(read_image_signal(path).values, np.asarray(image))
    fern = min((shared_data / "nerf" / "fern" / "images_8").iterdir())
    assert read_image_signal(fern, channels="grey", crop="square", size=(64, 64)).values.shape == (64, 64, 1)
