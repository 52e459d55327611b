"""tiny-cuda-nn as another way to compute a hash grid and a small ReLU network (``field.backend: tcnn``).

The parameters stay those of :class:`~recon3d.fields.encoders.HashGrid` and :class:`~recon3d.fields.networks.MLP`, in
float32; tinycudann gets them at every call, in its own layout, and gradients flow back through it. So checkpoints do
not know the backend, and a run trained with one can be opened with the other. tinycudann computes in float16.

Its layout (Müller 2021, https://github.com/NVlabs/tiny-cuda-nn):

- grid: the rows of level after level, features side by side, which is our table flattened. Its scales
  ``exp2(l log2(b)) * base - 1`` are made in float32, resolutions are ``ceil(scale) + 1``: where rounding gives a level
  another number of rows than ours, the grid is refused. It does not clamp points to the unit cube; we do.
- network: matrices (out, in) row by row, one after the other, inputs and outputs padded to multiples of 16. Padded
  inputs are 1, so their weights would be biases; ours are 0, and padded outputs are cut off.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from recon3d.config import FieldConfig, HashGridConfig
from recon3d.errors import UserError, require
from recon3d.fields.encoders import HashGrid
from recon3d.fields.networks import MLP
from recon3d.kernels import HashLayout

WIDTHS = 16, 32, 64, 128
ALIGNMENT = 16


def is_installed() -> bool:
    """Whether tinycudann can be used here: it needs a GPU as well."""
    try:
        importlib.import_module("tinycudann")
    except (ImportError, OSError):
        return False
    return True


def _tinycudann() -> Any:
    try:
        return importlib.import_module("tinycudann")
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"field.backend tcnn: tinycudann cannot be used here ({reason}): install it from its source on a machine "
            "with a GPU, or use --field.backend own"
        ) from None


class TcnnHashGrid(HashGrid):
    """The hash grid as tinycudann computes it."""

    def __init__(self, dim: int, config: HashGridConfig) -> None:
        super().__init__(dim, config)
        require(dim in (2, 3, 4), f"field.backend tcnn takes grids of 2 to 4 dimensions, not {dim}: use own")
        settings = grid_settings(config)
        require(
            grid_offsets(self.layout, config) == self.layout.offsets,
            f"field.backend tcnn rounds the sizes of this grid otherwise than ours: give a field.hash-grid.finest "
            f"other than {config.finest}, or use --field.backend own",
        )
        # In a list, so that its own parameters are not a part of this module's.
        self.native = [_tinycudann().Encoding(dim, settings, dtype=torch.float16)]

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        inside = ((x + 1) * 0.5).clamp(0, 1).float()
        values = functional_call(self.native[0], {"params": self.table.flatten()}, (inside,))
        return self._weighted(values[:, : self.active * self.layout.features])

    def recall(self, x: Float[Tensor, "n d"], values: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
        return self(x)


class TcnnMLP(MLP):
    """The small ReLU network as tinycudann computes it."""

    def __init__(self, in_dim: int, out_dim: int, width: int, depth: int, bias: bool = False) -> None:
        require(
            width in WIDTHS and not bias,
            f"field.backend tcnn takes ReLU networks of {', '.join(map(str, WIDTHS))} units and 1 or 2 hidden layers, "
            f"not {depth} of {width}: change field.width and field.depth, or use --field.backend own",
        )
        super().__init__(in_dim, out_dim, width, depth)
        settings = {
            "otype": "FullyFusedMLP",
            "activation": "ReLU",
            "output_activation": "None",
            "n_neurons": width,
            "n_hidden_layers": depth,
        }
        self.native = [_tinycudann().Network(in_dim, out_dim, settings)]

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        packed = pack_network([layer.weight for layer in self.layers if isinstance(layer, nn.Linear)])
        return functional_call(self.native[0], {"params": packed}, (x.float(),))

    def recall(self, features: Float[Tensor, "n d"], values: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        return self(features)


def small_network(config: FieldConfig, in_dim: int, out_dim: int, width: int, depth: int, bias: bool) -> MLP:
    """A ReLU network by the backend of ``config``."""
    if config.backend == "tcnn":
        return TcnnMLP(in_dim, out_dim, width, depth, bias)
    return MLP(in_dim, out_dim, width, depth, bias=bias)


# --- layouts --------------------------------------------------------------------------------------------------------


def grid_settings(config: HashGridConfig) -> dict[str, Any]:
    """What tinycudann calls the grid of ``config``."""
    assert config.finest is not None
    growth = (config.finest / config.coarsest) ** (1 / (config.levels - 1)) if config.levels > 1 else 1.0
    return {
        "otype": "HashGrid",
        "n_levels": config.levels,
        "n_features_per_level": config.features,
        "log2_hashmap_size": config.log2_size,
        "base_resolution": config.coarsest,
        "per_level_scale": growth,
        "interpolation": "Linear",
    }


def grid_offsets(layout: HashLayout, config: HashGridConfig) -> tuple[int, ...]:
    """The first row of each level, and the end, as tinycudann finds them in float32."""
    growth = np.float32(grid_settings(config)["per_level_scale"])
    offsets = [0]
    for level in range(layout.levels):
        scale = np.exp2(np.float32(level) * np.log2(growth)) * np.float32(config.coarsest) - np.float32(1)
        rows = (math.ceil(float(scale)) + 1) ** layout.dim
        offsets.append(offsets[-1] + min(-(-rows // 8) * 8, 2**config.log2_size))
    return tuple(offsets)


def pack_network(weights: list[Tensor]) -> Float[Tensor, " p"]:
    """Weights (out, in) of a network as tinycudann's vector of parameters; differentiable."""
    parts = []
    for index, weight in enumerate(weights):
        rows = -len(weight) % ALIGNMENT if index == len(weights) - 1 else 0
        columns = -weight.shape[1] % ALIGNMENT if index == 0 else 0
        parts.append(nn.functional.pad(weight, (0, columns, 0, rows)).flatten())
    return torch.cat(parts)


def unpack_network(packed: Float[Tensor, " p"], sizes: list[int]) -> list[Tensor]:
    """The inverse of :func:`pack_network` for a network of inputs, hidden widths and outputs ``sizes``.

    Raises:
        UserError: the network has biases (weights of padded inputs), which ours have not.
    """
    weights, begin = [], 0
    for index, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        rows = outputs + (-outputs % ALIGNMENT if index == len(sizes) - 2 else 0)
        columns = inputs + (-inputs % ALIGNMENT if index == 0 else 0)
        padded = packed[begin : begin + rows * columns].view(rows, columns)
        require(
            not bool(padded[:outputs, inputs:].any()),
            f"these weights of tinycudann use its {columns - inputs} padded inputs as biases, which ours have not",
        )
        weights.append(padded[:outputs, :inputs].clone())
        begin += rows * columns
    require(begin == len(packed), f"{len(packed)} parameters, but a network of {sizes} has {begin}")
    return weights
