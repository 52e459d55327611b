"""The field's cube: the map into it, rays against it, and finding it from cameras."""

import math

import pytest
import torch

from recon3d.geometry.boxes import Normalizer, cube_of_cameras, cube_of_depths, intersect_unit_cube
from recon3d.geometry.cameras import Cameras, Rays, focal_from_angle

from .ball import ANGLE, DISTANCE, cameras_around


def rays(*pairs):
    origins, directions = zip(*pairs)
    return Rays(
        torch.tensor(origins, dtype=torch.float32),
        torch.nn.functional.normalize(torch.tensor(directions, dtype=torch.float32), dim=-1),
    )


def test_normalizer_round_trip():
    box = Normalizer((1.0, -2.0, 3.5), 2.5)
    points = 10 * torch.randn(100, 3, dtype=torch.float64)
    torch.testing.assert_close(box.to_world(box.to_field(points)), points)
    torch.testing.assert_close(
        box.to_field(torch.tensor([[1.0, -2.0, 3.5], [3.5, 0.5, 1.0]])), torch.tensor([[0.0] * 3, [1.0, 1.0, -1.0]])
    )


def test_rays_go_the_same_way_in_the_field():
    box = Normalizer((1.0, -2.0, 3.5), 2.5)
    world = rays(((0, 0, 0), (1, 2, 3)), ((5, 1, -1), (-1, 0, 0)))
    field = box.rays_to_field(world)
    # A length in the world is that length over half_size in the field.
    torch.testing.assert_close(
        box.to_world(field.origins + 2 * field.directions), world.origins + 2 * 2.5 * world.directions
    )
    torch.testing.assert_close(field.directions, world.directions)


def test_cube_entry_and_exit_by_hand():
    entry, leave = intersect_unit_cube(
        rays(
            ((0, 0, 3), (0, 0, -1)),
            ((-3, 0.5, 0.5), (1, 0, 0)),
            ((0, 0, 0), (0, 1, 0)),  # starts inside
            ((-2, -2, -2), (1, 1, 1)),  # corner to corner
        )
    )
    torch.testing.assert_close(entry, torch.tensor([2.0, 2.0, 0.0, math.sqrt(3)]))
    torch.testing.assert_close(leave, torch.tensor([4.0, 4.0, 1.0, 3 * math.sqrt(3)]))


def test_rays_that_miss_have_no_interval():
    entry, leave = intersect_unit_cube(
        rays(
            ((0, 0, 3), (0, 0, 1)),  # away from it
            ((3, 3, 0), (0, -1, 0)),  # beside it, along an axis
            ((0, 2, 3), (1, 0, -1)),
        )
    )
    assert (entry >= leave).all()


def test_near_cuts_the_interval():
    entry, leave = intersect_unit_cube(rays(((0, 0, 3), (0, 0, -1)), ((0, 0, 3), (0, 0, -1))), near=2.5)
    torch.testing.assert_close(entry, torch.tensor([2.5, 2.5]))
    torch.testing.assert_close(leave, torch.tensor([4.0, 4.0]))


def test_intervals_against_points_along_the_rays():
    generator = torch.Generator().manual_seed(0)
    origins = 2 * torch.randn(500, 3, generator=generator)
    directions = torch.randn(500, 3, generator=generator)
    directions[::7, 0] = 0  # exactly parallel to a pair of faces
    directions[::11, 1] = -0.0
    bundle = Rays(origins, torch.nn.functional.normalize(directions, dim=-1))
    entry, leave = intersect_unit_cube(bundle)
    t = torch.linspace(0, 12, 4001)
    points = bundle.origins[:, None] + t[:, None] * bundle.directions[:, None]
    inside = (points.abs() <= 1).all(dim=-1)
    within = (t >= entry[:, None]) & (t <= leave[:, None])
    sure = (points.abs().amax(-1) - 1).abs() > 1e-4  # not on a face, where rounding decides
    assert (inside == within)[sure].all()
    assert 20 < int((entry < leave).sum()) < 480


@pytest.mark.parametrize("center", [(0.0, 0.0, 0.0), (3.0, -1.0, 10.0)])
def test_cube_of_cameras_around_an_object(center):
    box = cube_of_cameras(cameras_around(30, center=center))
    assert box.center == pytest.approx(center, abs=1e-4)
    assert box.half_size == pytest.approx(DISTANCE * math.tan(ANGLE / 2), rel=1e-4)


def test_cube_follows_the_narrower_field_of_view():
    wide = cameras_around(12, size=64)
    cut = Cameras(wide.poses, wide.focal, torch.tensor([[32.0, 16.0]]).expand(12, 2), 64, 32, wide.distortion)
    assert cube_of_cameras(cut).half_size == pytest.approx(0.5 * cube_of_cameras(wide).half_size)


def test_cube_of_cameras_that_all_look_the_same_way():
    poses = torch.eye(4).repeat(3, 1, 1)
    poses[:, 0, 3] = torch.tensor([-1.0, 0.0, 1.0])
    focal = torch.full((3, 2), focal_from_angle(ANGLE, 32))
    box = cube_of_cameras(Cameras(poses, focal, torch.full((3, 2), 16.0), 32, 32, torch.zeros(3, 4)))
    assert all(math.isfinite(value) for value in (*box.center, box.half_size))
    assert box.half_size > 0


def test_cube_of_depths_holds_what_is_seen():
    """By hand for one camera that looks along -z; for many, every point of their images at any depth is inside, and
    none is far from a side."""
    eye = Cameras(torch.eye(4)[None], torch.full((1, 2), 10.0), torch.tensor([[10.0, 5.0]]), 20, 10, torch.zeros(1, 4))
    box = cube_of_depths(eye, 2.0, 6.0)
    assert box.center == pytest.approx((0, 0, -4)) and box.half_size == pytest.approx(6)
    cameras = cameras_around(7, size=16)
    box = cube_of_depths(cameras, 0.5, 3.0)
    generator = torch.Generator().manual_seed(0)
    camera = torch.randint(7, (3000,), generator=generator)
    rays = cameras.rays(camera, 16 * torch.rand(3000, 2, generator=generator).round(decimals=1))
    depth = 0.5 + 2.5 * torch.rand(3000, 1, generator=generator).round()
    along = (rays.directions * cameras.forward_axes[camera]).sum(-1, keepdim=True)
    inside = box.to_field(rays.origins + depth / along * rays.directions)
    assert float(inside.abs().max()) == pytest.approx(1, abs=0.02) and float(inside.abs().max()) < 1 + 1e-5
