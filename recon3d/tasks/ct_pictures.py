"""Pictures of a CT run: slices of volumes side by side, and sinograms with what a volume leaves of them."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from recon3d.classical.analytic import fbp
from recon3d.config.classical import FbpConfig
from recon3d.errors import UserError
from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.voxels import VolumeGrid

GAP = 4
"""Pixels between pictures."""
LARGEST = 512
"""Pixels a side of a picture, at most; larger ones are thinned."""
BRIGHT = 1.3
"""What is white, in units of the scale."""
QUANTILE = 0.995
"""Of a volume's values: its scale, where there is no other."""


def analytic(
    projections: Float[Tensor, "a rows columns"], geometry: ScanGeometry, grid: VolumeGrid
) -> Float[Tensor, "nz ny nx"] | None:
    """Filtered back-projection under a Hann window; None where the geometry has none."""
    try:
        return fbp(projections, geometry, grid, FbpConfig("hann"))
    except UserError:
        return None


def compared(
    volume: Float[Tensor, "nz ny nx"], other: Float[Tensor, "nz ny nx"] | None, scale: float
) -> UInt8[np.ndarray, "h w 3"]:
    """The slices of a volume through its middle and, below, those of another, on one grey scale from 0."""
    rows = [
        beside([grey(part, 0.0, BRIGHT * scale) for part in middle_slices(one)])
        for one in (volume, other)
        if one is not None
    ]
    if volume.shape[0] == 1:
        return beside(rows)
    return np.concatenate([part for row in rows for part in (row, np.zeros((GAP, row.shape[1], 3), np.uint8))][:-1])


def sinograms(
    measured: Float[Tensor, "a rows columns"], predicted: Float[Tensor, "a rows columns"]
) -> UInt8[np.ndarray, "h w 3"]:
    """The middle detector row of every view, measured and predicted, and their difference, ten times as bright about
    grey; then, where there are several rows, the same of the middle view."""
    peak = float(measured.max())
    parts = [(measured[:, measured.shape[1] // 2], predicted[:, predicted.shape[1] // 2])]
    if measured.shape[1] > 1:
        parts.append((measured[len(measured) // 2].flip(0), predicted[len(predicted) // 2].flip(0)))
    pictures = []
    for truth, found in parts:
        residual = found - truth
        pictures += [grey(truth, 0.0, peak), grey(found, 0.0, peak), grey(residual, -0.05 * peak, 0.05 * peak)]
    return beside(pictures)


def bright(volume: Float[Tensor, "nz ny nx"]) -> float:
    """A scale for a volume's own pictures: what all but a few voxels stay below."""
    return max(float(np.quantile(volume.cpu().numpy(), QUANTILE)), 1e-30)


def middle_slices(volume: Float[Tensor, "nz ny nx"]) -> list[Float[Tensor, "h w"]]:
    """Axial, coronal and sagittal slice through the middle, y and z up; of a slice, it alone."""
    nz, ny, nx = volume.shape
    axial = volume[nz // 2].flip(0)
    if nz == 1:
        return [axial]
    return [axial, volume[:, ny // 2].flip(0), volume[:, :, nx // 2].flip(0)]


def grey(
    values: Float[Tensor, "h w"], low: float, high: float, largest: int | None = LARGEST
) -> UInt8[np.ndarray, "a b 3"]:
    """An array as a grey picture, black at ``low``, white at ``high``; thinned to ``largest`` pixels a side."""
    step = 1 if largest is None else max(1, -(-max(values.shape) // largest))
    share = ((values[::step, ::step].float().cpu() - low) / max(high - low, 1e-30)).clamp(0, 1)
    return (255 * share + 0.5).to(torch.uint8).unsqueeze(-1).expand(-1, -1, 3).numpy()


def beside(pictures: list[UInt8[np.ndarray, "_h _w 3"]]) -> UInt8[np.ndarray, "h w 3"]:
    """Pictures from left to right, on black."""
    height = max(len(picture) for picture in pictures)
    out: list[np.ndarray] = []
    for picture in pictures:
        out += [np.pad(picture, ((0, height - len(picture)), (0, 0), (0, 0))), np.zeros((height, GAP, 3), np.uint8)]
    return np.concatenate(out[:-1], axis=1)
