"""Filtered back-projection: parallel rays (2D, 3D), fans on flat and curved detectors, and cones (FDK).

Sources: Kak and Slaney, "Principles of Computerized Tomographic Imaging" (1988), chapter 3; Feldkamp, Davis and Kress,
"Practical cone-beam algorithm" (1984).

With the angle each view stands for w, the ramp filter h, and p' the projections under weights,

    parallel   f = sum_a w (p * h)(s),
    flat       p' = p cos,  f = sum_a w (D / L)^2 (p' * h)(s) with s and h on a detector moved to the axis,
    curved     p' = p D cos,  f = sum_a w (1 / l)^2 (p' * g)(gamma) with g = h (gamma / sin gamma)^2,

where cos is that of the angle between a ray and the detector's normal (curved: the ray through the axis), D the
distance of the source from the axis, L the voxel's from the source along the normal, l its distance itself. A cone's
rows are filtered like a fan's, under the cosine in both directions.

Parallel rays are back-projected by the projector's transpose; divergent ones by looking up, for every voxel, the
projection at its shadow, because the transpose's own weights are not these.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.classical.filters import filtered, padded, ramp
from recon3d.classical.projector import Progress, Projector, silent
from recon3d.classical.redundancy import angular_steps, fan_weights, shares
from recon3d.config.classical import FbpConfig
from recon3d.errors import require
from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.turns import angles_of, is_full_turn, missing_columns
from recon3d.geometry.voxels import VolumeGrid

_AT_ONCE = 2**18
"""Voxels, of a layer in some views, that are looked up in one go."""
_ASKEW = 1e-3
"""How far views may be off the circle: an angle, or a share of the source's distance."""


def fbp(
    projections: Float[Tensor, "a rows columns"],
    geometry: ScanGeometry,
    grid: VolumeGrid,
    options: FbpConfig,
    progress: Progress = silent,
) -> Float[Tensor, "nz ny nx"]:
    """The volume in 1/mm by filtered back-projection; a cone's by Feldkamp, Davis and Kress.

    Raises:
        UserError: the views are not those of a circle, for which there is no such formula.
    """
    before, behind = missing_columns(geometry)
    measured = slice(before, before + geometry.columns)
    if before or behind:  # nothing was measured there, but what is filtered reaches as far
        geometry = geometry.widened(before, behind)
        projections = torch.nn.functional.pad(projections, (before, behind))
    way = _divergent if geometry.divergent else _parallel
    return way(projections, geometry, grid, options, angles_of(geometry), measured, progress)


def _parallel(
    projections: Tensor,
    geometry: ScanGeometry,
    grid: VolumeGrid,
    options: FbpConfig,
    angles: Tensor,
    measured: slice,
    progress: Progress,
) -> Tensor:
    level = float(geometry.source[:, 2].abs().amax())
    require(level <= _ASKEW, "FBP needs rays square to the axis of rotation (z); use sirt, cgls or tv for this scan")
    pitch, row_pitch = geometry.u.norm(dim=1), geometry.v.norm(dim=1)
    column, axis = _columns_and_axis(geometry)
    response = ramp(geometry.columns, options, projections.device)
    if is_full_turn(angles):
        counted = 2 * shares((column - axis) * pitch[:, None], measured)
        projections = projections * counted[:, None, :].to(projections.dtype)
    smooth = filtered(projections, pitch, response)
    progress(1, 2)
    # A voxel's share of its shadow: the transpose gives it (its volume) / (the rays' distances) for each view.
    share = pitch / math.prod(grid.spacing[:2])
    if not (grid.shape[0] == 1 and geometry.rows == 1):
        share = share * row_pitch / grid.spacing[2]
    weight = (angular_steps(angles, math.pi) * share).to(smooth.dtype)
    volume = Projector(geometry, grid).back(smooth * weight[:, None, None])
    progress(2, 2)
    return volume


def _divergent(
    projections: Tensor,
    geometry: ScanGeometry,
    grid: VolumeGrid,
    options: FbpConfig,
    angles: Tensor,
    measured: slice,
    progress: Progress,
) -> Tensor:
    distance = geometry.source_origin
    reach = float(distance.amax())
    off_circle = max(
        float(geometry.source[:, 2].abs().amax()),
        float((distance - distance[0]).abs().amax()),
        float(geometry.u[:, 2].abs().amax() / geometry.u.norm(dim=1).amax()) * reach,
    )
    require(
        off_circle <= _ASKEW * reach and reach > 0,
        "FBP and FDK need a source on a circle about the axis of rotation (z); use sirt, cgls or tv for this scan",
    )
    pitch = geometry.u.norm(dim=1)
    steps = geometry.source_detector
    column, axis = _columns_and_axis(geometry)
    row = torch.arange(geometry.rows, dtype=torch.float64, device=geometry.device) - (geometry.rows - 1) / 2
    response = ramp(geometry.columns, options, projections.device)
    if geometry.curved:
        spread = pitch / steps
        gamma = (column - axis) * spread[:, None]
        across = gamma.cos()
        height = (row + _lift(geometry)[:, None]) * (geometry.v.norm(dim=1) / steps)[:, None]
        weight = distance[:, None, None] * across[:, None, :] / (1 + height.square()).sqrt()[:, :, None]
        response = _curved_response(geometry.columns, options, float(spread[0]), projections.device)
        sampling = spread
    else:
        # The foot of the source's perpendicular on the detector, in columns and rows from its middle.
        along = geometry.source - geometry.detector
        foot_u = (along * geometry.u).sum(1, keepdim=True) / pitch.square()[:, None]
        foot_v = (along * geometry.v).sum(1, keepdim=True) / geometry.v.square().sum(1, keepdim=True)
        middle = (geometry.columns - 1) / 2
        s = (column - middle - foot_u) * (pitch / steps)[:, None]
        height = (row - foot_v) * (geometry.v.norm(dim=1) / steps)[:, None]
        gamma = s.atan() - ((axis - middle - foot_u) * (pitch / steps)[:, None]).atan()
        weight = (1 + s[:, None, :].square() + height[:, :, None].square()).rsqrt()
        sampling = pitch * distance / steps
    counted = fan_weights(angles, gamma, measured)
    smooth = filtered(projections * (weight * counted[:, None, :]).to(projections.dtype), sampling, response)
    return _look_up(smooth, geometry, grid, progress)


