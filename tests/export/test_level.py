from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon3d.errors import UserError
from recon3d.export.level import choose_level

from .shapes import covering, torus


@settings(max_examples=5, deadline=None)
@given(width=st.floats(0.004, 0.04))
def test_on_an_exponential_ramp_the_level_goes_with_the_ramps_width(width: float) -> None:
    def density(x):
        return torch.exp((torus(x) / width).clamp(max=8)) / width

    level = choose_level(density, covering(density, 0.5, 64), rays=512)
    assert 0.5 < level / (math.log(2) / (2 * width)) < 1.0
    assert abs(width * math.log(level * width)) < 2 * width  # the level set is that near to the torus


@pytest.mark.parametrize("plateau", [10.0, 100.0, 5000.0])
def test_a_plateau_is_cut_below_its_height(plateau: float) -> None:
    def density(x):
        return plateau * (torus(x) > 0)

    assert choose_level(density, covering(density, 0.5, 64), rays=256) == pytest.approx(plateau / 2)


def test_a_faint_field_still_has_a_level_and_an_empty_one_has_none() -> None:
    active = covering(torus, 0.0, 32)
    assert 0 < choose_level(lambda x: 1e-3 * (torus(x) > 0), active, rays=256) < 1e-3
    with pytest.raises(UserError, match="zero everywhere"):
        choose_level(lambda x: 0 * x[:, 0], active, rays=64)
    with pytest.raises(UserError, match="active region is empty"):
        choose_level(torus, np.zeros((8, 8, 8), bool))


def test_seeded_and_only_inside_the_active_cells() -> None:
    active = covering(torus, 0.0, 32)

    def density(x):
        cell = ((x + 1) * 16).floor().long().clamp(0, 31)
        assert torch.from_numpy(active)[cell[:, 0], cell[:, 1], cell[:, 2]].all()
        return torch.exp(50 * torus(x))

    assert choose_level(density, active, rays=300) == choose_level(density, active, rays=300, batch_points=1000)
