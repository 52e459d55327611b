"""Presets: YAML files that give a task's settings a name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recon3d.config.ct import CtConfig
from recon3d.config.nerf import NerfConfig
from recon3d.config.plain import from_plain, read_yaml
from recon3d.config.runs import RunConfig
from recon3d.config.shapes import ShapeConfig
from recon3d.config.signals import AudioConfig, ImageConfig, VideoConfig
from recon3d.config.surface import SurfaceConfig
from recon3d.errors import UserError, require

TASKS: dict[str, type[RunConfig]] = {
    "nerf": NerfConfig,
    "surface": SurfaceConfig,
    "shape": ShapeConfig,
    "image": ImageConfig,
    "audio": AudioConfig,
    "video": VideoConfig,
    "ct": CtConfig,
}
"""The configuration class of each task; ``recon3d.tasks`` has the tasks themselves."""


def task_of(config: RunConfig) -> str:
    return next(name for name, kind in TASKS.items() if type(config) is kind)


def preset_folder() -> Path:
    """The folder of presets: in the package once installed, beside it in a checkout."""
    inside = Path(__file__).parents[1] / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "configs"


def preset_names() -> list[str]:
    return sorted(path.stem for path in preset_folder().glob("*.yaml"))


@dataclass(frozen=True)
class Preset:
    """A task's settings under a name, with what differs by device."""

    name: str
    path: Path
    task: str
    values: dict[str, Any]
    devices: dict[str, dict[str, Any]] = field(default_factory=dict)

    def config(self, device: str, data: Path | None = None) -> RunConfig:
        """The configuration for ``device`` ("cpu" or "cuda"); ``data`` stands in where the preset names none."""
        values = _merged(self.values, self.devices.get(device, {}))
        if "data" not in values and data is not None:
            values["data"] = str(data)
        return from_plain(TASKS[self.task], values, str(self.path))


def load_preset(name: str, above: tuple[Path, ...] = ()) -> Preset:
    """A preset by name (``configs/NAME.yaml``) or by the path of a YAML file.

    Its ``base``, if it has one, is again a name, or a path as seen from the file; ``above`` are the files that this one
    is a base of.

    Raises:
        UserError: no such preset, or a file that is not one.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else preset_folder() / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"no preset {name!r} (there are: {', '.join(preset_names())}; or give the path of a YAML file)")
    require(path.resolve() not in above, f"{path}: is its own base, directly or through others")
    values = read_yaml(path)
    base = values.pop("base", None)
    task = values.pop("task", None)
    devices = values.pop("devices", {})
    known = isinstance(devices, dict) and set(devices) <= {"cpu", "cuda"}
    require(
        known and all(isinstance(section, dict) for section in devices.values()),
        f"{path}: devices may hold cpu and cuda, each with settings, found {devices!r}",
    )
    if base is not None:
        beside = str(path.parent / str(base)) if str(base).endswith((".yaml", ".yml")) else str(base)
        parent = load_preset(beside, (*above, path.resolve()))
        values, task = _merged(parent.values, values), task or parent.task
        devices = _merged(parent.devices, devices)
    require(isinstance(task, str) and task in TASKS, f"{path}: task is {task!r}, but there are: {', '.join(TASKS)}")
    return Preset(path.stem, path, str(task), values, devices)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result
