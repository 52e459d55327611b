"""Files of volumes as other libraries write them: values, spacing, origin, and axes that run down."""

import gzip

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from scipy.io import savemat

from recon3d.classical import reconstruct
from recon3d.data.scan_files import read_scan
from recon3d.data.volume_files import read_volume
from recon3d.errors import UserError
from recon3d.geometry.voxels import VolumeGrid
from recon3d.metrics.volume import mcc, segment

VALUES = np.random.default_rng(0).random((4, 5, 6), dtype=np.float32)
SPACING, ORIGIN = (0.5, 0.75, 1.25), (1.0, -2.0, 3.0)
GRID = VolumeGrid((4, 5, 6), SPACING, (1.0 + 2.5 * 0.5, -2.0 + 2 * 0.75, 3.0 + 1.5 * 1.25))


def same(volume, grid=GRID, values=VALUES):
    np.testing.assert_allclose(volume.values, values, rtol=1e-6)
    if grid is None:
        assert volume.grid is None
    else:
        assert volume.grid.shape == grid.shape
        assert volume.grid.spacing == pytest.approx(grid.spacing, rel=1e-6)
        assert volume.grid.center == pytest.approx(grid.center, rel=1e-6)


def test_numpy_files(tmp_path):
    np.save(tmp_path / "v.npy", VALUES)
    same(read_volume(tmp_path / "v.npy"), None)
    np.save(tmp_path / "s.npy", VALUES[0])
    same(read_volume(tmp_path / "s.npy"), None, VALUES[:1])
    np.savez(tmp_path / "v.npz", values=VALUES, spacing=SPACING, origin=ORIGIN)
    same(read_volume(tmp_path / "v.npz"))
    np.savez(tmp_path / "w.npz", a=VALUES, b=VALUES)
    with pytest.raises(UserError, match="which array is the volume"):
        read_volume(tmp_path / "w.npz")
    same(read_volume(tmp_path / "w.npz", key="b"), None)
    with pytest.raises(UserError, match="no array 'c'"):
        read_volume(tmp_path / "w.npz", key="c")


def test_matlab_files(tmp_path):
    savemat(tmp_path / "v.mat", {"recon": VALUES, "name": "x"})
    same(read_volume(tmp_path / "v.mat"), None)


