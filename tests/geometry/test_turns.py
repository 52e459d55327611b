"""Which angles a scan went through, and which part of its lines one detector sees."""

import math

import pytest
import torch

from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.turns import is_full_turn, missing_columns


def around(count, reach=2 * math.pi):
    return torch.arange(count, dtype=torch.float64) * (reach / count)


@pytest.mark.parametrize(
    ("angles", "full"),
    [
        (around(180), True),
        (-around(180) + 7, True),
        (around(360, 4 * math.pi), True),
        (around(180)[torch.arange(180) != 60], True),  # a view is left out
        (around(7), True),
        (around(180, 1.8 * math.pi), False),
        (around(180, math.pi), False),
    ],
)
def test_a_full_turn(angles, full):
    assert is_full_turn(angles) == full


def test_what_an_offset_detector_does_not_see():
    cases = {0.0: (0, 0), 2.0: (0, 0), 20.0: (40, 0), -20.0: (0, 40), 60.0: (0, 0)}  # at 60 mm it misses the axis
    for offset, columns in cases.items():
        scan = ScanGeometry.fan(around(90), 100, 1.0, 100.0, 0.0, detector_offset=offset)
        assert missing_columns(scan) == columns
    short = ScanGeometry.fan(around(90, 4.0), 100, 1.0, 100.0, 0.0, detector_offset=20.0)
    assert missing_columns(short) == (0, 0)
