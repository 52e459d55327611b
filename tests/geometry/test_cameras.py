"""Cameras: the axes, the pixels, the lens, and that rays and projection are each other's inverse."""

import math

import pytest
import torch

from recon3d.geometry.cameras import Cameras, Rays, distort, focal_from_angle, look_at, undistort

PLAIN = (0.0, 0.0, 0.0, 0.0)
MILD = (-0.05, 0.02, 0.002, -0.001)
STRONG = (-0.2, 0.05, 0.001, 0.001)


def one_camera(pose=None, width=100, height=80, focal=(100.0, 100.0), center=(50.0, 40.0), lens=PLAIN):
    pose = torch.eye(4) if pose is None else pose
    return Cameras(
        pose[None], torch.tensor([focal]), torch.tensor([center]), width, height, torch.tensor([lens], dtype=pose.dtype)
    )


def random_cameras(count, lens=PLAIN, seed=0):
    generator = torch.Generator().manual_seed(seed)
    positions = 3 * torch.nn.functional.normalize(
        torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=-1
    )
    target, up = 0.1 * torch.ones(3, dtype=torch.float64), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    focal = 90 + 40 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    center = torch.tensor([50.0, 40.0]) + torch.randn(count, 2, generator=generator, dtype=torch.float64)
    poses = torch.stack([look_at(p, target, up) for p in positions])
    return Cameras(poses, focal, center, 100, 80, torch.tensor(lens, dtype=torch.float64).expand(count, 4))


# --- conventions ---


@pytest.mark.parametrize(
    ("uv", "direction"),
    [
        ((50.0, 40.0), (0, 0, -1)),  # the middle looks along -z
        ((150.0, 40.0), (1, 0, -1)),  # columns go right, to +x
        ((50.0, -60.0), (0, 1, -1)),  # rows go down, away from +y
        ((0.0, 90.0), (-0.5, -0.5, -1)),
    ],
)
def test_opengl_axes(uv, direction):
    rays = one_camera().rays(torch.tensor([0]), torch.tensor([uv]))
    expected = torch.nn.functional.normalize(torch.tensor([direction], dtype=torch.float32), dim=-1)
    torch.testing.assert_close(rays.directions, expected)
    torch.testing.assert_close(rays.origins, torch.zeros(1, 3))


def test_projection_of_hand_made_points():
    points = torch.tensor([[0.0, 0.0, -2.0], [1.0, 1.0, -2.0], [-1.0, 0.0, -4.0], [0.0, 0.0, 2.0]])
    uv, depth = one_camera().project(points)
    torch.testing.assert_close(uv[0, :3], torch.tensor([[50.0, 40.0], [100.0, -10.0], [25.0, 40.0]]))
    torch.testing.assert_close(depth[0], torch.tensor([2.0, 2.0, 4.0, -2.0]))  # the last lies behind


