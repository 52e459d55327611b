"""Fitting a sampled signal: image, audio, video."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from recon3d.config.fields import FieldConfig
from recon3d.config.runs import OptimizerConfig, Precision, RunConfig
from recon3d.errors import require

S = TypeVar("S", bound="SignalConfig")

PLAIN_ADAM = OptimizerConfig(final_share=1.0, warmup_steps=0, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.0)
"""Adam with a constant rate, as the papers on signals use it."""


@dataclass(frozen=True)
class SignalConfig(RunConfig):
    """What images, audio and video have in common: points of a grid supervise a field."""

    batch: int | None = None
    """Points a step, drawn at random (default: all of them, every step)."""
    tile: int | None = None
    """Draw the batch as tiles of so many points a side instead of single points (large images: nearer in memory)."""
    chunk: int | None = None
    """Points of one forward and backward pass; a step adds up the gradients of its chunks, exactly (default: the
    fastest, found by a short probe)."""
    holdout: float = 0.0
    """Share of the measured points that is not trained on but chooses the best state (denoising: stop early)."""
    precision: Precision = "float32"
    """Type of the networks' products; bfloat16 is seen from 33 to 45 dB on, and reaches about 50."""
    field: FieldConfig = FieldConfig(encoder=("identity",), network="spder")
    optimizer: OptimizerConfig = PLAIN_ADAM

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch", "tile", "chunk"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} is {value}: give 1 or more")
        require(
            self.tile is None or self.batch is not None,
            "tile and batch: a batch is made of tiles, so give --batch as well",
        )
        require(0 <= self.holdout < 0.9, f"holdout is {self.holdout}: give 0 to 0.9")

    def resolved(self: S) -> S:
        """With what depends on the field, and was left open, filled in; the data's path made absolute."""
        optimizer = self.optimizer
        if optimizer.learning_rate is None:
            optimizer = dataclasses.replace(optimizer, learning_rate=self.field.published.learning_rate)
        return dataclasses.replace(self, field=self.field.resolved(), optimizer=optimizer, data=self.data.resolve())


@dataclass(frozen=True)
class ImageConfig(SignalConfig):
    """An image file as a field of the plane."""

    channels: Literal["auto", "grey", "rgb", "rgba"] = "auto"
    size: tuple[int, int] | None = None
    """Resize to so many rows and columns first (bilinear, antialiased)."""
    crop: tuple[int, int, int, int] | None = None
    """Top, left, height and width of the part to take."""
    square: bool = False
    """Take the largest square in the middle."""
    train_scale: int = 1
    """Super-resolution: train on the image shrunk by this factor, evaluate against the whole."""
    keep: float = 1.0
    """Inpainting: random share of the pixels to train on."""
    mask: Path | None = None
    """Inpainting: an image of the same size; what is black in it is not trained on."""
    noise: float = 0.0
    """Gaussian noise added to the training values, as a share of the range (to measure denoising)."""
    supervision: Literal["value", "gradient", "laplacian"] = "value"
    """What of the image the field sees: its values, or only its derivatives (Poisson reconstruction)."""
    blend: Path | None = None
    """A second image, resized to the first: the field is trained on the sum of both images' gradients."""
    blend_weight: float = 0.5
    """Weight of the second image's gradients; the first's are weighted by the rest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(not (self.square and self.crop), "square and crop: both say which part to take; give one")
        require(self.train_scale >= 1, f"train_scale is {self.train_scale}: give 1 or more")
        require(0 < self.keep <= 1, f"keep is {self.keep}: give more than 0, at most 1")
        require(self.noise >= 0, f"noise is {self.noise}: give 0 or more")
        require(0 <= self.blend_weight <= 1, f"blend_weight is {self.blend_weight}: give 0 to 1")
        require(self.size is None or min(self.size) >= 2, f"size is {self.size}: give two numbers of pixels, 2 or more")
        require(
            self.blend is None or self.supervision == "gradient",
            f"blend and supervision ({self.supervision}): images are blended by their gradients: "
            "give --supervision gradient",
        )
        whole = self.keep == 1 and self.mask is None and self.noise == 0 and self.holdout == 0
        require(
            self.supervision == "value" or whole,
            f"supervision is {self.supervision}: derivatives need the whole clean image, "
            "so leave keep, mask, noise and holdout alone",
        )

    def resolved(self) -> ImageConfig:
        base = super().resolved()
        return dataclasses.replace(
            base, mask=self.mask and self.mask.resolve(), blend=self.blend and self.blend.resolve()
        )


@dataclass(frozen=True)
class AudioConfig(SignalConfig):
    """A sound file as a field of time."""

    start: float = 0.0
    """Seconds to leave out at the beginning."""
    seconds: float | None = None
    """Seconds to take (default: to the end)."""
    mono: bool = False
    """Mix the channels to one."""
    train_every: int = 1
    """Interpolation: train on every so-many-th sample, evaluate on those between."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.start >= 0, f"start is {self.start}: give 0 or more seconds")
        require(self.seconds is None or self.seconds > 0, f"seconds is {self.seconds}: give more than 0")
        require(self.train_every >= 1, f"train_every is {self.train_every}: give 1 or more")


@dataclass(frozen=True)
class VideoConfig(SignalConfig):
    """A video file as a field of time and the plane."""

    channels: Literal["grey", "rgb"] = "rgb"
    first: int = 0
    """First frame to take."""
    count: int | None = None
    """Frames to take, after the stride (default: to the end)."""
    stride: int = 1
    """Take every so-many-th frame."""
    size: tuple[int, int] | None = None
    """Resize to so many rows and columns."""
    crop: tuple[int, int, int, int] | None = None
    """Top, left, height and width of the part to take."""
    train_every: int = 1
    """Interpolation: train on every so-many-th frame, evaluate on those between."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.first >= 0, f"first is {self.first}: give 0 or more")
        require(self.count is None or self.count >= 1, f"count is {self.count}: give 1 or more")
        for name in ("stride", "train_every"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}: give 1 or more")
