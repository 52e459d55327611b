"""A sequence of operations on a GPU, recorded once and repeated as a whole.

A step of a small network is hundreds of short kernels, and to launch them one by one takes the host longer than they
run. A CUDA graph launches all of them at once; it needs memory that stays where it is and no question from the host.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch

WARM_UP = 3
"""Calls before the recording: kernels are compiled, and the optimiser's state is made."""


class RecordedStep:
    """``function`` without arguments and without a result, that only talks to one CUDA device: its first calls run as
    they are, the next is recorded, and the later ones repeat the recording.

    What changes from call to call must be in tensors, or in ``generator``, which may be seeded anew before a call.
    Where it cannot be recorded, a warning says so, and all calls run as they are.
    """

    def __init__(self, function: Callable[[], None], generator: torch.Generator) -> None:
        self.function, self.generator = function, generator
        self.graph: torch.cuda.CUDAGraph | None = None
        self.calls = 0

    def __call__(self) -> None:
        if self.calls == WARM_UP:
            self.graph = self._record()
        if self.graph is None:
            self._aside()
        else:
            self.graph.replay()
        self.calls += 1

    def _aside(self) -> None:
        """On a stream of its own, as a recording will be."""
        stream = torch.cuda.Stream(self.generator.device)
        stream.wait_stream(torch.cuda.current_stream(self.generator.device))
        with torch.cuda.stream(stream):
            self.function()
        torch.cuda.current_stream(self.generator.device).wait_stream(stream)

    def _record(self) -> torch.cuda.CUDAGraph | None:
        device = self.generator.device
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        try:
            # The stream is set back here: a recording that fails leaves its own as the current one.
            stream = torch.cuda.current_stream(device)
            with torch.cuda.device(device), torch.cuda.stream(stream), torch.cuda.graph(graph):
                self.function()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            warnings.warn(f"a step cannot be recorded ({reason}): its kernels are launched one by one", stacklevel=2)
            self._free_generators()
            return None
        return graph

    def _free_generators(self) -> None:
        """Give the generators that took part in a recording states of their own again: after one that failed, theirs
        still wait for its end."""
        device = self.generator.device
        index = torch.cuda.current_device() if device.index is None else device.index
        for generator in (self.generator, torch.cuda.default_generators[index]):
            fresh = torch.Generator(device)
            fresh.manual_seed(generator.initial_seed())
            generator.graphsafe_set_state(fresh.graphsafe_get_state())