def test_hdf5_files(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["a/volume"] = VALUES
        file["a/volume"].attrs.update({"spacing": SPACING, "origin": ORIGIN})
        file["other"] = VALUES
    same(read_volume(tmp_path / "v.h5"))
    same(read_volume(tmp_path / "v.h5", key="/other"), None)


def test_tiff_files(tmp_path):
    tifffile.imwrite(
        tmp_path / "v.tif",
        VALUES,
        imagej=True,
        resolution=(2, 1 / 0.75),
        metadata={"axes": "ZYX", "spacing": 1.25, "unit": "mm"},
    )
    same(read_volume(tmp_path / "v.tif"), VolumeGrid((4, 5, 6), SPACING))
    (tmp_path / "v").mkdir()
    for z in range(4):
        tifffile.imwrite(tmp_path / "v" / f"slice{z + 8}.tif", VALUES[z])
    same(read_volume(tmp_path / "v"), None)


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_nifti_files_of_both_handednesses(tmp_path, name):
    nibabel = pytest.importorskip("nibabel")
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = ORIGIN
    nibabel.save(nibabel.Nifti1Image(VALUES.transpose(2, 1, 0), affine), tmp_path / name)
    same(read_volume(tmp_path / name))
    affine[0, 0], affine[0, 3] = -0.5, ORIGIN[0] + 5 * 0.5  # x runs down in the file
    nibabel.save(nibabel.Nifti1Image(VALUES.transpose(2, 1, 0)[::-1], affine), tmp_path / name)
    same(read_volume(tmp_path / name))


def test_a_turned_nifti_is_refused(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    affine = np.eye(4)
    affine[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    nibabel.save(nibabel.Nifti1Image(VALUES, affine), tmp_path / "v.nii")
    with pytest.raises(UserError, match="turned against x, y, z"):
        read_volume(tmp_path / "v.nii")


@pytest.mark.parametrize(
    ("name", "compressed"), [("v.mha", False), ("v.mha", True), ("v.mhd", False), ("v.mhd", True), ("v.nrrd", True)]
)
def test_files_of_itk(tmp_path, name, compressed):
    itk = pytest.importorskip("SimpleITK")
    image = itk.GetImageFromArray(VALUES)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    itk.WriteImage(image, str(tmp_path / name), useCompression=compressed)
    same(read_volume(tmp_path / name))
    down = itk.GetImageFromArray(VALUES[:, ::-1])
    down.SetSpacing(SPACING)
    down.SetDirection([1, 0, 0, 0, -1, 0, 0, 0, 1])
    down.SetOrigin([ORIGIN[0], ORIGIN[1] + 4 * 0.75, ORIGIN[2]])
    itk.WriteImage(down, str(tmp_path / name), useCompression=compressed)
    same(read_volume(tmp_path / name))


def dicom(path, z, values, instance, series="1.2.3"):
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.dataset.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{instance}"
    data.SOPClassUID, data.SOPInstanceUID, data.SeriesInstanceUID = (
        pydicom.uid.CTImageStorage,
        f"1.2.3.{instance}",
        series,
    )
    data.Rows, data.Columns = values.shape
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 1, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.ImagePositionPatient = [ORIGIN[0], ORIGIN[1], z]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.PixelSpacing = [SPACING[1], SPACING[0]]
    data.RescaleSlope, data.RescaleIntercept = 2, -1000
    data.PixelData = values.astype("<i2").tobytes()
    data.save_as(path, enforce_file_format=True)


def test_dicom_slices_by_position(tmp_path):
    counts = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    for z, name in zip((2, 0, 3, 1), "abcd"):  # the names are not in the order of the positions
        dicom(tmp_path / f"{name}.dcm", ORIGIN[2] + z * SPACING[2], counts[z], z + 1)
    (tmp_path / "notes.txt").write_text("not a slice")
    same(read_volume(tmp_path), values=counts * 2.0 - 1000)
    (tmp_path / "d.dcm").unlink()
    with pytest.raises(UserError, match="a slice is missing"):
        read_volume(tmp_path)
    dicom(tmp_path / "d.dcm", ORIGIN[2] + SPACING[2], counts[1], 9, series="1.2.4")
    with pytest.raises(UserError, match="slices of 2 series"):
        read_volume(tmp_path)


def test_pictures_have_y_up(tmp_path):
    picture = np.arange(20, dtype=np.uint8).reshape(4, 5)
    Image.fromarray(picture).save(tmp_path / "v.png")
    same(read_volume(tmp_path / "v.png"), None, picture[None, ::-1])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("v.txt", b"1 2 3", "no volume in a format that is known"),
        ("v.nii", b"\0" * 400, "cannot read the volume"),
        ("v.nii.gz", gzip.compress(b"\0" * 400, mtime=0), "cannot read the volume"),
        ("v.nrrd", b"NRRD0005\n", "cannot read the volume"),
        ("v.mha", b"\0\1\2", "not a MetaImage header"),
        ("v.mha", b"DimSize = 2 2 2\nElementType = MET_FLOAT\nElementDataFile = LOCAL\nxx", "cannot read the volume"),
        ("v.mha", b"DimSize = 2 2 2\nElementDataFile = LOCAL\n", "cannot read the volume"),
        ("v.h5", b"nothing", "cannot read the HDF5"),
        ("v.npz", b"PK\x03\x04", "NPY nor NPZ|cannot be read"),
        ("v.png", b"\x89PNG", "v.png"),
    ],
)
def test_damaged_files(tmp_path, name, content, words):
    if "nii" in name:
        pytest.importorskip("nibabel")
    if "nrrd" in name:
        pytest.importorskip("nrrd")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        read_volume(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        read_volume(tmp_path / "v.npy")
    with pytest.raises(UserError, match="no files in the folder"):
        read_volume(tmp_path)
    np.savez(tmp_path / "v.npz", values=VALUES, spacing=(0.0, 1.0, 1.0))
    with pytest.raises(UserError, match="three distances above 0"):
        read_volume(tmp_path / "v.npz")


def test_masks_of_the_challenge(shared_data):
    volume = read_volume(shared_data / "ct" / "htc2022" / "tb_category7_groundtruth.png")
    assert volume.values.shape == (1, 512, 512)
    full = read_volume(shared_data / "ct" / "htc2022" / "htc2022_solid_disc_full_recon_fbp.mat")
    assert full.values.shape == (1, 512, 512)


def test_a_measured_scan_and_its_mask_lie_alike(shared_data):
    """Reader, geometry and mask in one: turned or mirrored, the correlation is 0.56 at most."""
    folder = shared_data / "ct" / "htc2022"
    scan = read_scan(folder / "tb_assembled_549.npz").views(slice(None, None, 3)).load()
    pixel = scan.grid.spacing[0]
    grid = VolumeGrid((1, 512, 512), (pixel, pixel, pixel))
    volume = reconstruct("fbp", torch.from_numpy(scan.projections), scan.geometry, grid).volume
    mask = torch.from_numpy(read_volume(folder / "tb_category7_groundtruth.png").values > 0)
    assert mcc(segment(volume), mask) > 0.95
