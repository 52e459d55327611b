"""Frequencies of CT fields, chosen from a first reconstruction."""

import dataclasses

import pytest
import torch
from tasks.scans import cone_scan, slice_scan

from recon3d.config import CtConfig, FieldConfig
from recon3d.config.scans import VolumeConfig
from recon3d.geometry.grids import grid_points
from recon3d.geometry.voxels import VolumeGrid
from recon3d.tuning.tune import tune
from recon3d.tuning.volumes import VolumeTarget, over_the_cube

CPU = torch.device("cpu")


def test_a_volume_over_the_cube_lies_where_the_field_has_it():
    grid = VolumeGrid((8, 16, 12), (1.0, 1.0, 1.0), (3.0, 0.0, -1.0))
    x = (grid.points()[..., 0] - 3.0) / 8  # field coordinates
    values = over_the_cube(x, grid)
    assert values.shape == (16, 16, 16, 1)
    points = grid_points((16, 16, 16)).view(16, 16, 16, 3)
    inside = (points[..., 0].abs() < 0.68) & (points[..., 2].abs() < 0.43)
    torch.testing.assert_close(values[..., 0][inside], points[..., 0][inside], rtol=0, atol=1e-5)
    assert not values[:, :, 0].any() and not values[0].any()  # the box does not reach there
    flat = VolumeGrid((1, 10, 20), (0.5, 0.5, 9.0))
    picture = over_the_cube(flat.points()[..., 1] / 5, flat)  # y
    assert picture.shape == (20, 20, 1)
    torch.testing.assert_close(picture[5, 6:14, 0], grid_points((20,))[6:14, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("scan", "dim"), [(slice_scan, 2), (cone_scan, 3)])
def test_frequencies_are_chosen(scan, dim, tmp_path):
    path, _ = scan(tmp_path / "scan.npz")
    field = FieldConfig(encoder=("identity",), network="siren", width=32, depth=1)
    config = CtConfig(data=path, steps=1, field=field).resolved()
    assert len(VolumeTarget.read(config, CPU).grid) == dim
    tuning = tune(config, CPU)
    assert tuning.distances[tuning.chosen] == min(tuning.distances.values())
    assert tuning.apply(config).field.siren.first_omega == tuning.chosen
    rough = dataclasses.replace(config, volume=VolumeConfig(spacing=(8.0, 8.0, 8.0)))
    assert VolumeTarget.read(rough, CPU).grid == (8,) * dim
