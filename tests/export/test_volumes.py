"""Volumes, written and read back by other people's code where it is at hand, and by what the formats' papers say."""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon3d.errors import UserError
from recon3d.export import volumes
from recon3d.export.volumes import Lattice, field_values, lattice_over, sampled, write_volume
from recon3d.geometry.boxes import Normalizer

HOME = Normalizer((3.0, -2.0, 10.0), 4.0)
LATTICE = Lattice((4, 3, 5), (1.5, -2.25, 10.0), (0.5, 0.25, 0.125))
VALUES = np.random.default_rng(0).normal(size=LATTICE.shape).astype(np.float32)


def test_npz_holds_values_and_their_place(tmp_path: Path) -> None:
    path = write_volume(tmp_path / "v.npz", [VALUES[:1], VALUES[1:]], LATTICE, quantity="density")
    with np.load(path) as file:
        np.testing.assert_array_equal(file["values"], VALUES)
        assert file["values"].dtype == np.float32
        assert (str(file["axes"]), str(file["quantity"])) == ("zyx", "density")
        np.testing.assert_array_equal(file["origin"], LATTICE.origin)
        np.testing.assert_array_equal(file["spacing"], LATTICE.spacing)


@pytest.mark.parametrize("dtype", ["float32", "uint16", "int16", "uint8", "float64"])
def test_nrrd_is_read_by_pynrrd(dtype: str, tmp_path: Path) -> None:
    nrrd = pytest.importorskip("nrrd")
    values = (100 * VALUES).astype(dtype) if dtype != "float64" else VALUES.astype(dtype)
    path = write_volume(tmp_path / "v.nrrd", [values], LATTICE, quantity="attenuation", dtype=dtype)
    read, header = nrrd.read(str(path), index_order="C")
    np.testing.assert_array_equal(read, values)
    assert read.dtype == np.dtype(dtype)
    np.testing.assert_allclose(header["space origin"], LATTICE.origin)
    np.testing.assert_allclose(header["space directions"], np.diag(LATTICE.spacing))
    assert header["content"] == "attenuation"


def test_vti_is_what_vtk_says(tmp_path: Path) -> None:
    """XML up to the underscore of AppendedData, then the length and the values."""
    path = write_volume(tmp_path / "v.vti", [VALUES], LATTICE, quantity="signed_distance")
    head, rest = path.read_bytes().split(b'<AppendedData encoding="raw">\n_')
    image = ET.fromstring(head + b"</VTKFile>").find("ImageData")
    assert image is not None
    assert image.get("WholeExtent") == "0 4 0 2 0 3"
    assert [float(v) for v in image.get("Origin", "").split()] == list(LATTICE.origin)
    assert [float(v) for v in image.get("Spacing", "").split()] == list(LATTICE.spacing)
    array = image.find("Piece/PointData/DataArray")
    assert array is not None
    assert dict(array.attrib) == {"type": "Float32", "Name": "signed_distance", "format": "appended", "offset": "0"}
    (length,) = struct.unpack("<Q", rest[:8])
    assert length == VALUES.nbytes
    np.testing.assert_array_equal(np.frombuffer(rest[8 : 8 + length], "<f4").reshape(LATTICE.shape), VALUES)
    assert rest[8 + length :].split() == [b"</AppendedData>", b"</VTKFile>"]


@settings(max_examples=30, deadline=None)
@given(
    resolution=st.integers(2, 40),
    low=st.tuples(*[st.integers(-20, 14).map(lambda n: n / 16)] * 3),  # often just at a sample
    size=st.tuples(*[st.integers(1, 24).map(lambda n: n / 16)] * 3),
)
def test_a_crop_holds_the_same_samples_that_the_whole_has_there(resolution: int, low, size) -> None:
    whole = lattice_over(HOME, resolution)
    everywhere = whole.points(0, resolution)
    box = [(np.asarray(HOME.center) + 4 * np.asarray(corner)).tolist() for corner in (low, np.add(low, size))]
    wanted = everywhere[((everywhere >= np.array(box[0]) - 1e-6) & (everywhere <= np.array(box[1]) + 1e-6)).all(axis=1)]
    if len(wanted) == 0:
        with pytest.raises(UserError, match="holds no sample"):
            lattice_over(HOME, resolution, (box[0], box[1]))
        return
    part = lattice_over(HOME, resolution, (box[0], box[1]))
    assert part.spacing == whole.spacing
    np.testing.assert_allclose(part.points(0, part.shape[0]), wanted, atol=1e-9)


