"""Reader of COLMAP's sparse models (Schönberger and Frahm 2016): ``cameras``, ``images`` and ``points3D``, as .bin or
.txt (https://colmap.github.io/format.html).

A scene's folder holds the model in ``sparse/0`` (or ``sparse``, or ``colmap/sparse/0``; the largest of ``sparse/0``,
``sparse/1``, ...) and the photographs in ``images``, or made smaller in ``images_2``, ``images_4``, ... under the same
names.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from recon3d.data.images import photographs_folder
from recon3d.errors import UserError

FILES = ("images.bin", "images.txt")
_MODELS = ("sparse/*", "sparse", "colmap/sparse/*")
_PINHOLE = ("fl_x", "fl_y", "cx", "cy")
Lens = Literal["SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"]
LENSES: dict[str, tuple[str, ...]] = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": _PINHOLE,
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": (*_PINHOLE, "k1", "k2", "p1", "p2"),
}
"""What is told of each lens that is read, in the order of COLMAP's numbers for them."""
_OUTLIERS = 0.1
"""Per cent of a photograph's points that may be nearer than ``near``, and further than ``far``, as in LLFF."""


@dataclass(frozen=True)
class _View:
    """A photograph: from the world to its camera's axes (right, down, forwards) as a quaternion w, x, y, z and a shift,
    and the numbers of the points that were seen."""

    name: str
    camera: int
    rotation: tuple[float, ...]
    shift: tuple[float, ...]
    points: np.ndarray


def find_model(folder: Path) -> Path | None:
    """The file of photographs in the largest model of a scene's folder; None where there is no model."""
    return max(_found(folder), key=lambda path: path.stat().st_size, default=None)


def _found(folder: Path) -> list[Path]:
    """The files of photographs in the models of a scene's folder, of one kind."""
    for model in _MODELS:
        for file in FILES:
            if found := sorted(path for path in folder.glob(f"{model}/{file}") if path.is_file()):
                return found
    return []


def scene_folder(path: Path) -> Path:
    """The folder that holds the model of which ``path`` is the file of photographs, and the photographs.

    Raises:
        UserError: no such folder.
    """
    around = [folder for folder in path.parents if path in _found(folder)]
    if not around:
        raise UserError(f"{path}: lies in no folder sparse/0; give the folder that holds sparse and images")
    for folder in around:
        if photographs_folder(folder) is not None:
            return folder
    raise UserError(f"{around[0]}: no photographs; they belong in images, or in images_2, images_4, ...")


def read_colmap(path: Path) -> dict[str, Any]:
    """A model as a ``transforms.json`` would tell it, by its file of photographs. ``near`` and ``far`` in each frame
    are those of the points that were seen in it.

    Raises:
        UserError: a file that is missing, broken or short, a lens other than those with at most two radial and two
            tangential coefficients, or no photographs.
    """
    kind = path.suffix
    cameras = dict(_read(path.with_name("cameras" + kind), _binary_cameras, _text_cameras))
    views = list(_read(path, _binary_views, _text_views))
    points = sorted(_read(path.with_name("points3D" + kind), _binary_points, _text_points))
    numbers = np.array([number for number, *_ in points], np.int64)
    places = np.array([place for _, *place in points]).reshape(-1, 3)
    photographs = photographs_folder(scene_folder(path))
    assert photographs is not None
    frames = []
    for view in views:
        if view.camera not in cameras:
            raise UserError(f"{path}: {view.name} is of camera {view.camera}, which is not in cameras{kind}")
        seen = places[np.isin(numbers, view.points)]
        frames.append({"file_path": f"{photographs.name}/{view.name}", **cameras[view.camera], **_pose(view, seen)})
    return {"frames": frames}


def _pose(view: _View, seen: np.ndarray) -> dict[str, Any]:
    """A frame's matrix, and between which depths the points (N, 3) lie that were seen."""
    w, *axis = view.rotation
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    square = w * w + x * x + y * y + z * z
    rotation = np.eye(3) + 2 * (w * cross + cross @ cross) / (square or math.nan)
    pose = np.eye(4)
    pose[:3, :3] = rotation.T * [1, -1, -1]
    pose[:3, 3] = -rotation.T @ view.shift
    frame: dict[str, Any] = {"transform_matrix": pose.tolist()}
    depths = seen @ rotation[2] + view.shift[2]
    if (depths > 0).any():
        near, far = np.percentile(depths[depths > 0], [_OUTLIERS, 100 - _OUTLIERS])
        frame |= {"near": float(near), "far": float(far)} if near < far else {}
    return frame


