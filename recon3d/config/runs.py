"""What every task's run has, and its optimiser."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recon3d.errors import require


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam with warm-up and cosine decay over the whole budget of steps or seconds."""

    learning_rate: float | None = None
    """Default: as published with the encoder."""
    final_share: float = 0.03
    """Share of the learning rate that is left at the end."""
    decay_steps: int | None = None
    """Steps over which the learning rate falls to that (default: the whole budget, be it steps or seconds)."""
    warmup_steps: int = 100
    betas: tuple[float, float] = (0.9, 0.99)
    epsilon: float = 1e-15
    weight_decay: float = 1e-6
    """L2 penalty on the networks' weights, not on the encoder's."""
    touched_rows: bool = False
    """Hash tables: move only the rows that a step touches, each with a step count of its own. Fewer bytes a step where
    those are what takes the time (large tables on a GPU); learns a little slower for as many steps."""

    def __post_init__(self) -> None:
        require(
            self.learning_rate is None or self.learning_rate > 0,
            f"optimizer.learning_rate is {self.learning_rate}: give a positive number",
        )
        require(
            self.decay_steps is None or self.decay_steps >= 1,
            f"optimizer.decay_steps is {self.decay_steps}: give 1 or more",
        )
        require(0 < self.final_share <= 1, f"optimizer.final_share is {self.final_share}: give 0 to 1")
        require(all(0 <= beta < 1 for beta in self.betas), f"optimizer.betas are {self.betas}: give 0 to below 1")
        for name in ("warmup_steps", "epsilon", "weight_decay"):
            require(getattr(self, name) >= 0, f"optimizer.{name} is {getattr(self, name)}: give 0 or more")


Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "tf32", "bfloat16", "float16"]


@dataclass(frozen=True)
class RunConfig:
    """What every task's run has: where it goes, how long it lasts, what it runs on."""

    data: Path
    """Folder or file with the measurements."""
    name: str | None = None
    """Name of the run (default: made from the preset and the data)."""
    out: Path = Path("runs")
    """Folder of all runs; this run is OUT/NAME."""
    overwrite: bool = False
    """Replace a run of the same name."""
    steps: int | None = None
    """Training steps (default: the preset's)."""
    max_seconds: float | None = None
    """Training time in seconds; evaluation and saving are not counted. Ends the run if it comes before ``steps``."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints."""
    preview_every: int = 1000
    """Steps between two previews of a validation view."""
    log_every: int = 50
    """Steps between two entries of the metrics."""
    device: Device = "auto"
    threads: int | None = None
    """CPU threads (default: one per physical core)."""
    seed: int = 0
    precision: Precision = "auto"
    """Type of the networks' products; auto: float16 on CUDA, bfloat16 on CPUs that have it, else float32. tf32: float32
    rounded to 11 bits where the device has that (NVIDIA GPUs since Ampere), else float32."""

    def __post_init__(self) -> None:
        require(
            self.steps is not None or self.max_seconds is not None,
            "steps and max_seconds are both empty: give one of them, or the run never ends",
        )
        require(self.steps is None or self.steps >= 1, f"steps is {self.steps}: give 1 or more")
        require(
            self.max_seconds is None or self.max_seconds > 0, f"max_seconds is {self.max_seconds}: give more than 0"
        )
        for name in ("checkpoint_every", "preview_every", "log_every"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}: give 1 or more")
        require(self.threads is None or self.threads >= 1, f"threads is {self.threads}: give 1 or more")
        require(0 <= self.seed < 2**31, f"seed is {self.seed}: give 0 to 2^31 - 1")
        plain = self.name is None or (self.name not in ("", ".", "..") and not set(self.name) & set("/\\\0"))
        require(plain, f"name is {self.name!r}: give one folder name, without slashes")

    def resolved(self) -> RunConfig:
        """With everything that was left open filled in, as ``config.yaml`` records it."""
        return dataclasses.replace(self, data=self.data.resolve())
