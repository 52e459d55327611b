from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from recon3d.errors import UserError
from recon3d.export import meshfiles
from recon3d.export.levelset import LevelSet
from recon3d.export.mesh import export_mesh
from recon3d.export.meshfiles import srgb_to_linear, write_mesh
from recon3d.export.postprocess import DropPieces
from recon3d.export.sources import density_surface
from recon3d.geometry.boxes import Normalizer

from . import gltf
from .shapes import ball, covering, torus

HOME = Normalizer((3.0, -2.0, 10.0), 4.0)


def density_of(fn):
    """As a radiance field gives it: growing by factors into the object; 100 at the surface."""
    return lambda x: 100 * torch.exp((fn(x) / 0.01).clamp(-12, 3))


def export(fn, **options):
    options = {"resolution": 64, "level": 100.0, "color_fn": None, **options}
    made = {name: options.pop(name) for name in ("level", "color_fn")}
    surface = density_surface(density_of(fn), covering(fn, -0.05, 32), **made)
    return export_mesh(surface, HOME, **options)


def test_world_coordinates_and_report() -> None:
    mesh, report = export(ball(0.5, (0.1, 0.2, -0.1)))
    assert mesh.is_watertight
    assert report.watertight
    assert report.components == 1
    assert (report.vertices, report.faces) == (len(mesh.vertices), len(mesh.faces))
    assert 0 < report.extraction["evaluated_share"] < 0.3
    center = np.array([3.0, -2.0, 10.0]) + 4 * np.array([0.1, 0.2, -0.1])
    distance = np.linalg.norm(mesh.vertices - center, axis=1)
    np.testing.assert_allclose(distance, 4 * 0.5, atol=0.02)
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * 2.0**3, rel=0.02)
    json.dumps(report.as_dict())


def test_level_is_chosen_where_none_is_given() -> None:
    mesh, report = export(torus, level=None)
    assert 0 < report.extraction["level"] < 200
    assert mesh.is_watertight
    assert mesh.euler_number == 0
    assert mesh.volume == pytest.approx(4**3 * 2 * math.pi**2 * 0.6 * 0.25**2, rel=0.15)


def test_normals_stay_right_on_a_ramp_steeper_than_a_cell() -> None:
    def ramp(x):
        return torch.exp((ball(0.5)(x) / 0.01).clamp(max=8)) / 0.01

    mesh, _ = export_mesh(density_surface(ramp, covering(ramp, 0.1, 32), 100.0), HOME, resolution=64)
    outward = (mesh.vertices - np.array(HOME.center)) / 2.0
    assert np.degrees(np.arccos((mesh.vertex_normals * outward).sum(axis=1).clip(-1, 1))).mean() < 2


def test_no_surface_names_the_densities() -> None:
    everywhere = np.ones((4, 4, 4), bool)
    with pytest.raises(UserError, match=r"no surface at density 50: .* span \[3, 3\]"):
        export_mesh(density_surface(lambda x: 3 + 0 * x[:, 0], everywhere, 50.0), HOME, resolution=16)
    with pytest.raises(UserError, match="must be above 0"):
        export(torus, level=0.0)
    with pytest.raises(UserError, match="not finite"):
        export_mesh(density_surface(lambda x: x[:, 0] * math.nan, everywhere, 50.0), HOME, resolution=16)


def test_colors_are_seen_along_the_normal() -> None:
    asked: list[torch.Tensor] = []

    def color(points, directions):
        asked.append(points)
        np.testing.assert_allclose(directions.norm(dim=1), 1, atol=1e-5)
        return (directions + 1) / 2

    mesh, _ = export(ball(0.5), color_fn=color, batch_points=500)
    assert max(len(points) for points in asked) <= 500
    assert torch.cat(asked).norm(dim=1).sub(0.5).abs().max() < 0.01  # in field coordinates
    outward = (mesh.vertices - np.array(HOME.center)) / 2.0
    np.testing.assert_allclose(mesh.visual.vertex_colors[:, :3] / 255, (1 - outward) / 2, atol=0.03)
    assert (mesh.visual.vertex_colors[:, 3] == 255).all()


