"""Writing reconstructed volumes, and telling how good they are: shared by ct and eval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon3d.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from recon3d.geometry.voxels import VolumeGrid


def checked(path: Path) -> Path:
    """A file to write a volume to.

    Raises:
        UserError: a suffix that no volume is written with.
    """
    from recon3d.export.volumes import FORMATS

    if not any(path.name.lower().endswith(f".{suffix}") for suffix in FORMATS):
        raise UserError(f"{path}: volumes are written as {', '.join(FORMATS)}, by the file's suffix")
    return path


def write(path: Path, volume: Tensor, grid: VolumeGrid, quantity: str = "attenuation") -> Path:
    """Write a volume with its place in mm; the format is the suffix's."""
    from recon3d.export.volumes import Lattice, write_volume

    x, y, z = (float(grid.axis(axis)[0]) for axis in range(3))
    lattice = Lattice(grid.shape, (x, y, z), grid.spacing)
    return write_volume(path, [volume.cpu().numpy()], lattice, quantity=quantity)


def lines(figures: dict[str, Any]) -> list[str]:
    """What a volume leaves of the projections, and how near it is to a reference and a mask, in lines to read."""
    line = f"residual {figures['residual']:.4g}, {100 * figures['residual_share']:.3g}% of the line integrals"
    if "residual_to_noise" in figures:
        line += f", {figures['residual_to_noise']:.3g} of the photons' noise"
    told = [line]
    if "held_out_psnr" in figures:
        told.append(
            f"held-out rays: residual {figures['held_out_residual']:.4g}, PSNR {figures['held_out_psnr']:.2f} dB"
        )
    if "psnr" in figures:
        parts = [f"PSNR {figures['psnr']:.2f} dB", f"RMSE {figures['rmse']:.4g} per mm"]
        parts += [f"SSIM {figures['ssim']:.4f}"] if "ssim" in figures else []
        parts += [f"SSIM in 3D {figures['ssim_3d']:.4f}"] if "ssim_3d" in figures else []
        told.append(f"against the reference: {', '.join(parts)}")
    if "mcc" in figures:
        told.append(f"against the mask: MCC {figures['mcc']:.4f}, IoU {figures['iou']:.4f}")
    return told
