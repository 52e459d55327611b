"""recon3d decode FILE: the signal of a file of weights, at its own size or another, without the run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from recon3d.commands.rendered import Sampling, rendered
from recon3d.config import Device


@dataclass(frozen=True)
class Decode(Sampling):
    """Sample the field in a file that recon3d export signal wrote (default: beside it)."""

    file: Annotated[Path, tyro.conf.Positional] = tyro.MISSING
    """File of weights."""
    device: Device = "auto"
    threads: int | None = None
    """CPU threads (default: one per physical core)."""


def main(args: list[str]) -> dict[str, Any]:
    options = tyro.cli(Decode, args=args, prog="recon3d decode")

    import torch

    from recon3d.export.signals import write_signal
    from recon3d.export.weights import read_weights
    from recon3d.training.machine import keep_freed_memory, physical_cores, select_device

    keep_freed_memory()
    torch.set_num_threads(options.threads or physical_cores())
    rendering = read_weights(options.file, select_device(options.device))
    header = rendering.task.header
    grid, rate = options.grid(header)
    path = options.target(header, options.file.with_suffix(""))
    write_signal(rendered(rendering, grid, rate), path)
    size = " x ".join(map(str, grid))
    print(f"{header.kind} of {size}, {header.channels} channels; written: {path}")
    return {"file": str(path), "kind": header.kind, "size": list(grid), "channels": header.channels, "rate": rate}
