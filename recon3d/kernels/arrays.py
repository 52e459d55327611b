"""Tensors as the arrays that numba kernels read and write."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def numbers(values: Tensor, kind: torch.dtype = torch.float32) -> np.ndarray:
    """The bits of bfloat16 as uint16, other types as ``kind``; the tensor's own memory where that is possible."""
    values = values.detach().contiguous()
    return values.view(torch.uint16).numpy() if values.dtype == torch.bfloat16 else values.to(kind).numpy()
