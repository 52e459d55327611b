"""What encoders and networks promise to fields."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Encoder(nn.Module):
    """Base of the encoders; ``out_dim`` is the number of features per point."""

    out_dim: int
    in_kernels = False
    """Whether what takes its time is in our kernels, and not in torch's operations."""

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        raise NotImplementedError

    def tables(self) -> list[nn.Parameter]:
        """Parameters (rows, f) of which the points of a step touch few rows."""
        return []

    def recall(self, x: Float[Tensor, "n d"], values: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
        """``forward(x)`` where its ``values`` are known already, from a pass without gradients; x is constant."""
        nothing_to_learn = not torch.is_grad_enabled() or not any(True for _ in self.parameters())
        return values if nothing_to_learn else self._with_gradients(x, values)

    def _with_gradients(self, x: Float[Tensor, "n d"], values: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
        """``forward(x)``; encoders that can make use of its ``values`` do."""
        return self(x)


class Network(nn.Module):
    """Base of the networks: features (N, ``in_dim``) to values (N, ``out_dim``)."""

    in_dim: int
    out_dim: int
    in_kernels = False
    """As :attr:`Encoder.in_kernels`."""

    @torch.no_grad()
    def damp(self, value: int, factor: float) -> None:
        """Multiply by ``factor`` the weights of the last layer that make one of the values."""
        *_, last = [layer for layer in self._last_layer().modules() if list(layer.parameters(recurse=False))]
        for weights in last.parameters():
            weights[value] *= factor

    def _last_layer(self) -> nn.Module:
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "n i"]) -> Float[Tensor, "n o"]:
        raise NotImplementedError

    def recall(self, features: Float[Tensor, "n i"], values: Float[Tensor, "n o"]) -> Float[Tensor, "n o"]:
        """``forward(features)`` where its ``values`` are known already, from a pass without gradients; networks that
        cannot make use of them go through it again."""
        return self(features)

    def observe(self, signal: Float[Tensor, "c ..."]) -> None:
        """See the measured signal (C, *grid), in [-1, 1], before training; most networks need not."""

    def penalty(self) -> Float[Tensor, ""] | None:
        """A regulariser to add to the loss, or None."""
        return None


def in_kernels(field: nn.Module) -> bool:
    """Whether all encoders and networks of a field are (see :attr:`Encoder.in_kernels`)."""
    return all(module.in_kernels for module in field.modules() if isinstance(module, Encoder | Network))