def _read(path: Path, binary: Callable[[bytes], Iterator[Any]], text: Callable[[str], Iterator[Any]]) -> Iterator[Any]:
    """What a file of a model tells, one after the other; whatever is wrong with it as one UserError."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; a model has cameras, images and points3D beside each other")
    try:
        if path.suffix == ".bin":
            yield from binary(path.read_bytes())
        else:
            yield from text(path.read_text(encoding="utf-8"))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, struct.error, ValueError, IndexError) as error:
        raise UserError(f"{path}: not the file of COLMAP that its name says, or not whole: {error}") from error


# --------------------------------------------------------------------------------------------------------------- binary


class _Bytes:
    """Little-endian numbers one after the other."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def take(self, kinds: str) -> tuple[Any, ...]:
        kinds = "<" + kinds
        values = struct.unpack_from(kinds, self.content, self.at)
        self.at += struct.calcsize(kinds)
        return values

    def count(self, bytes_each: int) -> int:
        """A number of things of so many bytes at least."""
        (count,) = self.take("Q")
        if count * bytes_each > len(self.content) - self.at:
            raise ValueError(f"{count} things in {len(self.content) - self.at} bytes")
        return count

    def array(self, kind: np.dtype, count: int) -> np.ndarray:
        values = np.frombuffer(self.content, kind, count, self.at)
        self.at += values.nbytes
        return values

    def name(self) -> str:
        end = self.content.index(b"\0", self.at)
        begin, self.at = self.at, end + 1
        return self.content[begin:end].decode("utf-8")


def _binary_cameras(content: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    file = _Bytes(content)
    for _ in range(file.count(24)):
        number, model, width, height = file.take("iiQQ")
        name = dict(enumerate(LENSES)).get(model, f"number {model}")
        yield number, _camera(name, width, height, file.take(f"{len(LENSES.get(name, ()))}d"))


def _binary_views(content: bytes) -> Iterator[_View]:
    file = _Bytes(content)
    seen = np.dtype([("x", "<f8"), ("y", "<f8"), ("point", "<i8")])
    for _ in range(file.count(73)):
        _, *pose, camera = file.take("i7di")
        name = file.name()
        yield _View(name, camera, tuple(pose[:4]), tuple(pose[4:]), file.array(seen, file.count(24))["point"])


def _binary_points(content: bytes) -> Iterator[tuple[float, ...]]:
    file = _Bytes(content)
    for _ in range(file.count(51)):
        yield file.take("Q3d")
        file.take("3Bd")  # colour and error
        file.array(np.dtype("<i4"), 2 * file.count(8))  # where it was seen


# ----------------------------------------------------------------------------------------------------------------- text


def _lines(content: str) -> Iterator[str]:
    return (line for line in content.splitlines() if not line.startswith("#"))


def _text_cameras(content: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line in _lines(content):
        if line.strip():
            number, model, width, height, *values = line.split()
            yield int(number), _camera(model, int(width), int(height), [float(value) for value in values])


def _text_views(content: str) -> Iterator[_View]:
    """Each has two lines, the second of which, what was seen in it, may be empty."""
    lines = _lines(content)
    for line in lines:
        if line.strip():
            _, *numbers, camera, name = line.split(maxsplit=9)
            rotation, shift = tuple(map(float, numbers[:4])), tuple(map(float, numbers[4:]))
            yield _View(name.strip(), int(camera), rotation, shift, np.array(next(lines, "").split()[2::3], np.int64))


def _text_points(content: str) -> Iterator[tuple[float, ...]]:
    for line in _lines(content):
        if line.strip():
            number, x, y, z, *_ = line.split()
            yield int(number), float(x), float(y), float(z)


def _camera(model: str, width: int, height: int, values: Sequence[float]) -> dict[str, Any]:
    """A camera's part of a frame."""
    if model not in LENSES:
        raise UserError(f"camera model {model} is not supported; undistort the images (colmap image_undistorter)")
    found = dict(zip(LENSES[model], values, strict=True))
    if "f" in found:
        found["fl_x"] = found["fl_y"] = found.pop("f")
    return {"w": width, "h": height, **found}
