"""Every format of projections: what is in it, what a sidecar adds, and what is refused in one line."""

import json
import pickle
import sys

import numpy as np
import pytest
import tifffile
import torch
import yaml
from scipy.io import savemat

from recon3d.data import stacks
from recon3d.data.scan_files import read_scan
from recon3d.errors import UserError
from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.scanner_formats import to_tigre
from recon3d.geometry.voxels import VolumeGrid

from .scans import parallel_scan

h5py = pytest.importorskip("h5py")

VIEWS, ROWS, COLUMNS = 8, 4, 20
STACK = np.random.default_rng(0).random((VIEWS, ROWS, COLUMNS), dtype=np.float32)
DEGREES = np.arange(VIEWS) * 180 / VIEWS
HALF_TURN = {"start": 0, "stop": 180, "unit": "degrees"}


def sidecar(path, **values):
    path.write_text(yaml.safe_dump(values))
    return path


def angles_of(scan):
    return np.rad2deg(scan.geometry.angles.numpy())


# -------------------------------------------------------------------------------------------------- arrays and sidecars


def test_an_array_needs_its_angles(tmp_path):
    np.save(tmp_path / "scan.npy", STACK)
    with pytest.raises(UserError, match=r"angles are not known; write scan\.yaml"):
        read_scan(tmp_path / "scan.npy")
    sidecar(tmp_path / "scan.yaml", angles=HALF_TURN, pixel_pitch=0.5, axis_column=8.0)
    scan = read_scan(tmp_path / "scan.npy")
    np.testing.assert_array_equal(scan.projections[...], STACK)
    np.testing.assert_allclose(angles_of(scan), DEGREES)
    assert float(scan.geometry.shadows(torch.zeros(1, 3))[0][0, 0]) == pytest.approx(8.0)
    assert scan.geometry.u.norm(dim=1).tolist() == pytest.approx([0.5] * VIEWS)


def test_a_sinogram_as_scikit_image_has_it(tmp_path):
    np.save(tmp_path / "s.npy", STACK[:, 0].T)
    sidecar(tmp_path / "s.yaml", axes=["columns", "angles"], angles=HALF_TURN)
    scan = read_scan(tmp_path / "s.npy")
    np.testing.assert_array_equal(scan.projections[...], STACK[:, :1])
    assert scan.geometry.rows == 1
    assert any("pixel pitch is not known" in note for note in scan.notes)


def test_named_arrays_with_distances_are_a_cone(tmp_path):
    np.savez(
        tmp_path / "s.npz",
        projections=STACK,
        angles_deg=DEGREES,
        source_origin_cm=10.0,
        source_detector_mm=150.0,
        detector_pixel_um=200.0,
    )
    scan = read_scan(tmp_path / "s.npz")
    expected = ScanGeometry.cone(np.deg2rad(DEGREES).tolist(), COLUMNS, ROWS, 0.2, 100.0, 50.0)
    torch.testing.assert_close(scan.geometry.vectors, expected.vectors)


def test_the_sidecar_stands_above_the_file(tmp_path):
    np.savez(tmp_path / "s.npz", projections=STACK, angles_deg=DEGREES, pixel_pitch_mm=1.0)
    other = sidecar(tmp_path / "other.yaml", pixel_pitch=2.0, volume={"spacing": [1.0, 1.0, 3.0]})
    assert float(read_scan(tmp_path / "s.npz").geometry.u[0, 0]) == 1.0
    scan = read_scan(tmp_path / "s.npz", geometry=other)
    assert float(scan.geometry.u[0, 0]) == 2.0
    assert scan.grid == VolumeGrid((ROWS, COLUMNS, COLUMNS), (1.0, 1.0, 3.0))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"kind": "fan", "source_origin": 10, "source_detector": 15}, ("fan", {})),
        ({"kind": "fan", "source_origin": 10, "origin_detector": 5, "curved": True}, ("fan", {"curved": True})),
        ({"kind": "cone", "source_origin": 10, "origin_detector": 5, "tilt": 2}, ("cone", {"tilt": np.deg2rad(2)})),
        (
            {"kind": "helical", "source_origin": 10, "origin_detector": 5, "pitch_per_turn": 3},
            ("helical", {"rise": 3.0}),
        ),
        ({"kind": "laminography", "laminography_angle": 30}, ("laminography", {"inclination": np.pi / 6})),
        (
            {"detector_offset": [1, 2], "axis_offset": 0.5},
            ("parallel", {"detector_offset": (1.0, 2.0), "axis_offset": 0.5}),
        ),
    ],
)
def test_every_kind_of_geometry(tmp_path, values, expected):
    kind, options = expected
    rows = 1 if kind == "fan" else ROWS
    np.save(tmp_path / "s.npy", STACK[:, :rows])
    sidecar(tmp_path / "s.yaml", angles={"values": DEGREES.tolist(), "unit": "degrees"}, pixel_pitch=0.2, **values)
    angles = np.deg2rad(DEGREES).tolist()
    if kind in ("fan", "cone", "helical"):
        options |= {"source_origin": 10.0, "origin_detector": 5.0}
    if kind != "fan":
        options |= {"rows": rows}
    made = getattr(ScanGeometry, kind)(angles, columns=COLUMNS, pitch=0.2, **options)
    torch.testing.assert_close(read_scan(tmp_path / "s.npy").geometry.vectors, made.vectors)


