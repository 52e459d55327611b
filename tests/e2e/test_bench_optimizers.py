"""scripts/bench_optimizers.py fits pictures by every optimiser and draws the curves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_optimizers.py"


def test_every_optimizer_fits_a_picture(tmp_path: Path) -> None:
    across, down = np.meshgrid(np.linspace(0, 3, 32), np.linspace(0, 3, 32))
    iio.imwrite(tmp_path / "waves.png", (127 + 120 * np.sin(across * down)).astype(np.uint8))
    table, plot = tmp_path / "table.json", tmp_path / "plot.png"
    asked = ["--images", str(tmp_path / "waves.png"), "--size", "16", "--psnr", "30", "--seconds", "5"]
    kinds = ["--optimizers", "adam=2e-4", "muon=5e-4", "lbfgs=20"]
    made = subprocess.run(
        [sys.executable, str(SCRIPT), *asked, *kinds, "--json", str(table), "--plot", str(plot)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout.splitlines()[-1].split()[0] == "waves"
    fits = {fit["optimizer"]: fit for fit in json.loads(table.read_text())}
    assert set(fits) == {"adam", "muon", "lbfgs"}
    for fit in fits.values():
        seconds, decibels = zip(*fit["curve"], strict=True)
        assert list(seconds) == sorted(seconds)
        assert max(decibels) > decibels[0] + 10
    assert fits["adam"]["seconds"] is not None
    assert iio.imread(plot).shape[1] > 100


def test_other_optimizers_are_refused_in_a_line() -> None:
    made = subprocess.run(
        [sys.executable, str(SCRIPT), "--optimizers", "newton=1"], capture_output=True, text=True, check=False
    )
    assert made.returncode == 2
    assert "newton=1: give one of adam=" in made.stderr.splitlines()[-1]
