"""What every benchmark takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recon3d.config import Device
from recon3d.errors import UserError


@dataclass(frozen=True)
class Options:
    """A small version that runs in minutes on two cores, unless ``--full`` or the narrowing options say otherwise."""

    full: bool = False
    """As in the paper: all models, images and steps."""
    images: tuple[str, ...] | None = None
    """Files, or names of scikit-image's images (audio and video benchmarks: files)."""
    models: tuple[str, ...] | None = None
    steps: tuple[int, ...] | None = None
    """Numbers of updates to report at."""
    size: int | None = None
    """Pixels a side that images are resized to (default: the paper's)."""
    views: tuple[int, ...] | None = None
    """CT: numbers of views."""
    tuned: bool = False
    """Also with the learning rate (and frequency) chosen for each model on images that are not in the table."""
    out: Path = Path("runs/bench")
    """Where the fits and the report go; finished fits are not trained again."""
    device: Device = "auto"
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps is not None and (not self.steps or min(self.steps) < 1):
            raise UserError(f"steps is {self.steps}: give numbers of 1 or more")
        if self.views is not None and (not self.views or min(self.views) < 4):
            raise UserError(f"views is {self.views}: give numbers of 4 or more")
        if self.size is not None and self.size < 16:
            raise UserError(f"size is {self.size}: give 16 or more")

    def chosen_models(
        self, small: tuple[str, ...], full: tuple[str, ...], known: tuple[str, ...] | None = None
    ) -> tuple[str, ...]:
        """The models to run: those asked for among the ``known`` (default: the full set), else the small or full set.

        Raises:
            UserError: a model that this benchmark does not know.
        """
        known = known or full
        for model in self.models or ():
            if model not in known:
                raise UserError(f"no model {model!r} in this benchmark (there are: {', '.join(known)})")
        return self.models or (full if self.full else small)

    def chosen_steps(self, small: tuple[int, ...], full: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(self.steps or (full if self.full else small)))

    def chosen_images(self, small: tuple[str, ...], full: tuple[str, ...]) -> tuple[str, ...]:
        return self.images or (full if self.full else small)