def test_vectors_of_any_geometry(tmp_path):
    scan = parallel_scan(views=VIEWS, rows=ROWS, columns=COLUMNS)
    scan.save(tmp_path / "vectors.npz")
    np.save(tmp_path / "s.npy", STACK)
    sidecar(tmp_path / "s.yaml", kind="vectors", vectors="vectors.npz")
    assert torch.equal(read_scan(tmp_path / "s.npy").geometry.vectors, scan.geometry.vectors)


def test_our_own_file(tmp_path):
    scan = parallel_scan()
    scan.save(tmp_path / "s.npz")
    back = read_scan(tmp_path / "s.npz")
    np.testing.assert_array_equal(back.projections, scan.projections)
    assert back.grid == scan.grid and torch.equal(back.geometry.vectors, scan.geometry.vectors)
    sidecar(tmp_path / "s.yaml", volume={"shape": [3, 8, 8]}, counts=1e4)
    back = read_scan(tmp_path / "s.npz")
    assert back.grid.shape == (3, 8, 8) and back.grid.spacing == scan.grid.spacing and back.counts == 1e4
    assert torch.equal(back.geometry.vectors, scan.geometry.vectors)
    sidecar(tmp_path / "s.yaml", angles=HALF_TURN, pixel_pitch=0.25)
    assert read_scan(tmp_path / "s.npz").grid.spacing[0] == 0.25


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"angels": 3}, "unknown key 'angels'"),
        ({"pixel_pitch": -1}, "pixel_pitch is -1"),
        ({"kind": "cone", "angles": HALF_TURN, "pixel_pitch": 1}, "kind cone needs source_origin"),
        ({"kind": "parallel", "source_origin": 5}, "kind parallel takes no source_origin"),
        ({"kind": "fan", "angles": HALF_TURN}, "without pixel_pitch"),
        ({"angles": {"values": [0, 1, 2]}}, "3 angles, but 8 projections"),
        ({"angles": {"values": [0, 1], "stop": 2}}, "stop and values are given"),
        ({"angles": {"unit": "degrees"}}, "angles without stop, values or file"),
        ({"angles": {"file": "none.txt"}}, "cannot read the angles"),
        ({"angles": {"values": [0, 1, 2, 3, 4, 5, 6, float("nan")]}}, r"angle \[7\] of 8 is not a finite number"),
        ({"axes": ["angles", "angles"]}, "each once"),
        ({"axes": ["angles", "columns"], "angles": HALF_TURN}, "with 3 axes"),
        ({"kind": "vectors"}, "kind vectors without the file"),
        ({"source_origin": 20, "source_detector": 10}, "not above source_origin"),
    ],
)
def test_sidecars_that_are_refused(tmp_path, values, words):
    np.save(tmp_path / "s.npy", STACK)
    sidecar(tmp_path / "s.yaml", **values)
    with pytest.raises(UserError, match=words) as caught:
        read_scan(tmp_path / "s.npy")
    assert "\n" not in str(caught.value)


