"""SPDER's tables of images (Shah and Sitawarin 2023): fitting, dampings, super-resolution."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import torch

from recon3d.bench.fits import Fit, curves_of, fit, folder_name, mean, mean_measured, whole
from recon3d.bench.models import MODELS, Model
from recon3d.bench.options import Options
from recon3d.bench.pictures import EIGHT, image_file
from recon3d.bench.report import Report
from recon3d.bench.tuned import tuned_models
from recon3d.config import ImageConfig
from recon3d.metrics.signal import psnr
from recon3d.tasks.evaluation import upsampled
from recon3d.tasks.measurements import read_signal, shrunk

TABLE_1 = {
    "relu": {"psnr_25": 15.4, "psnr_100": 17.4, "psnr_500": 19.9},
    "pe": {"psnr_25": 15.7, "psnr_100": 20.7, "psnr_500": 29.7},
    "ffn": {"psnr_25": 12.6, "psnr_100": 15.3, "psnr_500": 15.3},
    "siren": {"psnr_25": 21.5, "psnr_100": 26.9, "psnr_500": 36.6},
    "hash_grid": {"psnr_25": 25.0, "psnr_100": 36.2, "psnr_500": 46.6},
    "spder": {"psnr_25": 27.5, "psnr_100": 48.6, "psnr_500": 85.7, "rho_100": 0.9998, "rho_500": 0.99995},
}
TABLE_3 = {
    "siren": {"psnr_2x": 23.2, "psnr_4x": 22.8, "psnr_8x": 22.8},
    "spder": {"psnr_2x": 29.4, "psnr_4x": 28.0, "psnr_8x": 27.7},
}


def image_config(options: Options, bench: str, name: str, model: str, size: int, **changes: object) -> ImageConfig:
    """A grey square image, all its pixels at every step, as SPDER's protocol has it."""
    config = ImageConfig(
        data=image_file(name, options.out / "images"),
        out=options.out / bench,
        name=folder_name(Path(name).stem, model),
        steps=1,
        channels="grey",
        square=True,
        size=(size, size),
        device=options.device,
        threads=options.threads,
        seed=options.seed,
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def _images_by_models(
    options: Options, bench: str, models: dict[str, Model], images: tuple[str, ...], steps: tuple[int, ...], size: int
) -> dict[str, list[Fit]]:
    return {
        name: [fit(model.into(image_config(options, bench, image, name, size)), steps, whole) for image in images]
        for name, model in models.items()
    }


def image_figures(found: list[Fit], steps: tuple[int, ...]) -> dict[str, float]:
    """Means over the images: the last state's PSNR, the best so far, rho_AG; and seconds a step."""
    figures: dict[str, float] = {}
    for step in steps:
        figures[f"psnr_{step}"] = mean([one.last(step) for one in found])
        figures[f"best_{step}"] = mean([one.best(step) for one in found])
        figures[f"rho_{step}"] = mean([one.figure(step, "rho") for one in found])
    figures["seconds_per_step"] = mean([one.seconds_per_step for one in found])
    figures["parameters"] = found[0].parameters
    return figures


def _image_report(
    options: Options, bench: str, title: str, names: tuple[str, ...], images: tuple[str, ...], steps: tuple[int, ...]
) -> Report:
    size = options.size or 256
    models = {name: MODELS[name] for name in names}
    if options.tuned:
        models |= tuned_models(models)
    fits = _images_by_models(options, bench, models, images, steps, size)
    columns = [f"{kind}_{step}" for step in steps for kind in ("psnr", "best")] + ["seconds_per_step"]
    report = Report(bench, f"{title}: {', '.join(Path(i).stem for i in images)} at {size} x {size}", columns)
    report.figures = {
        model: {key: None if math.isnan(value) else value for key, value in image_figures(found, steps).items()}
        for model, found in fits.items()
    }
    report.curves = curves_of(fits)
    report.notes = [
        "psnr_K: of the weights after K updates (last); best_K: of the best weights within K updates; "
        "the papers record the best; theirs in brackets, means of DIV2K",
        *(f"{model} diverged" for model, found in fits.items() if any(one.diverged for one in found)),
    ]
    return report


def spder_image(options: Options) -> Report:
    """Table 1: one channel, all pixels at every step, Adam at 1e-4."""
    models = options.chosen_models(
        ("relu", "pe", "siren", "hash_grid", "spder"),
        (*TABLE_1, "spder_arctan", "sl2a", "finer", "ours"),
        tuple(MODELS),
    )
    images = options.chosen_images(("camera",), EIGHT)
    steps = options.chosen_steps((25, 100), (25, 100, 500))
    report = _image_report(options, "spder-image", "SPDER, Table 1", models, images, steps)
    report.paper = TABLE_1
    return report


def spder_damping(options: Options) -> Report:
    """Figure 20: the damping that multiplies the sine."""
    every = ("siren", *(name for name in MODELS if name.startswith("spder")))
    models = options.chosen_models(("siren", "spder", "spder_arctan", "spder_log", "spder_square"), every)
    images = options.chosen_images(("camera",), EIGHT)
    steps = options.chosen_steps((25, 100), (25, 100, 500))
    return _image_report(options, "spder-damping", "SPDER, figure 20 (dampings)", models, images, steps)


def spder_superres(options: Options) -> Report:
    """Table 3: trained on the image shrunk 2, 4 and 8 times for 100 steps, measured on the whole of it (512 x 512)."""
    models = options.chosen_models(("siren", "spder"), ("siren", "spder", "spder_arctan", "sl2a", "ours"))
    images = options.chosen_images(("camera",), EIGHT)
    (steps,) = options.chosen_steps((100,), (100,))[-1:]
    scales = (2, 4, 8)
    size = options.size or 512
    report = Report(
        "spder-superres",
        f"SPDER, Table 3: super-resolution to {size} x {size} after {steps} updates (theirs: DIV2K)",
        [f"psnr_{scale}x" for scale in scales],
        paper=TABLE_3,
    )

    def config(image: str, name: str, scale: int) -> ImageConfig:
        return image_config(options, report.name, image, f"{name}-{scale}x", size, train_scale=scale)

    for name in models:
        report.figures[name] = {
            f"psnr_{scale}x": mean_measured(
                [MODELS[name].into(config(image, name, scale)) for image in images], steps, "psnr"
            )
            for scale in scales
        }
    bicubic = {}
    for scale in scales:
        values = [bicubic_psnr(image_config(options, report.name, image, "", size), scale) for image in images]
        bicubic[f"psnr_{scale}x"] = mean(values)
    report.figures["bicubic"] = bicubic
    return report


def bicubic_psnr(config: ImageConfig, scale: int) -> float:
    """What bicubic upsampling of the shrunk image reaches, as the evaluation of a run has it."""
    signal = read_signal(config)
    truth = torch.from_numpy(signal.normalized())
    small = torch.from_numpy(shrunk(signal, scale).normalized())
    return psnr(upsampled(small, signal.grid), truth)
