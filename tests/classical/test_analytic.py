"""Filtered back-projection against objects that are known, in every geometry that has a formula."""

import math

import pytest
import torch
from torch.testing import assert_close

from recon3d.classical import reconstruct
from recon3d.classical.filters import filtered, padded, ramp, window
from recon3d.classical.redundancy import angular_steps, fan_weights
from recon3d.config.classical import FbpConfig
from recon3d.data.phantoms import random_ellipsoids
from recon3d.errors import UserError
from recon3d.geometry.scanner import ScanGeometry
from recon3d.geometry.voxels import VolumeGrid

SIZE = 64.0
SLICE = VolumeGrid((1, 64, 64), (1.0, 1.0, 1.0))
BLOCK = VolumeGrid((20, 40, 40), (1.6, 1.6, 1.6))
FAN = {"source_origin": 130.0, "origin_detector": 70.0}
HANN = FbpConfig("hann")


def angles(count, reach, begin=0.3):
    return begin + torch.arange(count, dtype=torch.float64) * (reach / count)


def turn(count=180):
    return angles(count, 2 * math.pi)


SLICES = {
    "parallel": ScanGeometry.parallel(angles(100, math.pi), 97, 1.0),
    "parallel, full turn": ScanGeometry.parallel(turn(200), 97, 1.0),
    "parallel, axis aside": ScanGeometry.parallel(angles(100, math.pi), 107, 1.0, axis_offset=4.3),
    "parallel, fine": ScanGeometry.parallel(angles(100, math.pi), 193, 0.5),
    "fan": ScanGeometry.fan(turn(), 100, 1.55, **FAN),
    "fan, detector aside": ScanGeometry.fan(turn(), 108, 1.55, detector_offset=5.2, **FAN),
    "fan, axis aside": ScanGeometry.fan(turn(), 108, 1.55, axis_offset=2.0, **FAN),
    "fan, short": ScanGeometry.fan(angles(130, math.pi * 1.4), 100, 1.55, **FAN),
    "fan, short across zero": ScanGeometry.fan(angles(130, math.pi * 1.4, 5.0) % (2 * math.pi), 100, 1.55, **FAN),
    "fan, backwards": ScanGeometry.fan(-angles(130, math.pi * 1.4), 100, 1.55, **FAN),
    "arc": ScanGeometry.fan(turn(), 100, 1.55, curved=True, **FAN),
    "arc, detector aside": ScanGeometry.fan(turn(), 108, 1.55, curved=True, detector_offset=5.2, **FAN),
    "parallel, half a detector": ScanGeometry.parallel(turn(200), 62, 1.0, axis_offset=18.0),
    "parallel, the other half": ScanGeometry.parallel(turn(200), 62, 1.0, axis_offset=-18.0),
    "fan, half a detector": ScanGeometry.fan(turn(), 68, 1.55, detector_offset=25.0, **FAN),
    "arc, half a detector": ScanGeometry.fan(turn(), 68, 1.55, curved=True, detector_offset=-25.0, **FAN),
    "parallel, views left out": ScanGeometry.parallel(angles(100, math.pi), 97, 1.0).subset(
        [view for view in range(100) if view % 9 != 4]
    ),
    "fan, a view left out": ScanGeometry.fan(turn(), 100, 1.55, **FAN).subset([*range(60), *range(61, 180)]),
    "arc, short": ScanGeometry.fan(angles(130, math.pi * 1.4), 100, 1.55, curved=True, **FAN),
}
BLOCKS = {
    "parallel3d": ScanGeometry.parallel(angles(60, math.pi), 60, 1.6, rows=24),
    "cone": ScanGeometry.cone(turn(80), 64, 44, 2.4, 160.0, 80.0),
    "cylinder": ScanGeometry.cone(turn(80), 64, 44, 2.4, 160.0, 80.0, curved=True, detector_offset=(3.0, 2.0)),
    "cone, half a detector": ScanGeometry.cone(turn(80), 44, 44, 2.4, 160.0, 80.0, detector_offset=(25.0, 0.0)),
    "cone, rows apart": ScanGeometry.cone(turn(80), 64, 60, 2.4, 160.0, 80.0, row_pitch=1.8),
}


def check(geometry, grid, phantom, largest):
    """The mean of the inside is right to 1%, and the volume is off by less than ``largest`` of the truth's size."""
    truth = phantom.rasterize(grid, 4 if grid.shape[0] == 1 else 2)
    volume = reconstruct("fbp", phantom.project(geometry), geometry, grid, HANN).volume
    assert volume.shape == truth.shape and volume.dtype == torch.float32
    # Away from edges, which the filter blurs.
    near = torch.nn.functional.max_pool2d(truth, 5, 1, 2) - -torch.nn.functional.max_pool2d(-truth, 5, 1, 2)
    calm = (near < 1e-6) & (truth > 0)
    assert calm.sum() > 50
    assert abs(float((volume[calm] / truth[calm]).mean()) - 1) < 0.01
    assert float((volume - truth).norm() / truth.norm()) < largest


@pytest.mark.parametrize("name", SLICES)
def test_slices(name):
    check(SLICES[name], SLICE, random_ellipsoids(SIZE, 0.02, count=6, seed=1, flat=True), 0.15)


@pytest.mark.parametrize("name", BLOCKS)
def test_volumes(name):
    """Not as tall as wide, so that FDK's cone is a narrow one."""
    phantom = random_ellipsoids(SIZE, 0.02, count=6, seed=1)
    low = phantom.scaled(0.45, 1.0)
    check(BLOCKS[name], BLOCK, low, 0.25)