def test_a_camera_that_was_turned_and_moved():
    # On the x axis, looking back at the origin, z up: right is then +y.
    pose = look_at(torch.tensor([5.0, 0.0, 0.0]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    camera = one_camera(pose)
    torch.testing.assert_close(camera.forward_axes, torch.tensor([[-1.0, 0.0, 0.0]]))
    torch.testing.assert_close(camera.positions, torch.tensor([[5.0, 0.0, 0.0]]))
    uv, depth = camera.project(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    torch.testing.assert_close(uv[0], torch.tensor([[70.0, 40.0], [50.0, 20.0]]))
    torch.testing.assert_close(depth[0], torch.tensor([5.0, 5.0]))


def test_look_at_is_rigid_and_looks_there():
    cameras = random_cameras(20)
    rotation = cameras.poses[:, :3, :3]
    torch.testing.assert_close(rotation.mT @ rotation, torch.eye(3).double().expand(20, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(20).double())
    towards = torch.nn.functional.normalize(0.1 - cameras.positions, dim=-1)
    torch.testing.assert_close(cameras.forward_axes, towards)
    assert (cameras.poses[:, 2, 1] > 0).all()  # the image's up has a part of the world's up


def test_focal_from_angle():
    assert focal_from_angle(math.pi / 2, 200) == pytest.approx(100)
    assert focal_from_angle(0.6911112070083618, 800) == pytest.approx(1111.1110311937682)  # Lego of NeRF-synthetic


# --- pixels ---


def test_image_rays_go_row_by_row_through_pixel_centres():
    camera = one_camera(width=6, height=4, center=(3.0, 2.0))
    rays = camera.image_rays(0)
    assert len(rays) == 24
    uv = torch.tensor([[column + 0.5, row + 0.5] for row in range(4) for column in range(6)])
    torch.testing.assert_close(rays.directions, camera.rays(torch.zeros(24, dtype=torch.long), uv).directions)
    rows = camera.image_rays(0, slice(1, 3))
    torch.testing.assert_close(rows.directions, rays.directions[6:18])
    torch.testing.assert_close(rays.directions.norm(dim=-1), torch.ones(24))


def test_downscaled_cameras_see_the_same():
    camera = one_camera(width=101, height=80)
    small = camera.downscaled(2)
    assert (small.width, small.height) == (50, 40)
    uv = torch.tensor([[10.0, 20.0], [90.0, 70.0]])
    index = torch.zeros(2, dtype=torch.long)
    torch.testing.assert_close(small.rays(index, uv / 2).directions, camera.rays(index, uv).directions)


def test_indexing_keeps_cameras_together():
    cameras = random_cameras(5)
    for index in (slice(1, 3), [1, 2], torch.tensor([1, 2])):
        some = cameras[index]
        assert len(some) == 2
        torch.testing.assert_close(some.poses, cameras.poses[1:3])
        torch.testing.assert_close(some.focal, cameras.focal[1:3])


def test_packed_cameras_come_back():
    cameras = random_cameras(5, MILD)
    back = Cameras.unpacked(cameras.packed())
    assert (back.width, back.height) == (100, 80)
    for name in ("poses", "focal", "center", "distortion"):
        torch.testing.assert_close(getattr(back, name), getattr(cameras, name), rtol=0, atol=0)


def test_rays_index():
    rays = Rays(torch.randn(5, 3), torch.randn(5, 3))
    torch.testing.assert_close(rays[1:3].origins, rays.origins[1:3])
    assert len(rays[torch.tensor([True, False, True, False, False])]) == 2


# --- lens ---


@pytest.mark.parametrize(("lens", "pixels"), [(PLAIN, 1e-9), (MILD, 1e-8), (STRONG, 1e-2)])
def test_rays_and_projection_are_inverse(lens, pixels):
    cameras = random_cameras(6, lens)
    generator = torch.Generator().manual_seed(1)
    camera = torch.arange(6).repeat_interleave(50)
    uv = torch.rand(300, 2, generator=generator, dtype=torch.float64) * torch.tensor([100.0, 80.0])
    rays = cameras.rays(camera, uv)
    torch.testing.assert_close(rays.directions.norm(dim=-1), torch.ones(300).double())
    points = rays.origins + rays.directions * (0.5 + 3 * torch.rand(300, 1, generator=generator, dtype=torch.float64))
    seen, depth = cameras.project(points)
    own = torch.arange(300)
    assert (depth[camera, own] > 0).all()
    assert float((seen[camera, own] - uv).abs().max()) < pixels


@pytest.mark.parametrize("lens", [MILD, STRONG])
def test_undistort_is_the_inverse_of_distort(lens):
    xy = torch.rand(200, 2, dtype=torch.float64) - 0.5
    coefficients = torch.tensor(lens, dtype=torch.float64).expand(200, 4)
    torch.testing.assert_close(undistort(distort(xy, coefficients), coefficients), xy, atol=1e-4, rtol=0)


def test_distort_is_opencvs():
    # Worked by hand from OpenCV's formula at (x, y) = (0.3, -0.2), r^2 = 0.13.
    k1, k2, p1, p2 = -0.1, 0.02, 0.01, -0.02
    x, y, r2 = 0.3, -0.2, 0.13
    radial = 1 + k1 * r2 + k2 * r2**2
    expected = [
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    ]
    result = distort(torch.tensor([[x, y]], dtype=torch.float64), torch.tensor([[k1, k2, p1, p2]], dtype=torch.float64))
    torch.testing.assert_close(result, torch.tensor([expected], dtype=torch.float64))


def test_rays_keep_full_precision_under_autocast():
    cameras = random_cameras(3)
    cameras = Cameras(
        cameras.poses.float(), cameras.focal.float(), cameras.center.float(), 100, 80, cameras.distortion.float()
    )
    camera, uv = torch.tensor([0, 1, 2]), 80 * torch.rand(3, 2)
    expected = cameras.rays(camera, uv)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rays = cameras.rays(camera, uv)
    assert rays.directions.dtype == torch.float32
    torch.testing.assert_close(rays.directions, expected.directions, rtol=0, atol=0)
