"""A disk that is small enough to fill."""

import contextlib
import subprocess

import pytest


@contextlib.contextmanager
def tiny_disk(folder, size):
    """``folder`` as a file system of its own of ``size`` ("512k", "4m"); skips where this may not be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        made = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount command here: a full disk cannot be tried")
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder):
    """Write a file ``other`` that leaves no byte."""
    with (folder / "other").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass


def grow(folder, size):
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)
