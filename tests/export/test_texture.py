from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from recon3d.errors import UserError
from recon3d.export import meshfiles
from recon3d.export.meshfiles import read_mesh, write_textured
from recon3d.export.meshview import sampled
from recon3d.export.texture import Textured, nearest_faces, texture

from . import gltf

pytest.importorskip("xatlas")

AWAY = np.array([12.0, -7.0, 3.0])


def by_place(points, normals):
    """A smooth colour over the unit ball around AWAY, with another in every direction."""
    return 0.5 + 0.4 * (points - AWAY) * [1, -1, 0.5]


def ball(subdivisions: int = 3) -> trimesh.Trimesh:
    mesh = trimesh.creation.icosphere(subdivisions)
    mesh.apply_translation(AWAY)
    return mesh


def baked(mesh: trimesh.Trimesh, size: int = 256, padding: int = 2, color=by_place) -> Textured:
    return texture(
        np.asarray(mesh.vertices), np.asarray(mesh.faces), np.asarray(mesh.vertex_normals), color, size, padding
    )


@pytest.fixture(scope="module")
def textured() -> Textured:
    return baked(ball())


def on_faces(vertices, faces, values, count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Random points on faces, and ``values`` (of vertices) there."""
    rng = np.random.default_rng(0)
    weights = rng.dirichlet([1, 1, 1], count)
    corner = faces[rng.integers(len(faces), size=count)]
    return np.einsum("nk,nkd->nd", weights, vertices[corner]), np.einsum("nk,nkd->nd", weights, values[corner])


def test_the_texture_shows_the_colour_function_everywhere(textured: Textured) -> None:
    points, uv = on_faces(textured.vertices, textured.faces, textured.uv)
    error = np.abs(sampled(textured.image, uv) - by_place(points, None)).max(axis=1)
    assert error.mean() < 0.004  # bytes are 0.0039 apart
    assert error.max() < 0.02  # a texel's width of the steepest colour, at the borders of charts


def test_the_mesh_is_the_same_but_for_its_seams(textured: Textured) -> None:
    mesh = ball()
    np.testing.assert_array_equal(textured.source[textured.faces], mesh.faces)
    np.testing.assert_array_equal(textured.vertices, mesh.vertices[textured.source])
    assert len(textured.source) > len(mesh.vertices)
    assert textured.uv.min() >= 0 and textured.uv.max() <= 1
    assert 0.3 < textured.covered < 1
    assert textured.image.shape == (256, 256, 3)


def test_charts_do_not_overlap_and_keep_their_distance(textured: Textured) -> None:
    place = textured.uv * 256
    inside = nearest_faces(place, textured.faces, 256, reach=0.0).reshape(256, 256)
    chart = trimesh.graph.connected_component_labels(
        trimesh.Trimesh(np.pad(place, ((0, 0), (0, 1))), textured.faces, process=False).face_adjacency,
        node_count=len(textured.faces),
    )
    label = np.where(inside >= 0, chart[inside], -1)
    for axis in (0, 1):
        for step in (1, 2):
            a, b = np.roll(label, -step, axis)[:-2, :-2], label[:-2, :-2]
            assert not ((a >= 0) & (b >= 0) & (a != b)).any()
    corners = place[textured.faces]
    ab, ac = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = 0.5 * np.abs(ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]).sum()
    assert (inside >= 0).sum() == pytest.approx(area, rel=0.02)  # nothing lies under something else


def test_mipmaps_do_not_bleed(textured: Textured) -> None:
    """Two levels down, four texels have become one: still no colour that the surface has not."""
    small = textured.image.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    points, uv = on_faces(textured.vertices, textured.faces, textured.uv)
    error = np.abs(sampled(np.rint(small).astype(np.uint8), uv) - by_place(points, None)).max(axis=1)
    assert error.mean() < 0.03
    assert textured.image.min() > 20  # no black between the charts


def test_texel_centres_are_half_a_texel_in() -> None:
    """Two triangles fill the picture; texel (i, j) stands for ((i + 0.5) / 8, 1 - (j + 0.5) / 8)."""
    place = np.array([[0.0, 8.0], [8.0, 8.0], [8.0, 0.0], [0.0, 0.0]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    owner = nearest_faces(place, faces, 8).reshape(8, 8)
    assert (owner >= 0).all()
    row, column = np.mgrid[:8, :8]
    assert (owner[row > 7 - column] == 0).all()
    assert (owner[row < 7 - column] == 1).all()
    ramp = (np.arange(8) + 0.5) / 8
    image = np.rint(255 * np.stack([*np.meshgrid(ramp, 1 - ramp), np.zeros((8, 8))], axis=-1)).astype(np.uint8)
    uv = np.array([[0.5, 0.5], [0.25, 0.8], [0.9, 0.1]])
    np.testing.assert_allclose(sampled(image, uv)[:, :2], uv, atol=0.004)


def test_only_texels_within_reach_have_a_face() -> None:
    place, faces = np.array([[4.0, 4.0], [10.0, 4.0], [4.0, 10.0]]), np.array([[0, 1, 2]])
    owner = nearest_faces(place, faces, 16, reach=1.5).reshape(16, 16)
    row, column = np.nonzero(owner >= 0)
    x, y = column + 0.5, row + 0.5
    outside = np.maximum.reduce([4 - x, 4 - y, (x + y - 14) / np.sqrt(2), np.zeros(len(x))])
    assert outside.max() <= 1.5
    assert owner[6, 6] == 0 and owner[3, 3] == 0 and owner[1, 1] == -1
    assert (nearest_faces(place, faces, 16, reach=0.0) >= 0).sum() == 21  # centres under the diagonal, and on it


def test_a_face_without_area_takes_no_texels_and_does_no_harm() -> None:
    place = np.array([[2.0, 2.0], [12.0, 2.0], [2.0, 12.0], [3.0, 3.0]])
    owner = nearest_faces(place, np.array([[3, 3, 3], [0, 1, 2]]), 16, reach=0.0)
    assert set(owner) == {-1, 1}
    mesh = ball(2)
    mesh.faces = np.concatenate([mesh.faces, [[0, 0, 1]]])
    assert np.isfinite(baked(mesh, 128).uv).all()


def test_the_colour_function_is_asked_at_the_surface_with_unit_normals(textured: Textured) -> None:
    def color(points, normals):
        outward = points - AWAY
        length = np.linalg.norm(outward, axis=1)
        assert length.min() > 0.98 and length.max() < 1 + 1e-9
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-9)
        assert ((outward / length[:, None]) * normals).sum(axis=1).min() > 0.99
        return np.zeros_like(points)

    baked(ball(), 64, color=color)


def test_what_cannot_be_textured_is_one_line() -> None:
    for size in (8, 20000):
        with pytest.raises(UserError, match=f"a texture of {size} texels a side: give 16 to 16384"):
            baked(ball(1), size)
    with pytest.raises(UserError, match="padding is 0"):
        baked(ball(1), 64, padding=0)
    with pytest.raises(UserError, match="no faces"):
        texture(np.zeros((3, 3)), np.zeros((0, 3), int), np.zeros((3, 3)), by_place, 64)
    with pytest.raises(UserError, match=r"charts, 8 texels from one another, do not fit a texture of 16"):
        baked(ball(2), 16, padding=8)
    with pytest.raises(UserError, match="no extent"):
        texture(np.zeros((3, 3)), np.array([[0, 1, 2]]), np.ones((3, 3)), by_place, 64)


def test_a_texture_beyond_the_memory_is_refused_before_any_work(monkeypatch) -> None:
    from recon3d.export import texture as module

    monkeypatch.setattr(module, "free_memory", lambda: 5 * 2**30)
    module.check_size(16384)  # 5 GiB at 20 bytes a texel
    monkeypatch.setattr(module, "free_memory", lambda: 2 * 2**30)
    with pytest.raises(UserError, match="of 16384 texels a side takes 5 GiB of memory, and 2 are free: give 10362 or"):
        baked(ball(1), 16384)
    monkeypatch.setattr(module, "free_memory", lambda: None)  # a system that does not tell
    module.check_size(16384)


def test_too_many_faces_are_refused_before_any_work(monkeypatch) -> None:
    from recon3d.export import atlas

    monkeypatch.setattr(atlas, "MOST_FACES", 1000)
    with pytest.raises(UserError, match=r"1280 faces are too many for a texture: simplify .* \(--simplify\)"):
        baked(ball())


# --- files ---


@pytest.fixture(scope="module")
def files(textured: Textured, tmp_path_factory) -> dict[str, Path]:
    paths = write_textured(textured, tmp_path_factory.mktemp("textured"), "toy")
    return {path.suffix: path for path in paths}


def test_glb_keeps_to_the_specification(files, textured: Textured) -> None:
    document, data = gltf.check(files[".glb"])
    primitive = document["meshes"][0]["primitives"][0]
    material = document["materials"][primitive["material"]]
    assert "KHR_materials_unlit" in material["extensions"]
    assert material["pbrMetallicRoughness"]["baseColorTexture"] == {"index": 0}
    uv = gltf.accessor(document, data, primitive["attributes"]["TEXCOORD_0"])
    np.testing.assert_allclose(uv, textured.uv * [1, -1] + [0, 1], atol=1e-6)  # v runs downwards in glTF
    view = document["bufferViews"][document["images"][0]["bufferView"]]
    picture = np.asarray(Image.open(io.BytesIO(data[view["byteOffset"] :][: view["byteLength"]])))
    np.testing.assert_array_equal(picture, textured.image)  # sRGB in, sRGB out


@pytest.mark.parametrize("suffix", [".glb", ".obj"])
def test_colours_come_back_in_their_places(files, suffix: str) -> None:
    mesh = read_mesh(files[suffix])
    points, uv = on_faces(np.asarray(mesh.vertices), np.asarray(mesh.faces), np.asarray(mesh.visual.uv))
    assert np.abs(np.linalg.norm(points - AWAY, axis=1) - 1).max() < 0.02  # world coordinates
    material = mesh.visual.material
    image = material.baseColorTexture if suffix == ".glb" else material.image
    error = np.abs(sampled(np.asarray(image.convert("RGB")), uv) - by_place(points, None)).max(axis=1)
    assert error.mean() < 0.004 and error.max() < 0.02


@pytest.mark.parametrize("suffix", [".glb", ".obj"])
def test_open3d_reads_the_same(files, suffix: str) -> None:
    open3d = pytest.importorskip("open3d")
    mesh = open3d.io.read_triangle_mesh(str(files[suffix]), enable_post_processing=False)
    faces = np.asarray(mesh.triangles)
    assert len(faces) == 1280 and mesh.has_triangle_uvs() and len(mesh.textures) >= 1
    corner_uv = np.asarray(mesh.triangle_uvs).reshape(-1, 3, 2)
    middle = np.asarray(mesh.vertices)[faces].mean(axis=1)
    if suffix == ".glb" and np.abs(np.linalg.norm(middle - AWAY, axis=1) - 1).max() > 0.1:
        middle = middle @ np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])  # y up, as glTF has it
    image = max((np.asarray(picture) for picture in mesh.textures), key=lambda picture: picture.size)[..., :3]
    downwards = corner_uv.mean(axis=1) * [1, -1] + [0, 1]  # open3d's v runs downwards, whatever the file
    error = np.abs(sampled(image, downwards) - by_place(middle, None)).max(axis=1)
    assert error.mean() < 0.006


def test_obj_stays_closed_and_names_its_files(files) -> None:
    text = files[".obj"].read_text()
    assert "mtllib toy.mtl" in text and "usemtl" in text
    assert text.count("\nv ") == len(ball().vertices) < text.count("\nvt ")
    assert "map_Kd toy.png" in files[".mtl"].read_text()
    closed = trimesh.load(files[".obj"], process=False, force="mesh")
    closed.merge_vertices(merge_tex=True, merge_norm=True)
    assert closed.is_watertight


def test_writing_textures_refuses_what_it_cannot_do(textured: Textured, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(UserError, match="'ply'; choose from glb, obj"):
        write_textured(textured, tmp_path, "toy", ["ply"])
    with pytest.raises(UserError, match="without spaces"):
        write_textured(textured, tmp_path, "my toy")

    def full(image) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(meshfiles, "_png", full)
    with pytest.raises(UserError, match=r"toy\.glb: the disk is full"):
        write_textured(textured, tmp_path, "toy")
    assert list(tmp_path.iterdir()) == []
