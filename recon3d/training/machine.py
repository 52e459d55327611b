"""What a run computes on: device, threads, number type."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

from recon3d.config import RunConfig
from recon3d.distributed import on_this_machine
from recon3d.errors import UserError

FLOATS = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def physical_cores() -> int:
    """Physical cores this process may use (logical ones where the system does not tell)."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = set()
    for cpu in allowed:
        try:
            with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") as file:  # noqa: PTH123
                siblings.add(file.read())
        except OSError:
            return len(allowed)
    return max(1, len(siblings))


def select_device(name: str) -> torch.device:
    """The torch device for "auto", "cpu" or "cuda"; of several processes on a machine, each has its own GPU.

    Raises:
        UserError: cuda was asked for and there is none, or there are fewer GPUs than processes.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here; use --device cpu, or see recon3d doctor")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    number, processes = on_this_machine()
    if name == "cpu" or processes == 1:
        return torch.device(name)
    if torch.cuda.device_count() < processes:
        raise UserError(
            f"{processes} processes, but torch sees {torch.cuda.device_count()} GPUs here: start as many processes as "
            "there are GPUs, or give --device cpu"
        )
    return torch.device(name, number)


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe and probe())


def select_precision(name: str, device: torch.device) -> torch.dtype:
    """The type of the networks' products; for "tf32" that of its operands, which :func:`prepare` lets be rounded."""
    if name != "auto":
        return FLOATS[name]
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if cpu_has_bfloat16() else torch.float32


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step instead of giving it back to the system.

    By default every activation of some megabytes is mapped anew, and its pages are zeroed and faulted in one by one:
    that doubles the time of a step on the CPU.
    """
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**31 - 1)
    except (OSError, AttributeError):
        return  # another C library, with its own habits


def free_memory() -> int | None:
    """Bytes that a process can still take: what is free, and what the system keeps but would give; None where it does
    not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def set_up(device: str, threads: int | None) -> torch.device:
    """Set memory and threads (None: one per physical core, shared by the processes of a run) as long computations want
    them; returns the device.

    Raises:
        UserError: cuda was asked for and there is none, or there are fewer GPUs than processes.
    """
    keep_freed_memory()
    torch.set_flush_denormal(True)  # a Gaussian's tail in denormals makes a step several times slower
    torch.set_num_threads(threads or max(1, physical_cores() // on_this_machine()[1]))
    chosen = select_device(device)
    if chosen.index is not None:
        torch.cuda.set_device(chosen)
    return chosen


def prepare(config: RunConfig) -> tuple[torch.device, torch.dtype]:
    """Set threads and seeds as ``config`` says; returns the device and the type of the networks' products."""
    device = set_up(config.device, config.threads)
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")
    return device, select_precision(config.precision, device)
