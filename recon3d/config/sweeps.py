"""Many runs from one file: presets x scenes x seeds x settings."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
import re
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recon3d.config.plain import from_plain, read_yaml
from recon3d.config.presets import TASKS, Preset, load_preset
from recon3d.config.runs import RunConfig
from recon3d.errors import require

KEYS = ("presets", "scenes", "seeds", "settings", "grid", "eval")
RESERVED = {"data": "scenes", "seed": "seeds", "name": "the sweep", "out": "--out", "overwrite": "--overwrite"}
"""Settings that the sweep itself gives, and where they come from."""


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: ``axes`` tells what is its own among the sweep's."""

    config: RunConfig
    preset: str
    axes: dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """What a sweep's YAML file says; scenes and files of presets are as seen from it.

    presets: names, or paths of YAML files, as ``recon3d train`` takes them.
    scenes: data of the runs.
    seeds: one run of each for every seed (default: 0).
    settings: what all runs have, by dotted name (``field.hash_grid.log2_size``) or in sections.
    grid: dotted names and, for each, the values that are tried; every combination is a run.
    eval: options of ``recon3d eval``, or false: do not measure.
    """

    path: Path
    presets: tuple[Preset, ...]
    scenes: tuple[Path, ...]
    seeds: tuple[int, ...]
    settings: dict[str, Any]
    grid: dict[str, tuple[Any, ...]]
    eval: tuple[str, ...] | None

    @staticmethod
    def read(path: Path) -> Sweep:
        """The sweep of a YAML file.

        Raises:
            UserError: it cannot be read, or what it says cannot be done; before anything is trained.
        """
        values = read_yaml(path)
        for key in values:
            require(key in KEYS, f"{path}: unknown key {key!r}{_nearest(str(key), KEYS)}")
        presets = [_preset(path, name) for name in _axis(path, "presets", values.get("presets"))]
        scenes = [path.parent / str(scene) for scene in _axis(path, "scenes", values.get("scenes"))]
        for scene in scenes:
            require(scene.exists(), f"{path}: scenes: {scene}: no such file or folder")
        seeds = _axis(path, "seeds", values.get("seeds", [0]))
        require(all(type(seed) is int for seed in seeds), f"{path}: seeds are {seeds}: give whole numbers")
        settings = dict(_flat(_mapping(path, "settings", values.get("settings", {}))))
        grid = _mapping(path, "grid", values.get("grid", {}))
        axes = {str(name): tuple(_axis(path, f"grid: {name}", tried)) for name, tried in grid.items()}
        for name in [*settings, *axes]:
            require(name not in RESERVED, f"{path}: {name!r} is given by {RESERVED.get(name)}, not by settings or grid")
            for preset in presets:
                known = list(_settings(TASKS[preset.task]))
                what = f"unknown setting {name!r} of preset {preset.name}"
                require(name in known, f"{path}: {what}{_nearest(name, known)}")
        return Sweep(
            path, tuple(presets), tuple(scenes), tuple(seeds), settings, axes, _options(path, values.get("eval", {}))
        )

    def runs(self, device: str, out: Path, overwrite: bool = False) -> list[SweepRun]:
        """All runs, each with a name of its own under ``out``; ``device`` ("cpu" or "cuda") chooses among a preset's
        values.

        Raises:
            UserError: values that contradict, or of the wrong type.
        """
        presets = zip(self.presets, _apart([preset.name for preset in self.presets]))
        scenes = list(zip(self.scenes, _apart([_stem(scene) for scene in self.scenes])))
        found = []
        for (preset, a), (scene, b), values in itertools.product(
            presets, scenes, itertools.product(*self.grid.values())
        ):
            base = self._config(preset, scene, {**self.settings, **dict(zip(self.grid, values))}, device)
            own = {name: functools.reduce(getattr, name.split("."), base) for name in self.grid}
            for seed in self.seeds:
                axes = {"preset": a, "scene": b, **own, "seed": seed}
                found.append(SweepRun(replace(base, seed=seed), preset.name, axes))
        names = _apart([_name(run.axes) for run in found])
        return [
            replace(run, config=replace(run.config, name=name, out=out.resolve(), overwrite=overwrite).resolved())
            for run, name in zip(found, names)
        ]

    def _config(self, preset: Preset, scene: Path, settings: dict[str, Any], device: str) -> RunConfig:
        # A budget of the sweep's stands in for the preset's, be it in steps or in seconds.
        budget = {"steps", "max_seconds"} & set(settings)
        if len(budget) == 1:
            settings = {"steps": None, "max_seconds": None, **settings}
        base = preset.config(device) if "data" in preset.values else preset.config(device, scene)
        nested: dict[str, Any] = {"data": str(scene)}
        for name, value in settings.items():
            *sections, last = name.split(".")
            place = nested
            for section in sections:
                place = place.setdefault(section, {})
            place[last] = value
        return from_plain(type(base), nested, f"{self.path}: preset {preset.name}", base)


def _preset(path: Path, name: Any) -> Preset:
    beside = path.parent / str(name)
    return load_preset(str(beside) if str(name).endswith((".yaml", ".yml")) else str(name))


def _axis(path: Path, name: str, values: Any) -> list[Any]:
    require(values is not None, f"{path}: {name} missing: give a list")
    require(isinstance(values, list), f"{path}: {name}: expected a list, found {values!r}")
    require(len(values) > 0, f"{path}: {name} is an empty axis: give one value or more")
    return values


def _mapping(path: Path, name: str, values: Any) -> dict[str, Any]:
    require(isinstance(values, dict), f"{path}: {name}: expected names and values, found {values!r}")
    return values


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _options(path: Path, values: Any) -> tuple[str, ...] | None:
    """Options of a command line: ``{grid: 64}`` is ``--grid 64``."""
    if values is False:
        return None
    require(isinstance(values, dict), f"{path}: eval: expected options or false, found {values!r}")
    return tuple(word for name, value in values.items() for word in (f"--{name}", *str(value).split()))


def _settings(kind: type, prefix: str = "") -> Iterator[str]:
    """The dotted names of all settings of a configuration."""
    hints = typing.get_type_hints(kind)
    for each in dataclasses.fields(kind):  # type: ignore[arg-type]
        if dataclasses.is_dataclass(hints[each.name]):
            yield from _settings(hints[each.name], f"{prefix}{each.name}.")
        else:
            yield prefix + each.name


def _nearest(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0)
    return f" (nearest: {found[0]})" if found else ""


def _stem(path: Path) -> str:
    return path.resolve().name if path.is_dir() else path.stem


def _name(axes: dict[str, Any]) -> str:
    """A folder's name: the preset, the scene, and the last part of every other setting with its value."""
    words = [
        str(value) if name in ("preset", "scene") else f"{name.rsplit('.', 1)[-1]}={_short(value)}"
        for name, value in axes.items()
    ]
    return re.sub(r"[^\w.=+-]+", "_", "-".join(words))


def _short(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _apart(names: list[str]) -> list[str]:
    """The names, with a number behind those that came before."""
    seen: dict[str, int] = {}
    apart = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        apart.append(name if seen[name] == 1 else f"{name}.{seen[name]}")
    return apart
