"""Preprocessing of projections: each step against what it should do, laziness, and bad input."""

import dataclasses

import numpy as np
import pytest
import torch

from recon3d.config.scans import PreprocessConfig
from recon3d.data import stacks
from recon3d.data.scan_checks import check, check_geometry
from recon3d.data.scan_files import read_scan
from recon3d.data.scan_preprocess import (
    add_noise,
    bin_pixels,
    crop,
    find_bad_pixels,
    prepare,
    recentre,
    repair,
    select,
    to_line_integrals,
    to_transmission,
)
from recon3d.errors import UserError
from recon3d.geometry.scanner import ScanGeometry, default_grid
from recon3d.geometry.voxels import VolumeGrid

from .scans import disc_scan, parallel_scan


def counted(views=12, rows=3, columns=32, light=1000.0, floor=50.0):
    """A scan of counts, and the line integrals behind it."""
    scan = parallel_scan(views, rows, columns)
    gain = np.random.default_rng(1).uniform(0.5, 1.0, (rows, columns)).astype(np.float32)
    flat, dark = floor + light * gain, np.full((rows, columns), floor, np.float32)
    counts = dark + (flat - dark) * np.exp(-scan.projections)
    raw = dataclasses.replace(scan, projections=counts, quantity="counts", flat=flat, dark=dark)
    return raw, scan.projections


def axis_column(scan):
    return float(scan.geometry.shadows(torch.zeros(1, 3, dtype=torch.float64))[0][0, 0])


# ----------------------------------------------------------------------------------------------------------- selections


def test_views_ranges_and_every():
    scan = parallel_scan(views=180)

    def degrees(**kwargs):
        return np.rad2deg(select(scan, PreprocessConfig(**kwargs)).geometry.angles.numpy()).round(6)

    np.testing.assert_array_equal(degrees(angle_range=(0.0, 90.0)), np.arange(91))
    np.testing.assert_array_equal(degrees(angle_range=(-10.0, 10.0)), np.arange(11))
    np.testing.assert_array_equal(degrees(views=50), np.arange(50) * 180 // 50)
    np.testing.assert_array_equal(degrees(every=4), np.arange(0, 180, 4))
    np.testing.assert_array_equal(degrees(angle_range=(30.0, 60.0), every=5, views=3), [30, 40, 50])
    assert select(scan, PreprocessConfig(angle_range=(0.0, 360.0))) is scan


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"views": 13}, "13 views asked for, but there are 12"),
        ({"angle_range": (200.0, 210.0)}, "no projection from 200 to 210 degrees; they lie from 0 to 165"),
        ({"without": (3, 12)}, "no projection 12 to leave out"),
        ({"rows": (0, 4)}, "rows 0 to 4, but the detector has 3"),
        ({"columns": (3, 99)}, "columns 3 to 99"),
        ({"bin": 64}, "cannot be binned by 64"),
        ({"axis_column": 40.0}, "axis column 40 is not on the detector"),
    ],
)
def test_what_does_not_fit_the_scan(options, words):
    with pytest.raises(UserError, match=words):
        prepare(parallel_scan(), PreprocessConfig(**options))


def test_a_range_needs_angles():
    scan = parallel_scan()
    scan = dataclasses.replace(scan, geometry=dataclasses.replace(scan.geometry, angles=None))
    with pytest.raises(UserError, match="have no angles"):
        select(scan, PreprocessConfig(angle_range=(0.0, 90.0)))


@pytest.mark.parametrize(
    "options",
    [
        {"views": 0},
        {"find_axis": True, "axis_column": 3.0},
        {"every": 0},
        {"bin": 0},
        {"rows": (3, 3)},
        {"photons": -1.0},
        {"peak": 4.0},
        {"least_transmission": 0.0},
    ],
)
def test_configurations_that_are_refused(options):
    with pytest.raises(UserError):
        PreprocessConfig(**options)


def test_cropped_pixels_keep_their_rays():
    scan = parallel_scan(views=5, rows=6)
    part = crop(scan, (2, 5), (3, 20))
    np.testing.assert_array_equal(part.projections[...], scan.projections[:, 2:5, 3:20])
    view, row, column = torch.tensor([4]), torch.tensor([1.0]), torch.tensor([2.0])
    torch.testing.assert_close(part.geometry.pixels(view, row, column), scan.geometry.pixels(view, row + 2, column + 3))
    assert part.grid.shape == (3, 32, 32)
    assert part.grid.center[2] == pytest.approx(0.5 * (3 - 2.5))  # rows 2, 3, 4 of 6 lie around row 3


