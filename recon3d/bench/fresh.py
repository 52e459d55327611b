"""FreSh's question (Kania et al. 2024): does the frequency chosen before training beat the default, and how far is it
from what a grid search finds?"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from recon3d.bench.fits import Fit, fit, folder_name, mean
from recon3d.bench.models import MODELS
from recon3d.bench.options import Options
from recon3d.bench.pictures import EIGHT
from recon3d.bench.report import Report
from recon3d.bench.spder_images import image_config
from recon3d.training.machine import prepare
from recon3d.tuning.search import search_of
from recon3d.tuning.spectrum import Binning
from recon3d.tuning.tune import TuneOptions, tune

BINNINGS: tuple[Binning, ...] = ("published", "radial")
GRIDS: dict[str, tuple[float, ...]] = {
    "siren": (10.0, 20.0, 30.0, 50.0, 70.0, 100.0, 140.0, 200.0),
    "spder": (10.0, 20.0, 30.0, 50.0, 70.0, 100.0, 140.0, 200.0),
    "ffn": (1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 14.0, 20.0),
    "finer": (0.0, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0),
}
"""What the grid search tries: omega of the first layer, sigma, range of the first layer's biases."""


def fresh_image(options: Options) -> Report:
    """PSNR at equal steps with the default, with FreSh's choice by either spectrum, and with the grid's best."""
    names = options.chosen_models(("siren", "ffn"), tuple(GRIDS))
    images = options.chosen_images(EIGHT[:2], EIGHT)
    (steps,) = options.chosen_steps((60,), (500,))[-1:]
    size = options.size or (256 if options.full else 64)
    report = Report(
        "fresh-image",
        f"FreSh: {', '.join(Path(i).stem for i in images)} at {size} x {size}, {steps} updates",
        ["default", "radial", "published", "grid_best", "radial_wins", "tune_seconds", "grid_seconds"],
    )
    report.notes = [
        "radial, published: FreSh by |frequency| and by sums of unsigned indices; radial_wins: images on which radial "
        "beats the default; grid_best: the best of each image, found by training with every value"
    ]
    for name in names:
        rows = [_one(options, name, image, size, steps) for image in images]
        report.figures[name] = {
            **{key: mean([row[key] for row in rows]) for key in rows[0]},
            "radial_wins": sum(row["radial"] > row["default"] for row in rows),
            "images": {Path(image).stem: row for image, row in zip(images, rows, strict=True)},
        }
    return report


def _one(options: Options, name: str, image: str, size: int, steps: int) -> dict[str, float]:
    """One model on one image: PSNR by way of choosing, the values chosen, and the seconds of both searches."""
    base = MODELS[name].into(image_config(options, "fresh-image", image, name, size))
    search = search_of(base.field)
    device, _ = prepare(base)

    def trained(value: float | None) -> Fit:
        field = base.field if value is None else search.apply(base.field, value)
        label = "default" if value is None else f"{value:g}"
        return fit(dataclasses.replace(base, field=field, name=folder_name(base.name, label)), (steps,))

    row = {"default": trained(None).last(steps)}
    for binning in BINNINGS:
        tuning = tune(base.resolved(), device, TuneOptions(binning))
        row[binning] = trained(float(tuning.chosen)).last(steps)
        row[f"{binning}_value"] = float(tuning.chosen)
        row["tune_seconds"] = tuning.seconds
    grid = {value: trained(value) for value in GRIDS[name]}
    row["grid_value"] = max(grid, key=lambda value: grid[value].last(steps))
    row["grid_best"] = grid[row["grid_value"]].last(steps)
    row["grid_seconds"] = sum(found.seconds_per_step * steps for found in grid.values())
    return row
