"""The ramp filter of filtered back-projection, and the windows that tame its high frequencies.

Source: Kak and Slaney, "Principles of Computerized Tomographic Imaging" (1988), equation 3.61: the ramp is
made from its samples in space, so that the mean of the image is right, and rows are padded so that the convolution does
not wrap.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.config.classical import FbpConfig


def ramp(columns: int, options: FbpConfig, device: torch.device | str = "cpu") -> Float[Tensor, " f"]:
    """Response (F,), float64, of the filter for rows of unit pitch and the length :func:`padded`."""
    size = padded(columns)
    n = torch.arange(size, dtype=torch.float64, device=device)
    n = torch.minimum(n, size - n)
    odd = n % 2 == 1
    kernel = torch.where(odd, -1 / (math.pi * n.clamp_min(1)).square(), 0.0)
    kernel[0] = 0.25
    return torch.fft.rfft(kernel).real * window(size, options, device)


def window(size: int, options: FbpConfig, device: torch.device | str = "cpu") -> Float[Tensor, " f"]:
    """The window of ``options`` at the frequencies of a real transform of length ``size``."""
    frequency = torch.fft.rfftfreq(size, dtype=torch.float64, device=device) * 2 / options.cutoff
    quarter = frequency * math.pi / 2
    shape = {
        "ramp": lambda: torch.ones_like(frequency),
        "shepp-logan": lambda: torch.sinc(frequency / 2),
        "cosine": quarter.cos,
        "hamming": lambda: 0.54 + 0.46 * (2 * quarter).cos(),
        "hann": lambda: 0.5 + 0.5 * (2 * quarter).cos(),
    }[options.filter]()
    return torch.where(frequency <= 1 + 1e-12, shape, 0.0)


def padded(columns: int) -> int:
    """The power of two that holds twice the columns."""
    return 1 << (2 * columns - 1).bit_length()


def filtered(
    projections: Float[Tensor, "a rows columns"], pitch: Float[Tensor, " a"], response: Float[Tensor, " f"]
) -> Float[Tensor, "a rows columns"]:
    """Rows convolved with the filter whose response for unit pitch is given; per mm, for columns ``pitch`` mm apart."""
    columns = projections.shape[-1]
    out = torch.empty_like(projections)
    for view, (rows, step) in enumerate(zip(projections, pitch)):
        spectrum = torch.fft.rfft(rows.double(), n=padded(columns)) * response
        out[view] = torch.fft.irfft(spectrum, n=padded(columns))[:, :columns] / step
    return out
