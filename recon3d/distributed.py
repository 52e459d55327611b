"""Training by several processes, on one machine or many: every process does its part of every step.

``torchrun --nproc-per-node=N -m recon3d train ...`` starts them. All draw the same batch, by the same generator, and
each computes its own part of it. A process's loss is its part of the whole loss: parts add up over processes as they do
over the chunks of a batch, and so do their gradients. What is drawn, and what a step makes of it, hence does not depend
on the number of processes, but for the rounding of sums; a run can be resumed with another number.

Gradients are added once a step, after the last of its parts: unlike hooks on the backward, this allows any number of
backward passes a step, and weights that some of them do not touch.

In a process of its own, every function here gives back what it is given, and costs nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from recon3d.errors import UserError

T = TypeVar("T")
PATIENCE = timedelta(hours=6)
"""How long a process waits for another one, which may be drawing a preview or measuring its data."""
LARGE = 2**16
"""Gradients of so many numbers are sent as they are; smaller ones are put together first."""
FAILED = "recon3d/failed"
SIGNS_OF_LOSS = ("Connection", "closed by peer", "reset by peer", "Timed out", "remote process")
"""What Gloo and NCCL say when another process has gone."""


# --- who is there ---------------------------------------------------------------------------------------------------


def started() -> int:
    """How many processes torchrun started, of which this is one; 1 without it."""
    told = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    return int(os.environ["WORLD_SIZE"]) if told else 1


def on_this_machine() -> tuple[int, int]:
    """This process's number among those on its machine, and theirs."""
    if started() == 1:
        return 0, 1
    return int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def processes() -> int:
    """How many processes work together."""
    return dist.get_world_size() if _together() else 1


def rank() -> int:
    """This process's number among them. Number 0 alone writes the run folder and speaks."""
    return dist.get_rank() if _together() else 0


def is_first() -> bool:
    return rank() == 0


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


@contextmanager
def joined() -> Iterator[None]:
    """Within it, the processes that torchrun started work together: by NCCL on GPUs, by Gloo on CPUs.

    The first that fails says why, and the others end without a word.

    Raises:
        UserError: another process has gone.
    """
    if started() == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    store, rank, count = next(iter(dist.rendezvous("env://")))
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)
    try:
        with _silent() if rank else nullcontext():
            yield
        largest(torch.zeros(1))  # nobody leaves before all are done
    except BaseException as error:
        if isinstance(error, SystemExit) or _is_first_to_fail(store):
            raise
        raise SystemExit(1) from None
    dist.destroy_process_group()


@contextmanager
def _silent() -> Iterator[None]:
    logging.getLogger().setLevel(logging.CRITICAL)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):  # noqa: PTH123
        yield


def _is_first_to_fail(store: Any) -> bool:
    try:
        return store.add(FAILED, 1) == 1
    except RuntimeError:  # it has gone with the process that kept it
        return False


def _all(operation: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """An operation in which all processes take part.

    Raises:
        UserError: one of them has gone.
    """
    try:
        operation(*args, **kwargs)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in SIGNS_OF_LOSS):
            raise
        raise UserError(
            "another process of this run has ended (out of memory, or its machine is gone?): the last checkpoint is "
            "intact, recon3d resume goes on from it"
        ) from error


# --- one's own part -------------------------------------------------------------------------------------------------


def own_span(count: int) -> tuple[int, int]:
    """Begin and end of this process's part of ``count`` things; the parts differ by one at most."""
    return count * rank() // processes(), count * (rank() + 1) // processes()


def own(rows: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "m ..."]:
    """This process's part of rows that all processes have."""
    if processes() == 1:
        return rows
    begin, end = own_span(len(rows))
    return rows[begin:end]


