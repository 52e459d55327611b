"""Small scans for the tests of scan files and preprocessing."""

import numpy as np
import torch

from recon3d.data.scan import Scan
from recon3d.geometry.scanner import ScanGeometry, default_grid


def parallel_scan(views=12, rows=3, columns=32, seed=0, **fields):
    """Random projections of parallel rays over half a turn."""
    angles = torch.arange(views, dtype=torch.float64) * torch.pi / views
    geometry = ScanGeometry.parallel(angles, columns, 0.5, rows=rows)
    projections = np.random.default_rng(seed).random((views, rows, columns), dtype=np.float32)
    return Scan(fields.pop("projections", projections), geometry, default_grid(geometry), **fields)


def disc_scan(views=90, columns=96, axis=0.0, radius=0.6, x=0.2):
    """Exact line integrals of a disc beside the axis, which falls ``axis`` columns beside the detector's middle."""
    angles = torch.arange(views, dtype=torch.float64) * torch.pi / views
    geometry = ScanGeometry.parallel(angles, columns, 1.0, axis_offset=axis)
    reach = columns / 2
    s = (np.arange(columns) - (columns - 1) / 2 - axis)[None] - x * reach * np.cos(angles.numpy())[:, None]
    chord = 2 * np.sqrt(np.clip((radius * reach) ** 2 - s**2, 0, None))
    return Scan(chord[:, None].astype(np.float32) * 0.01, geometry, default_grid(geometry))
