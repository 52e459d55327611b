"""Small scans of phantoms, as files."""

import math

import torch

from recon3d.data.phantoms import shepp_logan
from recon3d.data.scan import Scan
from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.voxels import VolumeGrid

SIZE = 64.0


def slice_scan(path, views=20, pixels=32, density=0.02):
    """The Shepp-Logan head in parallel rays; returns the path, and the true slice in 1/mm."""
    grid = VolumeGrid((1, pixels, pixels), (SIZE / pixels,) * 3)
    pitch = SIZE / pixels
    geometry = ScanGeometry.parallel(torch.arange(views) * (math.pi / views), int(pixels * 1.42) | 1, pitch)
    return _written(path, geometry, grid, flat=True, density=density)


def cone_scan(path, views=12, pixels=16):
    """The head in space; returns the path, and the true volume in 1/mm."""
    grid = VolumeGrid((pixels, pixels, pixels), (SIZE / pixels,) * 3)
    angles = torch.arange(views) * (2 * math.pi / views)
    geometry = ScanGeometry.cone(angles, 24, 24, 2 * SIZE / 20, source_origin=150.0, origin_detector=150.0)
    return _written(path, geometry, grid, flat=False, density=0.02)


def _written(path, geometry, grid, flat, density):
    phantom = shepp_logan(SIZE, density, flat)
    Scan(phantom.project(geometry).numpy(), geometry, grid).save(path)
    return path, phantom.rasterize(grid)
