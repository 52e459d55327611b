"""In which type a field's products are made."""

from __future__ import annotations

import contextlib
from typing import Any

import torch


def products_in(precision: torch.dtype, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Inside, matrix products are made in ``precision``; float32 means as they are."""
    if precision == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=precision)


def products_as_they_are(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Inside, matrix products are made in the type of their operands, whatever :func:`products_in` says around it.

    Whatever multiplies a product by a large frequency and takes a sine of it works in here: bfloat16 keeps 8 bits, so
    a sine's argument of 100 would be wrong by half a radian.
    """
    return torch.autocast(device.type, enabled=False)
