"""torch.compile takes every kind of field whole, without a break in its graph: all custom ops tell their shapes."""

import os
import subprocess
import sys
from pathlib import Path

from .compile_fields import KINDS


def test_fields_compile_whole():
    """In a process of its own: here types are checked at run time, which torch.compile cannot look through."""
    command = [sys.executable, str(Path(__file__).with_name("compile_fields.py"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr[-4000:]
    assert run.stdout.split() == [*KINDS, "radiance"]
