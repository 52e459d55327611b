"""Lazy stacks index like the arrays they stand for, and read only what is asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon3d.data import stacks

ARRAY = np.random.default_rng(0).random((9, 6, 8), dtype=np.float32)


def lazy(array=ARRAY, log=None):
    def read(views, rows, columns):
        if log is not None:
            log.append((views.tolist(), rows, columns))
        return array[views][:, rows, columns]

    return stacks.LazyStack(array.shape, read)


@pytest.mark.parametrize(
    "key",
    [
        0,
        -1,
        slice(2, 7, 2),
        slice(None, None, -1),
        [3, 1, 1],
        np.array([True, False] * 4 + [True]),
        (slice(None), 2),
        (1, slice(None, None, -2), slice(3, 5)),
        (Ellipsis, 4),
        (slice(None), slice(4, 2), slice(None)),
        (2, -1, -3),
    ],
)
def test_indexes_like_the_array(key):
    np.testing.assert_array_equal(lazy()[key], ARRAY[key])


def test_reads_no_more_than_asked_for():
    log = []
    lazy(log=log)[[4, 2], 1:3, 5]
    assert log == [([4, 2], slice(1, 3), slice(5, 6))]


@pytest.mark.parametrize("key", [(0, 0, 0, 0), (0, 6), (9,)])
def test_what_lies_outside_is_refused(key):
    with pytest.raises(IndexError):
        lazy()[key]


def test_views_crop_and_bins_of_an_array():
    chosen = stacks.take_views(lazy(), np.array([5, 0, 5]))
    np.testing.assert_array_equal(chosen[...], ARRAY[[5, 0, 5]])
    part = stacks.crop(lazy(), slice(1, 5), slice(2, 8))
    np.testing.assert_array_equal(part[1:, 2:, 3], ARRAY[1:, 3:5, 5])
    binned = stacks.bin_pixels(lazy(), 2, 3)
    expected = ARRAY[:, :, :6].reshape(9, 3, 2, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(binned[...], expected, rtol=1e-6)
    np.testing.assert_allclose(binned[2:4, 1:, :1], expected[2:4, 1:, :1], rtol=1e-6)


@given(st.permutations(["angles", "rows", "columns"]))
def test_axes_in_any_order(axes):
    order = [("angles", "rows", "columns").index(name) for name in axes]
    stack = stacks.reorder(ARRAY.transpose(order), axes)
    assert stack.shape == ARRAY.shape
    np.testing.assert_array_equal(
        stacks.block(stack, np.array([4, 1]), slice(2, 4), slice(0, 3)), ARRAY[[4, 1], 2:4, :3]
    )


def test_a_sinogram_has_one_row():
    sinogram = ARRAY[:, 0]
    np.testing.assert_array_equal(stacks.reorder(sinogram, ("angles", "columns"))[...], sinogram[:, None])
    np.testing.assert_array_equal(stacks.reorder(sinogram.T, ("columns", "angles"))[...], sinogram[:, None])


def test_chunks_cover_all_views_within_the_bytes(monkeypatch):
    monkeypatch.setattr(stacks, "CHUNK_BYTES", 2 * 4 * 6 * 8)
    parts = list(stacks.chunks(lazy()))
    assert [len(p) for p in parts] == [2, 2, 2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(9))


def test_runs_of_ascending_views():
    assert list(stacks.runs(np.array([3, 4, 5, 1, 2, 2]))) == [
        (slice(0, 3), slice(3, 6)),
        (slice(3, 5), slice(1, 3)),
        (slice(5, 6), slice(2, 3)),
    ]
    assert list(stacks.runs(np.array([], np.int64))) == []


def test_by_rows_gives_every_sinogram_to_the_function(monkeypatch):
    expected = ARRAY * np.arange(8)
    np.testing.assert_allclose(stacks.by_rows(lazy(), lambda sinogram: sinogram * np.arange(8)), expected, rtol=1e-6)
    monkeypatch.setattr(stacks, "_MOST_IN_MEMORY", 100)
    large = stacks.by_rows(lazy(), lambda sinogram: sinogram * np.arange(8))
    assert isinstance(large, np.memmap)
    np.testing.assert_allclose(large, expected, rtol=1e-6)


def test_in_memory_copies_maps_only(tmp_path):
    assert stacks.in_memory(ARRAY) is ARRAY
    np.save(tmp_path / "a.npy", ARRAY)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert type(stacks.in_memory(mapped)) is np.ndarray
    np.testing.assert_array_equal(np.asarray(lazy()), ARRAY)
