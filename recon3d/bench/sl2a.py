"""SL2A's tables (Heidari et al. 2024): images, super-resolution, inpainting, and which frequencies are learnt when."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from recon3d.bench.fits import curves_of, fit, mean, whole
from recon3d.bench.models import MODELS, Model, siren, sl2a
from recon3d.bench.options import Options
from recon3d.bench.pictures import EIGHT
from recon3d.bench.report import Report
from recon3d.bench.spder_images import bicubic_psnr, image_config
from recon3d.config import AudioConfig, ImageConfig
from recon3d.data.signal import Signal
from recon3d.export.signals import write_signal
from recon3d.files import write_bytes
from recon3d.metrics.pictures import heat_map
from recon3d.metrics.signal import band_energies, band_errors
from recon3d.tasks.signal import SignalTask

PLANT_AND_CASTLE = {
    "siren3": {"psnr_500": (38.21 + 30.54) / 2},
    "gauss": {"psnr_500": (41.51 + 28.29) / 2},
    "mfn": {"psnr_500": (39.64 + 31.24) / 2},
    "pe3": {"psnr_500": (45.85 + 34.05) / 2},
    "incode": {"psnr_500": (38.42 + 35.86) / 2},
    "sl2a": {"psnr_500": (54.58 + 46.84) / 2},
    "sl2a_low_rank": {"psnr_500": (48.02 + 37.93) / 2},
    "sl2a_128": {"psnr_500": (46.72 + 36.37) / 2},
    "sl2a_no_skips": {"psnr_500": (51.43 + 45.35) / 2},
}
"""Tables 1 and 2: means of plant and castle."""
COMPARED = ("siren3", "gauss", "mfn", "wire", "incode", "finer", "pe3", "sl2a")


def color_config(options: Options, bench: str, name: str, model: str, size: int, **changes: object) -> ImageConfig:
    """A square image in colour, all its pixels at every step."""
    return image_config(options, bench, name, model, size, **{"channels": "rgb", **changes})


def sl2a_image(options: Options) -> Report:
    """Tables 1 and 2: three hidden layers of 256, the best state within 500 updates."""
    full = (*COMPARED, "sl2a_low_rank", "sl2a_128", "sl2a_no_skips", "spder", "ours")
    models = options.chosen_models(("siren3", "pe3", "sl2a", "sl2a_low_rank", "sl2a_no_skips"), full)
    images = options.chosen_images(("astronaut",), EIGHT)
    steps = options.chosen_steps((25, 100), (25, 100, 500))
    size = options.size or (512 if options.full else 128)
    report = Report(
        "sl2a-image",
        f"SL2A, tables 1 and 2: {', '.join(Path(i).stem for i in images)} at {size} x {size} (theirs: two of DIV2K)",
        [*(f"psnr_{step}" for step in steps), "parameters", "seconds_per_step"],
        paper=PLANT_AND_CASTLE,
    )
    fits = {}
    for name in models:
        found = [
            fit(MODELS[name].into(color_config(options, report.name, image, name, size)), steps) for image in images
        ]
        fits[name] = found
        report.figures[name] = {
            **{f"psnr_{step}": mean([one.best(step) for one in found]) for step in steps},
            "seconds_per_step": mean([one.seconds_per_step for one in found]),
            "parameters": found[0].parameters,
        }
    report.notes = ["psnr_K: the best state within K updates, as the paper reports"]
    report.curves = curves_of(fits)
    return report


def _restored(options: Options, report: Report, models: dict[str, Model], size: int, **changes: object) -> None:
    """Fill ``report`` with the PSNR of whole images of which a part was trained on."""
    images = options.chosen_images(("coffee",), EIGHT)
    (steps,) = options.chosen_steps((100,), (500,))[-1:]
    report.title += f": {', '.join(Path(i).stem for i in images)}, whole image at {size} x {size}, {steps} updates"
    for name, model in models.items():
        found = []
        for image in images:
            config = color_config(options, report.name, image, name, size, **changes)
            found.append(fit(model.into(config), (steps,), whole))
        report.figures[name] = {
            "psnr": mean([one.figure(steps, "psnr") for one in found]),
            "psnr_trained": mean([one.best(steps) for one in found]),
            "seconds_per_step": mean([one.seconds_per_step for one in found]),
        }


def sl2a_superres(options: Options) -> Report:
    """Figure 4: trained on the image shrunk four times; degree 200."""
    names = options.chosen_models(("siren3", "sl2a"), COMPARED)
    models = {name: MODELS[name] if name != "sl2a" else Model(sl2a(200)) for name in names}
    size = options.size or (512 if options.full else 256)
    report = Report("sl2a-superres", "SL2A, figure 4 (4x)", ["psnr", "psnr_trained", "seconds_per_step"])
    _restored(options, report, models, size, train_scale=4)
    images = options.chosen_images(("coffee",), EIGHT)
    bicubic = [bicubic_psnr(color_config(options, report.name, image, "", size), 4) for image in images]
    report.figures["bicubic"] = {"psnr": mean(bicubic)}
    return report


def sl2a_inpaint(options: Options) -> Report:
    """Figure 7: trained on a random 70 % of the pixels."""
    names = options.chosen_models(("siren3", "pe3", "sl2a"), COMPARED)
    size = options.size or (512 if options.full else 128)
    report = Report("sl2a-inpaint", "SL2A, figure 7 (70 % of the pixels)", ["psnr", "psnr_trained", "seconds_per_step"])
    _restored(options, report, {name: MODELS[name] for name in names}, size, keep=0.7)
    return report


# --- spectral bias --------------------------------------------------------------------------------------------------

SAMPLES = 300
FREQUENCIES = (3, 5, 7, 9)
SHOWN = 16


def rounded_wave() -> np.ndarray:
    """2 R((sin 3 pi x + sin 5 pi x + sin 7 pi x + sin 9 pi x) / 2) at 300 points of [-1, 1], over 4 (equation 6)."""
    x = (2 * np.arange(SAMPLES) + 1) / SAMPLES - 1
    return (np.round(sum(np.sin(k * np.pi * x) for k in FREQUENCIES) / 2) / 2).astype(np.float32)


def sl2a_spectral_bias(options: Options) -> Report:
    """Figure 6: the relative error of every frequency over the training; three hidden layers of 128, degree 64."""
    models = {
        "siren": Model(dataclasses.replace(siren(3), width=128)),
        "spder": Model(dataclasses.replace(MODELS["spder"].field, width=128, depth=3)),
        "sl2a": Model(sl2a(64, width=128)),
    }
    names = options.chosen_models(tuple(models), tuple(models))
    (steps,) = options.chosen_steps((100,), (2000,))[-1:]
    every = max(1, steps // 50)
    at = tuple(range(every, steps + 1, every))
    folder = options.out / "sl2a-spectral-bias"
    folder.mkdir(parents=True, exist_ok=True)
    wave = rounded_wave()[:, None]
    path = write_signal(Signal("audio", wave, -1.0, 1.0, 32, 300.0, Path()), folder / "wave.wav")
    report = Report(
        "sl2a-spectral-bias",
        f"SL2A, figure 6: relative error of the wave's frequencies after {steps} updates",
        [*(f"error_{k}" for k in FREQUENCIES), "learnt_3", "learnt_9"],
    )
    report.notes = ["error_k: of the k-th half-period; learnt_k: updates until it is below 5 % (0: never)"]
    report.axes = ("step", "relative error")

    # The relative error of a frequency that the wave does not have is nothing to look at.
    energies = band_energies(torch.from_numpy(wave), SAMPLES // 2)[:SHOWN].numpy()
    present = energies > 1e-4 * energies.max()

    def errors(task: SignalTask) -> dict[str, float]:
        truth = torch.from_numpy(wave)
        bands = band_errors(task.render().cpu(), truth, SAMPLES // 2)
        return {str(k): float(bands[k]) for k in range(SHOWN)}

    for name in names:
        config = AudioConfig(
            data=path, out=folder, name=name, steps=1, device=options.device, threads=options.threads, seed=options.seed
        )
        found = fit(models[name].into(config), at, errors)
        field = np.array([[found.measured[step][str(k)] for step in at] for k in range(SHOWN)])
        figures = {}
        for k in FREQUENCIES:
            # The grid holds one period of length 2, so k half-periods of the wave are its k-th frequency.
            below = [step for step, error in zip(at, field[k], strict=True) if error < 0.05]
            figures[f"error_{k}"] = float(field[k, -1])
            figures[f"learnt_{k}"] = below[0] if below else 0
            report.curves[f"{name} {k}"] = (list(map(float, at)), field[k].tolist())
        report.figures[name] = figures
        import imageio.v3 as iio

        field[~present] = np.nan
        picture = heat_map(field, f"{name}: relative error", "step", "frequency", (0.0, float(steps)), (0.0, 1.0))
        write_bytes(folder / f"{name}.png", iio.imwrite("<bytes>", picture, extension=".png"))
    return report