def _columns_and_axis(geometry: ScanGeometry) -> tuple[Float[Tensor, " columns"], Float[Tensor, "a 1"]]:
    """The number of each column, and at which of them the axis of rotation casts its shadow in each view."""
    axis, _, _ = geometry.shadows(torch.zeros(1, 3, dtype=torch.float64, device=geometry.device))
    return torch.arange(geometry.columns, dtype=torch.float64, device=geometry.device), axis


def _curved_response(columns: int, options: FbpConfig, spread: float, device: torch.device) -> Tensor:
    """The ramp's samples at the angles n ``spread``, times (gamma / sin gamma)^2; in units of the spread."""
    size = padded(columns)
    kernel = torch.fft.irfft(ramp(columns, options, device), n=size)
    n = torch.arange(size, dtype=torch.float64, device=device)
    gamma = torch.minimum(n, size - n).clamp_max(columns) * spread
    # Beyond the fan the kernel meets nothing.
    stretch = torch.where(gamma < math.pi / 2, 1 / torch.sinc(gamma / math.pi).square(), 1.0)
    return torch.fft.rfft(kernel * stretch).real


def _lift(geometry: ScanGeometry) -> Tensor:
    """How many rows the middle of a detector lies above the source (A,), along v."""
    across = geometry.detector - geometry.source
    return (across * geometry.v).sum(1) / geometry.v.square().sum(1)


def _look_up(smooth: Tensor, geometry: ScanGeometry, grid: VolumeGrid, progress: Progress) -> Tensor:
    """Sum over views of the projection at each voxel's shadow over its squared distance from the source.

    The distance is in units of the source's from the axis, measured along the detector's normal, or, where the detector
    is curved, from the source itself and in mm.
    """
    device, dtype = smooth.device, smooth.dtype
    volume = torch.zeros(grid.shape, dtype=dtype, device=device)
    x, y, z = (grid.axis(i, device) for i in range(3))
    across = geometry.detector - geometry.source
    distance, length = geometry.source_detector, geometry.u.norm(dim=1)
    basis = torch.stack([geometry.u, geometry.v, across], dim=2)
    if geometry.curved:
        basis = torch.stack([geometry.u * (distance / length)[:, None], geometry.v, geometry.middle], dim=2)
    inverse = torch.linalg.inv(basis)
    begin = (inverse * geometry.source[:, None, :]).sum(2)
    chunk = max(1, _AT_ONCE // (grid.shape[1] * grid.shape[2]))
    for first in range(0, len(geometry), chunk):
        views = slice(first, first + chunk)
        # Coordinates along u, v and the middle ray, (views, 1, 1) wherever they depend on the view only.
        m, lift = inverse[views, :, :, None, None], _lift(geometry)[views, None, None].to(dtype)
        scale = (distance / length)[views, None, None].to(dtype)
        for layer, height in enumerate(z):
            a, b, c = (
                (m[:, j, 0] * x + m[:, j, 1] * y[:, None] + m[:, j, 2] * height - begin[views, j, None, None]).to(dtype)
                for j in range(3)
            )
            if geometry.curved:
                radius = torch.hypot(a, c)
                columns, rows = torch.atan2(a, c) * scale, b / radius - lift
                weight = 1 / (radius * distance[views, None, None].to(dtype)).square()
            else:
                columns, rows = a / c, b / c
                weight = ((geometry.source_origin / distance)[views, None, None].to(dtype) / c).square()
            volume[layer] += (weight * _interpolated(smooth[views], columns, rows)).sum(dim=0)
        progress(min(first + chunk, len(geometry)), len(geometry))
    return volume


def _interpolated(images: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Values of images (n, rows, columns) at positions (n, h, w) in pixels from their middle; zero outside."""
    _, height, width = images.shape
    at = columns + (width - 1) / 2
    if height == 1:
        # One row has no neighbours to interpolate between.
        low = at.floor()
        k = low.long()
        inside = (k >= -1) & (k < width)
        line = torch.nn.functional.pad(images[:, 0], (1, 1))
        k = (k + 1).clamp(0, width).flatten(1)
        below, above = line.gather(1, k).view_as(at), line.gather(1, k + 1).view_as(at)
        return torch.where(inside, torch.lerp(below, above, at - low), 0.0)
    up = rows + (height - 1) / 2
    where = torch.stack([at * (2 / (width - 1)) - 1, up * (2 / (height - 1)) - 1], dim=-1)
    return torch.nn.functional.grid_sample(images[:, None], where, align_corners=True)[:, 0]
