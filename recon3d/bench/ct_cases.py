"""The scans of the CT benchmarks: objects that are known, projected finer than they are reconstructed, with noise.

Reconstructing with the projector that made the data would be too easy: data are made of an object in voxels four times
(in space twice) finer, or of exact line integrals, on a detector as much finer, whose pixels are averaged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.ndimage
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from recon3d.classical import Projector
from recon3d.classical.projector import finer
from recon3d.data.phantoms import Ellipsoids, porous, shepp_logan
from recon3d.data.scan import Scan
from recon3d.data.volume_files import read_volume
from recon3d.errors import UserError, require
from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.voxels import VolumeGrid

PHOTONS = 1e4
PEAK = 4.0
"""The largest line integral; so the voxels' attenuation is that of the picture times a scale."""
FINER, FINER_3D = 4, 2
PHANTOM = "shepp-logan"
CONE_PHANTOMS = ("porous", PHANTOM)


@dataclass(frozen=True)
class Case:
    """A scan, as a file, and what is in it.

    Attributes:
        name: fit for a folder.
        scan: the file.
        truth: (nz, ny, nx), in [0, 1].
        scale: attenuation in 1/mm of the value 1.
    """

    name: str
    scan: Path
    truth: Float[Tensor, "nz ny nx"]
    scale: float

    def psnr(self, volume: Float[Tensor, "nz ny nx"]) -> float:
        """PSNR in dB of a volume in 1/mm, over all voxels, for the range 1."""
        error = float((volume.cpu() / self.scale - self.truth).double().square().mean())
        return 10 * math.log10(1 / max(error, 1e-12))


def slice_case(image: str, views: int, noisy: bool, size: int, folder: Path, seed: int = 0) -> Case:
    """A picture (or the Shepp-Logan phantom) in parallel rays over half a turn: size x size pixels of 1 mm, a detector
    that sees the whole square.

    Raises:
        UserError: a file that is no picture.
    """
    grid = VolumeGrid((1, size, size), (1.0, 1.0, 1.0))
    geometry = ScanGeometry.parallel(
        torch.arange(views, dtype=torch.float64) * (math.pi / views), math.ceil(size * 2**0.5) // 2 * 2 + 1, 1.0
    )
    name = f"{Path(image).stem}-{size}-{views}{'-noisy' if noisy else ''}"
    if image == PHANTOM:
        head = shepp_logan(float(size), 1.0, flat=True)
        truth = head.rasterize(grid)
        clean = _binned(head.project(finer(geometry, FINER)), geometry)
    else:
        truth = square_picture(Path(image), size)
        fine = F.interpolate(truth[None], scale_factor=FINER, mode="nearest")[0]
        small = VolumeGrid((1, size * FINER, size * FINER), (1 / FINER, 1 / FINER, 1.0))
        clean = _binned(Projector(finer(geometry, FINER), small).forward(fine.contiguous()), geometry)
    return _kept(name, clean, geometry, grid, truth, noisy, folder, seed)


def cone_case(kind: str, views: int, size: int, folder: Path, seed: int = 0) -> Case:
    """A phantom of size^3 voxels of 1 mm in a full turn of cone beams, on a detector of size^2 pixels; with noise.

    Raises:
        UserError: ``kind`` is none of CONE_PHANTOMS.
    """
    require(kind in CONE_PHANTOMS, f"no phantom {kind!r}: give {' or '.join(CONE_PHANTOMS)}")
    grid = VolumeGrid((size, size, size), (1.0, 1.0, 1.0))
    distance = 4.0 * size
    # Magnified twice; the detector sees the ball about the volume's middle that the phantoms lie in.
    pitch = 2.0 * 1.125
    geometry = ScanGeometry.cone(
        torch.arange(views, dtype=torch.float64) * (2 * math.pi / views), size, size, pitch, distance, distance
    )
    fine_geometry = finer(geometry, FINER_3D)
    if kind == "porous":
        fine = porous(VolumeGrid((2 * size,) * 3, (0.5, 0.5, 0.5)), density=1.0, seed=seed)
        truth = F.avg_pool3d(fine[None, None], 2)[0, 0]
        fine_grid = VolumeGrid((2 * size,) * 3, (0.5, 0.5, 0.5))
        clean = _binned(Projector(fine_geometry, fine_grid).forward(fine), geometry)
    else:
        head: Ellipsoids = shepp_logan(float(size), 1.0)
        truth, clean = head.rasterize(grid, 3), _binned(head.project(fine_geometry), geometry)
    return _kept(f"{kind}-{size}-{views}", clean, geometry, grid, truth, True, folder, seed)


def square_picture(path: Path, size: int) -> Float[Tensor, "1 size size"]:
    """A picture padded with zeros to a square, resized, and divided by its brightest value; y up.

    Resized as scikit-image does it, linearly after a Gaussian of (factor - 1) / 2 pixels.

    Raises:
        UserError: it cannot be read, or is black.
    """
    values = read_volume(path).values[:, ::-1]
    if values.shape[0] != 1 or values.max() <= 0:
        raise UserError(f"{path}: not a picture with something on it")
    picture = values[0].astype(np.float64)
    height, width = picture.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side))
    square[top : top + height, left : left + width] = picture
    factor = side / size
    smooth = scipy.ndimage.gaussian_filter(square, max(0.0, (factor - 1) / 2), mode="mirror")
    small = scipy.ndimage.zoom(smooth, 1 / factor, order=1, mode="mirror", grid_mode=True)
    return torch.from_numpy(np.ascontiguousarray(small[::-1] / small.max(), np.float32))[None]


def _binned(fine: Float[Tensor, "a _r _c"], geometry: ScanGeometry) -> Float[Tensor, "a rows columns"]:
    return F.adaptive_avg_pool2d(fine[:, None], (geometry.rows, geometry.columns))[:, 0]


def _kept(
    name: str,
    clean: Float[Tensor, "a rows columns"],
    geometry: ScanGeometry,
    grid: VolumeGrid,
    truth: Float[Tensor, "nz ny nx"],
    noisy: bool,
    folder: Path,
    seed: int,
) -> Case:
    """Scaled so that the largest line integral is PEAK, with Poisson's noise of PHOTONS a pixel, as a file."""
    scale = PEAK / float(clean.max())
    values = (scale * clean).numpy()
    if noisy:
        counts = np.random.default_rng(seed).poisson(PHOTONS * np.exp(-values.astype(np.float64)))
        values = -np.log(np.maximum(counts, 1) / PHOTONS)
    path = folder / f"{name}.npz"
    folder.mkdir(parents=True, exist_ok=True)
    Scan(values.astype(np.float32), geometry, grid, counts=PHOTONS if noisy else None).save(path)
    return Case(name, path, truth, scale)
