#!/usr/bin/env python
"""The spectra of untrained fields on the plane, a panel for each encoder and network, as one sheet.

    .venv/bin/python scripts/plot_spectra.py [--out docs/images/spectra.png] [--size 128] [--draws 2]

Prints the mean frequency of every curve, and that of white noise, which is drawn dotted. The same arguments give the
same picture on one machine: one thread, fixed seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recon3d.config import FieldConfig  # before torch: it sets how torch's threads wait
from recon3d.config.plain import from_plain

import torch  # isort: skip

from recon3d.tuning.signals import untrained_field, values_on
from recon3d.tuning.spectrum import Bins, centroid, normalised, spectrum

Settings = Mapping[str, Any]

HASH_SL2A = {"encoder": ["hash_grid", "chebyshev"], "network": "fusion"}
SL2A = {"encoder": ["chebyshev"], "network": "fusion"}
PANELS: dict[str, dict[str, Settings]] = {
    "identity, relu": {"": {"network": "relu"}},
    "frequency, relu": {
        f"levels {n}": {"encoder": ["frequency"], "network": "relu", "depth": 5, "frequency": {"levels": n}}
        for n in (3, 6, 10)
    },
    "fourier, relu": {
        f"sigma {s}": {"encoder": ["fourier"], "network": "relu", "fourier": {"sigma": s}} for s in (1.0, 5.0, 10.0)
    },
    "hash_grid, relu": {
        f"finest {n}": {"encoder": ["hash_grid"], "network": "relu", "hash_grid": {"finest": n}} for n in (32, 128, 512)
    },
    "chebyshev, fusion": {f"degree {n}": {**SL2A, "chebyshev": {"degree": n}} for n in (64, 200, 512)},
    "chebyshev, fusion: variants": {
        "full": SL2A,
        "rank 32": {**SL2A, "fusion": {"rank": 32}},
        "no skips": {**SL2A, "fusion": {"skips": False}},
    },
    "hash_grid chebyshev, fusion": {
        f"degree 16, finest {n}": {**HASH_SL2A, "chebyshev": {"degree": 16}, "hash_grid": {"finest": n}}
        for n in (32, 128, 512)
    },
    "identity, siren": {
        f"first_omega {w:g}": {"network": "siren", "siren": {"first_omega": w}} for w in (10.0, 30.0, 90.0)
    },
    "identity, siren: gain": {f"gain {g:g}": {"network": "siren", "siren": {"gain": g}} for g in (1.0, 2.0)},
    "identity, spder": {d: {"network": "spder", "spder": {"damping": d}} for d in ("arctan", "log", "sqrt")},
    "identity, finer": {
        "first_bias torch's": {"network": "finer"},
        **{f"first_bias {b:g}": {"network": "finer", "finer": {"first_bias": b}} for b in (5.0, 20.0)},
    },
    "identity, gauss": {f"scale {s:g}": {"network": "gauss", "gauss": {"scale": s}} for s in (10.0, 30.0, 90.0)},
    "identity, wire": {
        f"first_omega {w:g}": {"network": "wire", "wire": {"first_omega": w}} for w in (10.0, 20.0, 40.0)
    },
    "identity, mfn": {
        "gabor 64": {"network": "mfn", "mfn": {"input_scale": 64.0}},
        "gabor 256": {"network": "mfn"},
        "fourier 256": {"network": "mfn", "mfn": {"filter": "fourier"}},
    },
    "identity, incode": {
        f"first_omega {w:g}": {"network": "incode", "incode": {"first_omega": w}} for w in (10.0, 30.0, 90.0)
    },
}
"""Fields by panel and label; what is not said is the default, at the published size."""
COLUMNS = 5


def curve(settings: Settings, size: int, draws: int) -> torch.Tensor:
    """The mean spectrum of a field's initialisations on a square of ``size`` samples a side, over |frequency|."""
    config = from_plain(FieldConfig, {"encoder": ["identity"], **settings}, "plot_spectra").resolved()
    grid, blank = (size, size), torch.zeros(size, size, 1)
    bins = Bins.of(grid, size // 2, "radial")
    fields = [untrained_field(config, blank, seed) for seed in range(draws)]
    found = [spectrum(values_on(field, grid, torch.device("cpu")), bins) for field in fields]
    return normalised(torch.stack(found).sum(0))


def white_noise(size: int) -> torch.Tensor:
    """The spectrum in which every frequency of the plane has the same magnitude: a single bright sample's."""
    dot = torch.zeros(size, size, 1)
    dot[0, 0] = 1
    return spectrum(dot, Bins.of((size, size), size // 2, "radial"))


def draw(curves: Mapping[str, Mapping[str, torch.Tensor]], noise: torch.Tensor, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    rows = -(-len(curves) // COLUMNS)
    figure = Figure(figsize=(3.2 * COLUMNS, 2.7 * rows), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for index, (title, panel) in enumerate(curves.items()):
        axes = figure.add_subplot(rows, COLUMNS, index + 1)
        for label, values in panel.items():
            axes.plot(range(1, len(values) + 1), values, label=label, linewidth=1.3)
        axes.plot(range(1, len(noise) + 1), noise, color="0.5", linestyle=":", linewidth=1)
        axes.set_title(title, fontsize=10)
        axes.set_yscale("log")
        axes.set_ylim(1e-4, 1.5)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        if any(panel):
            axes.legend(fontsize=7)
    figure.supxlabel("frequency in periods per length", fontsize=10)
    figure.supylabel("share", fontsize=10)
    canvas.draw()
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")
    sheet.quantize(64, dither=Image.Dither.NONE).save(path, format="PNG", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Spectra of untrained fields, a panel for each encoder and network.")
    parser.add_argument("--out", type=Path, default=Path("docs/images/spectra.png"))
    parser.add_argument("--size", type=int, default=128, help="samples a side of the grid")
    parser.add_argument("--draws", type=int, default=2, help="initialisations that a curve is the mean of")
    options = parser.parse_args()
    if options.size < 4 or options.draws < 1:
        parser.error("--size takes 4 or more, --draws 1 or more")

    torch.set_num_threads(1)
    curves: dict[str, dict[str, torch.Tensor]] = {}
    for title, panel in PANELS.items():
        curves[title] = {label: curve(settings, options.size, options.draws) for label, settings in panel.items()}
        for label, values in curves[title].items():
            print(f"{title:<28}  {label:<22}  {centroid(values):5.1f}", flush=True)
    noise = white_noise(options.size)
    print(f"{'white noise':<28}  {'':<22}  {centroid(noise):5.1f}")
    draw(curves, noise, options.out)
    print(options.out)


if __name__ == "__main__":
    main()