def test_samples_are_cell_middles_in_world_units() -> None:
    lattice = lattice_over(HOME, 4)
    assert (lattice.shape, lattice.spacing, lattice.origin) == ((4, 4, 4), (2.0, 2.0, 2.0), (0.0, -5.0, 7.0))
    points = lattice.points(1, 2)
    np.testing.assert_allclose(points[:3], [[0, -5, 9], [2, -5, 9], [4, -5, 9]])  # x runs fastest
    np.testing.assert_allclose(points[4], [0, -3, 9])


def test_values_are_asked_in_field_coordinates_slab_by_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "_SLAB_BYTES", 32 * 8 * 8 * 3)  # three slices
    lattice = lattice_over(HOME, 8)
    asked: list[int] = []
    shares: list[float] = []

    def value(points: torch.Tensor) -> torch.Tensor:
        asked.append(len(points))
        assert float(points.abs().max()) < 1
        return points[:, 0] + 10 * points[:, 1] + 100 * points[:, 2]

    slabs = list(sampled(value, lattice, HOME, batch_points=100, progress=shares.append))
    assert [len(slab) for slab in slabs] == [3, 3, 2]
    assert max(asked) <= 100
    assert shares == [3 / 8, 6 / 8, 1]
    axis = (np.arange(8) + 0.5) / 4 - 1
    wanted = axis[None, None, :] + 10 * axis[None, :, None] + 100 * axis[:, None, None]
    np.testing.assert_allclose(np.concatenate(slabs), wanted, rtol=1e-5, atol=1e-4)


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="npz, nrrd, vti"):
        write_volume(tmp_path / "v.raw", [VALUES], LATTICE)
    with pytest.raises(UserError, match="not as complex64"):
        write_volume(tmp_path / "v.npz", [VALUES], LATTICE, dtype="complex64")
    with pytest.raises(UserError, match="GiB are free"):
        write_volume(tmp_path / "v.npz", [VALUES], Lattice((10**5,) * 3, (0.0,) * 3, (1.0,) * 3))
    for format_ in volumes.FORMATS:
        with pytest.raises(ValueError, match="slabs of 3 slices"):
            write_volume(tmp_path / f"v.{format_}", [VALUES[:3]], LATTICE)
        with pytest.raises(ValueError, match="a slab of shape"):
            write_volume(tmp_path / f"v.{format_}", [VALUES[:, :2]], LATTICE)

    def broken():
        yield VALUES[:2]
        raise UserError("the field gives values that are not finite")

    with pytest.raises(UserError, match="not finite"):
        write_volume(tmp_path / "v.nrrd", broken(), LATTICE)
    assert list(tmp_path.iterdir()) == []


def test_not_a_number_is_refused() -> None:
    with pytest.raises(UserError, match="not finite"):
        list(sampled(lambda x: x[:, 0] * float("nan"), lattice_over(HOME, 4), HOME))


def test_bad_boxes_and_resolutions() -> None:
    for resolution in (1, 5000):
        with pytest.raises(UserError, match="must be 2 to 4096"):
            lattice_over(HOME, resolution)
    with pytest.raises(UserError, match="low < high"):
        lattice_over(HOME, 8, ((0.0, 0.0, 0.0), (1.0, -1.0, 1.0)))
    with pytest.raises(UserError, match="holds no sample of the field's cube"):
        lattice_over(HOME, 8, ((50.0,) * 3, (60.0,) * 3))


class Distances:
    """As a run of signed distance gives itself to the exporters: a ball of radius 0.5 in field coordinates."""

    normalizer = HOME
    inside_slope: float | None = 1.1
    occupied = None
    has_color = False

    def inside(self, points: torch.Tensor) -> torch.Tensor:
        return 0.5 - points.norm(dim=1)


def test_distances_are_in_world_units_and_occupancies_are_probabilities() -> None:
    quantity, values = field_values(Distances())
    assert quantity == "signed_distance"
    assert values(torch.tensor([[0.0, 0, 0], [1, 0, 0]])).tolist() == [-2, 2]
    odds = Distances()
    odds.inside_slope = None
    quantity, values = field_values(odds)
    assert quantity == "occupancy"
    assert values(torch.tensor([[0.5, 0.0, 0.0]])).tolist() == [0.5]
    with pytest.raises(UserError, match="no volume"):
        field_values(object())
