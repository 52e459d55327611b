"""How good a volume is: against the projections it is made of, and against a reference where there is one."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon3d.data.volume_files import read_volume
from recon3d.errors import UserError
from recon3d.metrics import volume as metrics

SMALLEST_SSIM = 11
"""Voxels along every axis that the windows of SSIM need."""


def residuals(
    predicted: Float[Tensor, "a rows columns"],
    measured: Float[Tensor, "a rows columns"],
    counts: float | None,
    held: Bool[Tensor, "a rows columns"] | None = None,
) -> dict[str, float]:
    """Figures of what a volume leaves of the line integrals.

    ``residual`` is its root mean square, ``residual_share`` its norm over the data's, ``residual_to_noise`` its norm
    over that of the photons' noise, where their number is known: above 1 something is missed, below noise is fitted.
    Of rays that were held out: the root mean square, and PSNR with the largest line integral as the peak.
    """
    difference = predicted - measured
    rms = float(difference.square().mean().sqrt())
    figures = {
        "residual": rms,
        "residual_share": rms / max(float(measured.square().mean().sqrt()), 1e-30),
    }
    if counts is not None:
        figures["residual_to_noise"] = metrics.residual_ratio(predicted, measured, photons=counts)
    if held is not None:
        figures["held_out_residual"] = float(difference[held].square().mean().sqrt())
        peak = float(measured.max())
        figures["held_out_psnr"] = 20 * math.log10(peak / max(figures["held_out_residual"], 1e-9 * peak))
    return figures


def read_like(path: Path | None, shape: tuple[int, ...]) -> Float[Tensor, "nz ny nx"] | None:
    """A reference or a mask, where there is one, on the grid of a reconstruction of that shape.

    Raises:
        UserError: it cannot be read, or has another shape.
    """
    if path is None:
        return None
    values = torch.tensor(read_volume(path).values)
    if values.shape != shape:
        raise UserError(
            f"{path}: {_size(values.shape)} voxels (x, y, z), but the reconstruction has {_size(shape)}; "
            "give a reference on its grid (--volume.shape makes a reconstruction on another)"
        )
    return values


def against(
    volume: Float[Tensor, "nz ny nx"], reference: Float[Tensor, "nz ny nx"], peak: float | None = None
) -> dict[str, float]:
    """PSNR, SSIM (mean over slices; in space too where there are enough) and RMSE (1/mm) against a reference.

    ``peak`` is the range that PSNR and SSIM are stated for, by default that of the reference.
    """
    truth = reference.to(volume)
    figures = {"psnr": metrics.psnr(volume, truth, peak), "rmse": metrics.rmse(volume, truth)}
    if min(truth.shape[1:]) >= SMALLEST_SSIM:
        figures["ssim"] = metrics.ssim_slices(volume, truth, peak)
    if min(truth.shape) >= SMALLEST_SSIM:
        figures["ssim_3d"] = metrics.ssim_3d(volume, truth, peak)
    return figures


def overlap(volume: Float[Tensor, "nz ny nx"], mask: Float[Tensor, "nz ny nx"]) -> dict[str, float]:
    """What lies above Otsu's threshold against what of a mask is above 0: Matthews correlation (the score of the
    Helsinki Tomography Challenge), and intersection over union.

    Raises:
        UserError: the volume is constant.
    """
    truth = mask.to(volume) > 0
    found = metrics.segment(volume)
    return {"mcc": metrics.mcc(found, truth), "iou": metrics.iou(found, truth)}


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in reversed(shape))
