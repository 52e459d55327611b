"""Custom ops of torch that cost little to call.

A call by way of torch's dispatcher, whose parts for custom ops are in Python, takes about a tenth of a millisecond of a
training step on a CPU; such a step has some twenty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

Kernel = Callable[..., Any]


class Op:
    """A ``torch.library.custom_op``, and its kernel for CPUs, which is called without torch's dispatcher where that has
    nothing to do: no gradient is wanted, and nobody compiles, transforms, profiles or watches what is called."""

    def __init__(self, name: str, reference: Kernel, mutates_args: Sequence[str]) -> None:
        self.custom = torch.library.custom_op(name, reference, mutates_args=mutates_args)
        names = [argument.name for argument in self.custom._opoverload._schema.arguments]
        self.mutated = [names.index(argument) for argument in mutates_args]
        self.on_cpu: Kernel | None = None
        self.register_fake, self.register_autograd = self.custom.register_fake, self.custom.register_autograd

    def register_kernel(self, device: str, kernel: Kernel) -> None:
        """What computes the op on a device."""
        self.custom.register_kernel(device)(kernel)
        if device == "cpu":
            self.on_cpu = kernel

    def __call__(self, *args: Any) -> Any:
        if self.on_cpu is None or not _is_plain(args):
            return self.custom(*args)
        result = self.on_cpu(*args)
        for place in self.mutated:
            torch.autograd.graph.increment_version(args[place])
        return result


def op(name: str, mutates_args: Sequence[str] = ()) -> Callable[[Kernel], Op]:
    """Make a function, the reference for all devices, an :class:`Op`."""
    return lambda reference: Op(name, reference, mutates_args)


def _is_plain(args: tuple[Any, ...]) -> bool:
    """Whether torch's dispatcher would do no more than call the kernel for CPUs."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.autograd._profiler_enabled():
        return False
    if _get_current_dispatch_mode() is not None or torch._C._are_functorch_transforms_active():
        return False
    gradients = torch.is_grad_enabled()
    return all(
        type(tensor) in (Tensor, torch.nn.Parameter) and tensor.is_cpu and not (gradients and tensor.requires_grad)
        for tensor in _tensors(args)
    )


def _tensors(args: tuple[Any, ...]) -> Iterator[Tensor]:
    for value in args:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list) and value and isinstance(value[0], Tensor):
            yield from value
