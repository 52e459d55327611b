"""Filling what no camera can see into."""

import numpy as np
import torch

from recon3d.export.solid import SOLID_DENSITY, filled, solid_cells


def shell(resolution=16, outer=6.0, inner=4.0):
    axis = np.arange(resolution) + 0.5 - resolution / 2
    radius = np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")), axis=0)
    return radius, (radius < outer) & (radius > inner)


def test_the_inside_of_a_closed_shell_is_solid_though_it_is_empty():
    radius, occupied = shell()
    lit = occupied & (radius > 5)
    solid = solid_cells(occupied, lit)
    assert solid[radius < 4].all()
    assert not solid[radius >= 6].any()
    assert not solid[lit].any()


def test_an_open_shell_keeps_its_inside():
    _, occupied = shell()
    occupied[7:9, 7:9, 8:] = False
    assert not solid_cells(occupied, np.zeros_like(occupied))[7:9, 7:9, 7:9].any()


def test_lit_cells_alone_fill_nothing():
    _, occupied = shell()
    assert not solid_cells(occupied, np.ones_like(occupied)).any()


def test_the_field_is_not_evaluated_in_solid_cells():
    solid = torch.zeros(4, 4, 4, dtype=torch.bool)
    solid[0, 0, 0] = True
    seen = []

    def density(x):
        seen.append(x)
        return torch.ones_like(x[:, 0])

    values = filled(density, solid)(torch.tensor([[-0.9, -0.9, -0.9], [0.9, 0.9, 0.9], [-0.4, -0.9, -0.9]]))
    assert values.tolist() == [SOLID_DENSITY, 1.0, 1.0]
    assert len(seen[0]) == 2
