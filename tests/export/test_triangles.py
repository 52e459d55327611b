from __future__ import annotations

import numpy as np
import trimesh

from recon3d.export.triangles import boundary_edges, is_closed, pieces, vertex_normals


def test_is_closed_agrees_with_trimesh() -> None:
    mesh = trimesh.creation.icosphere(2)
    faces = np.asarray(mesh.faces)
    assert is_closed(faces)
    assert not is_closed(faces[1:])
    flipped = faces.copy()
    flipped[0] = flipped[0, ::-1]
    assert not is_closed(flipped)
    assert not is_closed(np.concatenate([faces, faces]))
    assert not is_closed(faces[:0])


def test_vertex_normals_of_a_sphere_point_outward() -> None:
    mesh = trimesh.creation.icosphere(4)
    normals = vertex_normals(np.asarray(mesh.vertices), np.asarray(mesh.faces))
    assert (normals * mesh.vertices).sum(axis=1).min() > 0.999


def test_boundary_edges_run_as_their_faces_do() -> None:
    faces = np.asarray(trimesh.creation.icosphere(2).faces)
    assert len(boundary_edges(faces)) == 0
    edges = boundary_edges(faces[1:])
    a, b, c = faces[0]
    assert {tuple(edge) for edge in edges.tolist()} == {(b, a), (c, b), (a, c)}


def test_pieces_are_joined_by_shared_vertices_also_in_open_meshes() -> None:
    mesh = trimesh.util.concatenate([trimesh.creation.icosphere(1), trimesh.creation.icosphere(0)])
    faces = np.asarray(mesh.faces)
    piece = pieces(faces, len(mesh.vertices))
    assert np.bincount(piece).tolist() == [80, 20]
    assert np.bincount(pieces(faces[1:], len(mesh.vertices))).tolist() == [79, 20]
