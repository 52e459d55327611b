#!/usr/bin/env python
"""CPU seconds to 40 dB, for Adam and what may be faster, on eight pictures: is another optimiser worth an option?

    python scripts/bench_optimizers.py --json optimizers.json --plot optimizers.png [--size 64] [--images camera cat]

Fits each picture by SIREN (5 x 256, full batch, one thread, the same weights for all) until it has ``--psnr`` or spent
``--seconds``. Rates are NAME=RATE; L-BFGS takes steps as long as its line search says, and its number is how many of
the last steps it remembers. SOAP is pytorch_optimizer's (pip install pytorch-optimizer), and not among the defaults
without it; the others are torch's. Muon takes the matrices of the hidden layers, Adam the rest.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from recon3d.config import ImageConfig  # before torch: it sets how torch's threads wait

import torch  # isort: skip
from torch import Tensor

from recon3d.bench.models import MODELS
from recon3d.bench.pictures import EIGHT, image_file
from recon3d.fields.field import Field
from recon3d.geometry.grids import grid_points
from recon3d.tasks.measurements import read_signal
from recon3d.training.chunks import descend
from recon3d.training.machine import set_up

RATES = ("adam=2e-4", "soap=3e-4", "muon=5e-4", "lbfgs=20")
HAS_SOAP = importlib.util.find_spec("pytorch_optimizer") is not None
CHUNK = 2048
"""Pixels whose activations are kept at a time."""
SEARCHES = 10
"""L-BFGS: steps in one call of its ``step``."""
SMALLEST_MATRIX = 32


@dataclass(frozen=True)
class Fit:
    """``curve``: CPU seconds and PSNR after every step; ``seconds``: to the PSNR asked for, None if it was not
    reached."""

    image: str
    optimizer: str
    seconds: float | None
    curve: list[tuple[float, float]]


def optimizers(name: str, rate: float, field: Field) -> list[torch.optim.Optimizer]:
    """What updates the field's parameters together."""
    parameters = list(field.parameters())
    if name == "adam":
        return [torch.optim.Adam(parameters, lr=rate, fused=True)]
    if name == "soap":
        from pytorch_optimizer import SOAP

        return [SOAP(parameters, lr=rate, weight_decay=0.0)]
    if name == "muon":
        matrices = [p for p in parameters if p.ndim == 2 and min(p.shape) >= SMALLEST_MATRIX]
        others = [p for p in parameters if not any(p is matrix for matrix in matrices)]
        muon = torch.optim.Muon(matrices, lr=rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        return [muon, torch.optim.Adam(others, lr=rate, fused=True)]
    return [torch.optim.LBFGS(parameters, max_iter=SEARCHES, history_size=int(rate), line_search_fn="strong_wolfe")]


def fit(name: str, rate: float, file: Path, size: int, wanted: float, most: float) -> Fit:
    """One picture by one optimiser."""
    signal = read_signal(ImageConfig(data=file, size=(size, size), square=False, steps=1).resolved())
    target = torch.from_numpy(signal.normalized().copy()).reshape(size * size, -1).float()
    points, channels = grid_points((size, size)), target.shape[1]
    torch.manual_seed(0)
    field = Field(MODELS["siren"].field.resolved(), 2, channels)
    parameters = list(field.parameters())
    together = optimizers(name, rate, field)
    curve: list[tuple[float, float]] = []
    begin = time.process_time()

    def error(first: int, last: int) -> Tensor:
        return (field(points[first:last]) - target[first:last]).square().sum() / target.numel()

    def evaluate() -> float:
        field.zero_grad(set_to_none=True)
        value = float(descend(error, (0, len(points)), CHUNK, parameters, torch.Tensor.backward))
        decibels = 10 * math.log10(4 / max(value, 1e-18)) if math.isfinite(value) else 0.0
        curve.append((time.process_time() - begin, decibels))
        return value

    while not curve or (curve[-1][0] < most and max(one[1] for one in curve) < wanted):
        if name == "lbfgs":
            together[0].step(evaluate)
        else:
            evaluate()
            for optimizer in together:
                optimizer.step()
    reached = next((seconds for seconds, decibels in curve if decibels >= wanted), None)
    return Fit(file.stem, name, reached, curve)


def kind(text: str) -> tuple[str, float]:
    """NAME=RATE, for argparse."""
    name, _, rate = text.partition("=")
    if name not in {one.partition("=")[0] for one in RATES}:
        raise argparse.ArgumentTypeError(f"{text}: give one of {', '.join(RATES)}, at any rate")
    if name == "soap" and not HAS_SOAP:
        raise argparse.ArgumentTypeError("soap needs: pip install pytorch-optimizer")
    return name, float(rate)


def draw(fits: list[Fit], wanted: float, path: Path) -> None:
    """PSNR against CPU seconds, a panel for each picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    images = list(dict.fromkeys(fit.image for fit in fits))
    rows = -(-len(images) // 4)
    figure = Figure(figsize=(12, 2.8 * rows), dpi=80, layout="constrained")
    for index, image in enumerate(images):
        axes = figure.add_subplot(rows, 4, index + 1)
        for one in (one for one in fits if one.image == image):
            seconds, decibels = zip(*one.curve, strict=True)
            axes.plot(seconds, decibels, label=one.optimizer, linewidth=1.2)
        axes.axhline(wanted, color="0.5", linestyle=":", linewidth=1)
        axes.set_title(image, fontsize=10)
        axes.set_ylim(5, wanted + 5)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, loc="lower right")
    figure.supxlabel("CPU seconds", fontsize=10)
    figure.supylabel("PSNR in dB", fontsize=10)
    FigureCanvasAgg(figure).print_png(str(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", default=list(EIGHT), help="files, or names of scikit-image's images")
    parser.add_argument("--size", type=int, default=64, help="pixels a side that they are resized to")
    parser.add_argument("--optimizers", nargs="+", type=kind, metavar="NAME=RATE", help=f"default: {' '.join(RATES)}")
    parser.add_argument("--psnr", type=float, default=40.0)
    parser.add_argument("--seconds", type=float, default=8.0, help="CPU seconds a fit may take")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    kinds = options.optimizers or [kind(text) for text in RATES if HAS_SOAP or not text.startswith("soap")]
    set_up("cpu", 1)
    fits: list[Fit] = []
    print(f"{'CPU s to ' + format(options.psnr, 'g') + ' dB':20}" + "".join(f"{name:>10}" for name, _ in kinds))
    with tempfile.TemporaryDirectory() as folder:
        for image in options.images:
            file = image_file(image, Path(folder))
            row = [fit(name, rate, file, options.size, options.psnr, options.seconds) for name, rate in kinds]
            told = "".join(f"{'never' if one.seconds is None else format(one.seconds, '.1f'):>10}" for one in row)
            print(f"{file.stem:20}{told}", flush=True)
            fits += row
            if options.json:
                options.json.write_text(json.dumps([asdict(one) for one in fits]) + "\n")
    if options.plot:
        draw(fits, options.psnr, options.plot)


if __name__ == "__main__":
    main()
