"""Ops that are called past torch's dispatcher where it has nothing to do."""

import inspect

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from recon3d.kernels.ops import op

CALLED = []


def _twice(x: Tensor) -> Tensor:
    return 2 * x


twice = op("recon3d_test::twice")(_twice)
twice.register_fake(torch.empty_like)
twice.register_autograd(lambda ctx, grad: 2 * grad, setup_context=lambda ctx, inputs, output: None)


def _on_cpu(x: Tensor) -> Tensor:
    CALLED.append(any("custom_ops" in frame.filename for frame in inspect.stack()))
    return 2 * x.detach()


twice.register_kernel("cpu", _on_cpu)


@op("recon3d_test::add_into", mutates_args=("totals",))
def add_into(x: Tensor, totals: list[Tensor]) -> None:
    for total in totals:
        total += x


add_into.register_kernel("cpu", lambda x, totals: [total.numpy().__iadd__(x.numpy()) for total in totals] and None)


class Names(TorchDispatchMode):
    """The operations that the dispatcher is asked for."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **kwargs or {})


def by_way_of_the_dispatcher(x):
    CALLED.clear()
    assert torch.equal(twice(x), 2 * x)
    (found,) = CALLED
    return found


def test_a_plain_call_goes_straight_to_the_kernel():
    assert not by_way_of_the_dispatcher(torch.ones(3))
    assert not by_way_of_the_dispatcher(torch.nn.Parameter(torch.ones(3), requires_grad=False))
    with torch.no_grad():
        assert not by_way_of_the_dispatcher(torch.ones(3, requires_grad=True))


def test_gradients_go_by_way_of_the_dispatcher():
    x = torch.ones(3, requires_grad=True)
    assert by_way_of_the_dispatcher(x)
    twice(x).sum().backward()
    assert torch.equal(x.grad, torch.full((3,), 2.0))


def test_who_watches_sees_the_op():
    with Names() as names:
        twice(torch.ones(3))
    assert "recon3d_test.twice.default" in names.seen
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        twice(torch.ones(3))
    assert "recon3d_test::twice" in {event.key for event in profiler.key_averages()}


def test_a_trace_keeps_the_op():
    traced = torch.jit.trace(lambda x: twice(x), torch.ones(3))
    assert torch.equal(traced(torch.full((3,), 5.0)), torch.full((3,), 10.0))


def test_transforms_see_the_op():
    x = torch.arange(6.0).view(2, 3)
    assert torch.equal(torch.func.vmap(twice)(x), 2 * x)


def test_what_is_mutated_gets_a_new_version():
    totals = [torch.zeros(3), torch.ones(3)]
    versions = [total._version for total in totals]
    add_into(torch.ones(3), totals)
    assert [float(total[0]) for total in totals] == [1, 2]
    assert all(total._version > version for total, version in zip(totals, versions, strict=True))
    torch.library.opcheck(torch.ops.recon3d_test.add_into.default, (torch.ones(3), totals))
