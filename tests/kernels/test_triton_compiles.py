"""Every Triton kernel compiles to machine code of real GPUs; no GPU is needed for that, and nothing runs."""

from __future__ import annotations

import importlib
import os

import pytest
import torch
from kernel_cases import hash_layout, projection_inputs

from recon3d.kernels.sine import DAMPINGS

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter does not compile", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

POINTER = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
}


@pytest.fixture
def compiled(monkeypatch):
    """Launching a kernel compiles it for compute capability 9.0, and adds (name, PTX) to this list."""
    programs: list[tuple[str, str]] = []

    def compile_only(self, *args, grid, warmup, **kwargs):
        names = [p.name for p in self.params]
        given = dict(zip(names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in names}
        options = {k: v for k, v in kwargs.items() if k not in names}
        signature, constants, attributes = {}, {}, {}
        for i, parameter in enumerate(self.params):
            value = given[parameter.name]
            if parameter.is_constexpr:
                signature[parameter.name] = "constexpr"
                constants[parameter.name] = value
            elif isinstance(value, torch.Tensor):
                signature[parameter.name] = POINTER[value.dtype]
                attributes[(i,)] = [["tt.divisibility", 16]]
            else:
                assert isinstance(value, int)
                signature[parameter.name] = "i32"
        source = ASTSource(self, signature, constants, attributes)
        result = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        assert result.asm["cubin"]
        assert result.metadata.shared <= 227 * 1024, "more shared memory than a multiprocessor has"
        programs.append((self.__name__, result.asm["ptx"]))

    monkeypatch.setattr(triton.JITFunction, "run", compile_only)
    return programs


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_hash_grid_compiles(compiled, dim):
    cuda = importlib.import_module("recon3d.kernels.hash_grid.cuda")
    features, shadow_type = {1: (1, None), 2: (4, torch.bfloat16), 3: (2, torch.float16), 4: (8, torch.float32)}[dim]
    layout = hash_layout(dim, features)
    x, table = torch.rand(10, dim), torch.rand(layout.rows, features)
    shadow = None if shadow_type is None else table.to(shadow_type)
    grid = list(layout.scales), list(layout.resolutions), list(layout.offsets)
    out = cuda.encode(x, table, shadow, *grid)
    cuda.encode_backward(out, x, table, shadow, *grid, True, True)
    assert [name for name, _ in compiled] == ["_encode", "_table_gradient", "_point_gradient"]
    if dim == 3:
        # The two half-precision features of a row are one load.
        assert "ld.global.b32" in compiled[0][1]


@pytest.mark.parametrize("cone", [0.0, 0.01])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_marching_compiles(compiled, cone, dtype):
    cuda = importlib.import_module("recon3d.kernels.marching.cuda")
    ray, vector = torch.rand(5, dtype=dtype), torch.rand(5, 3, dtype=dtype)
    full = torch.ones(4, 4, 4, dtype=torch.bool)
    cuda.march(vector, vector, ray, ray + 1, full, ray, 0.1, cone)
    cuda.march_ahead(vector, vector, ray, ray + 1, full, full[:1, :1, :1], torch.rand(4, 4, 4), ray, 1, 4, 0.1, cone)
    assert [name for name, _ in compiled] == ["_walk"] * 4


@pytest.mark.parametrize("channels", [1, 3, 8])
def test_compositing_compiles(compiled, channels):
    cuda = importlib.import_module("recon3d.kernels.compositing.cuda")
    sample, rgb, offsets = torch.rand(6), torch.rand(6, channels), torch.tensor([0, 2, 2, 6])
    color, depth, opacity = cuda.composite(sample, rgb, sample, sample, offsets, 1e-4)
    cuda.composite_backward(color, depth, opacity, sample, rgb, sample, sample, offsets, 1e-4)
    assert [name for name, _ in compiled] == ["_forward", "_backward"]


@pytest.mark.parametrize("damping", DAMPINGS)
def test_sine_compiles(compiled, damping):
    cuda = importlib.import_module("recon3d.kernels.sine.cuda")
    x = torch.rand(10, 3)
    for order in range(3):
        cuda.sine_backward(cuda.damped_sine(x.half(), damping, order), x.half(), damping, order)
    cuda.sine_backward(x, x, damping, 0)
    assert [name for name, _ in compiled] == ["_derivative"] * 7


@pytest.mark.parametrize("order", [0, 3])
def test_cosine_series_compiles(compiled, order):
    cuda = importlib.import_module("recon3d.kernels.cosine_series.cuda")
    theta, coefficients, grad = torch.rand(100, 2), torch.rand(2, 70, 513), torch.rand(100, 70)
    cuda.series(theta, None, coefficients, order)
    cuda.coefficients(theta, theta, grad, 513, order)
    cuda.angles(theta, coefficients, grad, order)
    assert [name for name, _ in compiled] == ["_series", "_coefficients", "_angles"]
    assert all("mma" in ptx for _, ptx in compiled)


@pytest.mark.parametrize(("degree", "dtype"), [(4, torch.float32), (2, torch.float16), (3, torch.float64)])
def test_spherical_harmonics_compiles(compiled, degree, dtype):
    cuda = importlib.import_module("recon3d.kernels.spherical_harmonics.cuda")
    directions = torch.rand(300, 3, dtype=dtype)
    cuda.backward(cuda.values(directions, degree), directions, degree)
    assert [name for name, _ in compiled] == ["_values", "_slopes"]
    if degree == 4:
        # The sixteen numbers of a row are four stores.
        assert "st.global.v4.b32" in compiled[0][1]


@pytest.mark.parametrize("scan", ["parallel", "arc", "cone", "cylinder"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projection_compiles(compiled, scan, dtype):
    cuda = importlib.import_module("recon3d.kernels.projection.cuda")
    volume, projections, forward, backward = projection_inputs(scan, dtype)
    cuda.project(volume, *forward)
    cuda.back_project(projections, *backward)
    assert [name for name, _ in compiled] == ["_walk", "_walk"]
    assert "red.global" in compiled[1][1] or "atom.global" in compiled[1][1]
    if dtype == torch.float32 and scan == "cone":
        assert not any(".f64" in ptx for _, ptx in compiled)


@pytest.mark.parametrize("features", [1, 2, 8])
def test_adam_compiles(compiled, features):
    cuda = importlib.import_module("recon3d.kernels.adam.cuda")
    table, one = torch.rand(600, features), torch.ones(())
    cuda.adam_rows(table, table, table, table, table[:, 0].contiguous(), one, 0.9, 0.99, 1e-15, one, one)
    assert [name for name, _ in compiled] == ["_adam_rows"]


@pytest.mark.parametrize(
    ("sizes", "compute"),
    [((32, 64, 16), torch.float16), ((31, 64, 64, 3), torch.bfloat16), ((9, 16, 3), torch.float16)],
)
def test_mlp_compiles(compiled, sizes, compute):
    cuda = importlib.import_module("recon3d.kernels.mlp.cuda")
    x, weights = torch.rand(300, sizes[0]), [torch.rand(b, a) for a, b in zip(sizes[:-1], sizes[1:])]
    cuda.backward(cuda.forward(x, weights, compute), x, weights, compute, True)
    assert [name for name, _ in compiled] == ["_forward", "_backward"]
    assert all("mma" in ptx for _, ptx in compiled)
