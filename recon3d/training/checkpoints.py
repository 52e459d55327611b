"""Checkpoints: one safetensors file each, with a JSON header in its metadata, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

import recon3d
from recon3d.errors import UserError
from recon3d.files import write_bytes

PATTERN = "step_*.safetensors"
KEPT = 2
BEST = "best.safetensors"


def save(folder: Path, step: int, tensors: dict[str, Tensor], header: dict[str, Any]) -> Path:
    """Write ``folder/step_<step>.safetensors`` and drop all but the last checkpoints.

    ``header`` is any JSON value; the step and the versions of recon3d and torch are added to it.
    """
    path = folder / f"step_{step:08d}.safetensors"
    write(path, step, tensors, header)
    for old in sorted(folder.glob(PATTERN))[:-KEPT]:
        old.unlink(missing_ok=True)
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    return path


def save_best(folder: Path, step: int, tensors: dict[str, Tensor], header: dict[str, Any]) -> Path:
    """Write ``folder/best.safetensors``: the state that scored most, which was reached at ``step``."""
    path = folder / BEST
    write(path, step, tensors, header)
    return path


def write(path: Path, step: int, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """One checkpoint file, whole or not at all."""
    header = {**header, "step": step, "recon3d": recon3d.__version__, "torch": torch.__version__}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, safetensors.torch.save(contiguous, metadata={"recon3d": json.dumps(header)}))


def newest(folder: Path) -> Path:
    """The newest checkpoint of a run.

    Raises:
        UserError: there is none.
    """
    found = sorted(folder.glob(PATTERN))
    if not found:
        raise UserError(f"{folder}: no checkpoint there; was the run stopped before it saved one?")
    return found[-1]


def load(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a checkpoint.

    Raises:
        UserError: the file is not a checkpoint of recon3d, or is damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
            header = json.loads((file.metadata() or {})["recon3d"])
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{path}: not a whole checkpoint of recon3d ({error}); remove it to use the one before"
        ) from None
