"""Poisson reconstruction (Sitzmann et al. 2020, section 4.1): an image from its gradients or its Laplacian alone."""

from __future__ import annotations

from pathlib import Path

import torch

from recon3d.bench.fits import fit, mean
from recon3d.bench.models import MODELS
from recon3d.bench.options import Options
from recon3d.bench.pictures import EIGHT
from recon3d.bench.report import Report
from recon3d.bench.spder_images import image_config
from recon3d.metrics.signal import psnr
from recon3d.tasks.signal import SignalTask, aligned


def reconstruction(task: SignalTask) -> dict[str, float]:
    """PSNR after adding what derivatives leave open."""
    assert task.truth is not None
    truth = torch.from_numpy(task.truth.normalized()).to(task.device)
    return {"psnr": psnr(aligned(task.render(), truth, task.config), truth)}


def siren_poisson(options: Options) -> Report:
    """SIREN, SPDER and their like on derivatives; a constant (gradients) or a linear function (Laplacian) is fitted."""
    models = options.chosen_models(("siren",), ("siren", "spder", "spder_arctan", "pe", "finer"))
    images = options.chosen_images(("camera",), EIGHT)
    steps = options.chosen_steps((100, 300), (100, 500, 1000))
    size = options.size or (256 if options.full else 64)
    report = Report(
        "siren-poisson",
        f"Poisson reconstruction: {', '.join(Path(i).stem for i in images)} at {size} x {size}",
        [*(f"psnr_{step}" for step in steps), "seconds_per_step"],
    )
    for name in models:
        for supervision in ("gradient", "laplacian"):
            found = []
            for image in images:
                config = image_config(
                    options, report.name, image, f"{name}-{supervision}", size, supervision=supervision
                )
                found.append(fit(MODELS[name].into(config), steps, reconstruction))
            report.figures[f"{name} {supervision}"] = {
                **{f"psnr_{step}": mean([one.figure(step, "psnr") for one in found]) for step in steps},
                "seconds_per_step": mean([one.seconds_per_step for one in found]),
            }
    return report
