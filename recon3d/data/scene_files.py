"""Reader of posed photographs: NeRF-synthetic and instant-ngp JSON, LLFF, and COLMAP.

A scene is a folder with ``transforms_train.json``, ``transforms_val.json``, ``transforms_test.json``, or with one
``transforms.json`` that a rule splits. A file looks like::

    {"camera_angle_x": 0.69, "frames": [{"file_path": "./train/r_0", "transform_matrix": [[...], ...]}, ...]}

Poses are camera-to-world matrices, OpenGL axes. Intrinsics may stand in a frame or beside ``frames`` (a frame's own
come first): ``fl_x``, ``fl_y``, ``cx``, ``cy`` in pixels of an image of ``w`` x ``h``, or ``camera_angle_x``,
``camera_angle_y`` in radians; ``k1``, ``k2``, ``p1``, ``p2`` are OpenCV's distortion. A missing centre is the image's
centre; a missing second focal length equals the first. ``near`` and ``far`` are how near and how far a camera sees
things, along its axis; ``aabb_scale`` is the side of instant-ngp's box. LLFF's ``poses_bounds.npy`` and COLMAP's models
stand for such a file: see :mod:`recon3d.data.llff` and :mod:`recon3d.data.colmap`.
"""

from __future__ import annotations

import json
import logging
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from recon3d.data import colmap, llff
from recon3d.data.images import EXTENSIONS, ImageHeader, box_downscale, read_header, read_image
from recon3d.data.scene import Scene
from recon3d.errors import UserError
from recon3d.geometry.boxes import Normalizer, cube_of_depths
from recon3d.geometry.cameras import Cameras, focal_from_angle

Split = Literal["train", "val", "test"]

