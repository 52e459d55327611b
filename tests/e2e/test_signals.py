"""Images, sounds and films as a user fits them: the commands one after another, and all that can be got wrong."""

import imageio.v3 as iio
import numpy as np
import pytest
import soundfile
from commands.signals import told, train, trained_image
from geometry.ball import write_ball_folder
from tasks.pictures import smooth_image, write_film, write_image, write_sound

from .command import LOOK, refused_at_once, run, succeed

# What it reached when this was written (24.1 dB), less 2 dB.
PSNR_FLOOR = 22.0
PATIENCE = 600  # seconds a command may take on a machine that is busy with something else


@pytest.mark.slow
def test_an_image_by_the_installed_command(tmp_path):
    """Train, measure, enlarge, write as weights, decode elsewhere."""
    data = write_image(tmp_path / "image.png", 24, 24)
    options = [*LOOK, "--field.width", "32", "--field.depth", "1", "--optimizer.learning-rate", "1e-3"]
    figures = succeed(
        "train", "image_spder", data, "--out", tmp_path, "--name", "run", "--steps", "60", *options, timeout=PATIENCE
    )
    assert figures["best_step"] <= 60 and not figures["stopped"]
    figures = succeed("eval", tmp_path / "run", *LOOK, timeout=PATIENCE)
    assert figures["psnr"] > PSNR_FLOOR
    succeed("render", tmp_path / "run", *LOOK, "--scale", "2", "--output", tmp_path / "large.png", timeout=PATIENCE)
    assert iio.imread(tmp_path / "large.png").shape == (48, 48, 3)
    exported = succeed("export", "signal", tmp_path / "run", *LOOK, timeout=PATIENCE)
    assert exported["psnr"] > PSNR_FLOOR - 0.5
    decoded = succeed("decode", exported["file"], *LOOK, "--output", tmp_path / "back.png", timeout=PATIENCE)
    error = iio.imread(decoded["file"]).astype(float) - smooth_image(24, 24)
    assert 10 * np.log10(255**2 / (error**2).mean()) == pytest.approx(exported["psnr"], abs=0.3)


def test_a_mistake_by_the_installed_command(tmp_path):
    (tmp_path / "x.png").touch()
    refused_at_once(run("train", "image", tmp_path / "x.png", "--out", tmp_path / "runs"), "x.png", "empty")
    assert not (tmp_path / "runs").exists()


# --- bad input: one line, exit code 2, and no run is left behind ---


def empty(folder):
    (folder / "x.png").touch()
    return "image", folder / "x.png", []


def not_an_image(folder):
    (folder / "x.png").write_text("not an image")
    return "image", folder / "x.png", []


def missing(folder):
    return "image", folder / "nowhere.png", []


def a_folder(folder):
    return "image", folder, []


def nan_pixels(folder):
    pixels = np.full((16, 16, 1), 0.5, np.float32)
    pixels[3, 4] = np.nan
    np.save(folder / "x.npy", pixels)
    return "image", folder / "x.npy", []


def nan_samples(folder):
    samples = np.zeros(200, np.float32)
    samples[17] = np.nan
    soundfile.write(folder / "x.wav", samples, 8000, subtype="FLOAT")
    return "audio", folder / "x.wav", []


def no_samples(folder):
    soundfile.write(folder / "x.wav", np.zeros(0, np.float32), 8000)
    return "audio", folder / "x.wav", []


def not_a_film(folder):
    (folder / "x.mp4").write_bytes(b"\0" * 100)
    return "video", folder / "x.mp4", []


def late_start(folder):
    return "audio", write_sound(folder / "x.wav"), ["--start", "5"]


def late_frame(folder):
    return "video", write_film(folder / "x.mp4", 4), ["--first", "9"]


def mask_of_another_size(folder):
    iio.imwrite(folder / "mask.png", np.full((9, 9), 255, np.uint8))
    return "image", write_image(folder / "x.png"), ["--mask", folder / "mask.png"]


