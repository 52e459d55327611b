"""Vertices and normals from the field itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recon3d.export.levelset import LevelSet
from recon3d.export.marching import extract_surface
from recon3d.export.refine import REACH, gradient, normals, onto_level
from recon3d.export.refinement import narrow_band
from recon3d.export.triangles import face_normals, is_closed, vertex_normals

from .shapes import Counted, ball, torus

CELL = 2 / 48


def extracted(fn, level: float = 0.0, slope: float = 1.0):
    surface = LevelSet(fn, level, slope=slope)
    band = narrow_band(surface, 48)
    found = extract_surface(fn, level, 48, band.active, band.inside)
    return surface, found.vertices, found.faces


def test_central_differences_are_the_gradient_of_a_quadratic() -> None:
    x = torch.rand(100, 3, generator=torch.Generator().manual_seed(0))
    slopes = gradient(lambda p: p.square().sum(dim=1) + p[:, 0] * p[:, 1], x, 0.05)
    expected = 2 * x + torch.stack([x[:, 1], x[:, 0], torch.zeros(100)], dim=1)
    np.testing.assert_allclose(slopes, expected, atol=1e-4)


@pytest.mark.parametrize("fn, level", [(torus, 0.0), (torus, 0.1), (lambda x: 5 * ball(0.5)(x) ** 3, 0.001)])
def test_vertices_come_onto_the_level(fn, level: float) -> None:
    surface, vertices, faces = extracted(fn, level, slope=20.0)
    moved, report = onto_level(surface, vertices, faces, CELL, steps=5)
    off = (fn(torch.from_numpy(moved).float()) - level).abs()
    assert report.residual_after < 0.02 * report.residual_before
    assert off.mean() == pytest.approx(report.residual_after, abs=1e-5)
    assert np.linalg.norm(moved - vertices, axis=1).max() <= REACH * CELL * (1 + 1e-4)
    assert (np.einsum("ij,ij->i", face_normals(moved, faces), face_normals(vertices, faces)) > 0).all()
    assert is_closed(faces)


def test_vertices_of_a_field_that_leads_astray_stay_on_their_side() -> None:
    # The level is where the table changes its sign, and every gradient is noise.
    noise = torch.randn(40, 40, 40, generator=torch.Generator().manual_seed(0))

    def rough(x):
        i = ((x + 1) * 19.5).round().long().clamp(0, 39)
        return ball(0.5)(x) + 0.02 * noise[i[:, 0], i[:, 1], i[:, 2]]

    surface, vertices, faces = extracted(rough, slope=2.0)
    moved, report = onto_level(surface, vertices, faces, CELL)
    old, new = face_normals(vertices, faces), face_normals(moved, faces)
    assert (np.einsum("ij,ij->i", old, new) > 0).all()
    assert report.held > 0
    assert report.residual_after <= report.residual_before
    assert np.linalg.norm(moved - vertices, axis=1).max() <= REACH * CELL * (1 + 1e-4)


def test_a_field_without_a_slope_moves_nothing() -> None:
    surface, vertices, faces = extracted(ball(0.5))
    flat = LevelSet(lambda x: 1 + 0 * x[:, 0], surface.level, slope=1.0)
    moved, report = onto_level(flat, vertices, faces, CELL)
    np.testing.assert_allclose(moved, vertices, atol=1e-7)
    assert report.moved < 1e-5


def test_normals_of_the_field_are_nearer_than_the_triangles_own() -> None:
    surface, vertices, faces = extracted(torus)
    at = torch.from_numpy(vertices).float().requires_grad_()
    (slope,) = torch.autograd.grad(torus(at).sum(), at)
    truth = -torch.nn.functional.normalize(slope, dim=1).numpy()

    def off(found) -> float:
        return float(np.degrees(np.arccos((found * truth).sum(axis=1).clip(-1, 1))).mean())

    of_field = normals(surface, vertices, faces, CELL)
    np.testing.assert_allclose(np.linalg.norm(of_field, axis=1), 1, atol=1e-6)
    assert off(of_field) < 0.2 * off(vertex_normals(vertices, faces))


def test_normals_against_the_triangles_are_not_taken() -> None:
    surface, vertices, faces = extracted(ball(0.5))
    for wrong in (lambda x: -surface.value_fn(x), lambda x: 0 * x[:, 0]):
        found = normals(LevelSet(wrong, slope=1.0), vertices, faces, CELL)
        np.testing.assert_array_equal(found, vertex_normals(vertices, faces))


def test_batches_are_kept_small() -> None:
    field = Counted(ball(0.5))
    surface, vertices, faces = extracted(field)
    field.asked.clear()
    normals(surface, vertices, faces, CELL, batch_points=600)
    onto_level(surface, vertices, faces, CELL, batch_points=600)
    assert 0 < max(len(points) for points in field.asked) <= 600