_SPLITS = ("train", "val", "test")
_SUFFIXES = (*EXTENSIONS, ".PNG", ".JPG", ".JPEG")
_LENSES = (*colmap.LENSES, "PERSPECTIVE")
_OTHER_DISTORTION = ("k3", "k4", "k5", "k6", "ftheta_p0", "ftheta_p1", "ftheta_p2", "ftheta_p3", "ftheta_p4")
_OTHER_LENSES = ("is_fisheye", "fisheye", "latlong", "equirectangular", "orthographic")
_RIGID_TOLERANCE = 1e-3
_SMALLEST_SIDE = 4
_NGP_SCALE = 0.33
"""Instant-ngp's lengths in units of the world's; its box is around the origin."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Frame:
    """One entry of ``frames`` whose image was found. ``where`` starts every error message about it."""

    entry: dict[str, Any]
    common: dict[str, Any]
    where: str
    name: str
    image: Path

    def number(self, key: str) -> float | None:
        """The frame's own or else the file's common value of ``key`` as a finite float; None where absent."""
        value = self.entry.get(key, self.common.get(key))
        if value is None:
            return None
        try:
            number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise UserError(f"{self.where}: {key} is {_short(value)}; it must be a finite number")
        return number


def load_scene(
    folder: Path,
    split: Split,
    downscale: int = 1,
    test_every: int = 8,
    progress: bool = False,
) -> Scene:
    """Read one split of a scene: its cameras, and its images as uint8.

    Args:
        folder: the scene's folder, or one of its JSON files, LLFF's ``poses_bounds.npy``, or a COLMAP model's
            ``images.bin`` or ``images.txt``.
        split: where one file tells of all frames, "test" is every ``test_every``-th of them in the order of file names
            from the first on, "val" is the same, and "train" is the others.
        downscale: images are made this many times smaller by area averaging (sizes rounded down), intrinsics too.
        test_every: see ``split``; unused where each split has its own file.
        progress: show a progress bar on standard error.

    Returns:
        The scene, in the file's order (by file name where one file is split). Images have four channels where any
        image of the split has transparency, else three.

    Where one file tells of all, up to half of the frames may lack their image (captures often do): they are left out
    with one logged warning. In ``transforms_{split}.json`` a missing image is an error.

    Raises:
        UserError: whatever is wrong with the files, in one line that names file, frame and key.
    """
    if downscale < 1:
        raise UserError(f"downscale is {downscale}; it must be 1 or more")
    path, split_by_rule = _find_file(Path(folder), split)
    root = colmap.scene_folder(path) if path.name in colmap.FILES else path.parent
    frames = _read_frames(path, root, may_miss=split_by_rule)
    if split_by_rule:
        frames = _apply_split_rule(frames, split, test_every, path)
    headers = [_header(frame) for frame in frames]
    width, height = _common_size(frames, headers)
    if min(width, height) // downscale < _SMALLEST_SIDE:
        raise UserError(
            f"{path}: images are {width}x{height}; downscale {downscale} leaves less than {_SMALLEST_SIDE} pixels"
            f" a side; use {min(width, height) // _SMALLEST_SIDE} or less"
        )
    cameras = _cameras(frames, width, height).downscaled(downscale)
    channels = 4 if any(header.alpha for header in headers) else 3
    images = _read_images(frames, width, height, channels, downscale, progress)
    return Scene(cameras, images, tuple(frame.name for frame in frames), root, _box(frames, cameras))


# ---------------------------------------------------------------------------------------------- the file that tells all


def _find_file(path: Path, split: Split) -> tuple[Path, bool]:
    """The file to read, and whether a rule splits its frames."""
    if not path.exists():
        raise UserError(f"{path}: no such folder; give the folder that holds transforms_train.json or transforms.json")
    if path.is_file():
        if path.suffix.lower() != ".json" and path.name not in (llff.FILE, *colmap.FILES):
            raise UserError(f"{path}: not a JSON file; give the scene's folder or its transforms.json")
        if path.name not in [f"transforms_{name}.json" for name in _SPLITS]:
            return path, True
        path = path.parent
    present = [name for name in _SPLITS if (path / f"transforms_{name}.json").is_file()]
    if split in present:
        return path / f"transforms_{split}.json", False
    if present:
        have = ", ".join(f"transforms_{name}.json" for name in present)
        raise UserError(
            f"{path / f'transforms_{split}.json'}: not found, so there is no {split} split (there is {have})"
        )
    for name in ("transforms.json", llff.FILE):
        if (path / name).is_file():
            return path / name, True
    model = colmap.find_model(path)
    if model is not None:
        return model, True
    raise UserError(
        f"{path}: holds neither transforms_{split}.json nor transforms.json nor poses_bounds.npy nor sparse/0; is it a"
        " folder of posed photographs?"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: invalid JSON at line {error.lineno}, column {error.colno}: {error.msg}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot read the JSON: {_short(str(error))}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a JSON {type(content).__name__}; it must be an object with the key frames")
    return content


def _read_content(path: Path) -> dict[str, Any]:
    if path.name in colmap.FILES:
        return colmap.read_colmap(path)
    return llff.read_llff(path) if path.name == llff.FILE else _read_json(path)


def _read_frames(path: Path, folder: Path, may_miss: bool) -> list[_Frame]:
    """All frames of a file whose image exists under ``folder``. ``may_miss`` allows that up to half of the images do
    not."""
    content = _read_content(path)
    entries = content.get("frames")
    if not isinstance(entries, list):
        raise UserError(f"{path}: has no list under the key frames; is it a transforms file?")
    if not entries:
        raise UserError(f"{path}: frames is empty; it must list at least one image")
    root = _resolve(folder, str(path))
    frames, missing = [], []
    for index, entry in enumerate(entries):
        where = f"{path}: frame {index}"
        if not isinstance(entry, dict):
            raise UserError(f"{where}: is {_short(entry)}; it must be an object with file_path and transform_matrix")
        image = _find_image(root, entry, where)
        if image is None:
            missing.append((where, entry["file_path"]))
        else:
            name = image.relative_to(root).as_posix()
            frames.append(_Frame(entry, content, where, name, image))
    if missing:
        _report_missing(path, missing, len(entries), may_miss)
    return frames


def _report_missing(path: Path, missing: list[tuple[str, str]], total: int, may_miss: bool) -> None:
    where, name = missing[0]
    if not may_miss:
        count = "" if len(missing) == 1 else f" ({len(missing)} of {total} frames lack theirs)"
        raise UserError(f"{where}: no image at file_path {_short(name)}{count}; add the image or remove the frame")
    if 2 * len(missing) > total:
        raise UserError(
            f"{where}: no image at file_path {_short(name)}; {len(missing)} of {total} frames lack theirs, more than"
            " half; put the images beside the JSON file"
        )
    logger.warning(
        "%s: left out %d of %d frames that have no image, the first %s", path, len(missing), total, _short(name)
    )


def _find_image(root: Path, entry: dict[str, Any], where: str) -> Path | None:
    """The frame's image under ``root``, with or without the extension given; None where there is none.

    Raises UserError where the path leaves ``root``, by itself or through a symbolic link.
    """
    given = entry.get("file_path")
    if not isinstance(given, str) or not given:
        raise UserError(f"{where}: file_path is {_short(given)}; it must name an image")
    outside = f"{where}: file_path {_short(given)} leaves the scene's folder; move the image into it"
    if Path(given).is_absolute() and (absolute := _resolve(Path(given), where)).is_relative_to(root):
        given = str(absolute.relative_to(root))
    if PurePosixPath(given).is_absolute() or PureWindowsPath(given).is_absolute():
        raise UserError(outside)
    # The path is made normal before it is joined, so that a ".." is caught even where a folder on the way is missing.
    relative = os.path.normpath(given)
    if Path(relative).parts[:1] == (os.pardir,):
        raise UserError(outside)
    stem = root / relative
    for candidate in [stem, *(stem.with_name(stem.name + extension) for extension in _SUFFIXES)]:
        resolved = _resolve(candidate, where)
        if not resolved.is_relative_to(root):
            raise UserError(outside)
        try:
            found = resolved.is_file()
        except (OSError, ValueError) as error:
            raise UserError(f"{where}: file_path {_short(given)} cannot be read: {error}") from error
        if found:
            return candidate
    return None


def _resolve(path: Path, where: str) -> Path:
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a null byte, a name too long, a loop of links
        raise UserError(f"{where}: the path {_short(str(path))} cannot be followed: {_short(str(error))}") from error


def _apply_split_rule(frames: list[_Frame], split: Split, test_every: int, path: Path) -> list[_Frame]:
    if test_every < 2:
        raise UserError(f"test_every is {test_every}; it must be 2 or more, or no frame is left to train on")
    ordered = sorted(frames, key=lambda frame: frame.name)
    chosen = [frame for i, frame in enumerate(ordered) if (i % test_every == 0) == (split != "train")]
    if not chosen:
        raise UserError(f"{path}: the {split} split of {len(frames)} frame(s) is empty; at least 2 frames are needed")
    return chosen


# -------------------------------------------------------------------------------------------------------------- cameras


def _cameras(frames: list[_Frame], width: int, height: int) -> Cameras:
    poses = np.stack([_pose(frame) for frame in frames])
    rows = [_intrinsics(frame, width, height) for frame in frames]
    lenses = [_distortion(frame) for frame in frames]
    intrinsics = torch.tensor(rows, dtype=torch.float64).float()
    return Cameras(
        poses=torch.from_numpy(poses).float(),
        focal=intrinsics[:, :2].contiguous(),
        center=intrinsics[:, 2:].contiguous(),
        width=width,
        height=height,
        distortion=torch.tensor(lenses, dtype=torch.float32),
    )


def _pose(frame: _Frame) -> Float[np.ndarray, "4 4"]:
    """The frame's camera-to-world matrix, checked to be finite and rigid."""
    where = f"{frame.where}: transform_matrix"
    try:
        pose = np.array(frame.entry.get("transform_matrix"), dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{where} is not a 4x4 matrix of numbers") from error
    if pose.shape != (4, 4):
        raise UserError(f"{where} has shape {pose.shape}; it must be a 4x4 camera-to-world matrix")
    if not np.isfinite(pose).all():
        raise UserError(f"{where} is not finite; remove the frame or mend its pose")
    if np.abs(pose[3] - [0, 0, 0, 1]).max() > _RIGID_TOLERANCE:
        raise UserError(f"{where} ends in the row {pose[3].tolist()}; a camera-to-world matrix ends in 0, 0, 0, 1")
    rotation = pose[:3, :3]
    skew = np.abs(rotation.T @ rotation - np.eye(3)).max()
    if skew > _RIGID_TOLERANCE or np.linalg.det(rotation) <= 0:
        raise UserError(f"{where} is not rigid: its 3x3 part must be a rotation (orthonormal columns, determinant 1)")
    return pose


def _intrinsics(frame: _Frame, width: int, height: int) -> tuple[float, float, float, float]:
    """(fx, fy, cx, cy) in pixels of the image as it is on disk."""
    scale_x, scale_y = _image_scale(frame, width, height)
    fx = _focal(frame, "x", width, scale_x)
    fy = _focal(frame, "y", height, scale_y)
    if fx is None and fy is None:
        raise UserError(f"{frame.where}: no focal length; give fl_x in pixels or camera_angle_x in radians")
    # One focal length stands for both: square pixels, as far as w/h and the image's size say so.
    fx, fy = fx or (fy or 0.0) * scale_x / scale_y, fy or (fx or 0.0) * scale_y / scale_x
    cx, cy = frame.number("cx"), frame.number("cy")
    return fx, fy, 0.5 * width if cx is None else cx * scale_x, 0.5 * height if cy is None else cy * scale_y


def _focal(frame: _Frame, axis: str, size: int, scale: float) -> float | None:
    """Focal length along one axis in pixels, from ``fl_*`` or ``camera_angle_*``; the frame's own key comes first."""
    length, angle = f"fl_{axis}", f"camera_angle_{axis}"
    use_angle = length not in frame.entry and (angle in frame.entry or length not in frame.common)
    value = frame.number(angle if use_angle else length)
    if value is None:
        return None
    if use_angle:
        if not 0 < value < math.pi:
            raise UserError(f"{frame.where}: {angle} is {value:g}; an angle of view lies between 0 and pi radians")
        return focal_from_angle(value, size)
    if value <= 0:
        raise UserError(f"{frame.where}: {length} is {value:g}; a focal length in pixels is above 0")
    return value * scale


def _image_scale(frame: _Frame, width: int, height: int) -> tuple[float, float]:
    """Size of the image on disk over the size (w, h) that the intrinsics are for: 1, or 1/k for images k times smaller.

    Raises UserError where the two sizes have nothing to do with one another.
    """
    stated = [frame.number("w"), frame.number("h")]
    pairs = [(s, actual) for s, actual in zip(stated, (width, height)) if s is not None]
    if not pairs:
        return 1.0, 1.0
    factor = max(1, round(pairs[0][0] / pairs[0][1]))
    if any(abs(s - factor * actual) >= factor for s, actual in pairs):
        told = "x".join("?" if s is None else f"{s:g}" for s in stated)
        raise UserError(
            f"{frame.where}: w and h say {told}, but {frame.name} is {width}x{height}, not that size nor a whole"
            " fraction of it; correct w and h"
        )
    w, h = stated
    return (width / w if w else 1.0 / factor), (height / h if h else 1.0 / factor)


def _box(frames: list[_Frame], cameras: Cameras) -> Normalizer | None:
    """The cube that the files say the scene is in: what all cameras see between their ``near`` and ``far``, or
    instant-ngp's of side ``aabb_scale``."""
    bounds = [(frame.number("near"), frame.number("far")) for frame in frames]
    known = [(near, far) for near, far in bounds if near is not None and far is not None]
    if len(known) == len(frames):
        for frame, (near, far) in zip(frames, known, strict=True):
            if not 0 <= near < far:
                raise UserError(f"{frame.where}: near is {near:g}, far is {far:g}; 0 <= near < far it must be")
        return cube_of_depths(cameras, min(near for near, _ in known), max(far for _, far in known))
    side = frames[0].number("aabb_scale")
    if side is None:
        return None
    if side <= 0:
        raise UserError(f"{frames[0].where}: aabb_scale is {side:g}; the side of a box is above 0")
    return Normalizer((0.0, 0.0, 0.0), 0.5 * side / _NGP_SCALE)


def _distortion(frame: _Frame) -> list[float]:
    """OpenCV's (k1, k2, p1, p2). Raises UserError for lenses that these four numbers do not describe."""
    merged = {**frame.common, **frame.entry}
    model = merged.get("camera_model")
    if model is not None and str(model).upper() not in _LENSES:
        raise UserError(
            f"{frame.where}: camera_model {_short(model)} is not supported; undistort the images to a pinhole camera"
        )
    for key in _OTHER_LENSES:
        if merged.get(key):
            raise UserError(f"{frame.where}: {key} lenses are not supported; undistort the images to a pinhole camera")
    for key in _OTHER_DISTORTION:
        if frame.number(key):
            raise UserError(
                f"{frame.where}: distortion {key} is not supported (k1, k2, p1, p2 are); undistort the images"
            )
    return [frame.number(key) or 0.0 for key in ("k1", "k2", "p1", "p2")]


# --------------------------------------------------------------------------------------------------------------- images


def _header(frame: _Frame) -> ImageHeader:
    try:
        return read_header(frame.image)
    except UserError as error:
        raise UserError(f"{frame.where}: {error}") from error


def _common_size(frames: list[_Frame], headers: list[ImageHeader]) -> tuple[int, int]:
    first = headers[0]
    for frame, header in zip(frames, headers):
        if (header.width, header.height) != (first.width, first.height):
            raise UserError(
                f"{frame.where}: {frame.name} is {header.width}x{header.height}, but {frames[0].name} is"
                f" {first.width}x{first.height}; all images of a scene must have one size"
            )
    return first.width, first.height


def _read_images(
    frames: list[_Frame], width: int, height: int, channels: int, downscale: int, progress: bool
) -> UInt8[Tensor, "n h w c"]:
    """Decode in a few threads (Pillow and NumPy let go of the interpreter's lock) straight into one tensor."""
    shape = (len(frames), height // downscale, width // downscale, channels)
    try:
        images = torch.empty(shape, dtype=torch.uint8)
    except (RuntimeError, MemoryError) as error:
        size = math.prod(shape) / 2**30
        raise UserError(f"{frames[0].image.parent}: no memory for {size:.1f} GiB of images; raise downscale") from error
    out = images.numpy()

    def read(index: int) -> None:
        frame = frames[index]
        try:
            image = box_downscale(read_image(frame.image), downscale)
        except UserError as error:
            raise UserError(f"{frame.where}: {error}") from error
        out[index, ..., : image.shape[2]] = image
        if image.shape[2] < channels:
            out[index, ..., 3] = 255

    with ThreadPoolExecutor(min(8, torch.get_num_threads())) as pool:
        jobs = pool.map(read, range(len(frames)))
        try:
            for _ in tqdm(jobs, total=len(frames), desc="images", unit="image", disable=not progress):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return images


def _short(value: object) -> str:
    """``value`` for a message: on one line and not too long."""
    text = " ".join(repr(value).split()) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
