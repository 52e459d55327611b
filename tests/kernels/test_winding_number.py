"""Winding numbers: the hierarchy against the exact sum, and what closed meshes have."""

import numpy as np
import pytest
import torch
import trimesh

from recon3d.kernels.winding_number import WindingNumber, _solid_angle

BALL = trimesh.creation.icosphere(4)
RANDOM = np.random.default_rng(0)


def exact(corners, points):
    return np.array([sum(_solid_angle(face, *p) for face in corners) for p in points]) / (4 * np.pi)


def test_the_hierarchy_is_near_the_exact_sum():
    vertices = RANDOM.normal(size=(900, 3))
    faces = RANDOM.integers(0, 900, (600, 3))
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    points = RANDOM.normal(size=(200, 3)) * 2
    assert np.abs(WindingNumber(vertices, faces)(points) - exact(vertices[faces], points)).max() < 0.1


@pytest.mark.parametrize("subdivisions", [0, 1, 3])
def test_winding_of_closed_meshes_is_0_or_1(subdivisions):
    ball = trimesh.creation.icosphere(subdivisions)
    points = RANDOM.uniform(-1.5, 1.5, (500, 3))
    radius = np.linalg.norm(points, axis=1)
    clear = (radius < 0.75) | (radius > 1.0)  # every one of them, the icosahedron too, lies between
    winding = WindingNumber(np.asarray(ball.vertices), np.asarray(ball.faces))(points)
    assert np.abs(winding - (radius < 0.9))[clear].max() < 0.1
    turned = WindingNumber(np.asarray(ball.vertices), np.asarray(ball.faces)[:, ::-1])(points)
    assert np.allclose(turned, -winding, atol=1e-9)


def test_many_threads_count_the_same():
    points = RANDOM.uniform(-1.5, 1.5, (20_000, 3))
    winding = WindingNumber(np.asarray(BALL.vertices), np.asarray(BALL.faces))
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(winding(points))
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(*results)
