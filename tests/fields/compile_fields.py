"""Compiles a field of every kind whole, and compares it with itself: run by ``test_compile.py``, in its own process."""

import torch

from recon3d.config import FieldConfig, HashGridConfig, RadianceFieldConfig
from recon3d.config.fields import ChebyshevConfig, FourierConfig, FrequencyConfig
from recon3d.fields.field import Field
from recon3d.fields.radiance import RadianceField

SMALL = {
    "width": 16,
    "depth": 2,
    "hash_grid": HashGridConfig(levels=3, log2_size=8, coarsest=4, finest=16),
    "frequency": FrequencyConfig(levels=3),
    "fourier": FourierConfig(features=8),
    "chebyshev": ChebyshevConfig(degree=6),
}
KINDS = {
    "hash_grid": ("hash_grid", "relu"),
    "frequency": ("frequency", "relu"),
    "fourier": ("fourier", "relu"),
    "spherical_harmonics": ("spherical_harmonics", "relu"),
    "sl2a": ("chebyshev", "fusion"),
    **{name: ("identity", name) for name in ("relu", "siren", "spder", "finer", "gauss", "wire", "mfn", "incode")},
}


def check_field(encoder, network):
    """Values and gradients."""
    field = Field(FieldConfig(encoder=(encoder,), network=network, **SMALL).resolved(), 3, 2)
    compiled = torch.compile(field, backend="aot_eager", fullgraph=True)
    x = torch.rand(40, 3) * 2 - 1
    value, expected = compiled(x), field(x)
    torch.testing.assert_close(value, expected)
    mine, truth = (
        torch.autograd.grad(v.square().sum(), list(field.parameters()), allow_unused=True) for v in (value, expected)
    )
    for a, b in zip(mine, truth):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def check_radiance(precision):
    field = RadianceField(RadianceFieldConfig(**SMALL, color_width=16).resolved(), precision)
    compiled = torch.compile(field, backend="aot_eager", fullgraph=True)
    x, directions = torch.rand(2, 40, 3)
    for value, expected in zip(compiled(x, directions), field(x, directions)):
        torch.testing.assert_close(value, expected)


def main():
    torch.manual_seed(0)
    for name, (encoder, network) in KINDS.items():
        torch.compiler.reset()
        check_field(encoder, network)
        print(name, flush=True)
    for precision in (torch.float32, torch.bfloat16):
        torch.compiler.reset()
        check_radiance(precision)
    print("radiance")


if __name__ == "__main__":
    main()
