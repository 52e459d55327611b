"""Learning rates chosen for each model, for the honest column of the tables.

Papers compare everything at one learning rate; these were chosen for each model by ``recon3d bench rates`` on images
that are in no table (``pictures.TUNING``), as the rate with the best mean PSNR.
"""

from __future__ import annotations

import dataclasses

from recon3d.bench.fits import fit, mean
from recon3d.bench.models import MODELS, Model
from recon3d.bench.options import Options
from recon3d.bench.pictures import TUNING
from recon3d.bench.report import Report
from recon3d.tuning.search import SEARCHES

CANDIDATES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
RATES: dict[str, float] = {
    "relu": 2e-3,
    "pe": 5e-4,
    "ffn": 2e-4,
    "siren": 2e-4,
    "hash_grid": 1e-2,
    "spder": 1e-4,
    "spder_arctan": 2e-4,
    "finer": 5e-4,
    "gauss": 1e-4,
    "wire": 2e-3,
    "mfn": 1e-2,
    "incode": 2e-4,
    "sl2a": 5e-4,
}
"""From ``recon3d bench rates --models NAME --images moon --size 64 --steps 100``; a model that is not here has no tuned
column."""


def tuned_models(models: dict[str, Model]) -> dict[str, Model]:
    """The same models with their chosen rates, and networks that have a frequency with the one that FreSh chooses for
    each image; named ``NAME_tuned``."""
    return {
        f"{name}_tuned": dataclasses.replace(model, learning_rate=RATES[name], fresh=model.field.network in SEARCHES)
        for name, model in models.items()
        if name in RATES
    }


def rates(options: Options) -> Report:
    """Every model at every rate on the tuning images; the best rate of each."""
    from recon3d.bench.spder_images import image_config

    names = options.chosen_models(("siren", "spder"), tuple(MODELS))
    images = options.chosen_images(TUNING, TUNING)
    (steps,) = options.chosen_steps((100,), (100,))[-1:]
    size = options.size or 128
    report = Report(
        "rates",
        f"Learning rates: PSNR after {steps} updates, {', '.join(images)} at {size} x {size}",
        [*(f"{rate:g}" for rate in CANDIDATES), "best"],
    )
    for name in names:
        figures: dict[str, float] = {}
        for rate in CANDIDATES:
            model = dataclasses.replace(MODELS[name], learning_rate=rate)
            configs = [image_config(options, report.name, image, f"{name}-{rate:g}", size) for image in images]
            figures[f"{rate:g}"] = mean([fit(model.into(config), (steps,)).last(steps) for config in configs])
        figures["best"] = max(CANDIDATES, key=lambda rate: figures[f"{rate:g}"])
        report.figures[name] = figures
    return report