def mapped(
    function: Callable[[Shaped[Tensor, "m ..."]], Shaped[Tensor, "m ..."]], rows: Shaped[Tensor, "n ..."]
) -> Shaped[Tensor, "n ..."]:
    """``function(rows)``, row by row: each process evaluates it on its own part, and all get the whole. Without
    gradients."""
    return gathered(function(own(rows)), len(rows))


def gathered(part: Shaped[Tensor, "m ..."], count: int) -> Shaped[Tensor, "n ..."]:
    """All of ``count`` rows, of which each process has its own part. Without gradients."""
    parts = processes()
    if parts == 1:
        return part
    most = -(-count // parts)
    sent = part.new_zeros(most, *part.shape[1:])
    sent[: len(part)] = part.detach()
    every = [torch.empty_like(sent) for _ in range(parts)]
    _all(dist.all_gather, every, sent)
    return torch.cat([rows[: count * (i + 1) // parts - count * i // parts] for i, rows in enumerate(every)])


# --- what the parts make together -----------------------------------------------------------------------------------


def summed(values: dict[str, Float[Tensor, ""]]) -> dict[str, Float[Tensor, ""]]:
    """The sums over processes of numbers that each has for its part, without gradients; all on one device."""
    if processes() == 1:
        return {name: value.detach() for name, value in values.items()}
    together = added(torch.stack([value.detach().double() for value in values.values()]))
    return dict(zip(values, together.unbind(), strict=True))


def mean(values: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """This process's part of the mean over the numbers of all processes; 0 where there are none."""
    if processes() == 1:
        return values.mean()
    return values.sum() / max(1.0, total(values.numel()))


def once(value: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """This process's part of a number that all processes find alike."""
    return value / processes()


def total(value: int | float) -> int | float:
    """The sum over processes of a number that the host knows."""
    return value if processes() == 1 else float(summed({"": torch.tensor(value, dtype=torch.float64)})[""])


def added(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The sum over processes of tensors of one shape; without gradients, and in the place of ``values``."""
    if processes() > 1:
        _all(dist.all_reduce, values)
    return values


def largest(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The largest over processes, number by number, in the place of ``values``."""
    if processes() > 1:
        _all(dist.all_reduce, values, op=dist.ReduceOp.MAX)
    return values


def add_gradients(weights: Iterable[nn.Parameter]) -> None:
    """Add up the gradients of all processes, in place. Weights that no process has a gradient of get none."""
    if processes() == 1:
        return
    weights = list(weights)
    known = added(torch.tensor([float(weight.grad is not None) for weight in weights]))
    gradients = []
    for weight, has in zip(weights, known.tolist(), strict=True):
        if has:
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
            gradients.append(weight.grad)
    for gradient in gradients:
        if gradient.numel() >= LARGE:
            added(gradient)
    small = [gradient for gradient in gradients if gradient.numel() < LARGE]
    if small:
        together = added(torch.cat([gradient.flatten() for gradient in small]))
        for gradient, sent in zip(small, together.split([gradient.numel() for gradient in small]), strict=True):
            gradient.copy_(sent.view_as(gradient))


# --- alike everywhere -----------------------------------------------------------------------------------------------


def start_alike(tensors: Iterable[Tensor]) -> None:
    """Give every process the first one's values, in place."""
    if processes() > 1:
        for tensor in tensors:
            _all(dist.broadcast, tensor.detach(), 0)


def from_first(make: Callable[[], T]) -> T:
    """What ``make`` gives in the first process, in all of them; it has to be picklable."""
    if processes() == 1:
        return make()
    kept = [make() if is_first() else None]
    _all(dist.broadcast_object_list, kept, 0)
    return kept[0]  # type: ignore[return-value]


def agreed(stop: bool, seconds: float) -> tuple[bool, float]:
    """Whether any process was asked to stop, and the first one's seconds: what all processes decide by."""
    if processes() == 1:
        return stop, seconds
    told = added(torch.tensor([float(stop), seconds if is_first() else 0.0], dtype=torch.float64)).tolist()
    return told[0] > 0, told[1]
