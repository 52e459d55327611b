"""Computed tomography of few and noisy views: our classical methods and neural presets, beside ASTRA's figures."""

from __future__ import annotations

import resource
from pathlib import Path

from recon3d.bench.ct_cases import CONE_PHANTOMS, PHANTOM, Case, cone_case, slice_case
from recon3d.bench.ct_fits import classical, neural, tv_oracle
from recon3d.bench.options import Options
from recon3d.bench.report import Curve, Report

ASTRA = {
    ("chest", "100"): {"fbp": 31.4, "sirt 200": 32.3, "cgls 20": 32.1, "tv oracle": 38.2},
    ("chest", "100 noisy"): {"fbp": 26.1, "sirt 200": 30.5, "cgls 20": 29.0, "tv oracle": 31.8},
    ("chest", "20"): {"fbp": 21.2, "sirt 200": 27.9, "cgls 20": 26.6, "tv oracle": 29.8},
    ("chest", "20 noisy"): {"fbp": 17.9, "sirt 200": 27.4, "cgls 20": 26.2, "tv oracle": 28.8},
    (PHANTOM, "20 noisy"): {"fbp": 13.9, "sirt 200": 25.9, "cgls 20": 19.4, "tv oracle": 31.6},
}
"""ASTRA 2.5.0 at 256 x 256, its strips made the data and its lines reconstruct; its weight of TV is an oracle's."""
PRESETS = ("ct_parallel", "ct_sparse")
CURVE = (10, 20, 50, 100, 200)
METHODS = ("fbp", "sirt 200", "cgls 20", "sirt", "cgls", "tv", "tv oracle")


def ct_sparse(options: Options) -> Report:
    """A slice of 256 x 256 in parallel rays: PSNR over the whole picture, range 1; ``--images FILE`` (default: the
    Shepp-Logan phantom), ``--models`` presets and methods, ``--views``; ``--full``: 10 to 200 views."""
    models = options.chosen_models((*METHODS, *PRESETS), (*METHODS, *PRESETS))
    image = options.chosen_images((PHANTOM,), (PHANTOM,))[0]
    views = options.views or (CURVE if options.full else (20,))
    size = options.size or 256
    report = Report(
        "ct-sparse",
        f"{Path(image).stem} at {size} x {size}, clean and with {1e4:g} photons: PSNR (ASTRA's)",
        [f"{count}{noise}" for count in views for noise in ("", " noisy")],
        notes=[
            "blind: iterations, weights and states chosen by held-out rays; oracle, best: chosen by the truth",
            "start: the volume of total variation, its weight chosen blind, that the field begins as",
            "without brackets where no figure of ASTRA is known",
        ],
        axes=("views", "PSNR (dB)"),
    )
    paper: dict[str, dict[str, float]] = {}
    for count in views:
        for noisy in (False, True):
            column = f"{count} noisy" if noisy else str(count)
            case = slice_case(image, count, noisy, size, options.out / "ct", options.seed)
            _fill(report, column, case, models, options)
            if size == 256:
                for model, value in ASTRA.get((Path(image).stem, column), {}).items():
                    paper.setdefault(model, {})[column] = value
    report.paper = paper
    if len(views) > 1:
        report.curves = _curves(report, views)
    return report


def ct_cone(options: Options) -> Report:
    """Cone beams with noise: the porous bone and the head of Shepp and Logan at 50 and 25 views, 64^3 voxels
    (``--full``: 128^3); ``--images`` takes one of them."""
    models = options.chosen_models(
        ("fdk", "tv", "tv oracle", "ct_cone"), ("fdk", "sirt 200", "tv", "tv oracle", "ct_cone")
    )
    size = options.size or (128 if options.full else 64)
    views = options.views or (50, 25)
    kinds = options.chosen_images(CONE_PHANTOMS, CONE_PHANTOMS)
    report = Report(
        "ct-cone",
        f"Cone beams, {size}^3 voxels, {size}^2 pixels, {1e4:g} photons: PSNR",
        [f"{kind} {count}" for kind in kinds for count in views],
        notes=[
            "blind: chosen by held-out rays; oracle, best: chosen by the truth",
            "start: the volume of total variation, its weight chosen blind, that the field begins as",
        ],
    )
    for kind in kinds:
        for count in views:
            case = cone_case(kind, count, size, options.out / "ct", options.seed)
            _fill(report, f"{kind} {count}", case, models, options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report.notes.append(f"peak memory of the process: {peak:.0f} MB")
    return report


def _fill(report: Report, column: str, case: Case, models: tuple[str, ...], options: Options) -> None:
    """One column: every method's PSNR; seconds under "COLUMN seconds" in the files."""

    def put(row: str, figures: dict[str, float], key: str = "psnr") -> None:
        report.figures.setdefault(row, {})[column] = figures[key]
        if "seconds" in figures:
            report.figures[row][f"{column} seconds"] = figures["seconds"]

    for model in models:
        if model.startswith("ct_"):
            figures = neural(case, model, options)
            put(f"{model} blind", figures)
            put(f"{model} best", figures, "best")
            if "start" in figures:
                put(f"{model} start", figures, "start")
        else:
            figures = classical(case, "tv" if model == "tv oracle" else model, options)
            if model == "tv oracle":
                figures = tv_oracle(case, figures["weight"], options)
            put("tv blind" if model == "tv" else model, figures)


def _curves(report: Report, views: tuple[int, ...]) -> dict[str, Curve]:
    """PSNR against the number of views of everything that was chosen blind."""
    curves: dict[str, Curve] = {}
    for row, figures in report.figures.items():
        if row.endswith(("best", "oracle", "start")):
            continue
        for noise in ("", " noisy"):
            curves[f"{row}{noise}"] = (
                [float(count) for count in views],
                [figures[f"{count}{noise}"] for count in views],
            )
    return curves
