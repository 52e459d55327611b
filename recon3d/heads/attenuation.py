"""What makes attenuation of a field's output, and what the output must be for an attenuation that is known."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from recon3d.config.ct import Activation

SHARPNESS = 10.0
"""softplus(s x) / s: nearly x from 0.3 on, and 0.07 at 0, where fields start."""
LEAST = 1e-4
"""Values below it are taken for it where they must be a softplus's."""
MARGIN = 0.02
"""A sigmoid's values are taken to be at least so far, as a share, from its ends."""


class Attenuation(nn.Module):
    """A field's output v as attenuation, both in units of the scan's scale.

    ``none``: v; ``relu``: max(0, v); ``softplus``: log(1 + exp(s v)) / s; ``material``: m sigmoid(4 v / m - 2),
    which is between nothing and the attenuation m of one material (``most``), and v itself, with slope 1, halfway.
    """

    most: Float[Tensor, ""]

    def __init__(self, kind: Activation) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("most", torch.ones(()), persistent=kind == "material")

    def forward(self, output: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        if self.kind == "none":
            return output
        if self.kind == "relu":
            return output.relu()
        if self.kind == "softplus":
            return F.softplus(output, SHARPNESS)
        return self.most * torch.sigmoid(4 * output / self.most - 2)

    def indecision(self, values: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
        """How far values are from being nothing or the material: the mean of 4 x (1 - x), x = v / m; 1 halfway."""
        share = values / self.most
        return (4 * share * (1 - share)).mean()

    def before(self, values: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """What these values are made of (nearly, at the ends of what the activation reaches)."""
        if self.kind == "softplus":
            least = values.clamp_min(LEAST)
            return least + torch.log(-torch.expm1(-SHARPNESS * least)) / SHARPNESS
        if self.kind == "material":
            return self.most * (torch.logit((values / self.most).clamp(MARGIN, 1 - MARGIN)) + 2) / 4
        return values
