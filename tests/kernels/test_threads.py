"""Work is cut into spans that cover it, in whole blocks where a kernel wants them, and done on as many threads as was
said: by torch, or apart from it."""

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recon3d.kernels.threads import kernel_threads, run_parallel, small_operations, spans


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@given(n=st.integers(0, 5000), parts=st.integers(1, 40), block=st.integers(1, 300))
def test_spans_cover_everything_once_in_whole_blocks(n, parts, block):
    found = spans(n, parts, block)
    assert [begin for begin, _ in found] == [0, *(end for _, end in found[:-1])] and found[-1][1] == n
    assert 1 <= len(found) <= parts and all(begin % block == 0 for begin, _ in found)
    blocks = [-(-(end - begin) // block) for begin, end in found]
    assert max(blocks) - min(blocks) <= 1


def numbers_of_threads():
    return kernel_threads(), torch.get_num_threads()


@pytest.mark.usefixtures("three_threads")
def test_small_operations_keep_to_one_thread_and_kernels_do_not():
    assert numbers_of_threads() == (3, 3)
    with small_operations():
        assert numbers_of_threads() == (3, 1)
        with small_operations():
            assert numbers_of_threads() == (3, 1)
        assert numbers_of_threads() == (3, 1)
    assert numbers_of_threads() == (3, 3)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("small", [False, True])
def test_tasks_are_on_all_threads_and_each_on_one(small):
    """Three tasks that wait for each other end only if three threads have them; what they call runs on theirs alone."""
    together, own = threading.Barrier(3, timeout=20), threading.get_ident

    def task(index):
        together.wait()
        return index, *numbers_of_threads(), *run_parallel(lambda thread: own() == thread, [(own(),)] * 2)

    def run():
        return run_parallel(task, [(0,), (1,), (2,)]), numbers_of_threads()

    if small:
        with small_operations():
            found, after = run()
    else:
        found, after = run()
    assert found == [(index, 1, 1, True, True) for index in range(3)]
    assert after == (3, 1 if small else 3)
    assert numbers_of_threads() == (3, 3)


@pytest.mark.usefixtures("three_threads")
def test_what_fails_leaves_the_numbers_of_threads():
    def task(index):
        raise ValueError(f"task {index}")

    with small_operations():
        with pytest.raises(ValueError, match="task"):
            run_parallel(task, [(0,), (1,), (2,)])
        assert numbers_of_threads() == (3, 1)
    assert numbers_of_threads() == (3, 3)


@pytest.mark.usefixtures("three_threads")
def test_nothing_is_begun_after_a_failure():
    begun = []

    def task(index):
        begun.append(index)
        raise ValueError(f"task {index}")

    with pytest.raises(ValueError, match="task"):
        run_parallel(task, [(index,) for index in range(1000)])
    assert 1 <= len(begun) <= 3
