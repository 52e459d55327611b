"""What spectra are compared: of the measurements, and of what an untrained field makes of them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.config import CtConfig, NerfConfig, RunConfig, SignalConfig, task_of
from recon3d.errors import UserError
from recon3d.tuning.options import Binning
from recon3d.tuning.signals import SignalTarget
from recon3d.tuning.spectrum import Bins
from recon3d.tuning.views import ViewsTarget
from recon3d.tuning.volumes import VolumeTarget


@runtime_checkable
class Target(Protocol):
    """Measurements, and what fields make of them before training."""

    def bins(self, size: int, binning: Binning) -> Bins:
        """The bins that spectra are compared in, for a recommended ``size``."""
        ...

    def draws(self, bins: Bins) -> int:
        """How many initialisations are enough."""
        ...

    def measured(self, bins: Bins) -> Float[Tensor, " bins"]:
        """|DFT| of the measurements, summed over each bin."""
        ...

    def untrained(self, config: RunConfig, bins: Bins, seed: int) -> Float[Tensor, " bins"]:
        """The same of an untrained field's output; ``seed`` draws its weights."""
        ...


def target_of(config: RunConfig, device: torch.device) -> Target:
    """Reads the data of a run.

    Raises:
        UserError: data that cannot be read, or a task or field without a spectrum to tune by.
    """
    if isinstance(config, NerfConfig):
        # Features start at 1e-4, and 1e-4 more or less makes neither light nor shade.
        if config.field.encoder[0] == "hash_grid":
            raise UserError(
                "tune: before training a radiance field of a hash grid is a fog of one colour whatever the grid, "
                "so there is nothing to choose by: leave the setting as it is, or choose another --field.encoder"
            )
        return ViewsTarget.read(config, device)
    if isinstance(config, SignalConfig):
        return SignalTarget.read(config, device)
    if isinstance(config, CtConfig):
        return VolumeTarget.read(config, device)
    raise UserError(f"tune: {task_of(config)} has no sampled signal whose spectrum could be compared")
