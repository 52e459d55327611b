"""Scanner geometry: where rays run, and what moves them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from recon3d.errors import UserError
from recon3d.geometry.scanner import ScanGeometry, default_grid
from recon3d.geometry.voxels import VolumeGrid

ANGLES = [0.0, 0.4, 2.0, 4.1]


def every_kind():
    return {
        "parallel": ScanGeometry.parallel(ANGLES, 9, 0.5, axis_offset=0.3),
        "parallel3d": ScanGeometry.parallel(ANGLES, 8, 0.5, 5, 0.7, detector_offset=(0.2, -0.3), tilt=0.1),
        "fan": ScanGeometry.fan(ANGLES, 9, 0.5, 20.0, 10.0, detector_offset=0.7),
        "arc": ScanGeometry.fan(ANGLES, 9, 0.5, 20.0, 10.0, curved=True, detector_offset=0.7),
        "cone": ScanGeometry.cone(ANGLES, 8, 5, 0.5, 20.0, 10.0, 0.6, axis_offset=0.4, tilt=-0.2),
        "cylinder": ScanGeometry.cone(ANGLES, 8, 5, 0.5, 20.0, 10.0, curved=True, detector_offset=(1.0, 0.5)),
        "helical": ScanGeometry.helical(ANGLES, 8, 5, 0.5, 20.0, 10.0, rise=3.0),
        "laminography": ScanGeometry.laminography(ANGLES, 8, 5, 0.5, inclination=0.6),
        "cone laminography": ScanGeometry.laminography(ANGLES, 8, 5, 0.5, 0.6, source_origin=20.0, origin_detector=9.0),
    }


KINDS = every_kind()


def test_grid():
    grid = VolumeGrid((2, 3, 4), (1.0, 2.0, 3.0), (10.0, 20.0, 30.0))
    assert grid.size == (4.0, 6.0, 6.0)
    assert grid.low == (8.0, 17.0, 27.0) and grid.high == (12.0, 23.0, 33.0)
    points = grid.points()
    assert points.shape == (2, 3, 4, 3)
    assert_close(points[0, 0, 0], torch.tensor([8.5, 18.0, 28.5]))
    assert_close(points[1, 2, 3], torch.tensor([11.5, 22.0, 31.5]))
    corners = torch.tensor([grid.low, grid.high])
    assert grid.normalizer().to_field(corners).abs().amax() == 1
    assert grid.binned(2) == VolumeGrid((1, 2, 2), (2.0, 4.0, 3.0), (10.0, 20.0, 30.0))


@pytest.mark.parametrize(
    "change", [{"shape": (0, 3, 3)}, {"spacing": (1.0, 0.0, 1.0)}, {"center": (math.nan, 0.0, 0.0)}]
)
def test_grid_refuses(change):
    with pytest.raises(UserError):
        VolumeGrid(**{"shape": (2, 3, 4), "spacing": (1.0, 1.0, 1.0), **change})


def test_parallel_by_hand():
    """At 0 columns run along x and rays along -y; after a quarter turn along y and +x."""
    geometry = ScanGeometry.parallel([0.0, math.pi / 2], 4, 2.0)
    rays = geometry.rays(0)
    assert_close(rays.origins[:, 0], torch.tensor([-3.0, -1.0, 1.0, 3.0], dtype=torch.float64))
    assert_close(rays.directions, torch.tensor([[0.0, -1.0, 0.0]], dtype=torch.float64).expand(4, 3))
    rays = geometry.rays(1)
    assert_close(rays.origins[3], torch.tensor([0.0, 3.0, 0.0], dtype=torch.float64))
    assert_close(rays.directions[0], torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))


def test_cone_by_hand():
    geometry = ScanGeometry.cone([0.0], 3, 3, 1.0, 20.0, 10.0, row_pitch=2.0)
    assert geometry.source.tolist() == [[0.0, -20.0, 0.0]] and geometry.detector.tolist() == [[0.0, 10.0, 0.0]]
    assert geometry.magnification == 1.5
    pixel = geometry.pixels(torch.tensor([0]), torch.tensor([2.0]), torch.tensor([0.0]))
    assert_close(pixel, torch.tensor([[-1.0, 10.0, 2.0]], dtype=torch.float64))


def test_axis_offset_is_where_the_axis_appears():
    """Column (n - 1) / 2 + offset / pitch, magnified where rays diverge."""
    origin = torch.zeros(1, 3)
    parallel = ScanGeometry.parallel(ANGLES, 11, 0.5, axis_offset=1.2)
    assert_close(parallel.shadows(origin)[0], torch.full((4, 1), 5 + 2.4, dtype=torch.float64))
    cone = ScanGeometry.fan(ANGLES, 11, 0.5, 20.0, 10.0, axis_offset=1.2)
    assert_close(cone.shadows(origin)[0], torch.full((4, 1), 5 + 1.5 * 2.4, dtype=torch.float64))


def test_detector_offset_moves_the_detector():
    moved = ScanGeometry.cone([0.7], 8, 5, 0.5, 20.0, 10.0, detector_offset=(1.0, -0.5))
    still = ScanGeometry.cone([0.7], 8, 5, 0.5, 20.0, 10.0)
    assert_close(moved.source, still.source)
    assert_close(moved.detector, still.detector + 2 * still.u - still.v)
    arc = ScanGeometry.fan([0.7], 9, 0.5, 20.0, 10.0, curved=True, detector_offset=1.0)
    plain = ScanGeometry.fan([0.7], 9, 0.5, 20.0, 10.0, curved=True)
    one = torch.zeros(1)
    assert_close(arc.pixels(one.long(), one, one + 2), plain.pixels(one.long(), one, one + 4))


def test_curved_columns_are_equal_angles():
    geometry = ScanGeometry.fan([0.3], 9, 0.9, 20.0, 10.0, curved=True)
    rays = geometry.rays(0)
    turn = torch.atan2(rays.directions[:, 1], rays.directions[:, 0])
    assert_close(turn.diff(), torch.full((8,), -0.9 / 30, dtype=torch.float64))
    pixels = geometry.pixels(torch.zeros(9, dtype=torch.int64), torch.zeros(9), torch.arange(9.0))
    assert_close((pixels - geometry.source).norm(dim=1), torch.full((9,), 30.0, dtype=torch.float64))


def test_helix_climbs_by_its_rise_every_turn():
    turn = 2 * math.pi
    geometry = ScanGeometry.helical([0.0, turn, 2 * turn], 5, 5, 1.0, 20.0, 10.0, rise=3.0)
    assert geometry.source[:, 2].tolist() == [-3.0, 0.0, 3.0] == geometry.detector[:, 2].tolist()


@pytest.mark.parametrize("source_origin", [None, 20.0])
def test_laminography_is_inclined(source_origin):
    """By nothing: parallel rays or a cone. Else rays come from above, square to u and v."""
    distances = {} if source_origin is None else {"source_origin": source_origin, "origin_detector": 10.0}
    level = ScanGeometry.laminography(ANGLES, 8, 5, 0.5, 0.0, **distances)
    plain = ScanGeometry.cone(ANGLES, 8, 5, 0.5, **distances) if distances else ScanGeometry.parallel(ANGLES, 8, 0.5, 5)
    assert_close(level.vectors, plain.vectors)
    tilted = ScanGeometry.laminography(ANGLES, 8, 5, 0.5, 0.6, **distances)
    ray = tilted.rays(1).directions.mean(0)
    assert_close(ray[2] / ray.norm(), torch.tensor(-math.sin(0.6), dtype=torch.float64))
    assert_close(torch.stack([ray @ tilted.u[1], ray @ tilted.v[1]]), torch.zeros(2, dtype=torch.float64))
    assert float(tilted.v[1, 2]) > 0


@pytest.mark.parametrize("name", KINDS)
def test_shadows_are_where_rays_come_from(name):
    """A point of a pixel's ray appears at that pixel, at its share of the way."""
    geometry = KINDS[name]
    for view in range(len(geometry)):
        rays = geometry.rays(view)
        index = torch.arange(len(rays))
        points = rays.origins + 7.0 * rays.directions
        columns, rows, depth = geometry.shadows(points)
        assert_close(columns[view], (index % geometry.columns).double(), atol=1e-9, rtol=0)
        assert_close(rows[view], (index // geometry.columns).double(), atol=1e-9, rtol=0)
        if geometry.divergent:
            pixels = geometry.pixels(torch.full_like(index, view), rows[view], columns[view])
            share = 7.0 / (pixels - rays.origins).norm(dim=1)
            assert_close(depth[view], share, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", KINDS)
def test_crop_and_subset_keep_pixels_in_place(name):
    geometry = KINDS[name]
    first = min(1, geometry.rows - 1)
    cropped = geometry.cropped((first, geometry.rows), (2, 7)).subset([2, 0])
    assert cropped.shape == (2, geometry.rows - first, 5)
    assert cropped.angles.tolist() == [ANGLES[2], ANGLES[0]]
    view, row, column = torch.tensor([0, 0, 1]), torch.tensor([0.0, 0.0, 0.0]), torch.tensor([0.0, 4.0, 2.0])
    whole = geometry.pixels(torch.tensor([2, 2, 0]), row + first, column + 2)
    assert_close(cropped.pixels(view, row, column), whole)


@pytest.mark.parametrize("name", KINDS)
def test_binned_pixels_are_the_middle_of_their_block(name):
    geometry = KINDS[name]
    binned = geometry.binned(2)
    assert binned.shape == (4, max(1, geometry.rows // 2), geometry.columns // 2)
    row = 0.0 if geometry.rows == 1 else 2.5
    zero = torch.zeros(1, dtype=torch.int64)
    middle = geometry.pixels(zero, torch.tensor([row]), torch.tensor([4.5]))
    assert_close(binned.pixels(zero, torch.tensor([float(int(row) // 2)]), torch.tensor([2.0])), middle)


@settings(deadline=None, max_examples=20)
@given(
    angle=st.floats(-10, 10),
    source=st.floats(1, 1e4),
    detector=st.floats(0, 1e4),
    pitch=st.floats(1e-3, 10),
    offset=st.floats(-5, 5),
)
def test_rays_diverge_from_the_source(angle, source, detector, pitch, offset):
    geometry = ScanGeometry.cone([angle], 4, 3, pitch, source, detector, axis_offset=offset)
    rays = geometry.rays(0)
    assert_close(rays.directions.norm(dim=1), torch.ones(12, dtype=torch.float64))
    assert_close(rays.origins, geometry.source.expand(12, 3))
    assert_close(geometry.source_detector[0], torch.tensor(source + detector, dtype=torch.float64))


def test_default_grid():
    slice_ = default_grid(ScanGeometry.fan(ANGLES, 90, 0.6, 20.0, 10.0))
    assert slice_.shape == (1, 90, 90) and slice_.spacing == pytest.approx((0.4, 0.4, 0.4))
    block = default_grid(ScanGeometry.parallel(ANGLES, 90, 0.6, 40, 0.3))
    assert block.shape == (40, 90, 90) and block.spacing == pytest.approx((0.6, 0.6, 0.3))
    aside = default_grid(ScanGeometry.parallel(ANGLES, 90, 1.0, axis_offset=30.0))
    assert aside.shape == (1, 150, 150)


VECTOR = torch.tensor([[1.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": "conical"}, "parallel or divergent"),
        ({"source": 2 * VECTOR}, "view 0 has not length 1"),
        ({"source": torch.tensor([[0.0, 1.0, 0.0]])}, "along its detector"),
        ({"u": VECTOR * 0}, "span no detector"),
        ({"u": VECTOR * torch.nan}, "u of view 0 is not finite"),
        ({"rows": 0}, "0 x 5 pixels"),
        ({"curved": True}, "curved detector needs a source"),
        ({"kind": "divergent", "curved": True, "source": torch.tensor([[5.0, 5.0, 0.0]])}, "not square"),
    ],
)
def test_geometry_refuses(change, told):
    good = {
        "kind": "parallel",
        "source": VECTOR,
        "detector": VECTOR * 0,
        "u": torch.tensor([[0.0, 1.0, 0.0]]),
        "v": torch.tensor([[0.0, 0.0, 1.0]]),
        "rows": 1,
        "columns": 5,
    }
    ScanGeometry(**good)
    with pytest.raises(UserError, match=told):
        ScanGeometry(**{**good, **change})


def test_constructors_refuse():
    for make in (
        lambda: ScanGeometry.parallel([], 5, 1.0),
        lambda: ScanGeometry.parallel([0.0], 5, 0.0),
        lambda: ScanGeometry.fan([0.0], 5, 1.0, 0.0, 10.0),
        lambda: ScanGeometry.fan([0.0], 5, 1.0, 10.0, -10.0),
        lambda: ScanGeometry.cone([0.0], 5, 5, 1.0, 10.0, 10.0, curved=True, tilt=0.1),
        lambda: ScanGeometry.laminography([0.0], 5, 5, 1.0, 0.3, source_origin=10.0),
        lambda: KINDS["cone"].cropped((0, 6), (0, 8)),
        lambda: KINDS["cone"].binned(6),
    ):
        with pytest.raises(UserError):
            make()
