"""The implementations of the kernels, and the inputs on which they are compared with the reference.

Triton's interpreter has to be chosen before Triton is imported, so a process tests either the machine's own
implementations (numba, and Triton on a GPU) or, where ``TRITON_INTERPRET`` is 1, the interpreted Triton kernels.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from torch import Tensor

from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.voxels import VolumeGrid
from recon3d.kernels import HashLayout

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
DEVICES = ["cpu", pytest.param("cuda", marks=gpu)]


@dataclass(frozen=True)
class Implementation:
    name: str
    module: str
    device: str

    def of(self, op: str) -> ModuleType:
        """The module of an op: it holds the functions that the op's ``__init__.py`` registers."""
        return importlib.import_module(f"recon3d.kernels.{op}.{self.module}")

    def __str__(self) -> str:
        return self.name


NUMBA = Implementation("numba", "cpu", "cpu")
TRITON = Implementation("triton", "cuda", "cuda")
INTERPRETED = Implementation("interpreted", "cuda", "cpu")

if os.environ.get("TRITON_INTERPRET") == "1":
    IMPLEMENTATIONS = [pytest.param(INTERPRETED, id="interpreted")]
else:
    IMPLEMENTATIONS = [pytest.param(NUMBA, id="numba"), pytest.param(TRITON, id="triton", marks=gpu)]


OPCHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def move(values: tuple, device: str) -> list:
    """The tensors among ``values`` on ``device``, the rest as it is."""
    return [v.to(device) if isinstance(v, Tensor) else v for v in values]


def relative_error(value: Tensor, truth: Tensor) -> float:
    """Largest error, in units of the largest value."""
    assert value.shape == truth.shape
    return float((value - truth).abs().max() / truth.abs().max().clamp_min(1e-9)) if truth.numel() else 0.0


# Hash grid: dimension, features.
HASH_SHAPES = [(1, 1), (2, 2), (2, 8), (3, 1), (3, 2), (3, 4), (3, 8), (4, 2)]


def hash_layout(dim: int, features: int) -> HashLayout:
    """Five levels, of which the coarse are dense and the fine hashed."""
    log2_size = {1: 5, 2: 6, 3: 8, 4: 10}[dim]
    layout = HashLayout.build(dim, 5, features, log2_size, coarsest=3, finest=50)
    sizes = [b - a for a, b in zip(layout.offsets[:-1], layout.offsets[1:])]
    dense = [resolution**dim <= size for resolution, size in zip(layout.resolutions, sizes)]
    assert any(dense) and not all(dense)
    return layout


def layout_lists(layout: HashLayout) -> tuple[list[float], list[int], list[int]]:
    return list(layout.scales), list(layout.resolutions), list(layout.offsets)


