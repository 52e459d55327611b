"""The order in which a mesh is worked on is that of the command line."""

from __future__ import annotations

import pytest
import tyro

from recon3d.commands.export_mesh import TEXTURED_FACES, ExportMesh, steps_in_order
from recon3d.export.postprocess import Simplify

CLEANING = ["drop cavities", "drop pieces"]


@pytest.mark.parametrize(
    "args, names",
    [
        ([], CLEANING),
        (["--keep-cavities"], ["drop pieces"]),
        (["--simplify", "100", "--smooth", "3"], [*CLEANING, "simplify", "smooth"]),
        (["--smooth=3", "--simplify=100"], [*CLEANING, "smooth", "simplify"]),
        (["--largest", "--min_component_share", "0.1"], ["drop cavities", "keep the largest piece", "drop pieces"]),
        (["--fill-holes", "1", "--texture", "64", "--smooth", "2"], [*CLEANING, "fill holes", "smooth", "simplify"]),
    ],
)
def test_steps_stand_in_the_order_given(args: list[str], names: list[str]) -> None:
    args = ["run", *args]
    assert [step.name for step in steps_in_order(tyro.cli(ExportMesh, args=args), args)] == names


def test_a_texture_brings_a_budget_unless_one_is_given() -> None:
    for given, budget in (([], TEXTURED_FACES), (["--simplify", "5000"], 5000)):
        args = ["run", "--texture", "64", *given]
        assert steps_in_order(tyro.cli(ExportMesh, args=args), args)[-1] == Simplify(budget)
