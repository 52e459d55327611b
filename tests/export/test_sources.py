"""Runs of every kind of field become the same kind of surface."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recon3d.errors import UserError
from recon3d.export.levelset import LevelSet, NoSurfaceError
from recon3d.export.marching import extract_surface
from recon3d.export.refinement import narrow_band
from recon3d.export.sources import density_surface, level_set
from recon3d.geometry.boxes import Normalizer

from .shapes import ball, covering

HALF = 4.0


def solid(inside, slope, **more) -> SimpleNamespace:
    task = {"normalizer": Normalizer((3.0, -2.0, 10.0), HALF), "inside": inside, "inside_slope": slope}
    return SimpleNamespace(**{**task, "occupied": None, "has_color": False, "color": None, **more})


def radius(surface: LevelSet) -> float:
    band = narrow_band(surface, 64)
    found = extract_surface(surface.value_fn, surface.level, 64, band.active, band.inside)
    return float(np.linalg.norm(found.vertices, axis=1).mean())


def test_a_distance_is_offset_by_world_units_outward() -> None:
    task = solid(ball(0.5), 1.0)
    assert radius(level_set(task)) == pytest.approx(0.5, abs=1e-3)
    assert radius(level_set(task, 0.8)) == pytest.approx(0.5 + 0.8 / HALF, abs=1e-3)
    assert radius(level_set(task, -0.8)) == pytest.approx(0.5 - 0.8 / HALF, abs=1e-3)


def test_an_occupancy_has_the_level_of_a_probability() -> None:
    task = solid(lambda x: 20 * ball(0.5)(x), None)
    assert radius(level_set(task)) == pytest.approx(0.5, abs=1e-3)
    assert radius(level_set(task, 0.9)) == pytest.approx(0.5 - math.log(9) / 20, abs=1e-3)
    for level in (0.0, 1.0, -3.0):
        with pytest.raises(UserError, match="must lie between 0 and 1"):
            level_set(task, level)


def test_a_density_has_its_own_units_and_its_own_cells() -> None:
    def density(x):
        return 100 * torch.exp((ball(0.5)(x) / 0.01).clamp(-12, 3))

    active = covering(density, 1.0, 32)
    surface = density_surface(density, active, 100.0)
    assert surface.slope is None
    assert surface.active is active
    assert radius(surface) == pytest.approx(0.5, abs=1e-3)
    assert density_surface(density, active).level == 0
    with pytest.raises(UserError, match="must be above 0"):
        density_surface(density, active, 0.0)


@pytest.mark.parametrize(
    "task, level, told",
    [
        (solid(ball(0.5), 1.0), 100.0, r"signed distance 100: .* span \[-1\.\d+, 4\.\d+\]; choose a level between"),
        (solid(ball(0.5), None), 0.99999, r"occupancy 0\.99999: .* span \[0\.2\d+, 0\.6\d+\]; choose a level between"),
    ],
)
def test_a_level_outside_the_range_tells_it_in_the_units_of_the_level(task, level, told) -> None:
    surface = level_set(task, level)
    with pytest.raises(NoSurfaceError) as raised:
        narrow_band(surface, 64)
    with pytest.raises(UserError, match=told):
        raise surface.no_surface(raised.value)


def test_a_task_without_a_surface_is_refused() -> None:
    with pytest.raises(UserError, match="has no surface"):
        level_set(SimpleNamespace())
