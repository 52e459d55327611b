"""Computed tomography: an attenuation field from the projections of a scan."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from recon3d.config.fields import FieldConfig
from recon3d.config.runs import OptimizerConfig, Precision, RunConfig
from recon3d.config.scans import PreprocessConfig, VolumeConfig
from recon3d.errors import require

Activation = Literal["softplus", "relu", "none", "material"]


@dataclass(frozen=True)
class RaysConfig:
    """How the ray projector samples the field."""

    batch: int = 1024
    """Rays a step."""
    samples_per_diagonal: int = 512
    """Samples that a diagonal of the field's cube would hold if all of it were occupied: sets the step along rays."""
    grid: int = 64
    """Cells a side of the grid that remembers where the volume is not empty."""
    threshold: float = 0.01
    """A cell is empty below this share of the scan's attenuation (0: rays are sampled everywhere)."""
    update_every: int = 16
    """Steps between two updates of that grid."""
    warmup_steps: int = 256
    """Steps during which an update looks at every cell."""
    decay: float = 0.8
    """What an update keeps of a cell's attenuation."""
    tv_points: int = 2048
    """Voxels drawn a step to estimate the total variation."""
    memory: float = 2.0
    """GiB of projections that are in memory at a time (the process takes more: 5.1 GB of a large scan with 0.5); of a
    larger scan, evenly spaced views are, and all in its file."""
    exchange_every: int = 500
    """Steps after which these views of a larger scan make room for others."""

    def __post_init__(self) -> None:
        for name in ("batch", "update_every", "tv_points", "exchange_every"):
            require(getattr(self, name) >= 1, f"rays.{name} is {getattr(self, name)}: give 1 or more")
        require(self.memory > 0, f"rays.memory is {self.memory}: give more than 0 GiB")
        require(self.samples_per_diagonal >= 16, "rays.samples_per_diagonal: give 16 or more")
        require(8 <= self.grid <= 512, f"rays.grid is {self.grid}: give 8 to 512")
        require(0 <= self.threshold < 1, f"rays.threshold is {self.threshold}: give 0 to below 1")
        require(self.warmup_steps >= 0, f"rays.warmup_steps is {self.warmup_steps}: give 0 or more")
        require(0 <= self.decay <= 1, f"rays.decay is {self.decay}: give 0 to 1")


@dataclass(frozen=True)
class SteeringConfig:
    """Total variation by the edges of the volume of the moment (:mod:`recon3d.heads.variation`); on the grid."""

    edge: float = 0.0
    """Slope, as a share of the scale a voxel, at which an edge begins to be one; 0: total variation is not steered."""
    least: float = 0.5
    """What a step across the steepest edge costs still, as a share of one where there is none."""
    along: float = 3.0
    """How much more a step along an edge costs than one across, besides what its slope tells."""
    blur: float = 0.7
    """Gaussian under which slopes are taken, in voxels."""
    window: float = 2.0
    """Gaussian under which the directions of edges are averaged, in voxels."""
    update_every: int = 20
    """Steps between two looks at the volume."""

    def __post_init__(self) -> None:
        require(self.edge >= 0, f"steering.edge is {self.edge}: give 0 or more")
        require(0 <= self.least <= 1, f"steering.least is {self.least}: give 0 to 1")
        require(self.update_every >= 1, f"steering.update_every is {self.update_every}: give 1 or more")
        for name in ("along", "blur", "window"):
            require(getattr(self, name) > 0, f"steering.{name} is {getattr(self, name)}: give more than 0")


@dataclass(frozen=True)
class ScanSource:
    """What of a file of projections is reconstructed, and where."""

    geometry: Path | None = None
    """Sidecar that tells the scan's geometry (default: the YAML file of the data's name beside it, if there is one)."""
    scan: Annotated[PreprocessConfig, tyro.conf.arg(name="")] = PreprocessConfig()
    volume: VolumeConfig = VolumeConfig()
    """Where it differs from the scan's own; a shape or a spacing alone keeps the space that is covered."""


