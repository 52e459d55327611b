"""SPDER's tables of sounds and videos (Shah and Sitawarin 2023)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from recon3d.bench.fits import curves_of, fit, folder_name, mean, mean_measured, whole
from recon3d.bench.models import MODELS, Model
from recon3d.bench.options import Options
from recon3d.bench.report import Report
from recon3d.config import AudioConfig, SignalConfig, VideoConfig
from recon3d.errors import UserError

TABLE_2 = {
    "siren": {"mse_25": 0.0172, "mse_100": 0.0084, "mse_500": 0.0021, "mse_1000": 0.0007},
    "spder_arctan": {"mse_25": 0.0135, "mse_100": 0.0052, "mse_500": 0.0009, "mse_1000": 0.0003},
}
TABLE_4 = {
    "siren": {"mse_2x": 0.00719, "mse_4x": 0.00959, "mse_8x": 0.00959},
    "spder_arctan": {"mse_2x": 0.00522, "mse_4x": 0.00755, "mse_8x": 0.00874},
}


def _files(options: Options, kind: str) -> tuple[str, ...]:
    if not options.images:
        raise UserError(f"this benchmark needs {kind} files: give --images FILE ...")
    return options.images


def audio_config(options: Options, bench: str, path: str, model: str, **changes: object) -> AudioConfig:
    """Seven seconds (the small version: two), mono, all samples at every step; time runs from -100 to 100 (SIREN's
    audio)."""
    config = AudioConfig(
        data=Path(path),
        out=options.out / bench,
        name=folder_name(Path(path).stem, model),
        steps=1,
        seconds=7.0 if options.full else 2.0,
        mono=True,
        device=options.device,
        threads=options.threads,
        seed=options.seed,
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def _for_audio(model: Model) -> Model:
    identity = dataclasses.replace(model.field.identity, scale=100.0)
    return Model(dataclasses.replace(model.field, identity=identity), model.learning_rate)


def spder_audio(options: Options) -> Report:
    """Table 2: mean squared error of sounds."""
    models = options.chosen_models(("siren", "spder_arctan"), ("siren", "spder_arctan", "spder"))
    steps = options.chosen_steps((25, 100), (25, 100, 500, 1000))
    report = Report(
        "spder-audio", "SPDER, Table 2: audio (theirs: ESC-50)", [f"mse_{step}" for step in steps], paper=TABLE_2
    )
    fits = {}
    for name in models:
        model = _for_audio(MODELS[name])
        found = [
            fit(model.into(audio_config(options, report.name, path, name)), steps, whole)
            for path in _files(options, "sound")
        ]
        fits[name] = found
        report.figures[name] = {
            **{f"mse_{step}": mean([one.figure(step, "mse") for one in found]) for step in steps},
            **{f"rho_{step}": mean([one.figure(step, "rho") for one in found]) for step in steps},
            "seconds_per_step": mean([one.seconds_per_step for one in found]),
        }
    report.curves = curves_of(fits)
    return report


def spder_audio_interp(options: Options) -> Report:
    """Table 4: trained on every second, fourth and eighth sample, measured on all."""
    models = options.chosen_models(("siren", "spder_arctan"), ("siren", "spder_arctan", "spder"))
    (steps,) = options.chosen_steps((100,), (1000,))[-1:]
    factors = (2, 4, 8)
    report = Report(
        "spder-audio-interp",
        f"SPDER, Table 4: audio interpolation after {steps} updates (theirs: ESC-50)",
        [f"mse_{factor}x" for factor in factors],
        paper=TABLE_4,
    )

    def config(path: str, name: str, factor: int) -> AudioConfig:
        return audio_config(options, report.name, path, f"{name}-{factor}x", train_every=factor)

    for name in models:
        model = _for_audio(MODELS[name])
        report.figures[name] = {
            f"mse_{factor}x": mean_measured(
                [model.into(config(path, name, factor)) for path in _files(options, "sound")], steps, "mse"
            )
            for factor in factors
        }
    return report


def spder_video(options: Options) -> Report:
    """A grey video: 12 layers of 1024 at 5e-6, all points at every step (``--full``); small: 24 frames of 64 x 64."""
    models = options.chosen_models(("siren", "spder"), ("siren", "spder"))
    steps = options.chosen_steps((25, 100), (450,))
    size = options.size or (256 if options.full else 64)
    report = Report(
        "spder-video",
        f"SPDER, video at {size} x {size}",
        [f"psnr_{step}" for step in steps] + ["seconds_per_step"],
        paper={"spder": {"psnr_450": 30.9}},
    )
    fits = {}
    for name in models:
        field, rate = MODELS[name].field, 1e-4
        if options.full:
            field, rate = dataclasses.replace(field, width=1024, depth=11), 5e-6
        found = []
        for path in _files(options, "video"):
            config: SignalConfig = VideoConfig(
                data=Path(path),
                out=options.out / report.name,
                name=folder_name(Path(path).stem, name, size),
                steps=1,
                channels="grey",
                size=(size, size),
                count=None if options.full else 24,
                device=options.device,
                threads=options.threads,
                seed=options.seed,
            )
            found.append(fit(Model(field, rate).into(config), steps))
        fits[name] = found
        report.figures[name] = {
            **{f"psnr_{step}": mean([one.last(step) for one in found]) for step in steps},
            "seconds_per_step": mean([one.seconds_per_step for one in found]),
            "parameters": found[0].parameters,
        }
    report.curves = curves_of(fits)
    return report
