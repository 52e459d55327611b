"""Camera poses of photographs: COLMAP's structure from motion (Schönberger and Frahm 2016), through pycolmap."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from recon3d.data import colmap
from recon3d.data.images import is_photograph, photographs_folder
from recon3d.data.optional import library
from recon3d.errors import UserError

_DOUBLINGS = 16
_PAIRS_AT_ONCE = 50
_MODEL = "sparse"


@dataclass(frozen=True)
class Found:
    """A model: its folder, how many of the photographs it has, its points, and the mean distance in pixels between
    where they are seen and where they should be."""

    model: Path
    placed: int
    photographs: int
    points: int
    error: float


def find_poses(
    folder: Path, lens: colmap.Lens = "OPENCV", neighbours: int | None = None, seed: int = 0, progress: bool = False
) -> Found:
    """Poses of the photographs in ``folder/images``, which one camera took with one focal length, as a COLMAP model in
    ``folder/sparse/0`` whose z axis is the mean of where the photographs are up.

    Args:
        folder: its ``images``, or else the largest of ``images_2``, ``images_4``, ... are looked at.
        lens: COLMAP's name of the camera model.
        neighbours: compare each photograph with so many that follow it by name, and with a few further away: for the
            frames of a video. Default: all with all.
        seed: of RANSAC.
        progress: show progress bars on standard error.

    What is known before the end is kept in ``folder/colmap-LENS.db``, so that after an interruption the same call goes
    on; the file is gone when the model is there.

    Raises:
        UserError: no pycolmap, not two photographs, names with spaces, a model that is there already, or none that
            could be made.
    """
    pycolmap = library("pycolmap", "finding poses", "poses")
    present = colmap.find_model(folder)
    if present is not None:
        raise UserError(f"{present.parent}: there is a model already; train with it, or remove it to find another")
    images = photographs_folder(folder) if folder.is_dir() else None
    if images is None:
        raise UserError(f"{folder}: no photographs; put them into {folder / 'images'}")
    names = sorted(path.relative_to(images).as_posix() for path in images.rglob("*") if is_photograph(path))
    if len(names) < 2:
        raise UserError(f"{images}: holds one photograph; poses need two at least, and many that overlap to be good")
    spaced = next((name for name in names if any(character.isspace() for character in name)), None)
    if spaced is not None:
        raise UserError(f"{images / spaced}: COLMAP's lists of pairs end names at spaces; rename it")
    pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value
    pycolmap.set_random_seed(seed)
    database = folder / f"colmap-{lens}.db"
    _find_features(pycolmap, database, images, names, lens, progress)
    _match(pycolmap, database, list(_pairs(names, neighbours)), progress)
    model = _largest_model(pycolmap, database, images, folder, len(names), progress)
    model.transform(pycolmap.Sim3d(1.0, pycolmap.Rotation3d(_upright(model)), np.zeros(3)))
    unfinished = folder / f"{_MODEL}.part"
    (unfinished / "0").mkdir(parents=True)
    model.write_binary(unfinished / "0")
    unfinished.rename(folder / _MODEL)
    database.unlink()
    error = float(model.compute_mean_reprojection_error())
    return Found(folder / _MODEL / "0", model.num_reg_images(), len(names), model.num_points3D(), error)


def _find_features(
    pycolmap: Any, database: Path, images: Path, names: Sequence[str], lens: str, progress: bool
) -> None:
    """Photograph by photograph; those that are in the database already are passed over."""
    options = pycolmap.ImageReaderOptions()
    options.camera_model = lens
    for name in tqdm(names, desc="features", unit="image", disable=not progress):
        if database.is_file():
            with pycolmap.Database.open(database) as known:
                cameras = known.read_all_cameras()
            if cameras:
                options.existing_camera_id = cameras[0].camera_id
        pycolmap.extract_features(
            database, images, [name], pycolmap.CameraMode.SINGLE, options, device=pycolmap.Device.auto
        )


def _pairs(names: Sequence[str], neighbours: int | None) -> Iterator[tuple[str, str]]:
    """What to compare: all with all, or each with as many ``neighbours`` that follow and those 2^k further on."""
    reach = len(names) if neighbours is None else neighbours
    steps = sorted({*range(1, reach + 1), *(2**k for k in range(_DOUBLINGS))})
    for step in steps:
        yield from zip(names, names[step:])


def _match(pycolmap: Any, database: Path, pairs: Sequence[tuple[str, str]], progress: bool) -> None:
    """A few pairs at a time; those that are in the database already are passed over."""
    options = pycolmap.ImportedPairingOptions()
    options.match_list_path = database.with_suffix(".pairs")
    with tqdm(total=len(pairs), desc="matches", unit="pair", disable=not progress) as bar:
        for begin in range(0, len(pairs), _PAIRS_AT_ONCE):
            part = pairs[begin : begin + _PAIRS_AT_ONCE]
            options.match_list_path.write_text("".join(f"{a} {b}\n" for a, b in part), encoding="utf-8")
            pycolmap.match_image_pairs(database, pairing_options=options)
            bar.update(len(part))
    options.match_list_path.unlink()


def _largest_model(pycolmap: Any, database: Path, images: Path, folder: Path, total: int, progress: bool) -> Any:
    models = folder / "colmap.part"
    models.mkdir(exist_ok=True)
    with tqdm(total=total, desc="poses", unit="image", disable=not progress) as bar:
        found = pycolmap.incremental_mapping(
            database, images, models, next_image_callback=lambda: bar.update() and None
        )
    shutil.rmtree(models)
    if not found:
        raise UserError(
            f"{images}: no photographs could be placed; they have to overlap, be sharp and show something with texture"
        )
    return max(found.values(), key=lambda model: model.num_reg_images())


def _upright(model: Any) -> Float[np.ndarray, "3 3"]:
    """The smallest rotation that turns the mean of the cameras' upward axes to z."""
    poses = [image.cam_from_world() for image in model.images.values() if image.has_pose]
    up = -np.sum([pose.rotation.matrix()[1] for pose in poses], axis=0)
    x, y, z = up / max(np.linalg.norm(up), 1e-12)
    if z < -1 + 1e-9:
        return np.diag([1.0, -1.0, -1.0])
    cross = np.array([[0, 0, -x], [0, 0, -y], [x, y, 0]])
    return np.eye(3) + cross + cross @ cross / (1 + z)
