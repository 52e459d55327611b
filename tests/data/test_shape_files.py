"""Files of shapes: every format, what is cleaned, and what is told of files that are none."""

import io
import pickle

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from recon3d.data.shape_files import clean_mesh, read_shape
from recon3d.errors import UserError
from recon3d.export.meshfiles import read_mesh, write_mesh

BALL = trimesh.creation.icosphere(2, 1.5)


def write(path, mesh=BALL):
    content = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).export(file_type=path.suffix[1:])
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def cleaned(vertices, faces, tmp_path):
    return clean_mesh(tmp_path / "x.obj", np.asarray(vertices, np.float64), np.asarray(faces))


# --- meshes ---


@pytest.mark.parametrize("suffix", ["obj", "ply", "stl", "glb", "off"])
def test_every_format_of_meshes(suffix, tmp_path):
    shape = read_shape(write(tmp_path / f"ball.{suffix}"))
    assert (len(shape.vertices), len(shape.faces)) == (len(BALL.vertices), len(BALL.faces))
    assert shape.is_mesh and shape.normals is None
    assert shape.report.watertight and shape.report.flipped_edges == 0 and not shape.report.inverted
    assert shape.report.merged_vertices == (3 * len(BALL.faces) - len(BALL.vertices) if suffix == "stl" else 0)
    assert shape.report.cleaned() is None
    assert np.allclose(np.linalg.norm(shape.vertices, axis=1), 1.5, atol=1e-5)
    again = trimesh.Trimesh(shape.vertices, shape.faces, process=False)
    assert again.volume == pytest.approx(BALL.volume, rel=1e-4)


def test_a_scene_of_several_meshes_is_one(tmp_path):
    scene = trimesh.Scene([trimesh.creation.box(), trimesh.creation.box(transform=np.eye(4) + 3 * np.eye(4, k=3))])
    path = tmp_path / "two.glb"
    path.write_bytes(scene.export(file_type="glb"))
    shape = read_shape(path)
    assert (len(shape.vertices), len(shape.faces)) == (16, 24)
    assert shape.report.watertight


def test_the_up_of_a_glb_is_ours(tmp_path):
    """Its +Y is up by definition; and what recon3d writes as GLB is read at the coordinates that it had."""
    tall = trimesh.creation.box(extents=(1, 3, 2))
    shape = read_shape(write(tmp_path / "tall.glb", tall))
    assert np.allclose(np.ptp(shape.vertices, axis=0), (1, 2, 3))
    tall.apply_translation((1, 2, 3))
    (path,) = write_mesh(tall, tmp_path, "ours", ["glb"])
    again = read_shape(path)
    assert np.allclose(again.bounds, tall.bounds)
    assert np.allclose(again.bounds, read_mesh(path).bounds)


def test_what_is_cleaned_is_counted(tmp_path):
    faces = np.vstack([BALL.faces, BALL.faces[:3][:, [1, 2, 0]], [[0, 0, 1]], [[5, 7, 5]]])
    report = cleaned(BALL.vertices, faces, tmp_path).report
    assert (report.duplicate_faces, report.degenerate_faces) == (3, 2)
    assert report.watertight and report.faces == len(BALL.faces)
    assert report.cleaned() == "dropped 2 degenerate and 3 duplicate faces"


def test_a_hole_is_counted_by_its_edges(tmp_path):
    report = cleaned(BALL.vertices, BALL.faces[1:], tmp_path).report
    assert not report.watertight and report.boundary_edges == 3 and report.flipped_edges == 0


def test_a_face_that_looks_the_other_way(tmp_path):
    faces = BALL.faces.copy()
    faces[7] = faces[7][::-1]
    report = cleaned(BALL.vertices, faces, tmp_path).report
    assert (report.boundary_edges, report.flipped_edges, report.inverted) == (0, 3, False)


