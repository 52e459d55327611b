"""Camera paths: rigid poses that go round what was photographed."""

import math

import pytest
import torch

from recon3d.geometry.cameras import Cameras
from recon3d.geometry.paths import orbit, spiral

from .ball import cameras_around

CENTER = (1.0, -2.0, 0.5)


@pytest.fixture(scope="module")
def path():
    return orbit(cameras_around(30, size=64, center=CENTER), CENTER, frames=24, size=32)


def test_poses_are_rigid(path):
    rotation = path.poses[:, :3, :3]
    torch.testing.assert_close(rotation.mT @ rotation, torch.eye(3).expand(24, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(24))
    torch.testing.assert_close(path.poses[:, 3], torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(24, 4))


def test_every_frame_looks_at_the_centre(path):
    uv, depth = path.project(torch.tensor([CENTER]))
    torch.testing.assert_close(uv, torch.full_like(uv, 16.0), atol=1e-3, rtol=0)
    assert (depth > 0).all()
    assert (path.poses[:, 2, 1] > 0).all()  # upright


def test_goes_round_once_at_the_distance_of_the_cameras(path):
    offset = path.positions - torch.tensor(CENTER)
    torch.testing.assert_close(offset.norm(dim=-1), torch.full((24,), 4.0), atol=1e-3, rtol=0)
    assert float(offset[:, 2].max() - offset[:, 2].min()) < 1e-5
    angles = torch.atan2(offset[:, 1], offset[:, 0])
    steps = (angles.roll(-1) - angles) % (2 * torch.pi)  # the last meets the first: a loop without a jump
    torch.testing.assert_close(steps, torch.full((24,), 2 * torch.pi / 24), atol=1e-4, rtol=0)


def test_field_of_view_is_kept(path):
    assert (path.width, path.height) == (32, 32)
    torch.testing.assert_close(path.focal, cameras_around(1, size=64).focal.expand(24, 2) / 2)


def test_goes_round_the_axis_that_cameras_agree_on():
    """What COLMAP has found lies any way round."""
    cos, sin = math.cos(2.0), math.sin(2.0)
    turn = torch.tensor([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    seen = cameras_around(30, size=64)
    poses = seen.poses.clone()
    poses[:, :3] = turn @ poses[:, :3]
    turned = Cameras(poses, seen.focal, seen.center, 64, 64, seen.distortion)
    path, plain = (orbit(cameras, (0.0, 0.0, 0.0), frames=24, size=32) for cameras in (turned, seen))
    heights = path.positions @ turn[:, 2]
    torch.testing.assert_close(heights, plain.positions[:, 2], atol=0.05, rtol=0)
    torch.testing.assert_close(path.positions.norm(dim=1), plain.positions.norm(dim=1), atol=1e-4, rtol=0)
    assert (path.poses[:, :3, 1] @ turn[:, 2] > 0).all()


def test_cameras_straight_above_still_give_a_path():
    above = cameras_around(3, size=64)
    poses = above.poses.clone()
    poses[:, :3, 3] = torch.tensor([0.0, 0.0, 4.0])
    path = orbit(
        Cameras(poses, above.focal, above.center, 64, 64, above.distortion), (0.0, 0.0, 0.0), frames=8, size=16
    )
    assert torch.isfinite(path.poses).all()
    uv, _ = path.project(torch.zeros(1, 3))
    torch.testing.assert_close(uv, torch.full_like(uv, 8.0), atol=1e-3, rtol=0)


def forward_facing():
    """Cameras that stand beside one another in a plane, x to the right and y up, and look along -z."""
    poses = torch.eye(4).repeat(25, 1, 1)
    grid = torch.linspace(-1, 1, 5)
    poses[:, :2, 3] = torch.cartesian_prod(3 * grid, grid)
    poses[:, 2, 3] = 0.2 * torch.cos(torch.arange(25.0))
    size = torch.full((25, 2), 50.0)
    return Cameras(poses, size, size / 2, 60, 40, torch.zeros(25, 4))


def test_a_spiral_stays_among_cameras_that_look_one_way():
    seen = forward_facing()
    path = spiral(seen, (0.0, 0.0, -10.0), frames=24, size=20)
    assert (path.width, path.height) == (30, 20)
    assert path.focal[0].tolist() == pytest.approx([25, 25])
    rotation = path.poses[:, :3, :3]
    torch.testing.assert_close(rotation.mT @ rotation, torch.eye(3).expand(24, 3, 3), atol=1e-5, rtol=0)
    # All look at one point in front of the middle, upright.
    uv, depth = path.project(torch.tensor([[0.0, 0.0, -10.0]]))
    middle = torch.tensor([path.width / 2, path.height / 2]).expand(24, 1, 2)
    torch.testing.assert_close(uv, middle, atol=0.05, rtol=0)
    assert (depth > 9).all() and (path.poses[:, 1, 1] > 0.9).all()
    # As wide as they stand, and back where it began.
    low, high = seen.positions.amin(0), seen.positions.amax(0)
    assert ((path.positions >= low - 1e-4) & (path.positions <= high + 1e-4)).all()
    assert float(path.positions[:, 0].max()) > 2 and float(path.positions[:, 1].max()) > 0.7
    steps = (path.positions.roll(-1, 0) - path.positions).norm(dim=-1)
    assert float(steps.max()) < 3 * float(steps.median())
