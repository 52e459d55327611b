"""The script that draws the spectra of docs/encoders.md runs."""

import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import pytest

from recon3d.fields.networks import NETWORKS

SCRIPT = Path(__file__).parents[2] / "scripts" / "plot_spectra.py"


@pytest.mark.slow
def test_a_small_sheet(tmp_path):
    path = tmp_path / "images" / "spectra.png"
    command = [sys.executable, str(SCRIPT), "--size", "32", "--draws", "1", "--out", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert lines[-1] == str(path)
    means = [float(line.split()[-1]) for line in lines[:-1]]
    assert all(1 <= mean <= 16 for mean in means)  # bins of a grid of 32
    assert all(any(name in line for line in lines) for name in NETWORKS)
    picture = iio.imread(path)
    assert picture.shape[0] > 500
    assert picture.std() > 0
