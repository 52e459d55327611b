"""The visual hull: never cuts what is there, cuts nearly all that is not, and the cube around it."""

import itertools

import pytest
import torch

from recon3d.geometry.boxes import Normalizer
from recon3d.geometry.cameras import Cameras, focal_from_angle, look_at
from recon3d.geometry.hull import bounding_cube, cell_centers, distance_to_cells, shadow, visual_hull

from .ball import cameras_around, photographs

CENTER, RADIUS = (0.3, -0.2, 0.1), 0.6
BOX = Normalizer((0.0, 0.0, 0.0), 1.3)
RESOLUTION = 64


@pytest.fixture(scope="module")
def seen():
    cameras = cameras_around(40, size=48)
    return cameras, photographs(cameras, CENTER, RADIUS)[..., 3] > 0


def distances(box, resolution, center=CENTER):
    """Distance of each cell's centre from the ball's, in world units."""
    return (box.to_world(cell_centers(resolution)) - torch.tensor(center)).norm(dim=-1).view((resolution,) * 3)


def test_cell_centers_are_in_memory_order():
    centers = cell_centers(4).view(4, 4, 4, 3)
    torch.testing.assert_close(centers[0, 0, 0], torch.full((3,), -0.75))
    torch.testing.assert_close(centers[3, 1, 2], torch.tensor([0.75, -0.25, 0.25]))


def test_hull_holds_the_ball_and_is_close_to_it(seen):
    cameras, masks = seen
    hull = visual_hull(masks, cameras, BOX, RESOLUTION)
    inside = distances(BOX, RESOLUTION) < RADIUS
    assert (hull | ~inside).all()
    assert int(hull.sum()) < 1.7 * int(inside.sum())  # 40 views of a ball, plus the width of a cell and a pixel
    assert not hull[distances(BOX, RESOLUTION) > RADIUS + 0.25].any()


@pytest.mark.parametrize("resolution", [8, 24, 50])
def test_any_resolution_holds_the_ball(seen, resolution):
    cameras, masks = seen
    hull = visual_hull(masks, cameras, BOX, resolution)
    assert hull.shape == (resolution,) * 3
    assert (hull | ~(distances(BOX, resolution) < RADIUS)).all()


def test_coarse_to_fine_loses_no_small_part():
    """Small balls anywhere in wide pictures: the cells they fill survive the coarse levels too."""
    generator = torch.Generator().manual_seed(0)
    cameras = cameras_around(1, size=400, distance=1.0, angle=1.9)
    for _ in range(20):
        target = 0.7 * (2 * torch.rand(3, generator=generator) - 1)
        positions = torch.tensor([[1.6, 0.2, 0.1], [-0.3, 1.7, 0.3]])
        aims = 0.5 * (2 * torch.rand(2, 3, generator=generator) - 1)
        poses = torch.stack(
            [look_at(p, a, torch.tensor([0.0, 0.0, 1.0])) for p, a in zip(positions, aims, strict=True)]
        )
        pair = Cameras(poses, cameras.focal.expand(2, 2), cameras.center.expand(2, 2), 400, 400, torch.zeros(2, 4))
        center, radius = tuple(target.tolist()), 0.03
        masks = photographs(pair, center, radius, supersample=1)[..., 3] > 0
        box = Normalizer((0.0, 0.0, 0.0), 1.0)
        hull = visual_hull(masks, pair, box, 64)
        uv, depth = pair.project(target[None])
        visible = bool(((uv > 12) & (uv < 388)).all() and (depth > 0).all())
        if visible:
            assert (hull | ~(distances(box, 64, center) < radius)).all()


def test_without_masks_only_unseen_cells_go():
    # One camera that sees a narrow cone: what is behind it or beside the cone goes.
    pose = look_at(torch.tensor([0.0, 0.0, 0.5]), torch.tensor([0.0, 0.0, -1.0]), torch.tensor([0.0, 1.0, 0.0]))
    camera = Cameras(
        pose[None],
        torch.full((1, 2), focal_from_angle(0.5, 64)),
        torch.full((1, 2), 32.0),
        64,
        64,
        torch.zeros(1, 4),
    )
    box = Normalizer((0.0, 0.0, 0.0), 1.0)
    hull = visual_hull(None, camera, box, 32)
    uv, depth = camera.project(cell_centers(32))
    expected = ((uv >= 0) & (uv < 64)).all(-1) & (depth > 0)
    assert torch.equal(hull.view(-1), expected[0])
    assert 0.0 < float(hull.float().mean()) < 0.2


def test_what_lies_outside_a_picture_is_not_ruled_out():
    """One camera that sees the ball cut by the picture's border does not cut the rest of the ball."""
    around = cameras_around(12, size=48)
    pose = look_at(torch.tensor([4.0, 0.0, 0.0]), torch.tensor([0.0, 1.4, 0.0]), torch.tensor([0.0, 0.0, 1.0]))
    cameras = Cameras(
        torch.cat([around.poses, pose[None]]),
        around.focal[:1].expand(13, 2),
        around.center[:1].expand(13, 2),
        48,
        48,
        torch.zeros(13, 4),
    )
    masks = photographs(cameras, (0.0, 0.0, 0.0), 0.6)[..., 3] > 0
    assert masks[-1].any() and masks[-1][:, 0].any()  # cut by the left border
    hull = visual_hull(masks, cameras, BOX, 32)
    assert (hull | ~(distances(BOX, 32, (0.0, 0.0, 0.0)) < 0.6)).all()


