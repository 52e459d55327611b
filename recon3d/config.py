"""Configurations: frozen dataclasses that a run's ``config.yaml`` is the exact image of.

Presets are YAML files (``configs/``) that give values for these classes; what a preset leaves out takes the default
here. Whatever contradicts is refused when the object is made, before any data is read. Nothing in this module imports
torch, so that ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from recon3d.errors import UserError

T = TypeVar("T")


def require(ok: bool, message: str) -> None:
    if not ok:
        raise UserError(message)


@dataclass(frozen=True)
class HashGridConfig:
    """Multiresolution hash grid (Müller et al. 2022)."""

    levels: int = 16
    """Number of resolutions."""
    features: Literal[1, 2, 4, 8] = 2
    """Features per level."""
    log2_size: int = 19
    """Rows of a level's table, at most 2 to this power."""
    coarsest: int = 16
    """Cells per side of the coarsest level."""
    finest: int = 2048
    """Cells per side of the finest level."""

    def __post_init__(self) -> None:
        require(self.levels >= 1, f"hash_grid.levels is {self.levels}: give 1 or more")
        require(4 <= self.log2_size <= 28, f"hash_grid.log2_size is {self.log2_size}: give 4 to 28")
        require(
            2 <= self.coarsest <= self.finest,
            f"hash_grid.coarsest ({self.coarsest}) and hash_grid.finest ({self.finest}): "
            "the coarsest must be at least 2 and not exceed the finest",
        )


@dataclass(frozen=True)
class FrequencyConfig:
    """Positional encoding by sines and cosines (Mildenhall et al. 2020)."""

    levels: int = 10
    """Octaves: frequencies 2^0 pi to 2^(levels-1) pi."""

    def __post_init__(self) -> None:
        require(1 <= self.levels <= 24, f"frequency.levels is {self.levels}: give 1 to 24")


ENCODER_COMPANIONS: dict[str, dict[str, float]] = {
    "hash_grid": {"width": 64, "depth": 1, "color_width": 64, "color_depth": 2, "learning_rate": 2e-2},
    "frequency": {"width": 256, "depth": 8, "color_width": 128, "color_depth": 1, "learning_rate": 5e-4},
}
"""The network sizes that an encoder was published with, and its learning rate (hash grid: what its fast public
implementations use on NeRF-synthetic scenes); they fill what a configuration leaves open, and the run's ``config.yaml``
then shows them."""


@dataclass(frozen=True)
class RadianceFieldConfig:
    """Density and view-dependent colour: encoder, density network, colour network."""

    encoder: Literal["hash_grid", "frequency"] = "hash_grid"
    hash_grid: HashGridConfig = HashGridConfig()
    frequency: FrequencyConfig = FrequencyConfig()
    width: int | None = None
    """Width of the density network (default: as published with the encoder)."""
    depth: int | None = None
    """Hidden layers of the density network; from 6 on, the input joins again halfway."""
    geometry_features: int = 16
    """Outputs of the density network: the first is the logarithm of the density, and all go to the colour network."""
    color_width: int | None = None
    color_depth: int | None = None
    """Hidden layers of the colour network."""
    direction_degree: int = 4
    """Degree of the spherical harmonics of the viewing direction, 1 (no view dependence) to 4."""

    def __post_init__(self) -> None:
        for name in ("width", "depth", "color_width", "color_depth"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"field.{name} is {value}: give 1 or more")
        features = self.geometry_features
        require(features >= 1, f"field.geometry_features is {features}: give 1 or more")
        require(1 <= self.direction_degree <= 4, f"field.direction_degree is {self.direction_degree}: give 1 to 4")

    def resolved(self) -> RadianceFieldConfig:
        """With the sizes that were left open filled in."""
        published = ENCODER_COMPANIONS[self.encoder]
        return dataclasses.replace(
            self,
            width=self.width or int(published["width"]),
            depth=self.depth or int(published["depth"]),
            color_width=self.color_width or int(published["color_width"]),
            color_depth=self.color_depth or int(published["color_depth"]),
        )


