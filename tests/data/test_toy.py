"""The embedded scene: what is written, that it is the same every time, and that pictures and mesh agree."""

import json
import sys

import numpy as np
import pytest
import torch
import trimesh

from recon3d.data.scene_files import load_scene
from recon3d.data.toy import make_toy
from recon3d.data.toy.machine import build_machine
from recon3d.data.toy.render import pixel_directions
from recon3d.errors import UserError

try:
    import open3d  # noqa: F401
except (ImportError, OSError) as error:  # the package or a system library of its is missing
    pytest.skip(f"open3d cannot be imported: {error}", allow_module_level=True)

SIZE, TRAIN, TEST = 64, 6, 4


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return make_toy(tmp_path_factory.mktemp("toy"), size=SIZE, train=TRAIN, test=TEST, supersample=2)


@pytest.fixture(scope="module")
def mesh(toy):
    return trimesh.load(toy.mesh, process=False)


def test_reads_back_as_a_scene(toy):
    for split, count in (("train", TRAIN), ("val", toy.val), ("test", TEST)):
        scene = load_scene(toy.folder, split)
        assert scene.images.shape == (count, SIZE, SIZE, 4)
        alpha = scene.images[..., 3]
        assert (alpha == 255).any(dim=(1, 2)).all()
        assert ((alpha > 0) & (alpha < 255)).any()  # antialiased
        assert (alpha[:, [0, -1]] == 0).all()  # the toy does not touch the border
        assert (alpha[:, :, [0, -1]] == 0).all()
        torch.testing.assert_close(scene.cameras.positions.norm(dim=-1), torch.full((count,), 4.0))
        torch.testing.assert_close(scene.cameras.poses[:, 2, 0], torch.zeros(count))  # z is up


def test_splits_stand_at_different_places(toy):
    positions = torch.cat([load_scene(toy.folder, split).cameras.positions for split in ("train", "val", "test")])
    distances = torch.cdist(positions, positions) + 10 * torch.eye(len(positions))
    assert float(distances.min()) > 0.05
    assert float(positions[:, 2].min()) < -0.5  # some look from below
    assert float(positions[:, 2].max()) > 2.0


def test_same_seed_same_bytes(toy, tmp_path):
    again = make_toy(tmp_path / "again", size=SIZE, train=TRAIN, test=TEST, supersample=2)
    files = sorted(path.relative_to(toy.folder) for path in toy.folder.rglob("*") if path.is_file())
    assert len(files) == TRAIN + TEST + toy.val + 4
    for name in files:
        assert (again.folder / name).read_bytes() == (toy.folder / name).read_bytes(), name
    other = make_toy(tmp_path / "other", size=SIZE, train=1, test=1, supersample=1, seed=1)
    poses = [json.loads((folder / "transforms_train.json").read_text()) for folder in (toy.folder, other.folder)]
    assert poses[0]["frames"][0] != poses[1]["frames"][0]


def test_every_part_is_closed_and_faces_outwards():
    for part in build_machine():
        solid = part.solid
        corners = solid.vertices[solid.faces]
        assert np.linalg.det(corners).sum() > 0  # six times the volume
        across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        np.testing.assert_allclose(across.sum(axis=0), 0, atol=1e-6)  # a closed surface has no net area
        assert (np.einsum("ij,ij->i", across, solid.normals[solid.faces].mean(axis=1)) > 0).all()
        np.testing.assert_allclose(np.linalg.norm(solid.normals, axis=1), 1, atol=1e-6)


def test_mesh_is_the_outer_surface(toy, mesh):
    assert len(mesh.faces) == toy.faces
    assert np.abs(mesh.bounds).max() <= 1.1 + 1e-6
    assert mesh.visual.kind == "vertex"
    assert len(np.unique(mesh.visual.vertex_colors[:, :3], axis=0)) >= 10
    # The parts have more surface than can be seen: between bricks, under studs, within hubs.
    parts = sum(trimesh.Trimesh(part.solid.vertices, part.solid.faces).area for part in build_machine())
    stud = 2.2 / np.ptp(np.concatenate([part.solid.vertices for part in build_machine()]), axis=0).max()
    assert 0.3 < mesh.area / (parts * stud**2) < 0.85


def test_mesh_projects_into_the_silhouettes(toy, mesh):
    scene = load_scene(toy.folder, "test")
    points = torch.tensor(mesh.triangles_center, dtype=torch.float32)
    uv, depth = scene.cameras.project(points)
    assert (depth > 0).all()
    for image, at in zip(scene.images, uv):
        column, row = at.long().unbind(-1)
        hit = image[..., 3] > 0
        assert hit[row, column].float().mean() > 0.98  # but for slivers that fall between the rays of a pixel
        near = torch.nn.functional.max_pool2d(hit[None].float(), 3, stride=1, padding=1)[0]
        assert (near[row, column] > 0).all()
        # And the other way: the mesh covers every opaque pixel.
        covered = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        covered[row, column] = True
        assert covered[image[..., 3] == 255].float().mean() > 0.99


def test_rays_are_those_of_the_cameras(toy):
    cameras = load_scene(toy.folder, "test").cameras
    rays = cameras.image_rays(1)
    u, v = np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5
    np.testing.assert_allclose(pixel_directions(cameras, 1, u, v), rays.directions.numpy(), atol=2e-6)


def test_colours_of_mesh_and_pictures_agree(toy, mesh):
    """Where the mesh is blue the picture is bluish, at the vertices nearest to the camera."""
    scene = load_scene(toy.folder, "test")
    colours = torch.tensor(np.asarray(mesh.visual.vertex_colors[:, :3]), dtype=torch.float32)
    blue = torch.tensor(mesh.vertices, dtype=torch.float32)[colours[:, 2] - colours[:, 0] > 100]
    top = blue[blue[:, 2] > blue[:, 2].max() - 0.01]  # the roof's studs, which nothing covers from above
    above = int(scene.cameras.positions[:, 2].argmax())
    uv, _ = scene.cameras[[above]].project(top)
    column, row = uv[0].long().unbind(-1)
    seen = scene.images[above][row, column, :3].float().mean(dim=0)
    assert seen[2] > seen[0] + 50
    assert seen[2] > seen[1] + 30


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"size": 4}, "size is 4"),
        ({"train": 0}, "train is 0"),
        ({"test": 0}, "test is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"supersample": 0}, "supersample is 0"),
    ],
)
def test_bad_numbers(tmp_path, options, expected):
    with pytest.raises(UserError, match=expected):
        make_toy(tmp_path / "toy", **options)
    assert not (tmp_path / "toy").exists()


def test_another_scene_is_not_overwritten(tmp_path):
    path = tmp_path / "transforms_test.json"
    path.write_text('{"frames": []}')
    with pytest.raises(UserError, match=r"transforms_test\.json: belongs to another scene"):
        make_toy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["transforms_test.json"]


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the folder"):
        make_toy(tmp_path / "file" / "toy")


def test_without_open3d_the_line_that_mends_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(UserError, match=r"pip install open3d.*apt-get install libusb-1.0-0"):
        make_toy(tmp_path, size=16, train=1, test=1)
