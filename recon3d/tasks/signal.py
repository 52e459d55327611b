"""The signal task: the samples of an image, a sound or a video supervise a field of its coordinates.

Values are in [-1, 1] all through, and PSNR is of that range: 10 log10(4 / MSE).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon3d import distributed
from recon3d.config import ImageConfig, OptimizerConfig, SignalConfig
from recon3d.data.signal import Kind, Signal
from recon3d.fields.field import Field
from recon3d.fields.groups import parameter_groups
from recon3d.geometry.grids import grid_points, tile_points
from recon3d.heads import points
from recon3d.metrics.pictures import spectrogram_picture, waveform_picture
from recon3d.tasks.measurements import Measurements, measure, read_signal
from recon3d.training.chunks import descend, fastest_chunk
from recon3d.training.trainer import Preview, StepResult

RENDER_CHUNK = 2**14
LOOKED_AT = 2**20
"""Samples of a preview and of its score, at most."""
HELD_EVERY = 10
"""Steps between two looks at the held-out points."""


@dataclass(frozen=True)
class Header:
    """What must be known of a signal to write the field's own version of it, without the file it came from."""

    kind: Kind
    grid: tuple[int, ...]
    channels: int
    low: float
    high: float
    bits: int
    rate: float | None

    @staticmethod
    def of(signal: Signal) -> Header:
        return Header(signal.kind, signal.grid, signal.channels, signal.low, signal.high, signal.bits, signal.rate)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Header:
        return Header(**{**values, "grid": tuple(values["grid"])})

    def signal(self, values: Float[Tensor, "*grid c"], rate: float | None = None) -> Signal:
        """Values in [-1, 1], on this grid or another, as a signal in the file's own numbers."""
        array = np.ascontiguousarray(values.cpu().numpy())
        unit = Signal(self.kind, array, self.low, self.high, self.bits, rate or self.rate, Path())
        return replace(unit, values=unit.denormalized(array))


