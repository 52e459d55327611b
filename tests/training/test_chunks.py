"""The probe for the fastest chunk: the least time a point, within the batch, past what memory does not hold."""

import time

import pytest
import torch

from recon3d.training.chunks import CANDIDATES, descend, fastest_chunk

CPU = torch.device("cpu")


def test_the_fastest_is_found():
    fast = CANDIDATES["cpu"][1]
    assert fastest_chunk(lambda size: time.sleep(size * (1e-7 if size == fast else 3e-6)), 10**6, CPU) == fast


@pytest.mark.parametrize("points", [1, 100, CANDIDATES["cpu"][0]])
def test_a_small_batch_is_one_chunk_and_needs_no_probe(points):
    def never(size):
        raise AssertionError(size)

    assert fastest_chunk(never, points, CPU) == points


def test_the_batch_is_the_most():
    asked = []
    fastest_chunk(asked.append, CANDIDATES["cpu"][0] + 500, CPU)
    assert set(asked) == {CANDIDATES["cpu"][0], CANDIDATES["cpu"][0] + 500}


def test_what_memory_does_not_hold_is_passed_over():
    def run(size):
        if size > CANDIDATES["cpu"][1]:
            raise torch.OutOfMemoryError
        time.sleep(size * 1e-6)

    assert fastest_chunk(run, 10**6, CPU) in CANDIDATES["cpu"][:2]
    # Where not even the smallest fits, it is what is tried: the step itself then tells.
    assert fastest_chunk(lambda size: run(10**9), 10**6, CPU) == CANDIDATES["cpu"][0]


def gradients_of(threads, chunk, span=(0, 100)):
    """Of two weights of three, and the sum of the losses."""
    weights = [torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor(3.0, requires_grad=True), torch.zeros(2)]
    weights[2].requires_grad_()
    x = torch.linspace(0, 1, 100)

    def loss(begin, end):
        part = (weights[0][0] * x[begin:end] + weights[0][1]).square().sum()
        return part + weights[1] * x[begin] if begin < 50 else part

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        total = descend(loss, span, chunk, weights, torch.Tensor.backward, threads)
    finally:
        torch.set_num_threads(before)
    assert not total.requires_grad
    return [total, *(weight.grad for weight in weights)]


@pytest.mark.parametrize("chunk", [1, 7, 50, 100, 1000])
def test_chunks_on_threads_add_up_as_one_after_the_other(chunk):
    alone, together = gradients_of(1, chunk), gradients_of(2, chunk)
    assert alone[3] is None and together[3] is None  # of what no chunk meets
    torch.testing.assert_close(together[:3], alone[:3])
    for again in (gradients_of(2, chunk), gradients_of(2, chunk)):
        assert all(torch.equal(a, b) for a, b in zip(again[:3], together[:3], strict=True))


def test_no_points_have_no_gradients():
    total, *gradients = gradients_of(2, 10, (5, 5))
    assert total == 0 and gradients == [None] * 3


def test_what_goes_wrong_in_a_chunk_is_raised():
    def loss(begin, end):
        raise MemoryError(begin)

    with pytest.raises(MemoryError):
        descend(loss, (0, 10), 1, [torch.zeros(1, requires_grad=True)], torch.Tensor.backward, 2)