def test_degrees_taken_for_radians(tmp_path, caplog):
    np.savez(tmp_path / "s.npz", projections=STACK, angles=DEGREES)
    scan = read_scan(tmp_path / "s.npz")
    np.testing.assert_allclose(angles_of(scan), DEGREES)
    assert any("taken for degrees" in note for note in scan.notes)
    np.savez(tmp_path / "s.npz", projections=STACK, angles_rad=DEGREES)
    read_scan(tmp_path / "s.npz")
    assert "they look like degrees; if they are, say angles: {unit: degrees}" in caplog.text
    sidecar(tmp_path / "s.yaml", angles={"unit": "degrees"})
    np.testing.assert_allclose(angles_of(read_scan(tmp_path / "s.npz")), DEGREES)


def test_radians_taken_for_degrees(tmp_path, caplog):
    np.savez(tmp_path / "s.npz", projections=np.tile(STACK, (4, 1, 1)), angles_deg=np.linspace(0, 3, 4 * VIEWS))
    read_scan(tmp_path / "s.npz")
    assert "they look like radians" in caplog.text


# -------------------------------------------------------------------------------------------------------------- formats


def test_numbers_of_a_raw_file(tmp_path):
    counts = (STACK * 1000).astype(">u2")
    (tmp_path / "s.raw").write_bytes(b"header!!" + counts.tobytes())
    with pytest.raises(UserError, match="bare numbers; write"):
        read_scan(tmp_path / "s.raw")
    layout = {"shape": [VIEWS, ROWS, COLUMNS], "dtype": "uint16", "byte_order": "big", "offset": 8}
    path = sidecar(tmp_path / "s.yaml", data="s.raw", raw=layout, angles=HALF_TURN)
    np.testing.assert_array_equal(read_scan(path).projections[...], counts.astype(np.float32))
    sidecar(path, raw={**layout, "offset": 9}, angles=HALF_TURN)
    with pytest.raises(UserError, match="1288 bytes, but 8x4x20 numbers"):
        read_scan(tmp_path / "s.raw")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_of_many_pages(tmp_path, compression):
    tifffile.imwrite(tmp_path / "s.tif", STACK, compression=compression, photometric="minisblack")
    sidecar(tmp_path / "s.yaml", angles=HALF_TURN)
    scan = read_scan(tmp_path / "s.tif")
    np.testing.assert_array_equal(scan.projections[[5, 2], 1:3, ::2], STACK[[5, 2], 1:3, ::2])
    np.testing.assert_array_equal(scan.load().projections, STACK)


def test_a_folder_of_pages_in_the_order_of_their_numbers(tmp_path):
    for view in range(VIEWS):
        tifffile.imwrite(tmp_path / f"p_{view + 5}.tif", (STACK[view] * 100).astype(np.uint16))
    sidecar(tmp_path / "geometry.yaml", angles=HALF_TURN)
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.load().projections, (STACK * 100).astype(np.uint16))
    tifffile.imwrite(tmp_path / "p_9.tif", np.zeros((2, 2), np.uint16))
    with pytest.raises(UserError, match=r"p_9\.tif: .*all pages must have one size"):
        scan.load()


def test_one_page_is_a_sinogram_and_a_stack_may_be_of_sinograms(tmp_path):
    tifffile.imwrite(tmp_path / "one.tif", STACK[:, 0])
    sidecar(tmp_path / "one.yaml", angles=HALF_TURN)
    np.testing.assert_array_equal(read_scan(tmp_path / "one.tif").load().projections, STACK[:, :1])
    tifffile.imwrite(tmp_path / "many.tif", STACK.transpose(1, 0, 2), photometric="minisblack")
    sidecar(tmp_path / "many.yaml", angles=HALF_TURN, axes=["rows", "angles", "columns"])
    np.testing.assert_array_equal(read_scan(tmp_path / "many.tif").projections[[6, 1], 2], STACK[[6, 1], 2])


def test_flat_and_dark_frames_beside_a_stack(tmp_path):
    flat, dark = np.full((3, ROWS, COLUMNS), 1100, np.uint16), np.full((ROWS, COLUMNS), 100, np.uint16)
    tifffile.imwrite(tmp_path / "flat.tif", flat, photometric="minisblack")
    tifffile.imwrite(tmp_path / "dark.tif", dark)
    tifffile.imwrite(tmp_path / "s.tif", (100 + 1000 * np.exp(-STACK)), photometric="minisblack")
    sidecar(tmp_path / "s.yaml", angles=HALF_TURN, flat="flat.tif", dark="dark.tif")
    assert read_scan(tmp_path / "s.tif", raw=True).quantity == "counts"
    np.testing.assert_allclose(read_scan(tmp_path / "s.tif").projections[...], STACK, atol=1e-5)


