"""recon3d doctor: what this machine has, and what recon3d would use of it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from recon3d import __version__


@dataclass(frozen=True)
class Doctor:
    """What this machine has (torch, devices, kernels, optional packages, memory) and what recon3d would use."""


def main(args: list[str]) -> dict[str, Any]:
    tyro.cli(Doctor, args=args, prog="recon3d doctor")

    import torch

    from recon3d.training.machine import cpu_has_bfloat16, free_memory, physical_cores, select_device, select_precision

    device = select_device("auto")
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    free, memory = shutil.disk_usage(Path.cwd()).free, free_memory()
    facts = {
        "recon3d": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(device),
        "precision": str(select_precision("auto", device)).removeprefix("torch."),
        "cpu": f"{physical_cores()} cores, {torch.backends.cpu.get_cpu_capability()}, "
        f"bfloat16 products {'in hardware' if cpu_has_bfloat16() else 'not in hardware'}",
        "gpu": ", ".join(f"{g.name}, {g.total_memory / 2**30:.0f} GiB" for g in gpus) or "none that torch can use",
        "kernels": _kernels(bool(gpus)),
        "tinycudann": "importable" if importlib.util.find_spec("tinycudann") else "not installed (not needed)",
        "processes": _processes(len(gpus)),
        "ray": _library("ray", "recon3d[sweep]", "recon3d sweep --ray"),
        "pycolmap": _library("pycolmap", "recon3d[poses]", "recon3d data poses"),
        "open3d": _open3d(),
        "memory_free": "not told" if memory is None else f"{memory / 2**30:.1f} GiB",
        "disk_free": f"{free / 2**30:.1f} GiB in {Path.cwd()}",
    }
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):<12} {value}")
    return facts


def _kernels(has_gpu: bool) -> str:
    numba = f"CPU: numba {importlib.metadata.version('numba')}"
    if not has_gpu:
        return numba
    triton = importlib.util.find_spec("triton")
    return f"{numba}; CUDA: " + (
        f"Triton {importlib.metadata.version('triton')}" if triton else "plain torch (no Triton)"
    )


def _processes(gpus: int) -> str:
    """How several processes would train together."""
    import torch.distributed as dist

    if not dist.is_available():
        return "this torch cannot train by several processes"
    if gpus and dist.is_nccl_available():
        return f"NCCL: torchrun --nproc-per-node={gpus} -m recon3d train ..."
    return "Gloo, on the CPU: torchrun --nproc-per-node=N -m recon3d train ..."


def _library(name: str, extra: str, purpose: str) -> str:
    if importlib.util.find_spec(name) is None:
        return f"not installed: pip install '{extra}' (needed for {purpose})"
    return importlib.metadata.version(name)


def _open3d() -> str:
    try:
        return f"{importlib.import_module('open3d').__version__}"
    except ImportError as error:
        if "libusb" in str(error):
            return "cannot load libusb-1.0: apt-get install libusb-1.0-0"
        return "not installed: pip install open3d (needed to make the embedded scene)"
    except OSError as error:
        return f"cannot be loaded: {error}"
