"""What a tuning leaves behind: a table, a picture, a preset."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import UInt8

from recon3d.config import RunConfig, load_preset, to_plain
from recon3d.metrics.pictures import line_plot
from recon3d.tuning.tune import Tuning

OWN = ("data", "name", "out", "overwrite", "device", "threads")
"""Settings of one run that a preset leaves open."""


def table(tuning: Tuning) -> str:
    """Value and distance, the best marked."""
    label = tuning.search.label
    lines = [f"{label:>{max(len(label), 10)}}  distance"]
    for value, found in tuning.distances.items():
        marks = [name for name, at in (("best", tuning.chosen), ("default", tuning.default)) if at == value]
        mark = f"  <- {', '.join(marks)}" if marks else ""
        lines.append(f"{value:>{len(lines[0]) - 10}g}  {found:8.3f}{mark}")
    return "\n".join(lines)


def sentence(tuning: Tuning) -> str:
    """What was chosen, in one line."""
    default = "the network's own" if tuning.default is None else f"{tuning.default:g}"
    tried = list(tuning.distances)
    end = " (the end of what was tried)" if tuning.chosen in (tried[0], tried[-1]) else ""
    return (
        f"{tuning.search.label} {tuning.chosen:g}{end}: distance {tuning.distances[tuning.chosen]:.3f}, "
        f"with {default} {tuning.default_distance:.3f}"
    )


def figures(tuning: Tuning) -> dict[str, Any]:
    """For the last line of --json; distances that are infinite are null."""
    return {
        "parameter": tuning.search.label,
        "chosen": tuning.chosen,
        "default": tuning.default,
        "distance": tuning.distances[tuning.chosen],
        "default_distance": _finite(tuning.default_distance),
        "distances": {f"{value:g}": _finite(found) for value, found in tuning.distances.items()},
        "binning": tuning.bins.binning,
        "bins": tuning.bins.count,
        "draws": tuning.draws,
        "tuning_seconds": round(tuning.seconds, 3),
    }


def picture(tuning: Tuning) -> UInt8[np.ndarray, "h w 3"]:
    """The spectra of the target, the default and the best; below, distance against value."""
    bins = tuning.bins
    x = np.arange(1, bins.count + 1, dtype=np.float64) * bins.width
    label = tuning.search.label
    default = "default" if tuning.default is None else f"default {tuning.default:g}"
    spectra = {
        "measured": (x, tuning.measured.numpy()),
        default: (x, tuning.default_spectrum.numpy()),
        f"best {tuning.chosen:g}": (x, tuning.spectra[tuning.chosen].numpy()),
    }
    finite = {float(value): found for value, found in tuning.distances.items() if math.isfinite(found)}
    values, distances = np.array(list(finite)), np.array(list(finite.values()))
    unit = "frequency in periods per length" if bins.binning == "radial" else "sum of the DFT's indices"
    upper = line_plot(spectra, "Spectra of the data and of untrained fields", unit, "share", log="y")
    lower = line_plot({"Wasserstein-1": (values, distances)}, f"Best {label}: {tuning.chosen:g}", label, "distance")
    return np.concatenate([upper, lower])


def preset_yaml(tuning: Tuning, config: RunConfig, preset: str, device: str) -> str:
    """A preset on top of ``preset`` (a name or the path of a YAML file): what ``config`` and the tuning change of it.

    Where the preset holds settings by device, which go before those of no device, so does this one.
    """
    found = load_preset(preset)
    changed = _difference(to_plain(tuning.apply(config)), to_plain(found.config(device, data=Path())))
    changed = {key: value for key, value in changed.items() if key not in OWN}
    base = str(found.path.resolve()) if preset.endswith((".yaml", ".yml")) else preset
    values = {"devices": {name: copy.deepcopy(changed) for name in ("cpu", "cuda")}} if found.devices else changed
    header = f"# Tuned to the spectrum of {config.data.name}: {sentence(tuning)}.\n"
    return header + yaml.safe_dump({"base": base, **values}, sort_keys=False)


def _difference(values: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """What of nested ``values`` is not so in ``base``."""
    result = {}
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(base[key], dict):
            if inner := _difference(value, base[key]):
                result[key] = inner
        elif value != base[key]:
            result[key] = value
    return result


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