def test_floaters_go_by_their_share_of_the_area() -> None:
    def scene(x):
        return torch.stack([ball(0.5)(x), ball(0.1, (0.75, 0.0, 0.0))(x), ball(0.04, (0.0, 0.0, 0.8))(x)]).amax(0)

    def components(share: float):
        mesh, report = export(scene, steps=[DropPieces(share)])
        assert mesh.is_watertight
        assert mesh.body_count == report.components
        (step,) = report.steps
        return report.components, int(step.did.split()[0])

    assert components(0.0) == (3, 0)
    assert components(0.02) == (2, 1)  # areas 1 : 0.04 : 0.0064
    assert components(0.1) == (1, 2)
    assert components(1.0) == (1, 2)  # the largest always stays


def test_cavities_go_unless_kept() -> None:
    def shell(x):
        return torch.minimum(ball(0.7)(x), -ball(0.3)(x))

    mesh, report = export(shell)
    assert report.components == 1
    assert [step.did.split()[0] for step in report.steps] == ["1", "0"]
    assert mesh.volume == pytest.approx(4**3 * 4 / 3 * math.pi * 0.7**3, rel=0.02)
    mesh, report = export(shell, steps=[])
    assert report.components == 2
    assert mesh.volume == pytest.approx(4**3 * 4 / 3 * math.pi * (0.7**3 - 0.3**3), rel=0.02)


def test_distances_have_their_vertices_and_normals_from_the_field() -> None:
    fn = ball(0.5, (0.1, 0.2, -0.1))
    center = np.array([3.0, -2.0, 10.0]) + 4 * np.array([0.1, 0.2, -0.1])
    rough = LevelSet(fn, slope=1.0)
    exact = LevelSet(fn, slope=1.0, normals_from_field=True)
    for surface, newton, off, turned in ((rough, 0, 1e-3, 1.5), (exact, None, 1e-5, 0.1)):
        mesh, report = export_mesh(surface, HOME, resolution=64, newton=newton)
        assert mesh.is_watertight
        away = mesh.vertices - center
        distance = np.linalg.norm(away, axis=1)
        assert np.abs(distance - 2.0).max() < 4 * off
        cosine = (mesh.vertex_normals * away).sum(axis=1) / distance
        assert np.degrees(np.arccos(cosine.clip(-1, 1))).mean() < turned
        assert ("newton" in report.extraction) == (newton is None)


@pytest.fixture(scope="module")
def colored():
    mesh, _ = export(torus, color_fn=lambda points, directions: points / 2 + 0.5)
    return mesh


@pytest.mark.parametrize("kind", ["ply", "obj"])
def test_ply_and_obj_come_back_as_they_were(colored, kind: str, tmp_path: Path) -> None:
    (path,) = write_mesh(colored, tmp_path / "new" / "folder", "toy", [kind])
    assert path == tmp_path / "new" / "folder" / f"toy.{kind}"
    back = trimesh.load(path, process=False)
    np.testing.assert_allclose(back.vertices, colored.vertices, atol=1e-5)
    np.testing.assert_array_equal(back.faces, colored.faces)
    np.testing.assert_array_equal(back.visual.vertex_colors, colored.visual.vertex_colors)
    assert trimesh.load(path).is_watertight


@pytest.mark.parametrize("kind", ["ply", "obj"])
def test_far_from_the_origin_coordinates_keep_their_digits(kind: str, tmp_path: Path) -> None:
    """In metres of a land survey, where float32 has steps of half a metre."""
    mesh = trimesh.creation.icosphere(1)
    mesh.apply_translation((512_345.678, 5_403_210.987, 431.2))
    (path,) = write_mesh(mesh, tmp_path, "far", [kind])
    np.testing.assert_allclose(trimesh.load(path, process=False).vertices, mesh.vertices, rtol=0, atol=1e-6)


def test_glb_stands_upright_and_comes_back_in_place(colored, tmp_path: Path) -> None:
    (path,) = write_mesh(colored, tmp_path, "toy", ["glb"])
    scene = trimesh.load(path)
    (shape,) = scene.geometry.values()
    np.testing.assert_allclose(shape.vertices, colored.vertices, atol=1e-5)  # the buffers hold world coordinates
    transform, _ = scene.graph[scene.graph.nodes_geometry[0]]
    np.testing.assert_allclose(transform[:3, :3] @ [0, 0, 1], [0, 1, 0])  # our up is glTF's up
    np.testing.assert_allclose(transform[:3, :3] @ [1, 0, 0], [1, 0, 0])
    assert np.linalg.det(transform[:3, :3]) == pytest.approx(1)
    blender = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])  # its importer's (x, y, z) -> (x, -z, y)
    shown = scene.to_geometry().vertices @ blender.T
    np.testing.assert_allclose(shown, colored.vertices, atol=1e-5)
    assert shape.is_watertight