@dataclass(frozen=True)
class RenderConfig:
    """Volume rendering through an occupancy grid."""

    grid: int = 128
    """Cells per side of the occupancy grid."""
    samples_per_diagonal: int = 1024
    """Samples that a diagonal of the box would hold if all of it were occupied: sets the marching step."""
    eval_oversampling: int = 2
    """Evaluation and previews march with steps so many times finer than training."""
    cone: float = 0.0
    """Growth of the step with the distance (0: constant; 0.004 suits unbounded scenes)."""
    early_stop: float = 1e-4
    """A ray ends when less than this share of its light is left."""
    update_every: int = 16
    """Steps between two updates of the occupancy grid."""
    warmup_steps: int = 256
    """Steps during which an update looks at every cell."""
    decay: float = 0.95
    """What an update keeps of a cell's density."""
    threshold: float = 0.01
    """A cell is occupied if its opacity over one step passes this, or the mean opacity where that is lower."""
    visual_hull: bool = True
    """Where images have alpha: never march cells that some image shows to be empty."""

    def __post_init__(self) -> None:
        require(8 <= self.grid <= 512, f"head.grid is {self.grid}: give 8 to 512")
        require(self.samples_per_diagonal >= 16, "head.samples_per_diagonal: give 16 or more")
        require(self.eval_oversampling >= 1, f"head.eval_oversampling is {self.eval_oversampling}: give 1 or more")
        require(0 <= self.cone < 0.1, f"head.cone is {self.cone}: give 0 to 0.1")
        require(0 < self.early_stop < 1, f"head.early_stop is {self.early_stop}: give a number between 0 and 1")
        require(self.update_every >= 1, f"head.update_every is {self.update_every}: give 1 or more")
        require(0 <= self.decay <= 1, f"head.decay is {self.decay}: give 0 to 1")
        require(0 <= self.threshold < 1, f"head.threshold is {self.threshold}: give 0 to 1")


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam with warm-up and cosine decay over the whole budget of steps or seconds."""

    learning_rate: float | None = None
    """Default: as published with the encoder."""
    final_share: float = 0.03
    """Share of the learning rate that is left at the end."""
    warmup_steps: int = 100
    betas: tuple[float, float] = (0.9, 0.99)
    epsilon: float = 1e-15
    weight_decay: float = 1e-6
    """L2 penalty on the networks' weights, not on the encoder's."""

    def __post_init__(self) -> None:
        require(
            self.learning_rate is None or self.learning_rate > 0,
            f"optimizer.learning_rate is {self.learning_rate}: give a positive number",
        )
        require(0 < self.final_share <= 1, f"optimizer.final_share is {self.final_share}: give 0 to 1")
        require(all(0 <= beta < 1 for beta in self.betas), f"optimizer.betas are {self.betas}: give 0 to below 1")
        for name in ("warmup_steps", "epsilon", "weight_decay"):
            require(getattr(self, name) >= 0, f"optimizer.{name} is {getattr(self, name)}: give 0 or more")


Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class RunConfig:
    """What every task's run has: where it goes, how long it lasts, what it runs on."""

    data: Path
    """Folder or file with the measurements."""
    name: str | None = None
    """Name of the run (default: made from the preset and the data)."""
    out: Path = Path("runs")
    """Folder of all runs; this run is OUT/NAME."""
    overwrite: bool = False
    """Replace a run of the same name."""
    steps: int | None = None
    """Training steps (default: the preset's)."""
    max_seconds: float | None = None
    """Training time in seconds; evaluation and saving are not counted. Ends the run if it comes before ``steps``."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints."""
    preview_every: int = 1000
    """Steps between two previews of a validation view."""
    log_every: int = 50
    """Steps between two entries of the metrics."""
    device: Device = "auto"
    threads: int | None = None
    """CPU threads (default: one per physical core)."""
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the networks' products; auto: float16 on CUDA, bfloat16 on CPUs that have it, else float32."""

    def __post_init__(self) -> None:
        require(
            self.steps is not None or self.max_seconds is not None,
            "steps and max_seconds are both empty: give one of them, or the run never ends",
        )
        require(self.steps is None or self.steps >= 1, f"steps is {self.steps}: give 1 or more")
        require(
            self.max_seconds is None or self.max_seconds > 0, f"max_seconds is {self.max_seconds}: give more than 0"
        )
        for name in ("checkpoint_every", "preview_every", "log_every"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}: give 1 or more")
        require(self.threads is None or self.threads >= 1, f"threads is {self.threads}: give 1 or more")
        require(0 <= self.seed < 2**31, f"seed is {self.seed}: give 0 to 2^31 - 1")
        plain = self.name is None or (self.name not in ("", ".", "..") and not set(self.name) & set("/\\\0"))
        require(plain, f"name is {self.name!r}: give one folder name, without slashes")

    def resolved(self) -> RunConfig:
        """With everything that was left open filled in, as ``config.yaml`` records it."""
        return dataclasses.replace(self, data=self.data.resolve())


