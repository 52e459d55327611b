"""Volumes as TIFF, NIfTI, HDF5 and MetaImage: what other libraries read of them."""

import numpy as np
import pytest
import tifffile

from recon3d.data.volume_files import read_volume
from recon3d.errors import UserError
from recon3d.export.volumes import Lattice, write_volume

LATTICE = Lattice((5, 6, 7), (1.5, -2.0, 3.25), (0.5, 0.75, 1.25))
VALUES = (np.random.default_rng(0).random((5, 6, 7)) * 1000).astype(np.float32)
TYPES = ["float32", "float64", "uint8", "uint16", "int16"]


def written(path, dtype="float32"):
    slabs = [part.astype(dtype) for part in (VALUES[:2], VALUES[2:3], VALUES[3:])]
    return write_volume(path, slabs, LATTICE, quantity="attenuation", dtype=dtype), np.concatenate(slabs)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("ending", ["tif", "tiff", "nii", "nii.gz", "h5", "hdf5", "mha", "nrrd", "npz"])
def test_what_is_written_is_read_back(tmp_path, ending, dtype):
    for name, endings in {"nibabel": ("nii", "nii.gz"), "h5py": ("h5", "hdf5"), "nrrd": ("nrrd",)}.items():
        if ending in endings:
            pytest.importorskip(name)
    path, values = written(tmp_path / f"volume.{ending}", dtype)
    back = read_volume(path)
    np.testing.assert_array_equal(back.values, values.astype(np.float32))
    assert back.grid.spacing == pytest.approx(LATTICE.spacing, rel=1e-6)
    first = [c - (n - 1) / 2 * s for c, n, s in zip(back.grid.center, (7, 6, 5), back.grid.spacing)]
    assert first == pytest.approx(LATTICE.origin, rel=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("dtype", TYPES)
def test_tiff_pages_are_slices(tmp_path, dtype):
    path, values = written(tmp_path / "v.tif", dtype)
    with tifffile.TiffFile(path) as file:
        assert len(file.pages) == 5 or file.is_imagej
        np.testing.assert_array_equal(file.asarray(), values)
        tags = file.pages[0].tags
        assert [np.divide(*tags[f"{a}Resolution"].value) for a in "XY"] == pytest.approx([2, 1 / 0.75])
        if dtype in ("float32", "uint8", "uint16"):
            assert file.imagej_metadata["spacing"] == 1.25 and file.imagej_metadata["unit"] == "mm"


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_nifti_coordinates_are_the_worlds(tmp_path, ending):
    nibabel = pytest.importorskip("nibabel")
    path, values = written(tmp_path / f"v.{ending}")
    image = nibabel.load(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), values.transpose(2, 1, 0))
    np.testing.assert_allclose(image.affine @ [6, 2, 3, 1], [1.5 + 3, -2 + 1.5, 3.25 + 3.75, 1])
    assert image.header.get_xyzt_units()[0] == "mm"


def test_a_long_nifti_is_of_the_second_kind(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    lattice = Lattice((1, 1, 40000), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    values = np.arange(40000, dtype=np.float32)[None, None]
    image = nibabel.load(write_volume(tmp_path / "v.nii", [values], lattice))
    assert isinstance(image, nibabel.Nifti2Image)
    np.testing.assert_array_equal(np.asarray(image.dataobj)[:, 0, 0], values[0, 0])


def test_hdf5_attributes(tmp_path):
    h5py = pytest.importorskip("h5py")
    path, values = written(tmp_path / "v.h5")
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["volume"][...], values)
        told = dict(file["volume"].attrs)
    assert told["spacing"].tolist() == list(LATTICE.spacing) and told["origin"].tolist() == list(LATTICE.origin)
    assert (told["axes"], told["units"], told["quantity"]) == ("zyx", "mm", "attenuation")


@pytest.mark.parametrize("ending", ["mha", "nrrd", "nii", "nii.gz"])
def test_itk_sees_the_same_points(tmp_path, ending):
    itk = pytest.importorskip("SimpleITK")
    path, values = written(tmp_path / f"v.{ending}")
    image = itk.ReadImage(str(path))
    np.testing.assert_array_equal(itk.GetArrayFromImage(image), values)
    point = np.array(image.TransformIndexToPhysicalPoint((6, 2, 3)))
    if ending.startswith("nii"):
        point[:2] *= -1  # ITK's x and y run the other way than NIfTI's
    np.testing.assert_allclose(point, [1.5 + 3, -2 + 1.5, 3.25 + 3.75], rtol=1e-6)


def test_nothing_is_left_of_a_volume_that_broke_off(tmp_path):
    for ending in ("tif", "h5", "mha", "nii.gz"):
        with pytest.raises(ValueError, match="slices"):
            write_volume(tmp_path / f"v.{ending}", [VALUES[:2]], LATTICE)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"written as npz, .*nii\.gz"):
        write_volume(tmp_path / "v.xyz", [VALUES], LATTICE)