def test_a_mesh_that_looks_inwards_is_turned(tmp_path):
    shape = cleaned(BALL.vertices, BALL.faces[:, ::-1], tmp_path)
    assert shape.report.inverted and "turned" in shape.report.cleaned()
    assert trimesh.Trimesh(shape.vertices, shape.faces, process=False).volume > 0


def test_a_face_without_area_still_closes_its_seam(tmp_path):
    """A corner on the middle of an edge, and the flat triangle that joins the two sides of it."""
    vertices = [[0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 2], [1, 0, 0]]
    faces = [[0, 2, 4], [4, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3], [0, 4, 1]]
    report = cleaned(vertices, faces, tmp_path).report
    assert (report.degenerate_faces, report.boundary_edges, report.faces) == (1, 0, 5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_the_order_and_sharing_of_vertices_do_not_matter(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("x")
    random = np.random.default_rng(seed)
    keep = random.random(len(BALL.faces)) < 0.9
    faces = BALL.faces[keep]
    soup = np.vstack([BALL.vertices[faces].reshape(-1, 3), random.normal(size=(5, 3))])
    order = random.permutation(len(soup))
    place = np.argsort(order)[: 3 * len(faces)].reshape(-1, 3)
    one, other = cleaned(BALL.vertices, faces, folder), cleaned(soup[order], random.permutation(place), folder)
    for name in ("vertices", "faces", "boundary_edges", "flipped_edges", "duplicate_faces", "degenerate_faces"):
        assert getattr(one.report, name) == getattr(other.report, name), name
    assert np.array_equal(one.vertices, other.vertices)


# --- point clouds ---

POINTS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
NORMALS = np.array([[0, 0, 2], [1, 0, 0], [0, 3, 0], [0, 0, 1.0]])
UNIT = NORMALS / np.linalg.norm(NORMALS, axis=1, keepdims=True)


def ply(columns, rows, faces=""):
    names = "".join(f"property float {name}\n" for name in columns)
    lines = "".join(" ".join(map(str, row)) + "\n" for row in rows)
    return f"ply\nformat ascii 1.0\nelement vertex {len(rows)}\n{names}{faces}end_header\n{lines}".encode()


def xyz(rows, separator=" "):
    out = io.StringIO()
    np.savetxt(out, rows, delimiter=separator, header="x y z")
    return out.getvalue().encode()


@pytest.mark.parametrize(
    ("name", "content", "has_normals"),
    [
        ("a.ply", ply(["x", "y", "z", "nx", "ny", "nz"], np.hstack([POINTS, NORMALS])), True),
        ("a.ply", ply(["x", "y", "z"], POINTS), False),
        ("a.xyz", xyz(np.hstack([POINTS, NORMALS])), True),
        ("a.xyz", xyz(POINTS, ", "), False),
    ],
)
def test_point_clouds(name, content, has_normals, tmp_path):
    (tmp_path / name).write_bytes(content)
    shape = read_shape(tmp_path / name)
    assert not shape.is_mesh and np.allclose(shape.vertices, POINTS)
    assert (shape.normals is not None) == has_normals
    if has_normals:
        assert np.allclose(shape.normals, UNIT)


@pytest.mark.parametrize("has_normals", [True, False])
def test_pcd(has_normals, tmp_path):
    open3d = pytest.importorskip("open3d", reason="open3d is not here")
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(POINTS))
    if has_normals:
        cloud.normals = open3d.utility.Vector3dVector(UNIT)
    assert open3d.io.write_point_cloud(str(tmp_path / "a.pcd"), cloud)
    shape = read_shape(tmp_path / "a.pcd")
    assert np.allclose(shape.vertices, POINTS)
    assert np.allclose(shape.normals, UNIT) if has_normals else shape.normals is None


# --- bad files ---

TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"
CASES = {
    "a type that is not read": ("x.blend", b"BLENDER", ["x.blend", "OBJ, PLY, STL, GLB, OFF"]),
    "a pickle": ("x.pkl", pickle.dumps(BALL.vertices), ["x.pkl", "not a type"]),
    "a pickle by another name": ("x.ply", pickle.dumps(BALL.vertices), ["x.ply", "cannot be read"]),
    "an empty mesh": ("x.obj", b"", ["x.obj", "no faces"]),
    "an empty STL": ("x.stl", b"", ["x.stl", "no faces"]),
    "an OBJ of points": ("x.obj", TRIANGLE.encode(), ["x.obj", "no faces"]),
    "NaN": ("x.obj", (TRIANGLE.replace("v 0 1 0", "v 0 nan 0") + "f 1 2 3\n").encode(), ["vertex 2", "not finite"]),
    "infinity": ("x.obj", (TRIANGLE.replace("v 1", "v inf") + "f 1 2 3\n").encode(), ["vertex 1", "not finite"]),
    "too far": ("x.obj", (TRIANGLE.replace("v 1", "v 1e300") + "f 1 2 3\n").encode(), ["1e+300", "beyond 1e+18"]),
    "a corner that is not there": (
        "x.ply",
        ply(["x", "y", "z"], POINTS, "element face 1\nproperty list uchar int vertex_indices\n") + b"3 0 1 9\n",
        ["vertex 9 of 4"],
    ),
    "one in OFF": ("x.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 9\n", ["cannot be read as OFF"]),
    "no area": ("x.obj", b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\nf 2 3 1\n", ["zero area", "all 2 faces"]),
    "garbage": ("x.ply", b"garbage", ["x.ply", "cannot be read as PLY"]),
    "a cut GLB": ("x.glb", b"glTF\2\0\0\0\xff\0\0\0", ["x.glb", "cannot be read as GLB"]),
    "no points": ("x.ply", ply(["x", "y", "z"], np.zeros((0, 3))), ["x.ply", "no "]),
    "an empty XYZ": ("x.xyz", b"# nothing\n", ["x.xyz", "no points"]),
    "words": ("x.xyz", b"0 0 0\n0 0 zero\n", ["x.xyz", "line 2", "not numbers"]),
    "columns": ("x.xyz", b"0 0 0\n0 0 0 1\n", ["x.xyz", "line 2", "4 numbers"]),
    "a plane": ("x.xyz", xyz(POINTS[:3]), ["x.xyz", "one plane"]),
    "no direction": ("x.xyz", xyz(np.hstack([POINTS, 0 * NORMALS])), ["normal 0", "no direction"]),
    "NaN among points": ("x.xyz", xyz(POINTS + np.array([0, np.nan, 0])), ["vertex 0", "not finite"]),
    "no PCD": ("x.pcd", b"\x80\x04garbage", ["x.pcd", "PCD"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_files(case, tmp_path, capfd):
    name, content, parts = CASES[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_shape(tmp_path / name)
    message = str(caught.value)
    assert "\n" not in message
    for part in [str(tmp_path), *parts]:
        assert part in message
    assert capfd.readouterr().out == ""


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.obj: cannot be read \(No such file"):
        read_shape(tmp_path / "nowhere.obj")
    with pytest.raises(UserError, match="cannot be read"):
        (tmp_path / "folder.obj").mkdir()
        read_shape(tmp_path / "folder.obj")


def test_what_a_file_names_is_not_opened(tmp_path, monkeypatch):
    """An OBJ's material, and its texture, would be files elsewhere."""
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "x.mtl").write_text("newmtl a\nmap_Kd ../secret.png\n")
    text = "mtllib ../x.mtl\nusemtl a\n" + BALL.export(file_type="obj")
    (folder / "x.obj").write_text(text)
    opened = []
    real = io.open

    def watched(file, *args, **options):
        opened.append(str(file))
        return real(file, *args, **options)

    monkeypatch.setattr("builtins.open", watched)
    assert read_shape(folder / "x.obj").report.watertight
    assert not [name for name in opened if "x.mtl" in name or "secret" in name]
