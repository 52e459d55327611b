"""Spectra of images, sound and video, and of untrained fields on the same grid or a coarser one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from recon3d.config import AudioConfig, FieldConfig, ImageConfig, RunConfig, SignalConfig, VideoConfig
from recon3d.data.image_files import resize_bilinear
from recon3d.data.signal import Signal
from recon3d.fields.field import Field
from recon3d.geometry.grids import grid_points
from recon3d.tasks.measurements import measure, read_signal
from recon3d.tuning.options import Binning
from recon3d.tuning.spectrum import Bins, magnitudes

LARGEST_SQUARE = 1024
"""Side of the square that an image's spectrum is taken of, at most (as published)."""
NUMBERS = 2**26
"""Signals of more numbers are thinned first."""
LONGEST = {1: 2**16, 2: 256, 3: 64}
"""Samples along every axis of the grid that untrained fields are seen on, at most, by the number of axes. In the plane
three a bin are taken where fewer do: what a coarser grid aliases moves the spectrum of a SIREN by a fifth of a bin."""
POINTS = 2**17
"""Points that one configuration is evaluated at, all draws together, where two draws would be more."""
CHUNK = 4096
"""Points at a time: activations stay in cache."""


@dataclass(frozen=True)
class SignalTarget:
    """Values (*grid, C) of a sampled signal."""

    values: Float[Tensor, "*grid c"]
    device: torch.device

    @staticmethod
    def read(config: SignalConfig, device: torch.device) -> SignalTarget:
        """What a run may know of its signal: what it is trained on, with gaps filled in."""
        values = _known(config, read_signal(config))
        height, *rest = values.shape[:-1]
        if isinstance(config, ImageConfig) and (rest != [height] or height > LARGEST_SQUARE):
            side = min(max(height, *rest), LARGEST_SQUARE)
            values = resize_bilinear(values, (side, side))
        return SignalTarget(torch.from_numpy(values), device)

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(self.values.shape[:-1])

    def bins(self, size: int, binning: Binning) -> Bins:
        longest = LONGEST[len(self.grid)]
        return Bins.of(tuple(min(n, longest) for n in self.grid), size, binning)

    def draws(self, bins: Bins) -> int:
        return max(1, min(2, POINTS // math.prod(self._seen_on(bins))))

    def measured(self, bins: Bins) -> Float[Tensor, " bins"]:
        return magnitudes(self.values, bins)

    def untrained(self, config: RunConfig, bins: Bins, seed: int) -> Float[Tensor, " bins"]:
        assert isinstance(config, SignalConfig)
        field = untrained_field(config.field.resolved(), self.values, seed).to(self.device)
        return magnitudes(values_on(field, self._seen_on(bins), self.device), bins)

    def _seen_on(self, bins: Bins) -> tuple[int, ...]:
        """The grid of the untrained field."""
        longest = LONGEST[len(self.grid)]
        if len(self.grid) == 2:
            longest = min(longest, 3 * bins.count)
        return tuple(min(n, longest) for n in self.grid)


def untrained_field(config: FieldConfig, values: Float[Tensor, "*grid c"], seed: int) -> Field:
    """An untrained field of a resolved configuration for a signal, on the CPU; ``seed`` draws its weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        field = Field(config, values.ndim - 1, values.shape[-1])
        field.network.observe(values.movedim(-1, 0))
    return field.eval()


@torch.no_grad()
def values_on(field: Field, grid: tuple[int, ...], device: torch.device) -> Float[Tensor, "*grid c"]:
    """The values of a field at all samples of a grid."""
    points = math.prod(grid)
    out = torch.empty(points, field.out_dim, device=device)
    for begin in range(0, points, CHUNK):
        part = torch.arange(begin, min(begin + CHUNK, points), device=device)
        out[begin : begin + len(part)] = field(grid_points(grid, part, device))
    return out.view(*grid, field.out_dim)


def _known(config: SignalConfig, signal: Signal) -> Float[np.ndarray, "*grid c"]:
    """What a run may know of a signal, in [-1, 1], on all of a grid."""
    step = max(1, math.ceil((signal.values.size / NUMBERS) ** (1 / len(signal.grid))))
    if step > 1:
        thin = np.ascontiguousarray(signal.values[(slice(None, None, step),) * len(signal.grid)])
        return replace(signal, values=thin).normalized()
    if isinstance(config, AudioConfig | VideoConfig):
        return signal.normalized()[:: config.train_every].copy()
    if isinstance(config, ImageConfig) and config.supervision != "value":
        return signal.normalized()
    data = measure(config, signal, torch.device("cpu"))
    values = data.values(None).view(*data.grid, -1)
    if data.train is None:
        return values.numpy()
    seen = torch.zeros(1, math.prod(data.grid))
    for index in (data.train, data.held):
        if index is not None:
            seen[:, index] = 1
    filled = _filled(values.movedim(-1, 0), seen.view(1, *data.grid))
    return np.ascontiguousarray(filled.movedim(0, -1).numpy())


def _filled(values: Float[Tensor, "c h w"], seen: Float[Tensor, "1 h w"]) -> Float[Tensor, "c h w"]:
    """An image whose pixels that are not ``seen`` are those of the image at half its size, interpolated; of that again
    where it has gaps, and so on."""
    if bool(seen.all()) or max(seen.shape) == 1:
        return values
    share = F.avg_pool2d(seen, 2, ceil_mode=True)
    mean = F.avg_pool2d(values * seen, 2, ceil_mode=True) / share.clamp_min(1e-9)
    coarse = _filled(mean, (share > 0).float())
    size = (values.shape[1], values.shape[2])
    fine = F.interpolate(coarse[None], size=size, mode="bilinear", align_corners=False)[0]
    return torch.where(seen > 0, values, fine)
