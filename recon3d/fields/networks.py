"""Networks: from an encoder's features to a field's values.

A new one is a :class:`~recon3d.fields.base.Network`, a configuration in ``config/fields.py`` and a line in
:data:`NETWORKS`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon3d.config import FieldConfig
from recon3d.errors import UserError
from recon3d.fields.activations import Activation, DampedSine, Finer, Gauss, Relu
from recon3d.fields.base import Network
from recon3d.fields.fusion import Fusion
from recon3d.fields.incode import Incode
from recon3d.fields.mfn import MultiplicativeFilterNetwork
from recon3d.fields.wire import Wire
from recon3d.kernels import relu_mlp, relu_mlp_recall, sine_mlp


class MLP(Network):
    """``depth`` hidden layers of ``width`` and a linear last layer, initialised as the activation wants it.

    ``first`` is the first hidden layer's activation, where it differs. ``skip`` names the hidden layer (from 0) whose
    input is joined by the network's input again (NeRF: 4 of 8). ReLU without ``bias`` is the form of the small networks
    behind a hash grid, which run as one operation; so do damped sines with it on a CPU.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        width: int,
        depth: int,
        activation: Activation | None = None,
        first: Activation | None = None,
        skip: int | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.in_dim, self.out_dim, self.skip = in_dim, out_dim, skip
        activation = activation or Relu()
        sizes = [in_dim, *[width] * depth]
        joined = [size + (in_dim if layer == skip else 0) for layer, size in enumerate(sizes)]
        layers = [nn.Linear(a, b, bias=bias) for a, b in zip(joined, [*sizes[1:], out_dim], strict=True)]
        activations = [first or activation, *[activation] * (depth - 1)]
        activations[0].initialise(layers[0], "first")
        for layer in layers[1:-1]:
            activation.initialise(layer, "hidden")
        activation.initialise(layers[-1], "last")
        self.layers, self.activations = nn.ModuleList(layers), nn.ModuleList(activations)
        self.in_kernels = not bias and skip is None and all(isinstance(activation, Relu) for activation in activations)
        sines = [activation for activation in activations if isinstance(activation, DampedSine)]
        alike = len(sines) == depth and len({activation.damping for activation in sines}) == 1
        self.sines = sines if alike and bias and skip is None else None

    def _last_layer(self) -> nn.Module:
        return self.layers[-1]

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        if self.in_kernels:
            compute = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
            return relu_mlp(x, list(self.layers.parameters()), compute)
        if self.sines and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
            parameters: list[Tensor] = list(self.layers.parameters())
            omegas = [sine.omega for sine in self.sines]
            x = _as_it_takes(self.layers[0], x)
            return sine_mlp(x, parameters[::2], parameters[1::2], omegas, self.sines[0].damping)
        h = x
        for index, (layer, activation) in enumerate(zip(self.layers[:-1], self.activations, strict=True)):
            if index == self.skip:
                h = torch.cat([h, x.to(h.dtype)], dim=-1)
            assert isinstance(activation, Activation) and isinstance(layer, nn.Linear)
            with activation.products("hidden" if index else "first", x.device):
                h = activation.after(layer, _as_it_takes(layer, h))
        last, activation = self.layers[-1], self.activations[-1]
        assert isinstance(activation, Activation)
        with activation.products("last", x.device):
            return last(_as_it_takes(last, h))

    def recall(self, features: Float[Tensor, "n d"], values: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        if self.in_kernels:
            return relu_mlp_recall(features, list(self.layers.parameters()), values)
        return self(features)


def _as_it_takes(layer: nn.Module, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """``x`` in the type of the layer's weights, unless autocast sees to that."""
    return x if torch.is_autocast_enabled(x.device.type) else x.to(next(layer.parameters()).dtype)


def _relu(config: FieldConfig, in_dim: int, out_dim: int) -> Network:
    """``depth`` hidden layers; a network of six or more gets its input again in the middle, as NeRF's does. Small ones
    do without biases, unless they see bare coordinates: all would be 0 at the origin."""
    assert config.width and config.depth
    skip = config.relu.skip or (config.depth // 2 if config.depth >= 6 else None)
    bias = config.depth > 2 or config.encoder[-1] == "identity"
    if config.backend == "tcnn":
        from recon3d.fields.tcnn import TcnnMLP

        return TcnnMLP(in_dim, out_dim, config.width, config.depth, bias)
    return MLP(in_dim, out_dim, config.width, config.depth, skip=skip, bias=bias)


def _after_the_first(
    config: FieldConfig, in_dim: int, out_dim: int, activation: Activation, first: Activation | None = None
) -> Network:
    """A first layer, ``depth`` hidden layers and a linear one: how SIREN and its relatives count."""
    assert config.width and config.depth
    return MLP(in_dim, out_dim, config.width, config.depth + 1, activation, first, bias=True)


def _siren(config: FieldConfig, in_dim: int, out_dim: int) -> Network:
    kind = config.siren
    hidden, first = DampedSine(kind.omega, gain=kind.gain), DampedSine(kind.first_omega or kind.omega)
    return _after_the_first(config, in_dim, out_dim, hidden, first)


def _spder(config: FieldConfig, in_dim: int, out_dim: int) -> Network:
    kind = config.spder
    hidden, first = (
        DampedSine(kind.omega, kind.damping, kind.gain),
        DampedSine(kind.first_omega or kind.omega, kind.damping),
    )
    return _after_the_first(config, in_dim, out_dim, hidden, first)


def _finer(config: FieldConfig, in_dim: int, out_dim: int) -> Network:
    kind = config.finer
    hidden, first = Finer(kind.omega, kind.gain), Finer(kind.first_omega or kind.omega, first_bias=kind.first_bias)
    return _after_the_first(config, in_dim, out_dim, hidden, first)


def _fusion(config: FieldConfig, in_dim: int, out_dim: int) -> Network:
    assert config.width and config.depth
    if in_dim != config.width:
        raise UserError(
            f"field.network fusion multiplies its {config.width} units by the encoder's {in_dim} outputs: "
            "the two must be equal (end field.encoder with chebyshev, or change field.width)"
        )
    return Fusion(in_dim, out_dim, config.depth, config.fusion)


def _wire(config: FieldConfig, in_dim: int, out_dim: int) -> Network:
    assert config.width and config.depth
    return Wire(in_dim, out_dim, config.width, config.depth, config.wire)


def _mfn(config: FieldConfig, in_dim: int, out_dim: int) -> Network:
    assert config.width and config.depth
    return MultiplicativeFilterNetwork(in_dim, out_dim, config.width, config.depth, config.mfn)


def _incode(config: FieldConfig, in_dim: int, out_dim: int) -> Network:
    assert config.width and config.depth
    return Incode(in_dim, out_dim, config.width, config.depth, config.incode)


NETWORKS: dict[str, Callable[[FieldConfig, int, int], Network]] = {
    "relu": _relu,
    "siren": _siren,
    "spder": _spder,
    "finer": _finer,
    "gauss": lambda config, i, o: _after_the_first(config, i, o, Gauss(config.gauss.scale)),
    "wire": _wire,
    "fusion": _fusion,
    "mfn": _mfn,
    "incode": _incode,
}


def build_network(config: FieldConfig, in_dim: int, out_dim: int) -> Network:
    """The network of a resolved configuration.

    Raises:
        UserError: one that cannot take what the encoder gives.
    """
    return NETWORKS[config.network](config, in_dim, out_dim)
