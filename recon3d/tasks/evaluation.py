"""How well a field stands for a signal: its figures and a picture, made slab by slab so that memory stays bounded.

A slab is a frame of a video, and the whole of an image or a sound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from recon3d.config import AudioConfig, ImageConfig, SignalConfig, VideoConfig
from recon3d.data.signal import Signal
from recon3d.geometry.grids import grid_points
from recon3d.metrics.image import ssim
from recon3d.metrics.pictures import spectrogram_picture, waveform_picture
from recon3d.metrics.signal import spectrum_cosine
from recon3d.tasks.measurements import Measurements, measure
from recon3d.tasks.signal import LOOKED_AT, RENDER_CHUNK, SignalTask, aligned, decibels, side_by_side

SPECTRUM_OF = 2**25
"""Numbers of a signal up to which its spectrum is compared."""
SSIM_FROM = 11
"""Pixels of a side from which SSIM is defined."""
CPU = torch.device("cpu")

Sink = Callable[[int, Float[Tensor, "n c"]], None]
"""Takes the index of a first point, and the field's values from there on."""


@dataclass(frozen=True)
class Evaluation:
    """Figures by name, and a picture of truth and prediction."""

    figures: dict[str, Any]
    picture: UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Rendering:
    """What a task's field has at the points of a grid.

    ``shift`` is what derivatives leave open, as the coefficients of 1 and of the coordinates.
    """

    task: SignalTask
    shift: Float[Tensor, "k c"] | None = None

    @torch.no_grad()
    def values(self, grid: tuple[int, ...], begin: int, end: int) -> Float[Tensor, "n c"]:
        """The values of the points ``begin`` to ``end`` of ``grid``, counted row by row."""
        device, parts = self.task.device, []
        for first in range(begin, end, RENDER_CHUNK):
            x = grid_points(grid, torch.arange(first, min(first + RENDER_CHUNK, end), device=device), device)
            part = self.task.field(x).float()
            if self.shift is not None:
                shift = self.shift.to(part)
                part = part + shift[0] + x @ shift[1:]
            parts.append(part.cpu())
        return torch.cat(parts)


def alignment(task: SignalTask, truth: Signal) -> Float[Tensor, "k c"] | None:
    """The shift of a run that was trained on derivatives, fitted to the truth; None for others."""
    if not trained_on_derivatives(task.config):
        return None
    prediction, target = task.render().cpu(), torch.from_numpy(truth.normalized())
    shift = (aligned(prediction, target, task.config) - prediction).flatten(0, 1).double()
    x = grid_points(truth.grid).double()
    return torch.linalg.lstsq(torch.cat([torch.ones(len(x), 1), x], dim=1), shift).solution.float()


def trained_on_derivatives(config: SignalConfig) -> bool:
    return isinstance(config, ImageConfig) and config.supervision != "value"


def evaluate(rendering: Rendering, truth: Signal, sink: Sink | None = None) -> Evaluation:
    """Compare a field with its signal, all of it; ``sink`` is given the field's values on the way.

    PSNR is of the range [-1, 1], 10 log10(4 / MSE), of all points and channels together; SSIM of the range [0, 1],
    the mean over a video's frames. ``rho_ag`` is the cosine of the amplitude spectra (SPDER, equation 5).
    """
    task, config = rendering.task, rendering.task.config
    measured = measure(config, truth, CPU) if _sees_a_part(config) else None
    sums = _Sums(_trained(truth, measured))
    compare_spectra = truth.values.size <= SPECTRUM_OF
    kept: list[tuple[Tensor, Tensor]] = []
    shown: list[tuple[Tensor, Tensor]] = []
    look_at = _looked_at(truth)
    for index, (begin, end) in enumerate(slabs(truth)):
        target = torch.from_numpy(truth.normalized(np.arange(begin, end)))
        prediction = rendering.values(truth.grid, begin, end)
        if sink is not None:
            sink(begin, prediction)
        sums.add(truth, begin, prediction, target)
        if compare_spectra:
            kept.append((prediction, target))
        if index in look_at:
            shown.append((prediction, target))
    figures = {**sums.figures(truth), **_against_input(config, truth, measured)}
    if compare_spectra:
        figures["rho_ag"] = _spectrum_cosine(kept, truth)
    if rendering.shift is not None:
        figures["aligned"] = "constant" if config.supervision == "gradient" else "linear"  # type: ignore[attr-defined]
    figures["parameters"] = task.field.parameter_count()
    return Evaluation(figures, _picture(truth, shown))


def slabs(signal: Signal) -> Iterator[tuple[int, int]]:
    """First and last point (not included) of every slab."""
    size = math.prod(signal.grid[1:]) if signal.kind == "video" else signal.points
    for begin in range(0, signal.points, size):
        yield begin, begin + size


# --- figures --------------------------------------------------------------------------------------------------------


