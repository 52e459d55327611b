"""Libraries that only some file formats need."""

from __future__ import annotations

import importlib
from typing import Any

from recon3d.errors import UserError


def library(name: str, purpose: str, extra: str = "ct") -> Any:
    """Import a library of an extra.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = name.partition(".")[0]
        raise UserError(f"{purpose} needs {missing}, which is not here: pip install 'recon3d[{extra}]'") from error
