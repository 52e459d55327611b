"""Scanner geometries of other programs: there and back exactly, and against ASTRA itself where it is installed."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from recon3d.errors import UserError
from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.scanner_formats import (
    from_astra,
    from_naf,
    from_tigre,
    grid_from_astra,
    grid_to_astra,
    to_astra,
    to_tigre,
)
from recon3d.geometry.voxels import VolumeGrid

ANGLES = torch.arange(7, dtype=torch.float64) * 0.9
ASTRA = {
    "parallel": ScanGeometry.parallel(ANGLES, 11, 1.3),
    "fanflat": ScanGeometry.fan(ANGLES, 11, 1.3, 30.0, 20.0),
    "parallel3d": ScanGeometry.parallel(ANGLES, 11, 1.3, 5, 1.1),
    "cone": ScanGeometry.cone(ANGLES, 11, 5, 1.3, 30.0, 20.0, 1.1),
    "parallel_vec": ScanGeometry.parallel(ANGLES, 11, 1.3, axis_offset=0.3),
    "fanflat_vec": ScanGeometry.fan(ANGLES, 11, 1.3, 30.0, 20.0, detector_offset=0.3),
    "parallel3d_vec": ScanGeometry.laminography(ANGLES, 11, 5, 1.3, 0.4),
    "cone_vec": ScanGeometry.helical(ANGLES, 11, 5, 1.3, 30.0, 20.0, 4.0, row_pitch=1.1),
}
GRID = VolumeGrid((5, 6, 7), (1.0, 1.5, 0.5), (3.0, -2.0, 1.0))


def same(one: ScanGeometry, other: ScanGeometry) -> None:
    assert one.shape == other.shape and one.kind == other.kind
    assert_close(one.vectors, other.vectors, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ASTRA)
def test_astra_round_trip(kind):
    written = to_astra(ASTRA[kind])
    assert written["type"] == kind
    same(from_astra(written), ASTRA[kind])
    vectors = to_astra(ASTRA[kind], vectors=True)
    assert vectors["type"] == kind.removesuffix("_vec") + "_vec"
    assert torch.equal(from_astra(vectors).vectors, ASTRA[kind].vectors)


@pytest.mark.parametrize("kind", ["parallel", "fanflat", "parallel3d", "cone"])
def test_astra_means_the_same(kind):
    """The vectors that ASTRA makes of a geometry are ours, to the last digit; its dictionaries have our keys."""
    astra = pytest.importorskip("astra")
    written = to_astra(ASTRA[kind])
    order = {
        "parallel": ("DetectorWidth", "DetectorCount"),
        "parallel3d": ("DetectorSpacingX", "DetectorSpacingY", "DetectorRowCount", "DetectorColCount"),
    }["parallel3d" if kind in ("parallel3d", "cone") else "parallel"]
    distances = ("DistanceOriginSource", "DistanceOriginDetector") if kind in ("fanflat", "cone") else ()
    made = astra.create_proj_geom(kind, *(written[key] for key in (*order, "ProjectionAngles", *distances)))
    assert set(made) == set(written)
    vectors = to_astra(ASTRA[kind], vectors=True)
    np.testing.assert_array_equal(astra.geom_2vec(made)["Vectors"], vectors["Vectors"])
    flat = GRID.shape[0] == 1
    low, high = GRID.low, GRID.high
    volume = astra.create_vol_geom(6, 7, 5, low[0], high[0], low[1], high[1], low[2], high[2])
    assert volume == grid_to_astra(GRID, flat)


def test_astra_grids():
    assert grid_from_astra(grid_to_astra(GRID)) == GRID
    slice_ = VolumeGrid((1, 6, 7), (0.5, 1.5, 0.5), (3.0, -2.0, 0.0))
    assert grid_from_astra(grid_to_astra(slice_, flat=True)) == slice_
    with pytest.raises(UserError):
        grid_to_astra(GRID, flat=True)


def test_astra_takes_rays_of_any_length():
    vectors = to_astra(ASTRA["parallel3d_vec"])
    longer = {**vectors, "Vectors": vectors["Vectors"] * np.array([3.0] * 3 + [1.0] * 9)}
    same(from_astra(longer), ASTRA["parallel3d_vec"])


@pytest.mark.parametrize(
    "broken",
    [
        {"type": "sparse_matrix", "ProjectionAngles": [0.0]},
        {"type": "parallel", "DetectorCount": 4, "ProjectionAngles": [0.0]},
        {"type": "cone_vec", "DetectorRowCount": 4, "DetectorColCount": 4, "Vectors": np.zeros((3, 6))},
        {"DetectorCount": 4},
    ],
)
def test_astra_refuses(broken):
    with pytest.raises(UserError, match="ASTRA"):
        from_astra(broken)


def test_curved_detectors_have_no_counterpart():
    arc = ScanGeometry.fan(ANGLES, 11, 1.3, 30.0, 20.0, curved=True)
    for write in (lambda: to_astra(arc), lambda: to_tigre(arc, GRID)):
        with pytest.raises(UserError):
            write()


@settings(deadline=None, max_examples=30)
@given(
    angles=st.lists(st.floats(-7, 7), min_size=1, max_size=5),
    columns=st.integers(1, 9),
    rows=st.integers(1, 9),
    pitch=st.floats(0.01, 10),
    row_pitch=st.floats(0.01, 10),
    axis=st.floats(-3, 3),
    offset=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
    distances=st.none() | st.tuples(st.floats(10, 1e3), st.floats(0, 1e3)),
)
def test_tigre_round_trip(angles, columns, rows, pitch, row_pitch, axis, offset, distances):
    if distances is None:
        geometry = ScanGeometry.parallel(angles, columns, pitch, rows, row_pitch, axis, offset)
    else:
        geometry = ScanGeometry.cone(angles, columns, rows, pitch, *distances, row_pitch, False, axis, offset)
    read, grid = from_tigre(to_tigre(geometry, GRID))
    assert grid == GRID and read.shape == geometry.shape
    assert_close(read.vectors, geometry.vectors, rtol=1e-12, atol=1e-9)


def test_tigre_by_hand():
    """TIGRE's source starts on +x, its detector's columns run along +y, and COR moves both along them."""
    fields = {
        "mode": "cone",
        "DSO": 100.0,
        "DSD": 150.0,
        "nDetector": [4, 6],
        "dDetector": [2.0, 1.0],
        "nVoxel": [5, 6, 7],
        "dVoxel": [0.5, 1.5, 1.0],
        "offOrigin": [1.0, -2.0, 3.0],
        "offDetector": [0.25, 0.5],
        "COR": 2.0,
        "angles": [0.0],
    }
    geometry, grid = from_tigre(fields)
    assert grid == GRID
    assert geometry.shape == (1, 4, 6)
    expected = [100.0, 2.0, 0.0, -50.0, 2.5, 0.25, 0.0, 1.0, 0.0, 0.0, 0.0, 2.0]
    assert_close(geometry.vectors[0], torch.tensor(expected, dtype=torch.float64))
    per_view, _ = from_tigre({**fields, "angles": [0.0, 1.0], "offDetector": [[0.25, 0.5]] * 2, "DSO": [100.0, 100.0]})
    assert_close(per_view.vectors[0], geometry.vectors[0])
    for change in ({"rotDetector": [0.1, 0, 0]}, {"DSO": [1.0, 2.0]}, {"nVoxel": None}, {"offDetector": [1, 2, 3]}):
        with pytest.raises(UserError):
            from_tigre({**fields, "angles": [0.0, 1.0], **change})


def test_naf_by_hand():
    """As TIGRE, but everything is in the order u, v and x, y, z, and rows fall."""
    fields = {
        "mode": "cone",
        "DSO": 100.0,
        "DSD": 150.0,
        "nDetector": [6, 4],
        "dDetector": [1.0, 2.0],
        "nVoxel": [7, 6, 5],
        "dVoxel": [1.0, 1.5, 0.5],
        "offOrigin": [3.0, -2.0, 1.0],
        "offDetector": [0.5, 0.25],
        "train": {"angles": np.array([0.0, math.pi])},
    }
    geometry, grid = from_naf(fields)
    assert grid == GRID
    assert geometry.shape == (2, 4, 6)
    expected = [100.0, 0.0, 0.0, -50.0, 0.5, -0.25, 0.0, 1.0, 0.0, 0.0, 0.0, -2.0]
    assert_close(geometry.vectors[0], torch.tensor(expected, dtype=torch.float64))
    assert len(from_naf(fields, angles=[0.1, 0.2, 0.3])[0]) == 3
    parallel, _ = from_naf({**fields, "mode": "parallel"})
    assert_close(
        parallel.source[0], torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).neg().abs() * parallel.source[0]
    )
    with pytest.raises(UserError, match="NAF"):
        from_naf({key: value for key, value in fields.items() if key != "DSO"})


def test_tigre_and_astra_angles_differ_by_a_quarter_turn():
    written = to_tigre(ASTRA["cone"], GRID)
    assert_close(torch.from_numpy(written["angles"]), ANGLES - math.pi / 2)
