"""What a field is told of a sampled signal: which points, and what is measured at them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon3d.config import AudioConfig, ImageConfig, SignalConfig, VideoConfig
from recon3d.data.audio_files import read_audio
from recon3d.data.image_files import Crop, read_image_signal, resize_bilinear
from recon3d.data.signal import Signal
from recon3d.data.video_files import read_video
from recon3d.errors import UserError
from recon3d.heads import points

ON_DEVICE = 2**28
"""Signals of at most so many numbers are held on the device as floats; larger ones stay where they are, in the file's
own type, and every batch is fetched."""
LEAST = 4
"""A signal, and each side of an image to train on, has at least so many samples."""
ENDLESS = 2**31


@dataclass(frozen=True)
class Measurements:
    """Points of a grid and what is measured at them.

    ``train`` and ``held`` are indices of grid points (None: all, none); ``values(index)`` gives what is measured at
    them, (N, k), and ``head`` what a field has there.
    """

    grid: tuple[int, ...]
    train: Int[Tensor, " n"] | None
    held: Int[Tensor, " m"] | None
    values: Callable[[Int[Tensor, " n"] | None], Float[Tensor, "n k"]]
    head: points.PointHead
    on_device: bool = True
    """Whether the values lie there, and are not fetched batch by batch."""

    @property
    def count(self) -> int:
        """Points trained on."""
        return math.prod(self.grid) if self.train is None else len(self.train)


def read_signal(config: SignalConfig) -> Signal:
    """The signal of a run's data file, as the evaluation knows it.

    Raises:
        UserError: unreadable, empty, or of fewer points than a field can be fitted to.
    """
    if isinstance(config, ImageConfig):
        crop: Crop | None = "square" if config.square else config.crop
        signal = read_image_signal(config.data, channels=config.channels, size=config.size, crop=crop)
        _enough(signal.grid, config)
        signal = _whole_multiple(signal, config.train_scale)
    elif isinstance(config, AudioConfig):
        signal = read_audio(config.data, start=config.start, seconds=config.seconds, mono=config.mono)
    else:
        assert isinstance(config, VideoConfig)
        last = ENDLESS if config.count is None else config.count * config.stride
        signal = read_video(
            config.data,
            frames=(config.first, last),
            stride=config.stride,
            size=config.size,
            crop=config.crop,
            channels=config.channels,
        )
    if signal.points < LEAST:
        raise UserError(f"{config.data}: only {signal.points} samples: give a signal of {LEAST} or more")
    return signal


def _enough(grid: tuple[int, ...], config: ImageConfig) -> None:
    height, width = (size // config.train_scale for size in grid)
    if min(grid) < LEAST:
        raise UserError(f"{config.data}: only {grid[1]} x {grid[0]} pixels: give an image of {LEAST} x {LEAST} or more")
    if min(height, width) < LEAST:
        raise UserError(
            f"{config.data}: {grid[1]} x {grid[0]} pixels shrunk by {config.train_scale} leave {width} x {height}: "
            f"lower --train-scale so that {LEAST} x {LEAST} are left"
        )


def _whole_multiple(signal: Signal, factor: int) -> Signal:
    """An image without the last rows and columns that are left over when it is shrunk: both cover the same ground."""
    height, width = (size // factor * factor for size in signal.grid)
    if (height, width) == signal.grid:
        return signal
    return dataclasses.replace(signal, values=np.ascontiguousarray(signal.values[:height, :width]))


def measure(config: SignalConfig, signal: Signal, device: torch.device) -> Measurements:
    """What a run trains on.

    Raises:
        UserError: a mask of another size or that hides everything, or too few points left.
    """
    generator = torch.Generator().manual_seed(config.seed)
    train: Tensor | None = None
    if isinstance(config, ImageConfig):
        if config.train_scale > 1:
            signal = shrunk(signal, config.train_scale)
        if config.supervision != "value":
            return _derivatives(config, signal, device)
        train = _kept_pixels(config, signal, generator)
        if config.noise > 0:
            signal = _noisy(signal, config.noise, generator)
    else:
        assert isinstance(config, AudioConfig | VideoConfig)
        if config.train_every > 1:
            train = _every(signal.grid, config.train_every)
    held: Tensor | None = None
    if config.holdout > 0:
        every = torch.arange(signal.points) if train is None else train
        held_out = torch.rand(len(every), generator=generator) < config.holdout
        train, held = every[~held_out], every[held_out]
    if train is not None and len(train) < LEAST:
        raise UserError(f"{config.data}: {len(train)} points are left to train on: hide fewer")
    if held is not None and len(held) == 0:
        raise UserError(f"{config.data}: holdout {config.holdout:g} leaves no point to choose by: raise --holdout")
    train, held = (None if index is None else index.to(device) for index in (train, held))
    values = point_values(signal, device)
    return Measurements(signal.grid, train, held, values, points.values, on_device=not _is_large(signal))


def _is_large(signal: Signal) -> bool:
    return signal.values.size > ON_DEVICE or isinstance(signal.values, np.memmap)


def point_values(signal: Signal, device: torch.device) -> Callable[[Tensor | None], Tensor]:
    """``values(index) -> (N, c)`` in [-1, 1]."""
    if _is_large(signal):

        def fetched(index: Tensor | None) -> Tensor:
            chosen = None if index is None else index.cpu().numpy()
            return torch.from_numpy(signal.normalized(chosen).reshape(-1, signal.channels)).to(device)

        return fetched
    every = torch.from_numpy(signal.normalized()).reshape(-1, signal.channels).to(device)
    return lambda index: every if index is None else every[index]


def shrunk(signal: Signal, factor: int) -> Signal:
    """An image at 1 / ``factor`` of its size, antialiased; sizes are rounded down, what is left over is cut off."""
    height, width = (size // factor for size in signal.grid)
    return dataclasses.replace(signal, values=resize_bilinear(_whole_multiple(signal, factor).values, (height, width)))


def _noisy(signal: Signal, share: float, generator: torch.Generator) -> Signal:
    noise = torch.randn(signal.values.shape, generator=generator).numpy()
    values = signal.values.astype(np.float32) + share * (signal.high - signal.low) * noise
    return dataclasses.replace(signal, values=values.astype(np.float32))


def _kept_pixels(config: ImageConfig, signal: Signal, generator: torch.Generator) -> Tensor | None:
    """The pixels that neither the mask nor chance hides; None where all are left."""
    kept = torch.ones(signal.points, dtype=torch.bool)
    if config.mask is not None:
        mask = read_image_signal(config.mask, channels="grey")
        if mask.grid != signal.grid:
            sizes = [f"{grid[1]} x {grid[0]}" for grid in (mask.grid, signal.grid)]
            raise UserError(
                f"{config.mask}: the mask has {sizes[0]} pixels, the image {sizes[1]}: give one of its size"
            )
        kept &= torch.from_numpy(mask.normalized().reshape(-1) > 0)
        if not bool(kept.any()):
            raise UserError(f"{config.mask}: the mask hides everything: white is what to train on")
    if config.keep < 1:
        kept &= torch.rand(signal.points, generator=generator) < config.keep
    return None if bool(kept.all()) else kept.nonzero().squeeze(1)


def _every(grid: tuple[int, ...], step: int) -> Tensor:
    """Indices of the points at every ``step``-th place of the first axis."""
    inside = math.prod(grid[1:])
    return (torch.arange(0, grid[0], step)[:, None] * inside + torch.arange(inside)).flatten()


def _derivatives(config: ImageConfig, signal: Signal, device: torch.device) -> Measurements:
    """The signal by its derivatives only, in units of their root mean square."""
    samples = torch.from_numpy(signal.normalized()).to(device)
    if config.supervision == "laplacian":
        target, head = points.second_differences(samples), points.laplacian_head(signal.grid)
    else:
        target, head = points.differences(samples), points.gradient_head(signal.grid)
        if config.blend is not None:
            second = read_image_signal(config.blend, channels=config.channels, size=signal.grid)  # type: ignore[arg-type]
            if second.channels != signal.channels:
                raise UserError(
                    f"{config.blend}: {second.channels} channels, but {config.data} has {signal.channels}: "
                    "give --channels grey or rgb"
                )
            other = points.differences(torch.from_numpy(second.normalized()).to(device))
            target = (1 - config.blend_weight) * target + config.blend_weight * other
    unit = target.square().mean().sqrt().clamp_min(1e-12)

    def scaled(field: points.DifferentiableField, x: Tensor) -> Tensor:
        return head(field, x) / unit

    target = target / unit
    return Measurements(signal.grid, None, None, lambda i: target if i is None else target[i], scaled)
