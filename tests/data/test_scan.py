"""The scan and its file."""

import dataclasses

import numpy as np
import pytest
import torch

from recon3d.data import npz, stacks
from recon3d.data.scan import is_scan, load_scan
from recon3d.errors import UserError
from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.voxels import VolumeGrid

from .scans import parallel_scan


def test_a_saved_scan_reads_back_exactly(tmp_path):
    scan = parallel_scan(views=40, rows=20, counts=1e4, notes=("one", "two"))
    path = tmp_path / "scan.npz"
    scan.save(path)
    assert is_scan(path)
    back = load_scan(path)
    assert isinstance(back.projections, np.memmap)  # read where it lies
    np.testing.assert_array_equal(back.projections, scan.projections)
    for name in ("source", "detector", "u", "v", "angles"):
        assert torch.equal(getattr(back.geometry, name), getattr(scan.geometry, name))
    assert (back.grid, back.counts, back.notes, back.quantity) == (scan.grid, 1e4, ("one", "two"), "line_integrals")
    assert [p.name for p in tmp_path.iterdir()] == ["scan.npz"]


def test_raw_counts_keep_their_fields_and_any_geometry(tmp_path):
    scan = parallel_scan(quantity="counts", flat=np.full((3, 32), 9, np.float32), dark=np.ones((3, 32), np.float32))
    geometry = ScanGeometry.cone(np.arange(12.0).tolist(), 32, 3, 0.2, 100.0, 50.0, curved=True)
    scan = dataclasses.replace(
        scan,
        geometry=dataclasses.replace(geometry, angles=None),
        grid=VolumeGrid((1, 2, 3), (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)),
    )
    scan.save(tmp_path / "scan.npz")
    back = load_scan(tmp_path / "scan.npz")
    assert back.geometry.curved and back.geometry.divergent and back.geometry.angles is None
    assert back.grid == scan.grid
    np.testing.assert_array_equal(back.flat, scan.flat)
    np.testing.assert_array_equal(back.dark, scan.dark)


def test_a_lazy_stack_is_written_by_block(tmp_path, monkeypatch):
    scan = parallel_scan(views=30, rows=20)
    asked = []

    def read(views, rows, columns):
        asked.append(len(views))
        return scan.projections[views][:, rows, columns]

    lazy = dataclasses.replace(scan, projections=stacks.LazyStack(scan.projections.shape, read))
    monkeypatch.setattr(stacks, "CHUNK_BYTES", 4 * 20 * 32 * 7)
    lazy.save(tmp_path / "scan.npz")
    assert max(asked) == 7
    with np.load(tmp_path / "scan.npz", allow_pickle=False) as values:
        np.testing.assert_array_equal(values["projections"], scan.projections)


def test_some_views_are_read_when_they_are_asked_for():
    scan = parallel_scan()
    some = scan.views([7, 2])
    assert len(some) == 2
    np.testing.assert_array_equal(some.load().projections, scan.projections[[7, 2]])
    assert torch.equal(some.geometry.angles, scan.geometry.angles[[7, 2]])
    assert len(scan.views(slice(1, None, 3))) == 4
    with pytest.raises(UserError, match="no projection of 12 is left"):
        scan.views([])


@pytest.mark.parametrize(
    ("projections", "words"),
    [
        (np.zeros((11, 3, 32), np.float32), "12 angles, but 11 projections"),
        (np.zeros((12, 32, 3), np.float32), "are the axes"),
        (np.zeros((12, 32), np.float32), "give \\(angles, rows, columns\\)"),
        (np.zeros((12, 0, 32), np.float32), "no projections"),
    ],
)
def test_projections_that_do_not_fit_the_geometry(projections, words):
    with pytest.raises(UserError, match=words):
        parallel_scan(projections=projections)


def test_fields_that_do_not_fit():
    with pytest.raises(UserError, match="flat field of shape"):
        parallel_scan(quantity="counts", flat=np.ones((2, 32), np.float32))
    with pytest.raises(UserError, match="photon count"):
        parallel_scan(counts=0.0)


def test_files_that_are_no_scans(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, a=np.arange(3))
    assert not is_scan(path)
    with pytest.raises(UserError, match="not a scan of recon3d"):
        load_scan(path)
    parallel_scan().save(path)
    values = npz.read(path)
    npz.write(path, {**values, "recon3d_scan": np.int64(7)})
    with pytest.raises(UserError, match="layout 7"):
        load_scan(path)
    npz.write(path, {k: v for k, v in values.items() if k != "u"})
    with pytest.raises(UserError, match="u missing"):
        load_scan(path)
    npz.write(path, {**values, "detector": np.zeros((2, 3))})
    with pytest.raises(UserError, match="cannot be read"):
        load_scan(path)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(UserError, match=r"NPY nor NPZ|cannot be read"):
        load_scan(path)


def test_objects_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("a.npz", "a.npy"):
        with pytest.raises(UserError, match="pickled objects, which are never loaded"):
            npz.read(tmp_path / name)


def test_nothing_is_left_where_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        parallel_scan().save(tmp_path / "file" / "scan.npz")

    class Broken(stacks.LazyStack):
        def block(self, views, rows, columns):
            raise KeyboardInterrupt

    scan = dataclasses.replace(parallel_scan(), projections=Broken((12, 3, 32), lambda v, r, c: None))
    with pytest.raises(KeyboardInterrupt):
        scan.save(tmp_path / "scan.npz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]