@dataclass(frozen=True)
class CtConfig(ScanSource, RunConfig):
    """A slice or a volume of attenuation from the projections of a scan."""

    support: Literal["circle", "box"] = "circle"
    """Where there may be something: the circle about the axis of rotation that all views see, or all of the volume."""
    mask: Path | None = None
    """Volume file (or, of a slice, an image) of the volume's shape: where it is 0, there is nothing."""
    projector: Literal["grid", "rays"] = "grid"
    """grid: the field is sampled on all voxels, and these are projected; rays: it is integrated along random rays."""
    chunk: int | None = None
    """Voxels whose activations are kept at a time; a step of several chunks evaluates the field twice, exactly
    (default: by device)."""
    finer: int = 1
    """On the grid: voxels are cut into so many along every axis, and detector pixels into so many rays whose mean they
    measure."""
    loss: Literal["l2", "poisson", "auto"] = "l2"
    """Of line integrals: squared errors, or the likelihood of the photon counts that they stand for; auto: that where
    the scan tells the counts."""
    start: Literal["nothing", "tv"] = "nothing"
    """What the field begins as; tv: the volume of classical total variation, whose weight held-out views choose."""
    tv: float = 0.0
    """Weight of the total variation, the voxels' mean, beside the mean error; both in units of the scan's scale. With
    ``start`` tv, in units of the weight that was chosen for it."""
    tv_smoothing: float = 1e-3
    """Differences of voxels that are small against this share of the scale cost their square."""
    activation: Activation = "softplus"
    """What makes attenuation of the field's output; none: it may be negative; material: it stays between nothing and
    that of one material."""
    material: float | None = None
    """Attenuation of that material, 1/mm (default: 1.25 times the mean above Otsu's threshold of what the field begins
    as, or of a first guess)."""
    decide: float = 0.0
    """With ``activation`` material, on the grid: weight of how far voxels are from being nothing or the material,
    beside the mean error."""
    refine: int = 0
    """On the grid, after the training: so many steps of SIRT from the field's volume on, at most, while it leaves more
    of the projections than their noise; what they change is kept in voxels."""
    holdout: float = 0.05
    """Share of the scan that is not trained on but chooses the best state (stop early); 0: the last state is kept."""
    hold: Literal["pixels", "views"] = "pixels"
    """What is held out: detector pixels, each view's own, or whole views."""
    ensemble: int = 1
    """Fields trained side by side from different initial weights: their mean is the volume, their spread its
    uncertainty."""
    precision: Precision = "float32"
    steering: SteeringConfig = SteeringConfig()
    rays: RaysConfig = RaysConfig()
    field: FieldConfig = FieldConfig()
    optimizer: OptimizerConfig = OptimizerConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.chunk is None or self.chunk >= 1, f"chunk is {self.chunk}: give 1 or more")
        require(1 <= self.finer <= 8, f"finer is {self.finer}: give 1 to 8")
        grid = self.projector == "grid"
        require(grid or self.finer == 1, "finer is for --projector grid; give --finer 1")
        require(grid or self.start == "nothing", "start tv is for --projector grid; give --start nothing")
        require(grid or self.steering.edge == 0, "steering.edge is for --projector grid; give --steering.edge 0")
        require(self.refine >= 0, f"refine is {self.refine}: give 0 or more")
        require(grid or self.refine == 0, "refine is for --projector grid; give --refine 0")
        require(self.tv >= 0, f"tv is {self.tv}: give 0 or more")
        require(self.tv_smoothing > 0, f"tv_smoothing is {self.tv_smoothing}: give more than 0")
        require(
            self.material is None or (self.activation == "material" and self.material > 0),
            f"material is {self.material}: give a positive number in 1/mm, with --activation material",
        )
        require(self.decide >= 0, f"decide is {self.decide}: give 0 or more")
        require(
            self.decide == 0 or (grid and self.activation == "material"),
            "decide is for --projector grid --activation material; give --decide 0",
        )
        require(0 <= self.holdout < 0.9, f"holdout is {self.holdout}: give 0 to below 0.9")
        require(1 <= self.ensemble <= 64, f"ensemble is {self.ensemble}: give 1 to 64")

    def resolved(self) -> CtConfig:
        """With what depends on the field, and was left open, filled in; paths made absolute."""
        optimizer = self.optimizer
        if optimizer.learning_rate is None:
            optimizer = dataclasses.replace(optimizer, learning_rate=self.field.published.learning_rate)
        return dataclasses.replace(
            self,
            field=self.field.resolved(),
            optimizer=optimizer,
            data=self.data.resolve(),
            geometry=self.geometry and self.geometry.resolve(),
            mask=self.mask and self.mask.resolve(),
        )
