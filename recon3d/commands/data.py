"""recon3d data toy|phantom|poses: make the embedded scene, or a scan of an object that is known, or find the poses of
photographs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from recon3d.data.colmap import Lens
from recon3d.errors import UserError, require


@dataclass(frozen=True)
class Toy:
    """Make the embedded scene: a machine of studded bricks as a NeRF-synthetic folder with its true mesh."""

    out: Path
    """Folder to write."""
    size: int = 200
    """Width and height of the images in pixels."""
    train: int = 60
    """Training views."""
    test: int = 20
    """Test views."""
    seed: int = 0


@dataclass(frozen=True)
class Phantom:
    """Make a scan of a phantom: NPZ with projections and geometry, and the true volume beside it."""

    out: Path
    """File to write (.npz); the truth goes to the same name with -truth.npy, in 1/mm, axes z, y, x."""
    kind: Literal["shepp-logan", "ellipses", "porous"] = "shepp-logan"
    geometry: Literal[
        "parallel", "fan", "fan-curved", "parallel3d", "cone", "cone-curved", "helical", "laminography"
    ] = "parallel"
    """parallel, fan and fan-curved are of a slice, the others of a volume."""
    size: float = 100.0
    """Width of the object in mm."""
    voxels: int = 128
    """Voxels along a side of the volume; the detector resolves as much."""
    views: int = 100
    angle_range: float | None = None
    """Degrees; by default half a turn for parallel rays, else a full one (helix: two)."""
    density: float = 0.02
    """Attenuation of the phantom's value 1, in 1/mm."""
    photons: float | None = None
    """Photons of an unattenuated pixel: with Poisson noise."""
    electronic: float = 0.0
    """Standard deviation of the detector's own noise, in photons."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.voxels >= 8 and self.views >= 1, f"{self.voxels} voxels, {self.views} views; 8 and 1 at least")
        require(self.size > 0 and self.density > 0, "size and density must be above 0")
        require(self.photons is None or self.photons > 0, f"{self.photons} photons; give a number above 0")
        require(self.out.suffix == ".npz", f"{self.out}: a scan is written as .npz")


@dataclass(frozen=True)
class Poses:
    """Find the poses of photographs, as a COLMAP model beside them: what recon3d train nerf wants to know."""

    folder: tyro.conf.Positional[Path]
    """Its folder images holds photographs that one camera took with one focal length; the model goes to sparse/0."""
    lens: Lens = "OPENCV"
    """COLMAP's name of the camera model: PINHOLE for images without distortion."""
    neighbours: int | None = None
    """Compare each photograph with so many that follow by name, and a few further away: for the frames of a video.
    By default all are compared with all."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.neighbours is None or self.neighbours >= 1, f"{self.neighbours} neighbours; give 1 at least")


def _toy(options: Toy) -> dict[str, Any]:
    from recon3d.data.toy import make_toy

    begin = time.perf_counter()
    made = make_toy(options.out, options.size, options.train, options.test, options.seed, progress=True)
    seconds = round(time.perf_counter() - begin, 2)
    print(f"{made.folder}: {made.train} training, {made.val} validation and {made.test} test views, {made.mesh}")
    return {
        "folder": str(made.folder),
        "mesh": str(made.mesh),
        "train": made.train,
        "val": made.val,
        "test": made.test,
        "faces": made.faces,
        "seconds": seconds,
    }


def _phantom(options: Phantom) -> dict[str, Any]:
    import numpy as np

    from recon3d.data.phantom_scans import scan_phantom, scanner
    from recon3d.data.scan_preprocess import add_noise

    begin = time.perf_counter()
    turn = None if options.angle_range is None else math.radians(options.angle_range)
    geometry, grid = scanner(options.geometry, options.size, options.voxels, options.views, turn)
    scan, truth = scan_phantom(options.kind, geometry, grid, options.density, options.seed)
    if options.photons is not None:
        scan = add_noise(scan, options.photons, options.electronic, seed=options.seed)
    volume = options.out.with_name(f"{options.out.stem}-truth.npy")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    scan.save(options.out)
    unfinished = volume.with_suffix(".part")
    with unfinished.open("wb") as file:
        np.save(file, truth.numpy())
    unfinished.replace(volume)
    views, rows, columns = geometry.shape
    print(f"{options.out}: {views} views of {rows} x {columns} pixels; true volume {volume}")
    return {
        "scan": str(options.out),
        "truth": str(volume),
        "views": views,
        "rows": rows,
        "columns": columns,
        "shape": list(grid.shape),
        "seconds": round(time.perf_counter() - begin, 2),
    }


def _poses(options: Poses) -> dict[str, Any]:
    from recon3d.data.poses import find_poses

    begin = time.perf_counter()
    found = find_poses(options.folder, options.lens, options.neighbours, options.seed, progress=True)
    print(
        f"{found.model}: {found.placed} of {found.photographs} photographs placed, {found.points} points, "
        f"{found.error:.2f} pixels from where they should be seen; now: recon3d train nerf --data {options.folder}"
    )
    return {
        "model": str(found.model),
        "placed": found.placed,
        "photographs": found.photographs,
        "points": found.points,
        "error_pixels": found.error,
        "seconds": round(time.perf_counter() - begin, 2),
    }


KINDS: dict[str, tuple[type, Callable[[Any], dict[str, Any]]]] = {
    "toy": (Toy, _toy),
    "phantom": (Phantom, _phantom),
    "poses": (Poses, _poses),
}


def main(args: list[str]) -> dict[str, Any]:
    if not args or args[0] not in KINDS:
        if args and args[0] in ("-h", "--help"):
            print("usage: recon3d data toy|phantom --out PATH [options]\n       recon3d data poses FOLDER [options]\n")
            print("\n".join(f"recon3d data {kind} --help shows the options of {kind}." for kind in KINDS))
            raise SystemExit(0)
        raise UserError("data: say what: recon3d data toy|phantom --out PATH, or recon3d data poses FOLDER")
    options, run = KINDS[args[0]]
    return run(tyro.cli(options, args=args[1:], prog=f"recon3d data {args[0]}"))
