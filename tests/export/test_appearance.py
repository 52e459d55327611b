from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from recon3d.errors import UserError
from recon3d.export.appearance import MeshOcclusion, SeenColor, field_cameras
from recon3d.geometry.boxes import Normalizer
from recon3d.geometry.cameras import Cameras, look_at


def cameras_at(*positions, size: int = 100) -> Cameras:
    """Cameras that look at the origin with a field of view of 53 degrees."""
    up = torch.tensor([0.1, 0.2, 1.0])
    poses = torch.stack([look_at(torch.tensor(p, dtype=torch.float32), torch.zeros(3), up) for p in positions])
    n = len(positions)
    focal, middle = torch.full((n, 2), float(size)), torch.full((n, 2), size / 2)
    return Cameras(poses, focal, middle, size, size, torch.zeros(n, 4))


def by_direction(points, directions):
    return (directions + 1) / 2


def always(points, normals, viewpoints):
    return torch.ones(len(points), dtype=torch.bool)


TOP = torch.tensor([[0.0, 0.0, 0.5]]), torch.tensor([[0.0, 0.0, 1.0]])


def test_one_camera_gives_the_colour_that_it_sees() -> None:
    seen = SeenColor(by_direction, cameras_at((3.0, 0.0, 3.5)), always)
    direction = torch.tensor([[-1.0, 0.0, -1.0]]) / 2**0.5
    torch.testing.assert_close(seen(*TOP), (direction + 1) / 2)


def test_colours_are_weighted_by_cosine() -> None:
    """Directions at 0 and 60 degrees from the normal: weights 1 and 1/2."""
    oblique = (4 * np.sin(np.pi / 3), 0.0, 0.5 + 4 * np.cos(np.pi / 3))
    seen = SeenColor(by_direction, cameras_at((0.0, 0.0, 4.0), oblique), always)
    straight, aslant = torch.tensor([0.0, 0.0, -1.0]), torch.tensor([-(3**0.5) / 2, 0.0, -0.5])
    torch.testing.assert_close(seen(*TOP)[0], ((straight + 0.5 * aslant) / 1.5 + 1) / 2, atol=1e-5, rtol=0)


def test_cameras_behind_outside_the_image_or_blocked_do_not_count() -> None:
    """Under the surface; looking past it; with something between."""
    away = cameras_at((3.0, 0.0, 3.0))
    turned = away.poses.clone()
    turned[:, :3, :3] = turned[:, :3, :3] @ torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    for cameras, visible in (
        (cameras_at((0.0, 0.0, -4.0)), always),
        (Cameras(turned, away.focal, away.center, 100, 100, away.distortion), always),
        (cameras_at((3.0, 0.0, 3.0)), lambda p, n, o: torch.zeros(len(p), dtype=torch.bool)),
    ):
        seen = SeenColor(by_direction, cameras, visible)
        along_the_normal = (torch.tensor([[0.0, 0.0, -1.0]]) + 1) / 2
        torch.testing.assert_close(seen(*TOP), along_the_normal)


def test_the_best_cameras_that_see_a_point_are_taken() -> None:
    """Of five cameras, ever more oblique, the first is blocked: with best=2 the second and third count."""
    angles = np.radians([5, 20, 35, 50, 65])
    positions = [(4 * np.sin(a), 0.0, 0.5 + 4 * np.cos(a)) for a in angles]
    asked: list[torch.Tensor] = []
    looked: list[torch.Tensor] = []

    def visible(points, normals, viewpoints):
        asked.append(viewpoints)
        return viewpoints[:, 0] > 1

    def color(points, directions):
        looked.append(directions)
        return by_direction(points, directions)

    SeenColor(color, cameras_at(*positions), visible, best=2)(*TOP)
    assert sum(len(v) for v in asked) == 4  # the last was never asked
    found = torch.cat(looked)
    expected = torch.tensor([[-np.sin(a), 0.0, -np.cos(a)] for a in angles[1:3]], dtype=torch.float32)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_batches_change_nothing(monkeypatch) -> None:
    from recon3d.export import appearance

    generator = torch.Generator().manual_seed(0)
    normals = torch.nn.functional.normalize(torch.randn(500, 3, generator=generator), dim=1)
    cameras = cameras_at(*(4 * normals[:40]).tolist())
    occlusion = lambda p, n, o: (p * 7).sin().sum(dim=1) + o[:, 0] > 0  # noqa: E731
    whole = SeenColor(by_direction, cameras, occlusion)(0.5 * normals, normals)
    monkeypatch.setattr(appearance, "_PAIRS", 1)
    torch.testing.assert_close(SeenColor(by_direction, cameras, occlusion)(0.5 * normals, normals), whole)
    assert SeenColor(by_direction, cameras, occlusion)(normals[:0], normals[:0]).shape == (0, 3)


def test_a_mesh_hides_what_is_behind_it() -> None:
    pytest.importorskip("open3d")
    both = trimesh.util.concatenate(
        [trimesh.creation.icosphere(3, 0.3), trimesh.creation.box((1.0, 1.0, 0.1)).apply_translation((0, 0, 0.8))]
    )
    visible = MeshOcclusion(np.asarray(both.vertices), np.asarray(both.faces))
    top, bottom = torch.tensor([[0.0, 0.0, 0.3]]), torch.tensor([[0.0, 0.0, -0.3]])
    up = torch.tensor([[0.0, 0.0, 1.0]])
    assert not visible(top, up, torch.tensor([[0.0, 0.0, 5.0]]))  # under the lid
    assert visible(top, up, torch.tensor([[5.0, 0.0, 0.5]]))  # past its edge
    assert visible(bottom, -up, torch.tensor([[0.0, 0.0, -5.0]]))
    normals = torch.tensor(np.asarray(both.vertex_normals)[:642], dtype=torch.float32)
    free = visible(0.3 * normals, normals, 0.3 * normals + 0.2 * normals)
    assert free.float().mean() == 1  # no face stands in its own light


def test_cameras_in_field_coordinates_see_the_same() -> None:
    normalizer = Normalizer((10.0, 20.0, 30.0), 2.0)
    world = cameras_at((8.0, 1.0, 3.0), (-2.0, 5.0, 6.0))
    inside = field_cameras(world, normalizer)
    points = torch.tensor([[0.3, -0.2, 0.1], [-0.5, 0.4, 0.9]])
    seen_there, _ = world.project(points)
    seen_here, _ = inside.project(normalizer.to_field(points))
    torch.testing.assert_close(seen_here, seen_there, atol=1e-3, rtol=0)


def test_no_open3d_is_told_in_one_line(monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "open3d", None)
    box = trimesh.creation.box()
    with pytest.raises(UserError, match="pip install"):
        MeshOcclusion(np.asarray(box.vertices), np.asarray(box.faces))