def test_glb_colors_are_linear_light_on_an_unlit_material(colored, tmp_path: Path) -> None:
    (path,) = write_mesh(colored, tmp_path, "toy", ["glb"])
    document, data = read_glb(path)
    primitive = document["meshes"][0]["primitives"][0]
    material = document["materials"][primitive["material"]]
    assert "KHR_materials_unlit" in material["extensions"]
    accessor = document["accessors"][primitive["attributes"]["COLOR_0"]]
    assert (accessor["componentType"], accessor["normalized"], accessor["type"]) == (5123, True, "VEC4")
    view = document["bufferViews"][accessor["bufferView"]]
    raw = np.frombuffer(data, "<u2", accessor["count"] * 4, view["byteOffset"]).reshape(-1, 4) / 65535
    expected = srgb_to_linear(colored.visual.vertex_colors[:, :3] / 255.0)
    np.testing.assert_allclose(raw[:, :3], expected, atol=1e-5)
    assert (raw[:, 3] == 1).all()
    assert all(view["byteOffset"] % 4 == 0 for view in document["bufferViews"])
    assert document["buffers"][0]["byteLength"] == len(data)


def read_glb(path: Path) -> tuple[dict, bytes]:
    content = path.read_bytes()
    magic, version, total, length, kind = struct.unpack_from("<4sIII4s", content)
    assert (magic, version, total, kind) == (b"glTF", 2, len(content), b"JSON")
    size, kind = struct.unpack_from("<I4s", content, 20 + length)
    assert kind == b"BIN\0"
    return json.loads(content[20 : 20 + length]), content[28 + length : 28 + length + size]


def test_srgb_decoding_has_its_fixed_points() -> None:
    # IEC 61966-2-1: the ends stay, half light is code 188, and the two pieces meet.
    values = srgb_to_linear(np.array([0.0, 1.0, 188 / 255, 0.04045, 0.0404501]))
    np.testing.assert_allclose(values[:2], [0, 1])
    assert values[2] == pytest.approx(0.5, abs=0.005)
    assert values[3] == pytest.approx(values[4], abs=1e-6)


def test_a_mesh_without_colors_is_written_without_and_lit(tmp_path: Path) -> None:
    plain = trimesh.creation.icosphere(2)
    glb, ply, obj = write_mesh(plain, tmp_path, "plain")
    document, _ = gltf.check(glb)
    assert "COLOR_0" not in document["meshes"][0]["primitives"][0]["attributes"]
    (material,) = document["materials"]
    assert "extensions" not in material, "unlit it would be a white patch"
    assert material["doubleSided"], "an open surface has a back"
    assert b"red" not in ply.read_bytes()[:400]
    assert trimesh.load(obj).is_watertight
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain.glb", "plain.obj", "plain.ply"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    write_mesh(trimesh.creation.box(), tmp_path, "toy", ["ply"])
    before = (tmp_path / "toy.ply").read_bytes()

    def full(file, mesh) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(meshfiles._WRITERS, "ply", full)
    with pytest.raises(UserError, match=r"toy\.ply: the disk is full"):
        write_mesh(trimesh.creation.icosphere(), tmp_path, "toy", ["ply"])
    assert (tmp_path / "toy.ply").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["toy.ply"]


def test_what_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    box = trimesh.creation.box()
    with pytest.raises(UserError, match="unknown mesh format 'stl'"):
        write_mesh(box, tmp_path, "toy", ["stl"])
    with pytest.raises(UserError, match="no faces"):
        write_mesh(trimesh.Trimesh(), tmp_path, "toy")
    box.vertices[0, 0] = math.nan
    with pytest.raises(UserError, match="not finite"):
        write_mesh(box, tmp_path, "toy")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_mesh(trimesh.creation.box(), tmp_path / "file", "toy")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
