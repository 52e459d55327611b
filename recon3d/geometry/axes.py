"""Which way is up: +Z here, +Y in glTF by its definition (section 3.4)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

Z_UP_TO_Y_UP = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
"""The rotation (x, y, z) -> (x, z, -y), column by column as glTF has its matrices."""


def from_y_up(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Points of a glTF file as Blender's importer turns them: (x, y, z) -> (x, -z, y)."""
    return np.stack([points[:, 0], -points[:, 2], points[:, 1]], axis=1)
