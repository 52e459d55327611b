"""A signal as one file of its field's weights: safetensors, with what decodes it as JSON in the header."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor

import recon3d
from recon3d.config import TASKS, FieldConfig, from_plain, to_plain
from recon3d.errors import UserError
from recon3d.files import write_bytes
from recon3d.tasks.evaluation import Rendering
from recon3d.tasks.signal import Header, SignalTask

WeightPrecision = Literal["float16", "float32"]
TYPES = {"float16": torch.float16, "float32": torch.float32}
SUFFIX = ".safetensors"
_KEY = "recon3d_signal"
_LAYOUT = 1


@dataclass(frozen=True)
class WeightFile:
    """What was written: the file and its size in bytes."""

    path: Path
    size: int


def write_weights(rendering: Rendering, path: Path, precision: WeightPrecision = "float16") -> WeightFile:
    """Write the weights of a task's field, in ``precision``, and all that is needed to sample it again.

    Raises:
        UserError: a weight is too large for the precision, or the file cannot be written.
    """
    task = rendering.task
    header = {
        "layout": _LAYOUT,
        "recon3d": recon3d.__version__,
        "signal": vars(task.header),
        "field": _plain(task.config.field),
        "shift": None if rendering.shift is None else rendering.shift.tolist(),
    }
    tensors = {name: _narrowed(name, value, precision) for name, value in task.field.state_dict().items()}
    payload = safetensors.torch.save(tensors, metadata={_KEY: json.dumps(header, separators=(",", ":"))})
    write_bytes(path, payload)
    return WeightFile(path, len(payload))


def read_weights(path: Path, device: torch.device) -> Rendering:
    """The field of a file that :func:`write_weights` made, ready to be sampled.

    Raises:
        UserError: the file is not there, damaged, or another one.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give one that recon3d export signal wrote")
    try:
        with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
            header = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        task = _task(header, path, device)
        task.field.load_state_dict({name: _widened(value) for name, value in tensors.items()})
        shift = header["shift"]
    except (OSError, KeyError, ValueError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: not a whole file of recon3d export signal ({_one_line(error)})") from None
    except RuntimeError as error:  # torch: names or shapes that are not the field's
        raise UserError(f"{path}: its weights are not those of its field ({_one_line(error)})") from None
    return Rendering(task.eval(), None if shift is None else torch.tensor(shift))


def _task(header: dict[str, Any], path: Path, device: torch.device) -> SignalTask:
    if header["layout"] != _LAYOUT:
        raise UserError(
            f"{path}: layout {header['layout']}, but this recon3d knows {_LAYOUT}: use the one that wrote it"
        )
    signal = Header.from_dict(header["signal"])
    field = from_plain(FieldConfig, header["field"], str(path))
    kind: Any = TASKS[signal.kind]
    return SignalTask(kind(data=path, steps=1, field=field), device, header=signal)


def _plain(field: FieldConfig) -> dict[str, Any]:
    """The configuration without the sections of encoders and networks that are not in it."""
    plain = to_plain(field)
    used = {*field.encoder, field.network}
    return {key: value for key, value in plain.items() if not isinstance(value, dict) or key in used}


def _narrowed(name: str, value: Tensor, precision: WeightPrecision) -> Tensor:
    value = value.detach().cpu().contiguous()
    kind = TYPES[precision]
    if not (value.is_floating_point() or value.is_complex()):
        return value
    parts = torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
    largest = float(parts.abs().max()) if parts.numel() else 0.0
    if not largest <= torch.finfo(kind).max:
        raise UserError(
            f"field.{name} holds {largest:.3g}, and {precision} at most {torch.finfo(kind).max:g}: "
            "give --precision float32"
        )
    # safetensors has no complex numbers of 16 bits: those stay as they are.
    return value if value.is_complex() else value.to(kind)


def _widened(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
