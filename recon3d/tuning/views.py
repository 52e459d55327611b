"""Spectra of photographs of a scene, and of views rendered from untrained radiance fields."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from recon3d.config import NerfConfig, RunConfig
from recon3d.data.scene_files import load_scene
from recon3d.geometry.boxes import Normalizer
from recon3d.geometry.cameras import Cameras
from recon3d.tasks.nerf import NerfTask
from recon3d.tasks.photographs import find_space, reference_image
from recon3d.tuning.options import Binning
from recon3d.tuning.spectrum import Bins, magnitudes

VIEWS = 3
SIDE = 64
"""Pixels of the shorter side of a view, about; a divisor of the photograph's."""
SAMPLES = 256
"""Samples of a diagonal of the box: an untrained field has no surface to miss."""
DRAWS = 2


@dataclass(frozen=True)
class ViewsTarget:
    """Some training views (V, H, W, 3), shrunk, in [0, 1], with their cameras and the space that they see."""

    images: Float[Tensor, "v h w 3"]
    cameras: Cameras
    normalizer: Normalizer
    allowed: Bool[Tensor, "r r r"]
    device: torch.device

    @staticmethod
    def read(config: NerfConfig, device: torch.device) -> ViewsTarget:
        scene = load_scene(config.data, "train", config.downscale, config.test_every)
        normalizer, allowed = find_space(scene, config, device)
        chosen = sorted({int(i) for i in np.linspace(0, len(scene) - 1, VIEWS).round()})
        factor = max(1, min(scene.cameras.width, scene.cameras.height) // SIDE)
        cameras = scene.cameras[chosen].downscaled(factor).to(device)
        views = torch.stack([reference_image(scene, index, config.eval_background) for index in chosen])
        views = views[:, : cameras.height * factor, : cameras.width * factor].movedim(-1, 1)
        return ViewsTarget(F.avg_pool2d(views, factor).movedim(1, -1), cameras, normalizer, allowed, device)

    def bins(self, size: int, binning: Binning) -> Bins:
        """Half the recommended size, as published."""
        return Bins.of((self.cameras.height, self.cameras.width), max(1, size // 2), binning)

    def draws(self, bins: Bins) -> int:
        return DRAWS

    def measured(self, bins: Bins) -> Float[Tensor, " bins"]:
        return _summed(list(self.images), bins)

    def untrained(self, config: RunConfig, bins: Bins, seed: int) -> Float[Tensor, " bins"]:
        assert isinstance(config, NerfConfig)
        samples = min(SAMPLES, config.head.samples_per_diagonal)
        head = replace(config.head, samples_per_diagonal=samples, eval_oversampling=1)
        config = replace(config, field=config.field.resolved(), head=head)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            task = NerfTask(config, self.device, torch.float32, self.normalizer, self.allowed).eval()
        views = range(len(self.cameras))
        return _summed([task.render_view(self.cameras, i, config.eval_background)["color"] for i in views], bins)


def _summed(views: list[Float[Tensor, "h w 3"]], bins: Bins) -> Float[Tensor, " bins"]:
    return torch.stack([magnitudes(view, bins) for view in views]).sum(0)
