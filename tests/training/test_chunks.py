"""The probe for the fastest chunk: the least time a point, within the batch, past what memory does not hold."""

import time

import pytest
import torch

from recon3d.training.chunks import CANDIDATES, fastest_chunk

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
