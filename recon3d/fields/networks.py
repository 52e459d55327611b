"""Networks: from an encoder's features to a field's values."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon3d.kernels import relu_mlp


class MLP(nn.Module):
    """ReLU network with ``depth`` hidden layers of ``width``, Kaiming-uniform weights and a linear last layer.

    ``skip`` names the hidden layer (from 0) whose input is joined by the network's input again (NeRF: 4 of 8).
    ``bias`` False is the form of the small networks behind a hash grid, which run as one operation.
    """

    def __init__(
        self, in_dim: int, out_dim: int, width: int, depth: int, skip: int | None = None, bias: bool = False
    ) -> None:
        super().__init__()
        self.in_dim, self.out_dim, self.skip, self.bias = in_dim, out_dim, skip, bias
        sizes = [in_dim, *[width] * depth]
        joined = [size + (in_dim if layer == skip else 0) for layer, size in enumerate(sizes)]
        layers = [nn.Linear(a, b, bias=bias) for a, b in zip(joined, [*sizes[1:], out_dim], strict=True)]
        for layer in layers:
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            if bias:
                nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        if not self.bias and self.skip is None:
            compute = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
            return relu_mlp(x, list(self.layers.parameters()), compute)
        h = x
        for index, layer in enumerate(self.layers):
            if index == self.skip:
                h = torch.cat([h, x.to(h.dtype)], dim=-1)
            h = layer(h)
            if index + 1 < len(self.layers):
                h = torch.relu(h)
        return h