def mask_that_hides_everything(folder):
    iio.imwrite(folder / "mask.png", np.zeros((16, 20), np.uint8))
    return "image", write_image(folder / "x.png"), ["--mask", folder / "mask.png"]


def option(preset, *options):
    writers = {"image": write_image, "audio": write_sound, "video": write_film}
    suffix = {"image": "png", "audio": "wav", "video": "mp4"}[preset]
    return lambda folder: (preset, writers[preset](folder / f"x.{suffix}"), [*options])


CASES = {
    "empty file": (empty, ["x.png", "empty"]),
    "not an image": (not_an_image, ["x.png", "cannot read"]),
    "missing file": (missing, ["nowhere.png", "No such file"]),
    "a folder": (a_folder, ["Is a directory"]),
    "NaN pixels": (nan_pixels, ["x.npy", "finite"]),
    "NaN samples": (nan_samples, ["x.wav", "sample 17", "finite"]),
    "no samples": (no_samples, ["x.wav", "no samples"]),
    "not a film": (not_a_film, ["x.mp4", "video"]),
    "late start": (late_start, ["x.wav", "past the end"]),
    "late frame": (late_frame, ["x.mp4", "frame 9", "4 frames"]),
    "mask of another size": (mask_of_another_size, ["mask.png", "9 x 9", "20 x 16"]),
    "mask that hides everything": (mask_that_hides_everything, ["mask.png", "hides everything"]),
    "crop beyond": (option("image", "--crop", "10", "10", "50", "50"), ["x.png", "crop"]),
    "nothing is kept": (option("image", "--keep", "0.0001"), ["x.png", "hide fewer"]),
    "too small": (option("image", "--train-scale", "8"), ["x.png", "--train-scale", "2 x 2"]),
    "degree": (option("image", "--field.chebyshev.degree", "0"), ["chebyshev.degree is 0"]),
    "levels": (option("image", "--field.frequency.levels", "99"), ["frequency.levels is 99"]),
    "dimension": (
        option("image", "--field.encoder", "spherical_harmonics", "--field.network", "relu"),
        ["spherical_harmonics", "3 dimensions", "not 2"],
    ),
    "fusion": (option("image", "--field.network", "fusion"), ["fusion", "chebyshev"]),
    "tile alone": (option("image", "--tile", "8"), ["tile", "--batch"]),
    "derivatives of a part": (option("image", "--supervision", "gradient", "--keep", "0.5"), ["supervision", "keep"]),
    "blend of values": (option("image", "--blend", "y.png"), ["blend", "--supervision gradient"]),
    "holdout": (option("audio", "--holdout", "0.95"), ["holdout is 0.95"]),
    "seconds": (option("audio", "--seconds", "-1"), ["seconds is -1"]),
    "stride": (option("video", "--stride", "0"), ["stride is 0"]),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_fitted(capsys, tmp_path, case):
    make, parts = CASES[case]
    preset, data, options = make(tmp_path)
    told(capsys, train(preset, data, tmp_path / "runs", "run", *options), *parts)
    assert not (tmp_path / "runs").exists()


def test_commands_for_runs_of_another_task(capsys, tmp_path):
    run = trained_image(capsys, tmp_path)
    told(capsys, ["export", "mesh", run], run, "run of image", "export mesh takes runs of nerf")
    told(capsys, ["export", "signal", tmp_path], tmp_path, "not a run folder")
    told(capsys, ["decode", run], run, "no such file")
    told(capsys, ["render", run, *LOOK, "--rate", "8000"], "--rate is not for image")
    told(capsys, ["render", run, *LOOK, "--output", tmp_path / "x.wav"], "x.wav", "choose from .png")
    nerf = tmp_path / "nerf"
    nerf.mkdir()
    ball = write_ball_folder(tmp_path / "ball")
    (nerf / "config.yaml").write_text(f"task: nerf\ndata: {ball}\nsteps: 1\n")
    told(capsys, ["export", "signal", nerf], nerf, "run of nerf", "export signal takes runs of image, audio, video")
