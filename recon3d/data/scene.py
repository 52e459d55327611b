"""Scene: cameras with the images they took, the typed measurement of the radiance and surface tasks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from recon3d.geometry.boxes import Normalizer
from recon3d.geometry.cameras import Cameras


@dataclass(frozen=True)
class Scene:
    """Posed images of one split.

    Attributes:
        cameras: N cameras.
        images: (N, H, W, C) uint8; C is 3 (RGB) or 4 (RGB with straight, not premultiplied, alpha).
        names: N file names, relative to ``path``.
        path: the folder the scene was read from.
        box: the cube that the scene is in; None: the data do not say.
    """

    cameras: Cameras
    images: UInt8[Tensor, "n h w c"]
    names: tuple[str, ...]
    path: Path
    box: Normalizer | None = None

    def __len__(self) -> int:
        return len(self.cameras)

    def __getitem__(self, index: slice) -> Scene:
        return Scene(self.cameras[index], self.images[index], self.names[index], self.path, self.box)

    @property
    def has_alpha(self) -> bool:
        return self.images.shape[-1] == 4
