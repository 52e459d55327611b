"""Small shapes as files."""

import numpy as np
import trimesh

CENTER = np.array([10.0, -4.0, 2.0])


def ball(radius=1.0, subdivisions=4):
    return trimesh.creation.icosphere(subdivisions, radius)


def box(extents=(3.0, 2.0, 1.0), center=CENTER):
    mesh = trimesh.creation.box(extents)
    mesh.apply_translation(center)
    return mesh


def write_ball(path, **changes):
    ball(**changes).export(path)
    return path


def write_points(path, count=2000, normals=True, seed=0):
    """Points of the unit sphere as XYZ, with or without normals."""
    x = np.random.default_rng(seed).normal(size=(count, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    np.savetxt(path, np.hstack([x, x]) if normals else x)
    return path