def test_limited_angle_is_not_made_up_for():
    """A quarter turn gives half of what a half turn does, not the same."""
    phantom = random_ellipsoids(SIZE, 0.02, count=6, seed=1, flat=True)
    means = []
    for reach in (math.pi, math.pi / 2):
        geometry = ScanGeometry.parallel(angles(60, reach), 97, 1.0)
        volume = reconstruct("fbp", phantom.project(geometry), geometry, SLICE).volume
        means.append(float(volume[0, 24:40, 24:40].mean()))
    assert 0.3 < means[1] / means[0] < 0.8


def test_like_astra():
    """The same filter and transpose: FBP of noise is ASTRA's to a thousandth."""
    astra = pytest.importorskip("astra")
    geometry = SLICES["parallel"]
    projections = torch.randn(geometry.shape, generator=torch.Generator().manual_seed(0))
    volume = astra.create_vol_geom(64, 64)
    made = astra.create_proj_geom("parallel", 1.0, 97, geometry.angles.numpy())
    projector = astra.create_projector("linear", made, volume)
    sinogram, image = astra.data2d.create("-sino", made, projections[:, 0].numpy()), astra.data2d.create("-vol", volume)
    config = astra.astra_dict("FBP") | {"ProjectorId": projector, "ProjectionDataId": sinogram}
    algorithm = astra.algorithm.create(config | {"ReconstructionDataId": image, "FilterType": "ram-lak"})
    astra.algorithm.run(algorithm)
    theirs = torch.from_numpy(astra.data2d.get(image)[::-1].copy())
    astra.algorithm.delete(algorithm), astra.projector.delete(projector), astra.data2d.delete([sinogram, image])
    ours = reconstruct("fbp", projections, geometry, SLICE).volume[0]
    assert (ours - theirs).norm() < 5e-3 * theirs.norm()


@pytest.mark.parametrize(
    "geometry",
    [
        ScanGeometry.laminography(turn(4), 8, 8, 1.0, 0.5),
        ScanGeometry.helical(turn(4), 8, 8, 1.0, 20.0, 10.0, rise=5.0),
        ScanGeometry.laminography(turn(4), 8, 8, 1.0, 0.5, source_origin=20.0, origin_detector=5.0),
    ],
)
def test_no_formula(geometry):
    with pytest.raises(UserError, match="use sirt, cgls or tv"):
        reconstruct("fbp", torch.zeros(geometry.shape), geometry, BLOCK)


def test_ramp():
    """Nothing at frequency zero but the window's own share, a straight line above it."""
    response = ramp(100, FbpConfig())
    frequency = torch.fft.rfftfreq(padded(100), dtype=torch.float64)
    assert 0 <= response[0] < 1e-3
    assert_close(response[5:], frequency[5:], atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("name", "at_half", "at_end"),
    [("ramp", 1, 1), ("shepp-logan", 0.9003, 0.6366), ("cosine", 0.7071, 0), ("hamming", 0.54, 0.08), ("hann", 0.5, 0)],
)
def test_windows(name, at_half, at_end):
    values = window(64, FbpConfig(name))
    assert_close(values[[0, 16, 32]], torch.tensor([1.0, at_half, at_end], dtype=torch.float64), atol=1e-4, rtol=0)
    assert not window(64, FbpConfig(name, cutoff=0.5))[17:].any()


def test_rows_do_not_wrap():
    impulse = torch.zeros(1, 1, 33, dtype=torch.float64)
    impulse[0, 0, 0] = 1
    row = filtered(impulse, torch.tensor([2.0]), ramp(33, FbpConfig()))[0, 0]
    n = torch.arange(33, dtype=torch.float64)
    expected = torch.where(n % 2 == 1, -1 / (math.pi * n.clamp_min(1)).square(), 0.0)
    expected[0] = 0.25
    assert_close(row, expected / 2)


def test_angular_steps():
    """Half the gaps on both sides; shared by views of one angle; a wedge that is missing has no weight."""
    third = math.pi / 3
    assert_close(
        angular_steps(torch.tensor([0.0, third, 2 * third]).double(), math.pi), torch.full((3,), third).double()
    )
    uneven = angular_steps(torch.tensor([0.0, 0.2, 0.3, 0.5]).double(), 0.7)
    assert_close(uneven, torch.tensor([0.2, 0.15, 0.15, 0.2]).double())
    twice = angular_steps(torch.tensor([0.0, third, 2 * third, 0.0 + math.pi]).double(), math.pi)
    assert_close(twice.sum(), torch.tensor(math.pi).double())
    wedge = angular_steps(angles(10, 1.0), math.pi)
    assert_close(wedge, torch.full((10,), 0.1).double())


@pytest.mark.parametrize("reach", [2 * math.pi, 4.2, 3.9])
def test_every_line_counts_once(reach):
    """The weights of the two rays along one line sum to one."""
    count = 400
    beta = angles(count, reach, 0.0)
    gamma = torch.linspace(-0.3, 0.3, 21, dtype=torch.float64).expand(count, 21)
    weights = fan_weights(beta, gamma) / (reach / count)
    assert float(weights.amin()) >= 0
    for view in (20, 133, 260):
        for column in (0, 7, 10, 18):
            total = float(weights[view, column])
            g = float(gamma[0, column])
            for other in (beta[view] + math.pi - 2 * g, beta[view] - math.pi - 2 * g):
                place = float(other) * count / reach
                if reach > 6.2:
                    place %= count
                low = math.floor(place)
                if low >= 0 and low + 1 < count:
                    share = place - low
                    total += float((1 - share) * weights[low, 20 - column] + share * weights[low + 1, 20 - column])
                    if reach > 6.2:
                        break
            assert total == pytest.approx(1, abs=0.03)