def test_blank_masks_leave_nothing(seen):
    cameras, masks = seen
    assert not visual_hull(torch.zeros_like(masks), cameras, BOX, 32).any()


def passing(cells, cameras, box, steps=400):
    """Pixels whose rays pass a True cell, by looking at points along them."""
    inside = box.cameras_to_field(cameras)
    t = torch.linspace(0, 8, steps)
    found = []
    for index in range(len(cameras)):
        rays = inside.image_rays(index)
        points = rays.origins[:, None] + t[None, :, None] * rays.directions[:, None]
        place = ((points + 1) * (0.5 * len(cells))).floor().long()
        within = ((place >= 0) & (place < len(cells))).all(-1)
        x, y, z = place.clamp(0, len(cells) - 1).unbind(-1)
        found.append((cells[x, y, z] & within).any(-1).view(cameras.height, cameras.width))
    return torch.stack(found)


@pytest.mark.parametrize("share", [0.0005, 0.02, 1.0])
def test_no_ray_but_those_of_the_shadow_passes_the_cells(share):
    """And no more pixels are in it than within the bounding spheres and a pixel of those that do."""
    generator = torch.Generator().manual_seed(1)
    cells = torch.rand(16, 16, 16, generator=generator) < share
    cameras = cameras_around(7, size=40, distance=5.0)
    dark, passed = shadow(cells, cameras, BOX), passing(cells, cameras, BOX)
    assert passed.any() and not (passed & ~dark).any()
    near = torch.nn.functional.max_pool2d(passed.float(), 11, stride=1, padding=5) > 0
    assert not (dark & ~near).any()


def test_a_camera_among_the_cells_sees_them_in_all_pixels():
    cells = torch.ones(8, 8, 8, dtype=torch.bool)
    assert shadow(cells, cameras_around(3, size=8, distance=0.5), BOX).all()
    behind = torch.zeros_like(cells)
    behind[:, :, -1] = True
    pose = look_at(torch.tensor([0.0, 0.0, -1.0]), torch.tensor([0.0, 0.0, -3.0]), torch.tensor([0.0, 1.0, 0.0]))
    away = cameras_around(1, size=8)
    away = Cameras(pose[None], away.focal, away.center, 8, 8, away.distortion)
    assert not shadow(behind, away, BOX).any()


def test_bounding_cube_is_the_smallest(seen):
    cameras, masks = seen
    hull = visual_hull(masks, cameras, BOX, RESOLUTION)
    cube = bounding_cube(hull, BOX)
    cells = BOX.to_world(cell_centers(RESOLUTION)[hull.view(-1)])
    half_cell = BOX.half_size / RESOLUTION
    assert float(cube.to_field(cells).abs().max()) + half_cell / cube.half_size <= 1 + 1e-5
    assert cube.center == pytest.approx(CENTER, abs=0.1)
    assert RADIUS < cube.half_size < RADIUS + 0.25
    exact = bounding_cube(hull, BOX, margin=0.0)
    assert cube.half_size == pytest.approx(1.02 * exact.half_size)


def test_bounding_cube_of_one_cell():
    grid = torch.zeros(8, 8, 8, dtype=torch.bool)
    for index in itertools.product((0, 3, 7), repeat=3):
        grid.zero_()
        grid[index] = True
        cube = bounding_cube(grid, Normalizer((1.0, 2.0, 3.0), 4.0), margin=0.0)
        expected = [c + 4 * ((i + 0.5) / 4 - 1) for c, i in zip((1, 2, 3), index, strict=True)]
        assert cube.center == pytest.approx(expected)
        assert cube.half_size == pytest.approx(0.5)


def test_the_distance_to_cells_is_that_of_a_ball():
    cells = (cell_centers(64).norm(dim=-1) < 0.6).view(64, 64, 64)
    points = 2 * torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) - 1
    points[:, 2] *= 0.5  # not the same along all axes
    distance = distance_to_cells(cells)(points)
    away = points.norm(dim=-1) > 0.1
    torch.testing.assert_close(distance[away], points[away].norm(dim=-1) - 0.6, atol=0.04, rtol=0)


def test_the_distance_to_a_slab_of_cells_knows_the_axes():
    cells = torch.zeros(32, 32, 32, dtype=torch.bool)
    cells[:, :8] = True
    y = torch.linspace(-0.95, 0.95, 50)
    points = torch.stack([torch.zeros(50), y, torch.full((50,), 0.3)], dim=-1)
    inner = (y > -0.8) & (y < 0.9)  # away from the ends, where the blur has fewer neighbours
    torch.testing.assert_close(distance_to_cells(cells)(points)[inner], y[inner] + 0.5, atol=0.02, rtol=0)