def hash_inputs(layout: HashLayout, points: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Points, table and an incoming gradient; the points include the cube's corners and some outside it."""
    generator = torch.Generator().manual_seed(layout.dim * 10 + layout.features)
    x = torch.rand(points, layout.dim, generator=generator, dtype=dtype)
    x[0], x[1], x[2], x[3] = 0, 1, -0.25, 1.75
    x[4, 0] = 1.125
    table = torch.randn(layout.rows, layout.features, generator=generator, dtype=dtype)
    grad = torch.randn(points, layout.levels * layout.features, generator=generator, dtype=dtype)
    return x, table, grad


def rays_through_box(rays: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Origins, directions, near, far and jitter of rays from a sphere around the box [-1, 1]^3.

    Among them are rays along an axis, one from inside, one that misses, one with near > far, and one that is followed
    beyond the box.
    """
    generator = torch.Generator().manual_seed(seed)
    origins = torch.nn.functional.normalize(torch.randn(rays, 3, generator=generator, dtype=dtype), dim=-1) * 3
    targets = torch.rand(rays, 3, generator=generator, dtype=dtype) * 1.8 - 0.9
    origins[0] = torch.tensor([0.05, -3, 0.3], dtype=dtype)
    targets[0] = torch.tensor([0.05, 0, 0.3], dtype=dtype)
    origins[1] = torch.tensor([2.5, 0.4, 0.1], dtype=dtype)
    targets[1] = torch.tensor([0, 0.4, 0.2], dtype=dtype)
    origins[2] = 0.1
    origins[3] = torch.tensor([3, 3, 3], dtype=dtype)
    targets[3] = torch.tensor([3, 4, 3], dtype=dtype)
    directions = torch.nn.functional.normalize(targets - origins, dim=-1)
    planes = (torch.tensor([[-1.0], [1.0]], dtype=dtype)[:, None] - origins) / directions
    near = planes.amin(0).nan_to_num(-torch.inf).amax(-1).clamp_min(0)
    far = planes.amax(0).nan_to_num(torch.inf).amin(-1)
    near[4], far[4] = far[4].clone(), near[4].clone()
    far[5] += 0.7
    jitter = torch.rand(rays, generator=generator, dtype=dtype)
    return origins, directions, near, far, jitter


def occupancy_blobs(cells: int, seed: int = 0) -> Tensor:
    """A grid of which a ball, a plate, and some scattered cells are occupied."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.arange(cells) / cells * 2 - 1
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    ball = (x - 0.4) ** 2 + y**2 + (z + 0.3) ** 2 < 0.16
    plate = (x < -0.6) & (x > -0.8) & (y.abs() < 0.5)
    return ball | plate | (torch.rand(cells, cells, cells, generator=generator) < 0.01)


def packed_samples(
    counts: list[int], channels: int, dtype: torch.dtype, density: float = 20.0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """sigma, rgb, t, dt and offsets of rays with the given numbers of samples."""
    generator = torch.Generator().manual_seed(sum(counts) + channels)
    offsets = torch.tensor([0, *counts]).cumsum(0)
    samples = int(offsets[-1])
    sigma = torch.rand(samples, generator=generator, dtype=dtype) ** 4 * density
    rgb = torch.rand(samples, channels, generator=generator, dtype=dtype)
    dt = torch.rand(samples, generator=generator, dtype=dtype) * 0.02 + 0.01
    t = dt.cumsum(0)
    return sigma, rgb, t, dt, offsets


PACKS = {
    "mixed": [0, 3, 1, 0, 32, 33, 70, 0],
    "empty": [0, 0, 0],
    "one": [5],
}


def directions(rows: int, degree: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Unit vectors, among them the axes, and an incoming gradient of their spherical harmonics."""
    generator = torch.Generator().manual_seed(degree)
    vectors = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    vectors[:3] = torch.eye(3, dtype=torch.float64)[:rows]
    grad = torch.randn(rows, degree**2, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(vectors, dim=1).to(dtype), grad.to(dtype)


def cosine_inputs(rows: int, dim: int, width: int, terms: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Angles from 0 to pi with both ends, weights of them, coefficients, and an incoming gradient."""
    generator = torch.Generator().manual_seed(rows + terms)
    theta = torch.rand(rows, dim, generator=generator, dtype=dtype) * torch.pi
    theta[:1], theta[1:2] = 0, torch.pi
    weight = torch.randn(rows, dim, generator=generator, dtype=dtype)
    coefficients = torch.randn(dim, width, terms, generator=generator, dtype=dtype) / terms
    grad = torch.randn(rows, width, generator=generator, dtype=dtype)
    return theta, weight, coefficients, grad


def scans() -> dict[str, tuple[ScanGeometry, VolumeGrid]]:
    """Small scans of every geometry, with volumes of unequal sides that some rays miss."""
    turn = torch.arange(5) * 1.3
    slice_, block = VolumeGrid((1, 8, 11), (1.0, 0.8, 7.0), (0.3, -0.4, 0.0)), VolumeGrid((6, 7, 9), (1.0, 1.2, 0.9))
    diagonal = torch.tensor([0.0, 0.25, 0.5, 1.25]) * torch.pi
    return {
        "parallel": (ScanGeometry.parallel(turn, 13, 1.1, axis_offset=0.7), slice_),
        "diagonal": (ScanGeometry.parallel(diagonal, 12, 1.0), VolumeGrid((1, 8, 8), (1.0, 1.0, 1.0))),
        "fan": (ScanGeometry.fan(turn, 12, 1.5, 20.0, 10.0, detector_offset=0.4), slice_),
        "arc": (ScanGeometry.fan(turn, 12, 1.5, 20.0, 10.0, curved=True, detector_offset=0.4), slice_),
        "far": (ScanGeometry.fan(turn, 12, 1.0, 1e6, 10.0), slice_),
        "inside": (ScanGeometry.fan(turn, 12, 3.0, 2.0, 10.0), slice_),
        "parallel3d": (ScanGeometry.parallel(turn, 8, 1.3, rows=7, row_pitch=1.1, tilt=0.1), block),
        "cone": (ScanGeometry.cone(turn, 8, 7, 1.7, 15.0, 10.0, axis_offset=0.5, tilt=-0.1), block),
        "cylinder": (ScanGeometry.cone(turn, 8, 7, 1.7, 15.0, 10.0, curved=True), block),
        "helix": (ScanGeometry.helical(turn, 8, 7, 1.7, 15.0, 10.0, rise=4.0), block),
        "laminography": (ScanGeometry.laminography(turn, 8, 7, 1.3, inclination=1.2), block),
        "thin": (ScanGeometry.laminography(turn, 8, 7, 1.3, inclination=0.5), VolumeGrid((1, 1, 9), (1.0, 1.0, 1.0))),
    }


SCANS = scans()


def projection_inputs(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, tuple, tuple]:
    """Volume, projections, and what follows them in a call of project and of back_project."""
    geometry, grid = SCANS[name]
    generator = torch.Generator().manual_seed(len(name))
    volume = torch.randn(grid.shape, generator=generator, dtype=dtype)
    projections = torch.randn(geometry.shape, generator=generator, dtype=dtype)
    rest = list(grid.spacing), list(grid.center), geometry.divergent, geometry.curved
    forward = geometry.vectors, geometry.rows, geometry.columns, *rest
    return volume, projections, forward, (geometry.vectors, list(grid.shape), *rest)
