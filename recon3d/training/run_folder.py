"""The run folder: config.yaml, metrics.jsonl, TensorBoard events, checkpoints/, previews/, exports/."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import UInt8

from recon3d import distributed
from recon3d.config import TASKS, RunConfig, from_plain, read_yaml, task_of, to_plain
from recon3d.errors import UserError
from recon3d.files import cannot_write, write_bytes


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run and its configuration. The folder may be moved; nothing in it refers to its own place."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def previews(self) -> Path:
        return self.path / "previews"

    @property
    def exports(self) -> Path:
        return self.path / "exports"

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @staticmethod
    def create(config: RunConfig, preset: str) -> RunFolder:
        """Make the folder of a new run and write its configuration; of several processes, the first does.

        Raises:
            UserError: a run of that name exists, or the folder cannot be made.
        """
        run = RunFolder.planned(config, preset)
        if not distributed.is_first():
            return run
        if run.config_file.exists():
            try:
                shutil.rmtree(run.path)
            except OSError as error:
                raise UserError(f"{run.path}: cannot be removed ({error.strerror}); give --name") from None
        run.write_config(config)
        return run

    @staticmethod
    def planned(config: RunConfig, preset: str) -> RunFolder:
        """Where a new run goes; nothing is written yet.

        Raises:
            UserError: a run of that name exists, and the configuration does not say to overwrite it.
        """
        data = config.data.resolve()
        run = RunFolder(config.out / (config.name or f"{preset}-{data.name if data.is_dir() else data.stem}"))
        if distributed.is_first() and run.config_file.exists() and not config.overwrite:
            raise UserError(
                f"{run.path}: a run of this name exists; resume it (recon3d resume {run.path}), "
                "give --name, or --overwrite"
            )
        return run

    @staticmethod
    def open(path: Path) -> RunFolder:
        """An existing run.

        Raises:
            UserError: there is no run.
        """
        run = RunFolder(path)
        if not run.config_file.is_file():
            raise UserError(f"{path}: not a run folder (no config.yaml in it)")
        return run

    def write_config(self, config: RunConfig) -> None:
        values = {"task": task_of(config), **to_plain(config)}
        write_bytes(self.config_file, yaml.safe_dump(values, sort_keys=False).encode())

    def read_config(self) -> RunConfig:
        values = read_yaml(self.config_file)
        task = values.pop("task", None)
        if not isinstance(task, str) or task not in TASKS:
            raise UserError(f"{self.config_file}: task is {task!r}, but there are: {', '.join(TASKS)}")
        return from_plain(TASKS[task], values, str(self.config_file))

    def log(self, entry: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        path = self.path / "metrics.jsonl"
        try:
            with path.open("a") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise cannot_write(path, error) from None

    def forget_after(self, step: int) -> None:
        """Drop the entries of metrics.jsonl after ``step``: a killed run is ahead of the checkpoint it resumes from."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        lines = path.read_text().splitlines()
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        if len(kept) < len(lines):
            write_bytes(path, "".join(line + "\n" for line in kept).encode())

    def write_image(self, name: str, image: UInt8[np.ndarray, "h w 3"]) -> Path:
        import imageio.v3 as iio

        path = self.path / name
        write_bytes(path, iio.imwrite("<bytes>", image, extension=".png"))
        return path

    def write_json(self, name: str, values: dict[str, Any]) -> Path:
        path = self.path / name
        write_bytes(path, (json.dumps(values, indent=2) + "\n").encode())
        return path
