"""Fitting a shape: a mesh or a point cloud as a field of space."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recon3d.config.fields import FieldConfig
from recon3d.config.runs import OptimizerConfig, Precision, RunConfig
from recon3d.errors import require

Supervision = Literal["occupancy", "sdf", "oriented_points", "points"]
ShapeLoss = Literal["auto", "bce", "mse", "l1", "mape"]
LOSSES: dict[str, tuple[str, ...]] = {
    "occupancy": ("bce", "mse"),
    "sdf": ("mape", "l1"),
    "oriented_points": (),
    "points": (),
}
"""The losses of each supervision, the default first; those of points have their own (:class:`ImplicitConfig`)."""


@dataclass(frozen=True)
class SampleConfig:
    """Where occupancy and distance are looked at. What is neither on the surface nor near it is anywhere in the cube.

    Measuring a distance costs more than learning from it, so points are measured in pools, and every pool serves for
    several passes before the next one is drawn.
    """

    surface: float = 0.0
    """Share of the points exactly on the surface (sdf only: an occupancy jumps there)."""
    near: float = 0.75
    """Share of the points near the surface: surface points moved by normal noise."""
    scales: tuple[float, ...] = (0.02, 0.005)
    """Standard deviations of that noise, in units of half the cube; equally many points of each."""
    pool: int = 2**20
    """Points measured at a time."""
    passes: int = 8
    """How often, on average, a point of a pool is drawn before the next pool."""

    def __post_init__(self) -> None:
        for name in ("surface", "near"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"samples.{name} is {value}: give 0 to 1")
        require(
            self.surface + self.near <= 1,
            f"samples.surface ({self.surface}) and samples.near ({self.near}): shares of one whole, at most 1 together",
        )
        require(
            len(self.scales) > 0 and min(self.scales) > 0, f"samples.scales are {self.scales}: give positive numbers"
        )
        require(self.pool >= 1, f"samples.pool is {self.pool}: give 1 or more")
        require(self.passes >= 1, f"samples.passes is {self.passes}: give 1 or more")


@dataclass(frozen=True)
class ImplicitConfig:
    """Weights of the terms by which points alone, with or without normals, make a signed distance.

    Defaults as in SIREN (Sitzmann et al. 2020, section 4.2). Half of a step's points are on the surface, half anywhere.
    """

    surface: float = 3000.0
    """|f| on the surface."""
    normal: float = 100.0
    """1 - cosine of gradient and normal on the surface (oriented_points only)."""
    eikonal: float = 50.0
    """| |grad f| - 1 | everywhere."""
    off_surface: float = 100.0
    """exp(-off_sharpness |f|) away from the surface."""
    off_sharpness: float = 100.0
    outside: float = 100.0
    """What keeps f positive on the sides of the cube (points only: without normals nothing else tells out from in)."""
    sphere_steps: int = 200
    """Steps in which the field first becomes the distance to a ball, as a start (points only)."""

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            require(value >= 0, f"implicit.{entry.name} is {value}: give 0 or more")


@dataclass(frozen=True)
class ShapeConfig(RunConfig):
    """A mesh or a point cloud as a field."""

    supervision: Supervision = "sdf"
    """What the field becomes: occupancy (a logit, or with mse the occupancy itself) or signed distance (negative
    inside), measured from a mesh; or a signed distance from points of the surface, with or without normals."""
    loss: ShapeLoss = "auto"
    """occupancy: bce (default) or mse; sdf: mape (default), |error| / (|distance| + 0.01), or l1."""
    truncation: float | None = None
    """sdf: distances beyond this (units of half the cube) need only be as large (default: learn them all)."""
    sign: Literal["auto", "parity", "winding", "unsigned"] = "auto"
    """What is inside a mesh (auto: parity where it is watertight, else the winding number; unsigned: nothing, and the
    shape is a shell around the surface)."""
    shell: float = 0.01
    """Half thickness of the shell of --sign unsigned, in units of half the cube."""
    padding: float = 0.1
    """Share of half the cube that is left free around the shape."""
    batch: int = 2**16
    """Points a step."""
    chunk: int | None = None
    """Points of one forward and backward pass; a step adds up the gradients of its chunks, exactly (default: the
    fastest, found by a short probe)."""
    precision: Precision = "float32"
    """Type of the networks' products; distances need float32."""
    samples: SampleConfig = SampleConfig()
    implicit: ImplicitConfig = ImplicitConfig()
    field: FieldConfig = FieldConfig()
    optimizer: OptimizerConfig = OptimizerConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch", "chunk"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} is {value}: give 1 or more")
        fitting = LOSSES[self.supervision]
        require(
            self.loss == "auto" or self.loss in fitting,
            f"loss ({self.loss}) and supervision ({self.supervision}): "
            + (f"give {' or '.join(fitting)}" if fitting else "points have terms of their own, see --implicit"),
        )
        require(
            self.truncation is None or self.supervision == "sdf",
            f"truncation and supervision ({self.supervision}): only distances (sdf) are truncated",
        )
        require(self.truncation is None or self.truncation > 0, f"truncation is {self.truncation}: give more than 0")
        require(
            self.supervision == "sdf" or self.samples.surface == 0,
            f"samples.surface ({self.samples.surface}) and supervision ({self.supervision}): only sdf has a value "
            "exactly on the surface: give 0",
        )
        require(0 < self.shell < 0.5, f"shell is {self.shell}: give more than 0, below 0.5")
        require(0 <= self.padding < 0.9, f"padding is {self.padding}: give 0 to below 0.9")

    @property
    def is_distance(self) -> bool:
        """Whether the field is a signed distance."""
        return self.supervision != "occupancy"

    @property
    def is_measured(self) -> bool:
        """Whether samples anywhere are measured against a mesh, not only points of the surface given."""
        return self.supervision in ("occupancy", "sdf")

    def resolved(self) -> ShapeConfig:
        """With what depends on the field, or on the supervision, and was left open filled in."""
        optimizer, loss = self.optimizer, self.loss
        if optimizer.learning_rate is None:
            optimizer = dataclasses.replace(optimizer, learning_rate=self.field.published.learning_rate)
        if loss == "auto" and LOSSES[self.supervision]:
            loss = LOSSES[self.supervision][0]  # type: ignore[assignment]
        data: Path = self.data.resolve()
        return dataclasses.replace(self, field=self.field.resolved(), optimizer=optimizer, loss=loss, data=data)
