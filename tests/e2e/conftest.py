"""What the end-to-end tests share: scenes made once, and one trained run."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from geometry.ball import write_ball_folder

from .command import RECON3D, succeed, train

# What the shared run is asked for; its quality is checked against a floor.
TOY = {"size": 64, "train": 30, "test": 4}
STEPS = 300


@pytest.fixture(scope="session", autouse=True)
def installed():
    assert RECON3D.exists(), f"{RECON3D} is not there: install the package (scripts/setup --dev)"


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """The embedded scene, made by the command line."""
    try:
        import open3d  # noqa: F401
    except (ImportError, OSError) as error:  # the package or a system library of its is missing
        pytest.skip(f"open3d cannot be imported, so the embedded scene cannot be made: {error}")
    folder = tmp_path_factory.mktemp("scenes") / "toy"
    options = [str(part) for key, value in TOY.items() for part in (f"--{key}", value)]
    figures = succeed("data", "toy", "--out", folder, *options)
    assert (figures["train"], figures["test"]) == (TOY["train"], TOY["test"])
    assert Path(figures["mesh"]).is_file()
    return folder


@pytest.fixture(scope="session")
def ball(tmp_path_factory):
    """Pictures of a ball: quick to make, needs no open3d. Not to be changed; see ``scene`` for a copy of one's own."""
    return write_ball_folder(tmp_path_factory.mktemp("scenes") / "ball")


@pytest.fixture
def scene(ball, tmp_path):
    """A copy of the ball's folder that a test may spoil."""
    shutil.copytree(ball, tmp_path / "scene")
    return tmp_path / "scene"


@dataclasses.dataclass(frozen=True)
class Trained:
    path: Path
    figures: dict


@pytest.fixture(scope="session")
def trained(toy, tmp_path_factory):
    """One run on the embedded scene that many tests look at. They may add files to it, not change it."""
    out = tmp_path_factory.mktemp("runs")
    options = ["--steps", STEPS, "--log-every", 50, "--preview-every", 100, "--checkpoint-every", 150]
    figures = succeed(*train(toy, out, "shared", *options))
    return Trained(out / "shared", figures)
