"""The NeRF task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recon3d.config.photographs import PhotographsConfig


@dataclass(frozen=True)
class NerfConfig(PhotographsConfig):
    """A radiance field from posed photographs."""

    loss: Literal["mse", "huber"] = "huber"
