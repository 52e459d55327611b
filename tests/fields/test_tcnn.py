"""tinycudann as a backend: on an emulation of its documented layout, written here from its formulas."""

import dataclasses
import sys
import types

import numpy as np
import pytest
import torch

from recon3d.config import FieldConfig, HashGridConfig, RadianceFieldConfig
from recon3d.errors import UserError
from recon3d.fields import tcnn
from recon3d.fields.radiance import RadianceField
from recon3d.kernels import HashLayout

PRIMES = (1, 2654435761, 805459861, 3674653429)
GRID = HashGridConfig(levels=5, log2_size=11, coarsest=4, finest=60)
CONFIG = RadianceFieldConfig(hash_grid=GRID, width=32, color_width=16, color_depth=2, geometry_features=7).resolved()


class Grid(torch.nn.Module):
    """Level l: scale = exp2(l log2 b) base - 1 in float32; position = x scale + 1/2; a corner's row is its lattice
    index where resolution^d rows fit, else the xor of coordinates times primes; modulo the level's rows."""

    def __init__(self, dim, settings, dtype):
        super().__init__()
        self.dim, self.s, self.dtype = dim, settings, dtype
        self.levels, begin = [], 0
        for level in range(settings["n_levels"]):
            growth = np.log2(np.float32(settings["per_level_scale"]))
            scale = np.exp2(np.float32(level) * growth) * np.float32(settings["base_resolution"]) - np.float32(1)
            resolution = int(np.ceil(scale)) + 1
            rows = min(-(-(resolution**dim) // 8) * 8, 2 ** settings["log2_hashmap_size"])
            self.levels.append((float(scale), resolution, begin, rows))
            begin += rows
        self.params = torch.nn.Parameter(torch.zeros(begin * settings["n_features_per_level"]))

    def forward(self, x):
        features, outputs = self.s["n_features_per_level"], []
        for scale, resolution, begin, rows in self.levels:
            position = x * scale + 0.5
            cell = position.floor().long()
            total = 0
            for corner in range(2**self.dim):
                side = torch.tensor([corner >> axis & 1 for axis in range(self.dim)])
                weight = torch.where(side == 1, position - cell, 1 - (position - cell)).prod(dim=1)
                at = cell + side
                if resolution**self.dim <= rows:
                    row = sum(at[:, axis] * resolution**axis for axis in range(self.dim))
                else:
                    row = torch.zeros_like(at[:, 0])
                    for axis in range(self.dim):
                        row = row ^ (at[:, axis] * PRIMES[axis] & 0xFFFFFFFF)
                element = ((begin + row % rows) * features)[:, None] + torch.arange(features)
                total = total + weight[:, None] * self.params[element]
            outputs.append(total)
        return torch.cat(outputs, dim=1)


class Network(torch.nn.Module):
    """Row-major matrices one after the other, inputs padded to multiples of 16 with ones, outputs padded and cut."""

    def __init__(self, inputs, outputs, settings):
        super().__init__()
        width, padded = settings["n_neurons"], -(-inputs // 16) * 16
        self.sizes = [padded, *[width] * settings["n_hidden_layers"], -(-outputs // 16) * 16]
        self.inputs, self.outputs = inputs, outputs
        count = sum(a * b for a, b in zip(self.sizes[:-1], self.sizes[1:]))
        self.params = torch.nn.Parameter(torch.zeros(count))

    def forward(self, x):
        h, begin = torch.nn.functional.pad(x, (0, self.sizes[0] - self.inputs), value=1.0), 0
        for index, (a, b) in enumerate(zip(self.sizes[:-1], self.sizes[1:])):
            h = h @ self.params[begin : begin + a * b].view(b, a).t()
            h = h if index == len(self.sizes) - 2 else h.relu()
            begin += a * b
        return h[:, : self.outputs]


@pytest.fixture
def emulated(monkeypatch):
    module = types.SimpleNamespace(Encoding=Grid, Network=Network)
    monkeypatch.setitem(sys.modules, "tinycudann", module)


def pair():
    """The same field by both backends: the checkpoint of one is that of the other."""
    torch.manual_seed(0)
    own = RadianceField(CONFIG)
    with torch.no_grad():
        own.encoder.table.normal_()
    other = RadianceField(dataclasses.replace(CONFIG, backend="tcnn"))
    other.load_state_dict(own.state_dict())
    return own, other


def test_same_values_and_gradients(emulated):
    own, other = pair()
    assert isinstance(other.encoder, tcnn.TcnnHashGrid) and isinstance(other.color_network, tcnn.TcnnMLP)
    assert {name: p.shape for name, p in own.named_parameters()} == {n: p.shape for n, p in other.named_parameters()}
    x = torch.rand(200, 3) * 2.4 - 1.2
    directions = torch.nn.functional.normalize(torch.randn(200, 3), dim=-1)
    weight = torch.randn(200, 3)
    results = []
    for field in (own, other):
        encoded = field.encode(x).detach()
        density, features = field.geometry(x, encoded)
        color = field.shade(features, directions)
        grads = torch.autograd.grad((color * weight).sum() + density.log().sum(), list(field.parameters()))
        results.append((density, color, *grads))
    for a, b in zip(*results):
        assert (a - b).norm() < 2e-4 * a.norm()  # the two make a level's scale with other roundings


def test_levels_not_in_use_are_zero(emulated):
    own, other = pair()
    own.encoder.active = other.encoder.active = 2
    x = torch.rand(50, 3) * 2 - 1
    torch.testing.assert_close(other.encode(x), own.encode(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sizes", [[32, 64, 16], [23, 64, 64, 3], [16, 16, 1]])
def test_weights_come_back_exactly(sizes):
    weights = [torch.randn(b, a) for a, b in zip(sizes[:-1], sizes[1:])]
    packed = tcnn.pack_network(weights)
    assert len(packed) % 16 == 0
    for value, weight in zip(tcnn.unpack_network(packed, sizes), weights, strict=True):
        assert torch.equal(value, weight)
    with pytest.raises(UserError, match="parameters"):
        tcnn.unpack_network(torch.cat([packed, packed]), sizes)
    if sizes[0] % 16:
        packed[sizes[0]] = 1.0
        with pytest.raises(UserError, match="biases"):
            tcnn.unpack_network(packed, sizes)


@pytest.mark.parametrize("config", [GRID, HashGridConfig(), HashGridConfig(levels=12, log2_size=18, finest=1024)])
def test_its_grid_has_our_rows(config):
    layout = HashLayout.build(3, config.levels, config.features, config.log2_size, config.coarsest, config.finest)
    assert tcnn.grid_offsets(layout, config) == layout.offsets


def test_what_it_cannot_do_is_one_line(emulated):
    with pytest.raises(UserError, match=r"field\.backend tcnn has field\.encoder hash_grid"):
        FieldConfig(encoder=("frequency",), backend="tcnn")
    for change in ({"width": 48}, {"depth": 3}):
        with pytest.raises(UserError, match="ReLU networks of 16, 32, 64, 128 units"):
            RadianceField(dataclasses.replace(CONFIG, backend="tcnn", **change))


@pytest.mark.skipif(tcnn.is_installed(), reason="tinycudann is installed")
def test_without_it_one_line_says_so():
    with pytest.raises(UserError, match=r"tinycudann cannot be used here .* --field.backend own"):
        RadianceField(dataclasses.replace(CONFIG, backend="tcnn"))


@pytest.mark.gpu
@pytest.mark.skipif(not tcnn.is_installed(), reason="tinycudann is not installed")
def test_the_real_one_agrees():
    own, other = (field.cuda() for field in pair())
    x = torch.rand(1000, 3, device="cuda") * 2 - 1
    directions = torch.nn.functional.normalize(torch.randn(1000, 3, device="cuda"), dim=-1)
    with torch.no_grad():
        for a, b in zip(own(x, directions), other(x, directions)):
            assert (a - b).norm() < 0.02 * a.norm()
