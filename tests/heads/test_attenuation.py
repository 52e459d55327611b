"""Attenuation of a field's output: what it reaches, and what it is made of."""

import pytest
import torch

from recon3d.heads.attenuation import Attenuation

KINDS = ["none", "relu", "softplus", "material"]


def made(kind, most=0.6):
    activate = Attenuation(kind).double()
    activate.most.fill_(most)
    return activate


@pytest.mark.parametrize("kind", KINDS)
def test_what_values_are_made_of_gives_them_back(kind):
    values = torch.linspace(0.1, 0.5, 9, dtype=torch.float64)
    activate = made(kind)
    torch.testing.assert_close(activate(activate.before(values)), values)


@pytest.mark.parametrize(("kind", "least", "most"), [("relu", 0, 1e9), ("softplus", 0, 1e9), ("material", 0, 0.6)])
def test_attenuation_stays_where_it_may_be(kind, least, most):
    values = made(kind)(torch.linspace(-50, 50, 101, dtype=torch.float64))
    assert float(values.min()) >= least and float(values.max()) <= most
    assert bool((values.diff() >= 0).all())


def test_a_material_is_reached_from_both_sides_with_slope_one_halfway():
    activate = made("material")
    half = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    value = activate(half)
    (slope,) = torch.autograd.grad(value, half)
    torch.testing.assert_close(value, half)
    torch.testing.assert_close(slope, torch.ones_like(slope))
    torch.testing.assert_close(activate(torch.tensor([-9.0, 9.0]).double()), torch.tensor([0.0, 0.6]).double())


def test_values_beyond_a_material_are_taken_for_nearly_it():
    activate = made("material")
    found = activate(activate.before(torch.tensor([-1.0, 0.0, 0.6, 7.0]).double()))
    torch.testing.assert_close(found, torch.tensor([0.012, 0.012, 0.588, 0.588]).double())


def test_indecision_is_1_halfway_and_0_at_the_ends():
    activate = made("material")
    for values, expected in (([0.0, 0.6], 0.0), ([0.3, 0.3], 1.0), ([0.0, 0.3], 0.5), ([0.15, 0.45], 0.75)):
        assert float(activate.indecision(torch.tensor(values).double())) == pytest.approx(expected, abs=1e-6)


def test_only_a_material_is_part_of_the_state():
    assert [list(Attenuation(kind).state_dict()) for kind in KINDS] == [[], [], [], ["most"]]
