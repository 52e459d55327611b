"""Line integrals through a voxel volume and their exact transpose, each one torch op; see ``reference.py``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.kernels.ops import op
from recon3d.kernels.projection import cpu, reference


@op("recon3d::project")
def _project(
    volume: Tensor,
    vectors: Tensor,
    rows: int,
    columns: int,
    spacing: list[float],
    center: list[float],
    divergent: bool,
    curved: bool,
) -> Tensor:
    return reference.project(volume, vectors, rows, columns, spacing, center, divergent, curved)


@_project.register_fake
def _(volume, vectors, rows, columns, spacing, center, divergent, curved):
    return volume.new_empty(vectors.shape[0], rows, columns)


@op("recon3d::back_project")
def _back_project(
    projections: Tensor,
    vectors: Tensor,
    shape: list[int],
    spacing: list[float],
    center: list[float],
    divergent: bool,
    curved: bool,
) -> Tensor:
    return reference.back_project(projections, vectors, shape, spacing, center, divergent, curved)


@_back_project.register_fake
def _(projections, vectors, shape, spacing, center, divergent, curved):
    return projections.new_empty(shape)


def _save_project(ctx, inputs, output):
    volume, vectors, _, _, *ctx.rest = inputs
    ctx.shape = list(volume.shape)
    ctx.save_for_backward(vectors)


def _gradient_of_project(ctx, grad):
    (vectors,) = ctx.saved_tensors
    return _back_project(grad, vectors, ctx.shape, *ctx.rest), None, None, None, None, None, None, None


def _save_back_project(ctx, inputs, output):
    projections, vectors, _, *ctx.rest = inputs
    ctx.size = projections.shape[1:]
    ctx.save_for_backward(vectors)


def _gradient_of_back_project(ctx, grad):
    (vectors,) = ctx.saved_tensors
    return _project(grad, vectors, *ctx.size, *ctx.rest), None, None, None, None, None, None


_project.register_autograd(_gradient_of_project, setup_context=_save_project)
_back_project.register_autograd(_gradient_of_back_project, setup_context=_save_back_project)

_project.register_kernel("cpu", cpu.project)
_back_project.register_kernel("cpu", cpu.back_project)
if torch.cuda.is_available():
    from recon3d.kernels.projection import cuda

    _project.register_kernel("cuda", cuda.project)
    _back_project.register_kernel("cuda", cuda.back_project)


def project(
    volume: Float[Tensor, "nz ny nx"],
    vectors: Float[Tensor, "a 12"],
    rows: int,
    columns: int,
    spacing: Sequence[float],
    center: Sequence[float] = (0.0, 0.0, 0.0),
    divergent: bool = False,
    curved: bool = False,
) -> Float[Tensor, "a rows columns"]:
    """Line integrals of a volume along the rays of A views, by Joseph's method.

    Linear in the volume; its gradient is :func:`back_project`, so it can be differentiated any number of times. The
    volume may be float32 or float64, and so are the projections.

    Args:
        volume: (nz, ny, nx), per mm.
        vectors: A views of 12 numbers each, in float64 (``ScanGeometry.vectors``).
        rows, columns: size of the detector.
        spacing, center: distances of voxels and middle of the volume, (x, y, z) in mm.
        divergent: rays come from a point; else the first three numbers of a view are their unit direction.
        curved: the detector is an arc about the source.
    """
    return _project(volume, vectors, rows, columns, list(spacing), list(center), divergent, curved)


def back_project(
    projections: Float[Tensor, "a rows columns"],
    vectors: Float[Tensor, "a 12"],
    shape: Sequence[int],
    spacing: Sequence[float],
    center: Sequence[float] = (0.0, 0.0, 0.0),
    divergent: bool = False,
    curved: bool = False,
) -> Float[Tensor, "nz ny nx"]:
    """The exact transpose of :func:`project`, for a volume of ``shape`` (nz, ny, nx); each is the other's gradient."""
    return _back_project(projections, vectors, list(shape), list(spacing), list(center), divergent, curved)