class SignalTask(nn.Module):
    """A field and the samples that train it.

    ``header`` comes from the data when a run starts (:meth:`from_data`), and from the checkpoint afterwards.
    """

    unit = "points"

    def __init__(
        self,
        config: SignalConfig,
        device: torch.device,
        precision: torch.dtype = torch.float32,
        header: Header | None = None,
    ) -> None:
        super().__init__()
        self.config, self.device, self.precision = config, device, precision
        self.generator = torch.Generator(device=device)
        self.measurements: Measurements | None = None
        self.truth: Signal | None = None
        if header is not None:
            self._build(header)

    def _build(self, header: Header) -> None:
        self.header = header
        self.field = Field(self.config.field, len(header.grid), header.channels, self.precision).to(self.device)

    @staticmethod
    def from_data(config: SignalConfig, device: torch.device, precision: torch.dtype) -> SignalTask:
        """A new task: reads the signal and what of it is to be trained on."""
        signal = read_signal(config)
        task = SignalTask(config, device, precision, Header.of(signal))
        task.use_training_data(signal, measure(config, signal, device))
        return task

    def use_training_data(self, signal: Signal, measurements: Measurements) -> None:
        self.truth, self.measurements = signal, measurements
        self.field.network.observe(self._glimpse())
        self.chunk = self.config.chunk or self._probe()

    def _glimpse(self) -> Tensor:
        """What is trained on as a signal (C, *grid) in [-1, 1], for networks that want to see it: thinned to a million
        samples or fewer, 0 at points that are hidden, and everywhere where only derivatives are known."""
        data = self.measurements
        assert data is not None
        every = max(1, math.ceil((math.prod(data.grid) / LOOKED_AT) ** (1 / len(data.grid))))
        index = torch.arange(math.prod(data.grid), device=self.device).view(data.grid)
        index = index[(slice(None, None, every),) * len(data.grid)]
        if data.head is not points.values:
            return torch.zeros(self.header.channels, *index.shape, device=self.device)
        values = data.values(index.flatten())
        if data.train is not None:
            values = values * self._trained()[index.flatten(), None]
        return values.view(*index.shape, -1).movedim(-1, 0)

    # --- state ---

    def get_extra_state(self) -> Tensor:
        """The header, so that a run can be opened without its data."""
        return torch.frombuffer(bytearray(json.dumps(vars(self.header)).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        header = Header.from_dict(json.loads(bytes(state.cpu().tolist())))
        if not hasattr(self, "header"):
            self._build(header)
        self.header = header

    def parameter_groups(self, config: OptimizerConfig) -> list[dict[str, Any]]:
        return parameter_groups([self.field.network], [self.field.encoder], config)

    # --- training ---

    def training_step(self, step: int, backward: Callable[[Tensor], None]) -> StepResult:
        data = self.measurements
        assert data is not None, "training needs use_training_data first"
        index = self._batch(step)
        count = data.count if index is None else len(index)
        terms = distributed.summed({"error": self._fit(index, count, backward)})
        penalty = self.field.network.penalty()
        if penalty is not None:
            backward(distributed.once(penalty))
            terms["penalty"] = penalty.detach()
        scalars = {"psnr": decibels(float(terms["error"])), "points": float(count)}
        return StepResult(terms, scalars, self._score(step, scalars))

    def _fit(self, index: Tensor | None, count: int, backward: Callable[[Tensor], None]) -> Float[Tensor, ""]:
        """Goes backward from this process's part of a batch's mean squared error, and gives it."""

        def error(begin: int, end: int) -> Float[Tensor, ""]:
            part = torch.arange(begin, end, device=self.device) if index is None else index[begin:end]
            return self._error(part) / count

        return descend(error, distributed.own_span(count), self.chunk, self._weights, backward, self._threads)

    def _error(self, index: Tensor) -> Float[Tensor, ""]:
        """The sum over points of the grid of their mean squared error."""
        data = self.measurements
        assert data is not None
        difference = data.head(self.field, grid_points(data.grid, index, self.device)) - data.values(index)
        return difference.square().mean(dim=1).sum()

    @property
    def _weights(self) -> list[nn.Parameter]:
        return [weight for weight in self.field.parameters() if weight.requires_grad]

    @property
    def _threads(self) -> int:
        """Threads that have a chunk each. The gradient of a table is made by all of them at once, as large as it is."""
        alone = self.device.type != "cpu" or self.field.encoder.tables()
        return 1 if alone else torch.get_num_threads()

    @property
    def recordable(self) -> bool:
        """Whether :meth:`device_step` can stand in for a training step: on a GPU that this process has for itself, with
        the whole signal on it as every step's batch, and no point held out to choose by."""
        data = self.measurements
        assert data is not None
        whole = self.config.batch is None or self.config.batch >= data.count
        alone = self.device.type == "cuda" and distributed.processes() == 1
        plain = data.held is None and data.head is points.values and self.config.field.backend == "own"
        return alone and whole and data.on_device and plain

    def prepare_step(self, step: int) -> None:
        """All steps are alike."""

    def device_step(self, backward: Callable[[Tensor], None]) -> None:
        """A training step on the whole signal, without a word to the host."""
        data = self.measurements
        assert data is not None
        self._fit(data.train, data.count, backward)
        penalty = self.field.network.penalty()
        if penalty is not None:
            backward(penalty)

    def _batch(self, step: int) -> Tensor | None:
        """Indices of the points of a step; None for all of the grid."""
        data, config = self.measurements, self.config
        assert data is not None
        if config.batch is None or config.batch >= data.count:
            return data.train
        # Seeded anew at every step: a resumed run draws what an uninterrupted one would have drawn.
        self.generator.manual_seed(config.seed * 1_000_003 + step)
        if config.tile is not None:
            inside = math.prod(min(config.tile, size) for size in data.grid)
            tiles = max(1, config.batch // inside)
            index = tile_points(data.grid, config.tile, tiles, self.generator, self.device)
            return index if data.train is None else index[self._trained()[index]]
        drawn = torch.randint(data.count, (config.batch,), generator=self.generator, device=self.device)
        return drawn if data.train is None else data.train[drawn]

    def _trained(self) -> Tensor:
        """Which points of the grid are trained on, (points,) bool."""
        data = self.measurements
        assert data is not None and data.train is not None
        mask = torch.zeros(math.prod(data.grid), dtype=torch.bool, device=self.device)
        mask[data.train] = True
        return mask

    def _score(self, step: int, scalars: dict[str, float]) -> float | None:
        """PSNR of the held-out points where there are some, else of the training points where the step saw them all."""
        data = self.measurements
        assert data is not None
        if data.held is not None:
            if step % HELD_EVERY:
                return None
            scalars["psnr_held_out"] = self._psnr_at(data.held)
            return scalars["psnr_held_out"]
        return scalars["psnr"] if scalars["points"] == data.count else None

    def score(self) -> float:
        """PSNR of the held-out points where there are some, else of those trained on; of a million of them at most."""
        data = self.measurements
        assert data is not None
        index = data.train if data.held is None else data.held
        if index is None:
            index = torch.arange(data.count, device=self.device)
        return self._psnr_at(index[:: max(1, math.ceil(len(index) / LOOKED_AT))])

    @torch.no_grad()
    def _psnr_at(self, index: Tensor) -> float:
        data = self.measurements
        assert data is not None
        total, numbers = 0.0, 0
        for part in index.split(RENDER_CHUNK):
            target = data.values(part)
            error = data.head(self.field, grid_points(data.grid, part, self.device)) - target
            total, numbers = total + float(error.square().sum()), numbers + target.numel()
        return decibels(total / numbers)

    def _probe(self) -> int:
        """The fastest chunk on this machine; leaves no trace in the task."""
        data = self.measurements
        assert data is not None
        weights, threads = self._weights, self._threads

        def error(begin: int, end: int) -> Float[Tensor, ""]:
            return self._error(torch.arange(begin, end, device=self.device) % math.prod(data.grid))

        def leave_no_trace(part: Tensor) -> None:
            torch.autograd.grad(part, weights, allow_unused=True)

        def run(size: int) -> None:
            descend(error, (0, size * threads), size, weights, leave_no_trace, threads)

        points = min(data.count, self.config.batch or data.count)
        return fastest_chunk(run, -(-points // threads), self.device)

    # --- looking ---

    @torch.no_grad()
    def render(self, grid: tuple[int, ...] | None = None) -> Float[Tensor, "*grid c"]:
        """The field's values (*grid, C) at the samples of a grid (default: the file's)."""
        grid = grid or self.header.grid
        count = math.prod(grid)
        out = torch.empty(count, self.header.channels, device=self.device)
        for begin in range(0, count, RENDER_CHUNK):
            part = torch.arange(begin, min(begin + RENDER_CHUNK, count), device=self.device)
            out[begin : begin + len(part)] = self.field(grid_points(grid, part, self.device)).float()
        return out.view(*grid, self.header.channels)

    def preview(self) -> Preview:
        """The signal and the field's version of it; for large signals a coarser grid, or the first samples."""
        truth, data = self.truth, self.measurements
        assert truth is not None and data is not None, "a preview needs the signal"
        self.eval()
        # Where a step sees all points, it tells the score itself.
        score = self.score() if self.config.batch is not None and data.held is None else None
        images = _PICTURES[self.header.kind](self, truth)
        self.train()
        return Preview(images, {} if score is None else {"psnr": score}, score)


def decibels(error: float) -> float:
    """PSNR of a mean squared error in the range [-1, 1], 10 log10(4 / MSE); at most 180."""
    return 10 * math.log10(4 / max(error, 4e-18)) if math.isfinite(error) else math.nan


# --- pictures -------------------------------------------------------------------------------------------------------


def picture_of(values: Float[Tensor, "h w c"]) -> np.ndarray:
    """Values in [-1, 1] as an 8-bit RGB picture; alpha lies over grey."""
    pixels = ((values.float().cpu() + 1) / 2).clamp(0, 1)
    if pixels.shape[-1] in (2, 4):
        alpha = pixels[..., -1:]
        pixels = pixels[..., :-1] * alpha + 0.5 * (1 - alpha)
    if pixels.shape[-1] == 1:
        pixels = pixels.expand(-1, -1, 3)
    return (pixels * 255 + 0.5).to(torch.uint8).numpy()


def side_by_side(truth: Float[Tensor, "h w c"], prediction: Float[Tensor, "h w c"]) -> np.ndarray:
    """Truth, the field's version, and ten times their difference."""
    error = (10 * (prediction - truth).abs().mean(-1, keepdim=True) - 1).clamp(-1, 1)
    return np.concatenate([picture_of(truth), picture_of(prediction), picture_of(error)], axis=1)


def _thinned(grid: tuple[int, ...]) -> tuple[int, ...]:
    """A coarser grid of the same shape with at most LOOKED_AT points."""
    shrink = min(1.0, (LOOKED_AT / math.prod(grid)) ** (1 / len(grid)))
    return tuple(max(1, int(size * shrink)) for size in grid)


def _image_pictures(task: SignalTask, truth: Signal) -> dict[str, np.ndarray]:
    grid = _thinned(truth.grid)
    rows, columns = (np.arange(n) * size // n for n, size in zip(grid, truth.grid, strict=True))
    thin = replace(truth, values=np.ascontiguousarray(truth.values[np.ix_(rows, columns)]))
    values = torch.from_numpy(thin.normalized()).to(task.device)
    return {"image": side_by_side(values, aligned(task.render(grid), values, task.config))}


def aligned(
    prediction: Float[Tensor, "h w c"], truth: Float[Tensor, "h w c"], config: SignalConfig
) -> Float[Tensor, "h w c"]:
    """The prediction, plus what derivatives leave open: gradients a constant, Laplacians a linear function."""
    supervision = config.supervision if isinstance(config, ImageConfig) else "value"
    if supervision == "value":
        return prediction
    shape = prediction.shape
    x = grid_points(tuple(shape[:2]), device=prediction.device)
    columns = torch.ones(len(x), 1, device=x.device)
    if supervision == "laplacian":
        columns = torch.cat([columns, x], dim=1)
    difference = (truth - prediction).flatten(0, 1)
    fitted = torch.linalg.lstsq(columns.double(), difference.double()).solution
    return prediction + (columns.double() @ fitted).float().view(shape)


def _audio_pictures(task: SignalTask, truth: Signal) -> dict[str, np.ndarray]:
    length = min(truth.grid[0], LOOKED_AT)
    samples = truth.normalized(np.arange(length))[:, 0]
    index = torch.arange(length, device=task.device)
    with torch.no_grad():
        parts = [task.field(grid_points(truth.grid, part, task.device))[:, 0] for part in index.split(RENDER_CHUNK)]
    prediction = torch.cat(parts).float().cpu().numpy()
    rate = truth.rate or 1.0
    spectra = [spectrogram_picture(values, rate) for values in (samples, prediction)]
    return {"waveform": waveform_picture(samples, prediction), "spectrogram": np.concatenate(spectra)}


def _video_pictures(task: SignalTask, truth: Signal) -> dict[str, np.ndarray]:
    frames, height, width = truth.grid
    plane = height * width
    index = torch.arange(plane, device=task.device) + (frames // 2) * plane
    values = torch.from_numpy(truth.normalized(index.cpu().numpy())).view(height, width, -1)
    with torch.no_grad():
        parts = [task.field(grid_points(truth.grid, part, task.device)) for part in index.split(RENDER_CHUNK)]
    return {"frame": side_by_side(values, torch.cat(parts).float().cpu().view(height, width, -1))}


_PICTURES: dict[str, Callable[[SignalTask, Signal], dict[str, np.ndarray]]] = {
    "image": _image_pictures,
    "audio": _audio_pictures,
    "video": _video_pictures,
}