def data_exchange(path, theta=True, **extra):
    with h5py.File(path, "w") as file:
        file["exchange/data"] = (10 + 1000 * np.exp(-STACK)).astype(np.float32)
        file["exchange/data_white"] = np.full((2, ROWS, COLUMNS), 1010, np.uint16)
        file["exchange/data_dark"] = np.full((2, ROWS, COLUMNS), 10, np.uint16)
        if theta:
            file["exchange/theta"] = DEGREES
        for name, (value, units) in extra.items():
            file[name.replace("__", "/")] = value
            file[name.replace("__", "/")].attrs["units"] = units
    return path


def test_data_exchange(tmp_path):
    path = data_exchange(tmp_path / "s.h5", measurement__instrument__detector__pixel_size_x=(5.0, "um"))
    scan = read_scan(path)
    np.testing.assert_allclose(scan.projections[[3, 1], 1:], STACK[[3, 1], 1:], atol=1e-5)
    np.testing.assert_allclose(angles_of(scan), DEGREES)
    assert float(scan.geometry.u[0].norm()) == pytest.approx(0.005)
    raw = read_scan(path, raw=True)
    assert raw.quantity == "counts" and raw.flat.max() == 1010 and raw.dark.max() == 10


def test_data_exchange_without_angles_takes_them_from_a_sidecar(tmp_path):
    path = data_exchange(tmp_path / "s.h5", theta=False)
    with pytest.raises(UserError, match="angles are not known"):
        read_scan(path)
    sidecar(tmp_path / "s.yaml", angles=HALF_TURN)
    np.testing.assert_allclose(angles_of(read_scan(path)), DEGREES)


def test_nxtomo(tmp_path):
    frames = 10 + 1000 * np.exp(-STACK)
    flat, dark = np.full((ROWS, COLUMNS), 1010.0), np.full((ROWS, COLUMNS), 10.0)
    keys = [2, 1, *[0] * 5, 3, *[0] * 3, 1]
    stack = np.stack([dark, flat, *frames[:5], np.zeros_like(flat), *frames[5:], flat]).astype(np.float32)
    angles = np.zeros(len(keys))
    angles[np.array(keys) == 0] = DEGREES
    with h5py.File(tmp_path / "s.nxs", "w") as file:
        detector = file.create_group("entry/instrument/detector")
        detector.create_dataset("data", data=stack, chunks=(1, ROWS, COLUMNS))
        detector["image_key"] = np.array(keys)
        detector["x_pixel_size"] = 0.2
        detector["x_pixel_size"].attrs["units"] = "mm"
        file["entry/sample/rotation_angle"] = angles
    scan = read_scan(tmp_path / "s.nxs")
    np.testing.assert_allclose(scan.projections[::-1], STACK[::-1], atol=1e-5)
    np.testing.assert_allclose(angles_of(scan), DEGREES)
    assert float(scan.geometry.u[0].norm()) == pytest.approx(0.2)


def test_an_unknown_hdf5_shows_its_tree(tmp_path):
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["a/b/frames"] = STACK
        file["a/time"] = 3.0
    with pytest.raises(UserError) as caught:
        read_scan(tmp_path / "s.h5")
    message = str(caught.value)
    for words in ("exchange/data", "image_key", "a/b/frames (8, 4, 20) float32", "key: PATH"):
        assert words in message
    assert "\n" not in message
    sidecar(tmp_path / "s.yaml", key="a/b/frames", angles=HALF_TURN)
    np.testing.assert_array_equal(read_scan(tmp_path / "s.h5").projections[...], STACK)
    sidecar(tmp_path / "s.yaml", key="a/b/other", angles=HALF_TURN)
    with pytest.raises(UserError, match=r"no dataset 'a/b/other'; it has a/b/frames"):
        read_scan(tmp_path / "s.h5")


def test_a_large_file_is_read_by_block(tmp_path):
    with h5py.File(tmp_path / "s.h5", "w") as file:  # 12 GB of zeros that are not written
        file.create_dataset("exchange/data", (1800, 1300, 1300), np.float32, chunks=(1, 130, 1300), fillvalue=1.0)
        file["exchange/theta"] = np.linspace(0, 180, 1800, endpoint=False)
    scan = read_scan(tmp_path / "s.h5")
    assert scan.projections.shape == (1800, 1300, 1300)
    assert scan.views([1700, 3]).projections[:, 600:602, 7:9].shape == (2, 2, 2)