def test_one_row_of_parallel_rays_is_a_slice_at_zero():
    part = crop(parallel_scan(rows=6), (4, 5), None)
    assert part.grid.shape[0] == 1 and part.grid.center[2] == 0
    assert part.geometry.detector[:, 2].abs().max() < 1e-9


def test_binning_keeps_the_mean_and_the_space():
    raw, _ = counted(rows=4)
    binned = bin_pixels(dataclasses.replace(raw, counts=100.0), 2)
    expected = raw.projections.reshape(12, 2, 2, 16, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(binned.projections[...], expected, rtol=1e-6)
    assert binned.flat.shape == (2, 16) and binned.counts == 400
    assert binned.grid == default_grid(binned.geometry) and binned.grid.size == raw.grid.size
    slice_ = bin_pixels(parallel_scan(rows=1), 2)
    assert slice_.geometry.shape == (12, 1, 16)
    kept = VolumeGrid((4, 9, 9), (0.3, 0.3, 0.3))
    assert bin_pixels(dataclasses.replace(raw, grid=kept), 2).grid == kept


# -------------------------------------------------------------------------------------------------------- normalisation


def test_flat_and_dark_fields_and_the_logarithm():
    raw, integrals = counted()
    done = to_line_integrals(raw)
    assert done.quantity == "line_integrals" and done.flat is None
    np.testing.assert_allclose(done.projections[[3, 1], 1:, ::2], integrals[[3, 1], 1:, ::2], atol=1e-5)
    np.testing.assert_allclose(prepare(raw, PreprocessConfig()).projections[...], integrals, atol=1e-5)


def test_without_a_flat_field_the_brightest_is_the_open_beam():
    raw, _ = counted()
    bare = dataclasses.replace(raw, flat=None, dark=None, projections=1000 * np.exp(-parallel_scan().projections))
    done = to_transmission(bare)
    assert any("no flat field" in note for note in done.notes)
    assert 0.99 < done.projections[...].max() < 1.01
    assert to_transmission(dataclasses.replace(bare, counts=2000.0)).projections[...].max() < 0.51


def test_transmission_of_zero_or_less_is_clipped_and_counted_or_refused(caplog):
    raw, _ = counted()
    raw.projections[4, 1, 7] = 50.0  # the dark field itself
    raw.projections[9, 2, 3] = 10.0  # less
    done = prepare(raw, PreprocessConfig())
    assert any(note.startswith("2 of 1152 values of transmission are clipped to 1e-05") for note in done.notes)
    clipped = [done.projections[4, 1, 7], done.projections[9, 2, 3]]
    np.testing.assert_allclose(clipped, -np.log(1e-5), rtol=1e-5)
    with pytest.raises(UserError, match=r"2 of 1152 .*the first at view, row, column \(4, 1, 7\)"):
        prepare(raw, PreprocessConfig(nonpositive="refuse"))
    to_line_integrals(raw).projections[3:6]
    assert "1 values of transmission in views 3 to 5" in caplog.text


def test_dead_pixels_are_told_and_repaired():
    raw, _ = counted(rows=5)
    raw.flat[2, 9] = raw.dark[2, 9] = 50.0
    raw.projections[:, 2, 9] = 50.0
    told = to_transmission(raw)
    assert any("1 of 160 detector pixels have no light" in note for note in told.notes)
    with pytest.raises(UserError, match="are not finite"):
        check(to_line_integrals(raw))
    smooth = dataclasses.replace(
        raw, projections=np.broadcast_to(raw.dark + 0.5 * (raw.flat - raw.dark), (12, 5, 32)).copy()
    )
    done = prepare(smooth, PreprocessConfig(bad_pixels=0.9))
    assert any("1 of 160 detector pixels replaced" in note for note in done.notes)
    np.testing.assert_allclose(done.projections[...], np.log(2), rtol=1e-4)


def test_repair_takes_neighbours_and_fills_what_is_not_finite():
    ramp = np.broadcast_to(np.arange(32, dtype=np.float32), (4, 6, 32)).copy()
    scan = parallel_scan(views=4, rows=6, projections=ramp.copy())
    scan.projections[:, 3, 10] = 500.0
    scan.projections[2, 1, 20] = np.nan
    bad = find_bad_pixels(scan, 5.0)
    np.testing.assert_array_equal(np.argwhere(bad & (np.arange(32) == 10)), [[3, 10]])
    bad[:] = False
    bad[3, 10] = True
    fixed = repair(scan, bad)
    np.testing.assert_allclose(fixed.projections[...], ramp, atol=1e-4)
    np.testing.assert_allclose(fixed.projections[2:3, 1:2, 20:21], 20, atol=1e-4)  # a part needs whole frames
    with pytest.raises(UserError, match="more than half"):
        repair(scan, np.ones((6, 32), bool))


def test_a_view_that_failed_is_left_out_and_spoils_no_pixel():
    scan = parallel_scan(views=6, rows=1, projections=np.ones((6, 1, 32), np.float32))
    scan.projections[2] = np.nan
    assert not find_bad_pixels(scan, 0.5).any()
    with pytest.raises(UserError, match="--without VIEW"):
        check(prepare(scan, PreprocessConfig(bad_pixels=0.5)))
    done = prepare(scan, PreprocessConfig(without=(2, 5), every=2))
    np.testing.assert_allclose(done.geometry.angles, scan.geometry.angles[[0, 3]])
    np.testing.assert_allclose(done.projections[...], 1)


# ---------------------------------------------------------------------------------------------------------------- noise


def test_noise_has_the_variance_of_counts():
    flat = np.full((50, 8, 64), 2.0, np.float32)
    scan = parallel_scan(views=50, rows=8, columns=64, projections=flat)
    noisy = add_noise(scan, 1e4).load().projections
    assert noisy.mean() == pytest.approx(2.0, abs=2e-3)
    assert noisy.std() == pytest.approx(np.sqrt(np.exp(2.0) / 1e4), rel=0.03)
    electronic = add_noise(scan, 1e4, electronic=100.0).load().projections
    expected = np.sqrt(np.exp(2.0) / 1e4 + (100 * np.exp(2.0) / 1e4) ** 2)
    assert electronic.std() == pytest.approx(expected, rel=0.03)


def test_noise_at_a_peak_and_of_a_seed():
    scan = parallel_scan(views=20, rows=4)
    noisy = add_noise(scan, 1e4, peak=4.0, seed=3)
    expected = np.sqrt(np.exp(4 / scan.projections.max() * 0.5) / 1e4) * scan.projections.max() / 4
    middle = np.abs(scan.projections - 0.5) < 0.1
    assert (noisy.projections[...] - scan.projections)[middle].std() == pytest.approx(expected, rel=0.15)
    np.testing.assert_array_equal(noisy.projections[7, 1:3, 5:9], noisy.load().projections[7, 1:3, 5:9])
    assert not np.array_equal(noisy.projections[0], add_noise(scan, 1e4, peak=4.0, seed=4).projections[0])
    assert noisy.counts == 1e4
    with pytest.raises(UserError, match="noise is for line integrals"):
        add_noise(counted()[0], 1e4)


# ----------------------------------------------------------------------------------------------- the axis of rotation


def test_recentred_rays():
    scan = recentre(parallel_scan(), 12.25)
    assert axis_column(scan) == pytest.approx(12.25)
    assert scan.grid == default_grid(scan.geometry)
    fan = ScanGeometry.fan([0.0, 1.0], 32, 0.1, 100.0, 50.0)
    two = parallel_scan(views=2, rows=1)
    with pytest.raises(UserError, match="parallel rays only"):
        recentre(dataclasses.replace(two, geometry=fan), 3.0)


@pytest.mark.parametrize("offset", [0.0, -3.5, 5.25])
def test_the_axis_of_a_disc_is_found(offset):
    pytest.importorskip("algotom")
    scan = disc_scan(axis=0.0)
    moved = dataclasses.replace(disc_scan(axis=offset), geometry=scan.geometry)
    found = prepare(moved, PreprocessConfig(find_axis=True))
    assert axis_column(found) == pytest.approx(47.5 + offset, abs=0.5)


def test_the_axis_needs_half_a_turn():
    pytest.importorskip("algotom")
    with pytest.raises(UserError, match="from half a turn"):
        prepare(disc_scan(views=90).views(slice(0, 60)), PreprocessConfig(find_axis=True))


def test_the_axis_of_a_measured_scan(shared_data):
    pytest.importorskip("algotom")
    raw = read_scan(shared_data / "ct" / "tooth.h5", raw=True)
    scan = prepare(raw, PreprocessConfig(rows=(0, 1), find_axis=True))
    assert abs(axis_column(scan) - 295.5) < 0.5


# ---------------------------------------------------------------------------------------------------- rings and zingers


@pytest.mark.parametrize("method", ["sorting", "filtering", "fitting", "all"])
def test_stripes_are_removed_from_sinograms(method):
    pytest.importorskip("algotom")
    clean = disc_scan(views=180)
    stripe = np.zeros(96, np.float32)
    stripe[[30, 55]] = 0.2
    scan = dataclasses.replace(clean, projections=clean.projections + stripe)
    done = prepare(scan, PreprocessConfig(rings=method))
    columns = [30, 55]
    assert np.isfinite(done.projections).all()
    left = np.abs(done.projections[:, 0, columns] - clean.projections[:, 0, columns]).mean()
    assert left < (0.1 if method == "fitting" else 0.05)  # of 0.2
    assert any("stripes removed" in note for note in done.notes)


def test_zingers_are_removed():
    pytest.importorskip("algotom")
    clean = disc_scan()
    spoiled = clean.projections.copy()
    spoiled[40, 0, 50] = 20.0
    done = prepare(dataclasses.replace(clean, projections=spoiled), PreprocessConfig(zingers=0.08))
    assert done.projections[40, 0, 50] == pytest.approx(clean.projections[40, 0, 50], abs=0.05)


# --------------------------------------------------------------------------------------------------------------- checks


def test_a_good_scan_has_no_warnings():
    assert check(disc_scan()) == []


def test_truncation_is_told():
    (warning,) = check(crop(disc_scan(), None, (30, 96)))
    assert warning.startswith("truncation") and "left side" in warning


def test_values_that_are_not_finite():
    scan = disc_scan()
    scan.projections[17] = np.nan
    with pytest.raises(UserError, match=r"96 values .* \(1 whole rows\), the first in view 17, row 0, column 0"):
        check(scan)


def test_empty_projections_are_told():
    (warning,) = check(parallel_scan(projections=np.zeros((12, 3, 32), np.float32)))
    assert "no line integral is above 0" in warning


def test_a_volume_that_no_view_sees():
    scan = disc_scan()
    aside = dataclasses.replace(scan, grid=VolumeGrid((1, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 500.0)))
    with pytest.raises(UserError, match="no view sees the volume"):
        check_geometry(aside)
    some = dataclasses.replace(scan, grid=VolumeGrid((1, 4, 4), (1.0, 1.0, 1.0), (100.0, 0.0, 0.0)))
    (warning,) = check_geometry(some)
    assert "views do not see the volume; correct --volume.center" in warning


def test_a_volume_behind_the_source():
    geometry = ScanGeometry.fan([0.0, 1.0], 32, 1.0, 20.0, 50.0)
    scan = dataclasses.replace(
        parallel_scan(views=2, rows=1), geometry=geometry, grid=VolumeGrid((1, 64, 64), (1.0, 1.0, 1.0))
    )
    assert any("behind the source" in warning for warning in check_geometry(scan))


def test_everything_together_stays_lazy(monkeypatch):
    raw, _ = counted(views=40, rows=8)
    asked = []

    def read(views, rows, columns):
        asked.append(len(views))
        return raw.projections[views][:, rows, columns]

    lazy = dataclasses.replace(raw, projections=stacks.LazyStack(raw.projections.shape, read))
    monkeypatch.setattr(stacks, "CHUNK_BYTES", 4 * 8 * 32 * 4)
    config = PreprocessConfig(every=2, rows=(1, 7), columns=(2, 30), bad_pixels=0.9, bin=2, photons=1e5, peak=3.0)
    scan = prepare(lazy, config)
    assert scan.geometry.shape == (20, 3, 14)
    assert np.isfinite(scan.load().projections).all()
    assert max(asked) <= 20  # never all at once
