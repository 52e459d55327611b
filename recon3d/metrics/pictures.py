"""Pictures of what has no look of its own: spectrograms, waveforms, curves; all (height, width, 3) uint8."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8

_HEIGHT, _COLUMNS = 256, 1024
_DECIBELS = 80.0
_WINDOW = 0.025  # seconds of a spectrogram's window, the common choice for speech and music
_LONG = 2**20  # samples above which the windows of a spectrogram lie further apart
_PLOT_SIZE, _DOTS = (9.6, 6.0), 100  # inches, and pixels in one
# Nine colours of viridis (S. van der Walt, N. Smith, CC0), dark to bright at equal steps of lightness.
_RAMP = np.array(
    [
        (68, 1, 84),
        (71, 44, 122),
        (59, 81, 139),
        (44, 113, 142),
        (33, 144, 141),
        (39, 173, 129),
        (92, 200, 99),
        (170, 220, 50),
        (253, 231, 37),
    ],
    np.float64,
)
_TRUTH, _PREDICTION, _BOTH, _ERROR = (160, 170, 185), (240, 150, 50), (60, 75, 100), (200, 40, 40)


def spectrogram_picture(
    samples: Float[np.ndarray, " t"], rate: float, like: Float[np.ndarray, " t2"] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Loudness over time (at most 1024 columns) and frequency (256 rows, 0 at the bottom, rate / 2 on top).

    Power of the short-time Fourier transform (Hann windows of about 25 ms) in decibels, 80 of them from the darkest to
    the brightest colour. The loudest point of ``like`` is the brightest (of the samples themselves where None): give
    the truth when its prediction is drawn beside it.
    """
    power = _power(samples, rate)
    loudest = float((power if like is None else _power(like, rate)).max())
    if loudest <= 0:
        return _colours(np.zeros(power.shape))
    decibels = 10 * np.log10(np.maximum(power / loudest, 1e-30))
    return _colours(np.clip(1 + decibels / _DECIBELS, 0, 1)[::-1])


def waveform_picture(truth: Float[np.ndarray, " t"], prediction: Float[np.ndarray, " t"]) -> UInt8[np.ndarray, "h w 3"]:
    """The least and greatest of every stretch of time as a filled band, and below, in red, those of the error.

    Above, 256 rows: the truth grey, the prediction orange, dark where they cover each other. Below, 128 rows to the
    same scale. The scale is the truth's greatest magnitude; what goes beyond is cut off.
    """
    if len(truth) != len(prediction) or len(truth) == 0:
        raise ValueError(f"waveforms of {len(truth)} and {len(prediction)} samples; they must be equally long")
    scale = float(np.abs(truth).max()) or 1.0
    above = np.full((_HEIGHT, min(len(truth), _COLUMNS), 3), 255, np.uint8)
    true, predicted = _band(truth / scale, _HEIGHT), _band(prediction / scale, _HEIGHT)
    above[true], above[predicted], above[true & predicted] = _TRUTH, _PREDICTION, _BOTH
    below = np.full((_HEIGHT // 2, above.shape[1], 3), 245, np.uint8)
    below[_band((prediction - truth) / scale, _HEIGHT)[_HEIGHT // 4 : 3 * _HEIGHT // 4]] = _ERROR
    return np.concatenate([above, below])


def line_plot(
    curves: Mapping[str, tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]],
    title: str,
    xlabel: str,
    ylabel: str,
    log: Literal["", "x", "y", "xy"] = "",
) -> UInt8[np.ndarray, "600 960 3"]:
    """Curves (x, y) by name, with a grid and a legend; ``log`` names the logarithmic axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_PLOT_SIZE, dpi=_DOTS, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, (x, y) in curves.items():
        axes.plot(x, y, label=name, linewidth=1.5)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    if "x" in log:
        axes.set_xscale("log")
    if "y" in log:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    if curves:
        axes.legend()
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def heat_map(
    values: Float[np.ndarray, "rows columns"],
    title: str,
    xlabel: str,
    ylabel: str,
    span: tuple[float, float],
    limits: tuple[float, float],
) -> UInt8[np.ndarray, "600 960 3"]:
    """Values as colours between ``limits``, row 0 at the bottom; ``span`` is what the columns cover."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_PLOT_SIZE, dpi=_DOTS, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    extent = (*span, -0.5, len(values) - 0.5)
    image = axes.imshow(values, aspect="auto", origin="lower", extent=extent, vmin=limits[0], vmax=limits[1])
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    figure.colorbar(image)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _power(samples: Float[np.ndarray, " t"], rate: float) -> Float[np.ndarray, "256 w"]:
    """Power of the short-time Fourier transform, averaged to 256 rows (lowest frequency first) and <= 1024 columns."""
    size = max(2 * _HEIGHT, 2 ** round(math.log2(max(_WINDOW * rate, 1))))
    hop = size // 4 if len(samples) <= _LONG else size
    signal = torch.from_numpy(np.array(samples, np.float32))
    window = torch.hann_window(size)
    spectrum = torch.stft(signal, size, hop, window=window, pad_mode="constant", return_complex=True)
    power = spectrum.abs().square()[None, 1:]  # without frequency zero
    pooled = torch.nn.functional.adaptive_avg_pool2d(power, (_HEIGHT, min(power.shape[-1], _COLUMNS)))
    return pooled[0].double().numpy()


def _band(values: Float[np.ndarray, " t"], height: int) -> np.ndarray:
    """Which pixels (height, min(t, 1024)) lie between the least and greatest value of a column, +1 on top, -1 below."""
    columns = min(len(values), _COLUMNS)
    starts = np.arange(columns) * len(values) // columns
    least, greatest = (np.nan_to_num(f.reduceat(values, starts)) for f in (np.minimum, np.maximum))
    top, bottom = (np.rint((1 - np.clip(v, -2, 2)) / 2 * (height - 1)) for v in (greatest, least))
    rows = np.arange(height)[:, None]
    return (rows >= top) & (rows <= bottom)


def _colours(values: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Values in [0, 1] to colours of the ramp."""
    at = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(values, at, _RAMP[:, c]) for c in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