def helsinki(**changes):
    parameters = {
        "distanceSourceOrigin": 410.66,
        "distanceSourceDetector": 553.74,
        "distanceUnit": "mm",
        "angles": DEGREES,
        "pixelSize": 0.05,
        "pixelSizePost": 0.2,
    }
    return {
        "CtDataFull": {
            "type": "2d",
            "sinogram": STACK[:, 0].astype(np.float64),
            "parameters": {**parameters, **changes},
        }
    }


def test_helsinki_structures_of_both_mat_versions(tmp_path):
    savemat(tmp_path / "s.mat", helsinki())
    structure = helsinki()["CtDataFull"]
    with h5py.File(tmp_path / "new.mat", "w", userblock_size=512) as file:
        group = file.create_group("CtDataFull")
        group["sinogram"] = structure["sinogram"].T
        group["type"] = np.array([[ord(c)] for c in "2d"], np.uint16)
        group["type"].attrs["MATLAB_class"] = np.bytes_("char")
        for name, value in structure["parameters"].items():
            dataset = [[ord(c)] for c in value] if isinstance(value, str) else np.atleast_2d(value).T
            item = group.create_dataset(
                f"parameters/{name}", data=np.array(dataset, np.uint16 if isinstance(value, str) else np.float64)
            )
            if isinstance(value, str):
                item.attrs["MATLAB_class"] = np.bytes_("char")
    with (tmp_path / "new.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(128))
    expected = ScanGeometry.fan(np.deg2rad(DEGREES).tolist(), COLUMNS, 0.2, 410.66, 553.74 - 410.66)
    for name in ("s.mat", "new.mat"):
        scan = read_scan(tmp_path / name)
        np.testing.assert_allclose(scan.projections[...], STACK[:, :1], rtol=1e-6)
        torch.testing.assert_close(scan.geometry.vectors, expected.vectors)


def test_mat_arrays_by_name_and_lazily_where_large(tmp_path):
    savemat(tmp_path / "s.mat", {"sinogram": STACK[:, 0], "angles_deg": DEGREES})
    np.testing.assert_array_equal(read_scan(tmp_path / "s.mat").projections[...], STACK[:, :1])
    with h5py.File(tmp_path / "new.mat", "w", userblock_size=512) as file:
        file["projections"] = STACK.T  # MATLAB writes the first axis last
        file["angles_deg"] = DEGREES[None].T
    scan = read_scan(tmp_path / "new.mat")
    assert isinstance(scan.projections, stacks.LazyStack)
    np.testing.assert_array_equal(scan.projections[[6, 2], 1:3], STACK[[6, 2], 1:3])
    savemat(tmp_path / "s.mat", helsinki(angles=DEGREES[:3]))
    with pytest.raises(UserError, match="3 angles, but 8 projections"):
        read_scan(tmp_path / "s.mat")
    savemat(tmp_path / "s.mat", {"CtDataFull": {"sinogram": STACK[:, 0], "parameters": {"angles": 1}}})
    with pytest.raises(UserError, match="parameters without distanceSourceOrigin"):
        read_scan(tmp_path / "s.mat")


def naf():
    return {
        "DSD": 1500.0,
        "DSO": 1000.0,
        "nDetector": [COLUMNS, ROWS],
        "dDetector": [1.0, 2.0],
        "offDetector": [0, 0],
        "nVoxel": [6, 7, 8],
        "dVoxel": [1.0, 1.0, 2.0],
        "offOrigin": [0, 0, 0],
        "mode": "cone",
    }


def test_naf_dictionaries_from_json_and_npz(tmp_path):
    train = {"angles": np.deg2rad(DEGREES).tolist(), "projections": STACK.tolist()}
    (tmp_path / "s.json").write_text(json.dumps({**naf(), "train": train}))
    np.savez(tmp_path / "s.npz", **naf(), **{f"train.{k}": np.array(v) for k, v in train.items()})
    for name in ("s.json", "s.npz"):
        scan = read_scan(tmp_path / name)
        np.testing.assert_allclose(scan.projections[...], STACK)
        assert scan.grid.shape == (8, 7, 6) and scan.grid.spacing == (1.0, 1.0, 2.0)
        assert scan.geometry.source.norm(dim=1).tolist() == pytest.approx([1000.0] * VIEWS)
        assert bool((scan.geometry.v[:, 2] < 0).all())  # their rows fall
    (tmp_path / "s.json").write_text(json.dumps(naf()))
    with pytest.raises(UserError, match="angles, projections missing"):
        read_scan(tmp_path / "s.json")


def test_tigre_geometries(tmp_path):
    geometry = ScanGeometry.cone(np.deg2rad(DEGREES).tolist(), COLUMNS, ROWS, 0.2, 100.0, 50.0)
    fields = to_tigre(geometry, VolumeGrid((8, 7, 6), (1.0, 1.0, 1.0)))
    np.savez(tmp_path / "s.npz", projections=STACK, **fields)
    torch.testing.assert_close(read_scan(tmp_path / "s.npz").geometry.vectors, geometry.vectors)


# -------------------------------------------------------------------------------------------------------------- refused


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize("name", ["s.pickle", "s.pkl", "s.data"])
def test_a_pickle_is_never_loaded(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError, match="a pickle, which can run any code and is never loaded"):
        read_scan(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("s.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 600, "cannot read the HDF5"),
        ("s.mat", b"MATLAB 5.0 MAT-file" + b"\0" * 200, "cannot read the MAT|no projections"),
        ("s.npy", b"\x93NUMPY\x01\0", "cannot be read"),
        ("s.npz", b"PK\x03\x04" + b"\0" * 40, "NPY nor NPZ|cannot be read"),
        ("s.tif", b"II*\0" + b"\xff" * 40, "cannot read"),
        ("s.json", b"{", "cannot read the JSON"),
        ("s.json", b"[1]", "holds a JSON list"),
        ("s.nii", b"x" * 400, "a volume, not projections"),
        ("s.dcm", b"\0" * 128 + b"DICM", "a volume, not projections"),
        ("s.png", b"\x89PNG", "no scan in a format that is known"),
        ("s.h5", b"", "the file is empty"),
        ("s.yaml", b"kind: parallel", "a sidecar without data"),
        ("s.yaml", b"data: none.h5", "no such file or folder"),
    ],
)
def test_damaged_and_foreign_files(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        read_scan(tmp_path / name)
    assert "\n" not in str(caught.value) and name.partition(".")[0] in str(caught.value)


def test_a_library_that_is_not_here(tmp_path, monkeypatch):
    path = data_exchange(tmp_path / "s.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"HDF5 needs h5py, which is not here: pip install 'recon3d\[ct\]'"):
        read_scan(path)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        read_scan(tmp_path / "none")
    with pytest.raises(UserError, match="no TIFF files in the folder"):
        read_scan(tmp_path)
    np.savez(tmp_path / "s.npz", volume=STACK)
    with pytest.raises(UserError, match=r"none of projections, .* among volume \(8, 4, 20\)"):
        read_scan(tmp_path / "s.npz")


# ------------------------------------------------------------------------------------------------------------ real data


def test_measured_synchrotron_scan(shared_data):
    scan = read_scan(shared_data / "ct" / "tooth.h5")
    assert scan.geometry.shape == (181, 2, 640) and not scan.geometry.divergent
    values = scan.projections[::20]
    assert np.isfinite(values).all() and 1.5 < values.max() < 2.5
    assert abs(values[..., :10].mean()) < 0.01  # air at the side


def test_measured_fan_beam_scans(shared_data):
    folder = shared_data / "ct" / "htc2022"
    part, full = read_scan(folder / "tb_category7.mat"), read_scan(folder / "tb_assembled_549.npz")
    assert part.geometry.shape == (61, 1, 560) and full.geometry.shape == (549, 1, 560)
    assert part.grid.spacing[0] == pytest.approx(0.2 * 410.66 / 553.74)
    # The same half-degree angle is in both files.
    degrees = np.rad2deg(full.geometry.angles.numpy())
    at = int(np.argmin(np.abs(degrees - 310.0)))
    view = int(np.argmin(np.abs(np.rad2deg(part.geometry.angles.numpy()) - 310.0)))
    assert degrees[at] == pytest.approx(310.0)
    np.testing.assert_allclose(part.projections[view], full.projections[at], atol=1e-6)
    torch.testing.assert_close(part.geometry.vectors[view], full.geometry.vectors[at])
