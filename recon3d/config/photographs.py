"""What every task on posed photographs has: the images, the batches, and volume rendering."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, TypeVar

from recon3d.config.fields import RadianceFieldConfig
from recon3d.config.runs import OptimizerConfig, RunConfig
from recon3d.errors import require

C = TypeVar("C", bound="PhotographsConfig")


@dataclass(frozen=True)
class RenderConfig:
    """Volume rendering through an occupancy grid."""

    grid: int = 128
    """Cells per side of the occupancy grid."""
    samples_per_diagonal: int = 1024
    """Samples that a diagonal of the box would hold if all of it were occupied: sets the marching step."""
    eval_oversampling: int = 2
    """Evaluation and previews march with steps so many times finer than training."""
    cone: float = 0.0
    """Growth of the step with the distance (0: constant; 0.004 suits unbounded scenes)."""
    early_stop: float = 1e-4
    """A ray ends when less than this share of its light is left."""
    update_every: int = 16
    """Steps between two updates of the occupancy grid."""
    warmup_steps: int = 256
    """Steps during which an update looks at every cell."""
    decay: float = 0.95
    """What an update keeps of a cell's density."""
    threshold: float = 0.01
    """A cell is occupied if its opacity over one step passes this, or the mean opacity where that is lower."""
    visual_hull: bool = True
    """Where images have alpha: never march cells that some image shows to be empty."""

    def __post_init__(self) -> None:
        require(8 <= self.grid <= 512, f"head.grid is {self.grid}: give 8 to 512")
        require(self.samples_per_diagonal >= 16, "head.samples_per_diagonal: give 16 or more")
        require(self.eval_oversampling >= 1, f"head.eval_oversampling is {self.eval_oversampling}: give 1 or more")
        require(0 <= self.cone < 0.1, f"head.cone is {self.cone}: give 0 to 0.1")
        require(0 < self.early_stop < 1, f"head.early_stop is {self.early_stop}: give a number between 0 and 1")
        require(self.update_every >= 1, f"head.update_every is {self.update_every}: give 1 or more")
        require(0 <= self.decay <= 1, f"head.decay is {self.decay}: give 0 to 1")
        require(0 <= self.threshold < 1, f"head.threshold is {self.threshold}: give 0 to 1")


@dataclass(frozen=True)
class PhotographsConfig(RunConfig):
    """Posed photographs, and a field with colours that they train."""

    downscale: int = 1
    """Shrink the images by this factor."""
    background: Literal["random", "white", "black"] = "random"
    """Background behind transparent pixels while training (random: another colour for every ray)."""
    eval_background: Literal["white", "black"] = "white"
    """Background of the evaluation, composited on both sides."""
    test_every: int = 8
    """Where one file lists all frames: every so-many-th is held out."""
    box_scale: float = 1.0
    """Images without alpha: sides of the field's box, in units of the one that the data tell, or else of the cube that
    the cameras see whole. What lies behind is only shown by a larger one, such as 4, with --head.cone 0.004."""
    samples: int = 2**18
    """Samples per step, on average; the number of rays adapts."""
    max_rays: int = 2**17
    """Rays per step, at most."""
    field: RadianceFieldConfig = RadianceFieldConfig()
    head: RenderConfig = RenderConfig()
    optimizer: OptimizerConfig = OptimizerConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.downscale >= 1, f"downscale is {self.downscale}: give 1 or more")
        require(self.test_every >= 2, f"test_every is {self.test_every}: give 2 or more")
        require(0.1 <= self.box_scale <= 100, f"box_scale is {self.box_scale}: give 0.1 to 100")
        require(self.samples >= 256, f"samples is {self.samples}: give 256 or more")
        require(self.max_rays >= 64, f"max_rays is {self.max_rays}: give 64 or more")

    def resolved(self: C) -> C:
        """With what depends on the encoder, and was left open, filled in; the data's path made absolute."""
        optimizer = self.optimizer
        if optimizer.learning_rate is None:
            published = self.field.published.learning_rate
            optimizer = dataclasses.replace(optimizer, learning_rate=published)
        return dataclasses.replace(self, field=self.field.resolved(), optimizer=optimizer, data=self.data.resolve())
