"""One variant of a full-batch step, for a process of its own: MODEL chunked|plain SIZE REPEATS THREADS."""

from __future__ import annotations

import json
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from recon3d.bench.models import MODELS
from recon3d.bench.options import Options
from recon3d.fields.encoders import Chebyshev
from recon3d.fields.field import Field
from recon3d.geometry.grids import grid_points
from recon3d.training.chunks import descend, fastest_chunk
from recon3d.training.machine import keep_freed_memory, physical_cores

Forward = Callable[[Tensor], Tensor]
DAMPINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "siren": torch.sin,
    "spder": lambda x: torch.sin(x) * torch.sqrt(torch.abs(x).clamp_min(1e-30)),
    "spder_arctan": lambda x: torch.sin(x) * torch.arctan(x),
}


def plain_forward(field: Field, model: str) -> Forward:
    """The formula in PyTorch's own operations, on the weights of ``field``."""
    layers: list[nn.Linear] = [layer for layer in field.network.modules() if isinstance(layer, nn.Linear)]
    if model == "sl2a":
        return _plain_sl2a(field, layers)
    activation = DAMPINGS[model]

    def forward(x: Tensor) -> Tensor:
        for layer in layers[:-1]:
            x = activation(30 * layer(x))
        return layers[-1](x)

    return forward


def _plain_sl2a(field: Field, layers: list[nn.Linear]) -> Forward:
    encoder = field.encoder
    assert isinstance(encoder, Chebyshev)

    def forward(x: Tensor) -> Tensor:
        degree = torch.arange(encoder.coefficients.shape[-1])
        # The angle as the field has it; arccos(tanh x) is the same in exact arithmetic.
        features = torch.cos(degree * torch.acos(torch.tanh(x)).unsqueeze(-1))
        psi = encoder.norm(torch.einsum("nik,iok->no", features, encoder.coefficients))
        y = psi
        for layer in layers[:-1]:
            y = torch.relu(layer(y * psi))
        return layers[-1](y * psi)

    return forward


def step(forward: Forward, field: Field, x: Tensor, target: Tensor, chunk: int) -> None:
    """Gradients of the mean squared error, chunk by chunk, into those of ``field``."""

    def error(begin: int, end: int) -> Tensor:
        return (forward(x[begin:end]) - target[begin:end]).square().sum() / len(x)

    descend(error, (0, len(x)), chunk, list(field.parameters()), Tensor.backward, torch.get_num_threads())


def difference(model: str, options: Options) -> float:
    """How far the chunked gradients are from those of one batch: the largest relative difference of a parameter's."""
    field, x, target = _make(model, options.size or 64)
    parameters = list(field.parameters())
    step(field, field, x, target, 1024)
    ours = [parameter.grad for parameter in parameters]
    field.zero_grad(set_to_none=True)
    step(field, field, x, target, len(x))
    pairs = [(a, b.grad) for a, b in zip(ours, parameters, strict=True)]
    return max(float((a - b).norm() / b.norm()) for a, b in pairs if a is not None and b is not None)


def _make(model: str, size: int) -> tuple[Field, Tensor, Tensor]:
    torch.manual_seed(0)
    field = Field(MODELS[model].field.resolved(), 2, 1)
    x = grid_points((size, size))
    target = torch.sin(7 * x[:, :1]) * torch.cos(5 * x[:, 1:])
    return field, x, target


def measure(model: str, kind: str, size: int, repeats: int, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads or physical_cores())
    if kind == "chunked":
        keep_freed_memory()
    field, x, target = _make(model, size)
    idle = _peak_mb()
    forward: Forward = field if kind == "chunked" else plain_forward(field, model)

    at_once = torch.get_num_threads()

    def probe(points: int) -> None:
        step(field, field, x[: at_once * points], target[: at_once * points], points)

    chunk = fastest_chunk(probe, len(x) // at_once, torch.device("cpu")) if kind == "chunked" else len(x)
    seconds = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        field.zero_grad(set_to_none=True)
        step(forward, field, x, target, chunk)
        seconds.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(seconds[1:]), "peak_mb": _peak_mb() - idle, "chunk": chunk}


def _peak_mb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return math.ceil(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20)


def report(arguments: list[str]) -> None:
    """Print the figures of the variant that the command line names as one line of JSON."""
    model, kind, *numbers = arguments
    print(json.dumps(measure(model, kind, *(int(number) for number in numbers))))