@dataclass(frozen=True)
class NerfConfig(RunConfig):
    """A radiance field from posed photographs."""

    downscale: int = 1
    """Shrink the images by this factor."""
    background: Literal["random", "white", "black"] = "random"
    """Background behind transparent pixels while training (random: another colour for every ray)."""
    eval_background: Literal["white", "black"] = "white"
    """Background of the evaluation, composited on both sides."""
    test_every: int = 8
    """Where one file lists all frames: every so-many-th is held out."""
    samples: int = 2**18
    """Samples per step, on average; the number of rays adapts."""
    max_rays: int = 2**17
    """Rays per step, at most."""
    loss: Literal["mse", "huber"] = "huber"
    field: RadianceFieldConfig = RadianceFieldConfig()
    head: RenderConfig = RenderConfig()
    optimizer: OptimizerConfig = OptimizerConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.downscale >= 1, f"downscale is {self.downscale}: give 1 or more")
        require(self.test_every >= 2, f"test_every is {self.test_every}: give 2 or more")
        require(self.samples >= 256, f"samples is {self.samples}: give 256 or more")
        require(self.max_rays >= 64, f"max_rays is {self.max_rays}: give 64 or more")

    def resolved(self) -> NerfConfig:
        """With what depends on the encoder, and was left open, filled in; the data's path made absolute."""
        optimizer = self.optimizer
        if optimizer.learning_rate is None:
            published = ENCODER_COMPANIONS[self.field.encoder]["learning_rate"]
            optimizer = dataclasses.replace(optimizer, learning_rate=published)
        return dataclasses.replace(self, field=self.field.resolved(), optimizer=optimizer, data=self.data.resolve())


TASKS: dict[str, type[RunConfig]] = {"nerf": NerfConfig}
"""The configuration class of each task; ``recon3d.tasks`` has the tasks themselves."""


def task_of(config: RunConfig) -> str:
    return next(name for name, kind in TASKS.items() if type(config) is kind)


# --- dataclasses <-> plain values ---------------------------------------------------------------------------------


def to_plain(config: Any) -> Any:
    """A configuration as nested dicts of YAML's own types."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Path):
        return str(config)
    if isinstance(config, tuple):
        return [to_plain(value) for value in config]
    return config


def from_plain(kind: type[T], values: Any, where: str) -> T:
    """Build a configuration from nested dicts. ``where`` names the file in error messages.

    Raises:
        UserError: unknown key, value of the wrong type, or values that contradict.
    """
    require(isinstance(values, dict), f"{where}: expected a mapping for {kind.__name__}, found {values!r}")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    for key in values:
        require(key in fields, f"{where}: unknown key {key!r} (known: {', '.join(sorted(fields))})")
    made = {key: _coerce(hints[key], value, f"{where}: {key}") for key, value in values.items()}
    missing = [
        f.name
        for f in fields.values()
        if f.name not in made and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    require(not missing, f"{where}: {', '.join(missing)} missing")
    try:
        return kind(**made)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _coerce(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_plain(typing.cast(type, hint), value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _coerce(next(a for a in args if a is not type(None)), value, where)
    if origin is Literal:
        known = any(type(value) is type(arg) and value == arg for arg in args)
        require(known, f"{where}: {value!r} is not one of {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        require(
            isinstance(value, list | tuple) and len(value) == len(args),
            f"{where}: expected {len(args)} values, found {value!r}",
        )
        return tuple(_coerce(a, v, where) for a, v in zip(args, value, strict=True))
    if hint is Path:
        require("\0" not in str(value), f"{where}: a path cannot hold a null character")
        return Path(str(value))
    if hint is float:
        # YAML 1.1 reads 1e-3 (without a dot) as a string.
        require(not isinstance(value, bool), f"{where}: expected a number, found {value!r}")
        try:
            return float(value)
        except (TypeError, ValueError):
            raise UserError(f"{where}: expected a number, found {value!r}") from None
    if hint is int:
        require(
            isinstance(value, int) and not isinstance(value, bool), f"{where}: expected an integer, found {value!r}"
        )
        return value
    require(isinstance(value, hint), f"{where}: expected {hint.__name__}, found {value!r}")
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        UserError: not there, not YAML, or not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    require(isinstance(values, dict), f"{path}: expected a mapping of settings")
    return values


# --- presets ------------------------------------------------------------------------------------------------------


def preset_folder() -> Path:
    """The folder of presets: in the package once installed, beside it in a checkout."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "configs"


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