@dataclass
class _Sums:
    """What adds up from slab to slab."""

    trained: Bool[Tensor, " n"] | None
    error: float = 0.0
    exact: int = 0
    numbers: int = 0
    error_of: dict[str, float] = field(default_factory=lambda: {"trained": 0.0, "hidden": 0.0})
    numbers_of: dict[str, int] = field(default_factory=lambda: {"trained": 0, "hidden": 0})
    similarity: list[float] = field(default_factory=list)

    def add(self, truth: Signal, begin: int, prediction: Float[Tensor, "n c"], target: Float[Tensor, "n c"]) -> None:
        square = (prediction - target).double().square()
        self.error += float(square.sum())
        self.numbers += square.numel()
        if truth.bits <= 16:
            self.exact += int((_levels(prediction, truth) == _levels(target, truth)).sum())
        if self.trained is not None:
            here = self.trained[begin : begin + len(square)]
            for name, which in (("trained", here), ("hidden", ~here)):
                self.error_of[name] += float(square[which].sum())
                self.numbers_of[name] += int(which.sum()) * square.shape[1]
        if truth.kind != "audio" and min(truth.grid[-2:]) >= SSIM_FROM:
            images = [_unit(values).view(*truth.grid[-2:], -1) for values in (prediction, target)]
            self.similarity.append(ssim(images[0], images[1]))

    def figures(self, truth: Signal) -> dict[str, Any]:
        error = self.error / self.numbers
        figures: dict[str, Any] = {"psnr": decibels(error), "mse": error}
        if self.similarity:
            figures["ssim"] = float(np.mean(self.similarity))
        if truth.bits <= 16:
            figures["exact_share"] = self.exact / self.numbers
        for name, numbers in self.numbers_of.items():
            if numbers:
                figures[f"psnr_{name}"] = decibels(self.error_of[name] / numbers)
        return figures


def _levels(values: Float[Tensor, "n c"], signal: Signal) -> Float[Tensor, "n c"]:
    """The file's own integers: of sound symmetric around 0, of pixels from 0 on."""
    if signal.kind == "audio":
        top = 2.0 ** (signal.bits - 1)
        return (values.double() * top).round().clamp(-top, top - 1)
    levels = 2**signal.bits - 1
    return ((values.double() + 1) * (levels / 2)).round().clamp(0, levels)


def _unit(values: Tensor) -> Tensor:
    return ((values + 1) / 2).clamp(0, 1)


def _sees_a_part(config: SignalConfig) -> bool:
    """Whether training sees something else than all of the clean signal."""
    if trained_on_derivatives(config):
        return False
    if isinstance(config, ImageConfig):
        part = config.train_scale > 1 or config.keep < 1 or config.mask is not None or config.noise > 0
    else:
        assert isinstance(config, AudioConfig | VideoConfig)
        part = config.train_every > 1
    return part or config.holdout > 0


def _trained(truth: Signal, measured: Measurements | None) -> Bool[Tensor, " n"] | None:
    """Which points of the signal were trained on; None where all were, or points of another grid."""
    if measured is None or measured.train is None or measured.grid != truth.grid:
        return None
    mask = torch.zeros(truth.points, dtype=torch.bool)
    mask[measured.train] = True
    return mask


def _against_input(config: SignalConfig, truth: Signal, measured: Measurements | None) -> dict[str, Any]:
    """What the training image itself scores, where it is a smaller or a noisy one: what a field has to beat."""
    if measured is None or not isinstance(config, ImageConfig):
        return {}
    if config.train_scale > 1:
        name, scored = "bicubic", upsampled(measured.values(None).view(*measured.grid, -1), truth.grid)
    elif config.noise > 0:
        name, scored = "noisy", measured.values(None).view(*truth.grid, -1)
    else:
        return {}
    target = torch.from_numpy(truth.normalized())
    figures = {f"psnr_{name}": decibels(float((scored - target).double().square().mean()))}
    if min(truth.grid) >= SSIM_FROM:
        figures[f"ssim_{name}"] = ssim(_unit(scored), _unit(target))
    return figures


def upsampled(image: Float[Tensor, "h w c"], grid: tuple[int, ...]) -> Float[Tensor, "h2 w2 c"]:
    """An image on a finer grid of the same extent, bicubic (Keys' kernel, a = -1/2; samples are centres of pixels)."""
    rows = image.permute(2, 0, 1).unsqueeze(0)
    # With antialias torch takes Keys' kernel, without it a = -3/4; where an image grows nothing else differs.
    finer = torch.nn.functional.interpolate(rows, size=grid, mode="bicubic", antialias=True)
    return finer[0].permute(1, 2, 0).contiguous()


def _spectrum_cosine(kept: list[tuple[Tensor, Tensor]], truth: Signal) -> float:
    prediction, target = (torch.cat(parts).view(*truth.grid, -1) for parts in zip(*kept, strict=True))
    # Channel by channel, of which it is the mean anyway: spectra are large.
    each = [spectrum_cosine(prediction[..., c : c + 1], target[..., c : c + 1]) for c in range(truth.channels)]
    return float(np.mean(each))


# --- pictures -------------------------------------------------------------------------------------------------------


def _looked_at(truth: Signal) -> set[int]:
    """The slabs that are shown: three frames of a video."""
    return {0, truth.grid[0] // 2, truth.grid[0] - 1} if truth.kind == "video" else {0}


def _picture(truth: Signal, shown: list[tuple[Tensor, Tensor]]) -> UInt8[np.ndarray, "h w 3"]:
    """Image, frames: truth, prediction, ten times their difference. Sound: waveform, spectrograms (truth first)."""
    if truth.kind == "audio":
        prediction, target = (values[:LOOKED_AT, 0].numpy() for values in shown[0])
        rate = truth.rate or 1.0
        spectra = [spectrogram_picture(samples, rate, like=target) for samples in (target, prediction)]
        return _stacked([waveform_picture(target, prediction), *spectra])
    height, width = truth.grid[-2:]
    step = max(1, math.ceil(math.sqrt(height * width / LOOKED_AT)))
    thin = [tuple(v.view(height, width, -1)[::step, ::step] for v in pair) for pair in shown]
    return _stacked([side_by_side(target, prediction) for prediction, target in thin])


def _stacked(pictures: list[np.ndarray]) -> UInt8[np.ndarray, "h w 3"]:
    width = max(picture.shape[1] for picture in pictures)
    filled = [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pictures]
    return np.concatenate(filled)
