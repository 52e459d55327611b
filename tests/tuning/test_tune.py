"""Choosing: low frequencies for smooth data, high ones for rough, the same choice every time."""

import dataclasses
import math

import numpy as np
import pytest
import soundfile
import torch
from geometry.ball import write_ball_folder

from recon3d.config import AudioConfig, FieldConfig, NerfConfig, RadianceFieldConfig, RenderConfig
from recon3d.config.fields import IdentityConfig, SirenConfig
from recon3d.errors import UserError
from recon3d.tuning.options import TuneOptions
from recon3d.tuning.signals import SignalTarget, untrained_field, values_on
from recon3d.tuning.spectrum import Bins, centroid, distance, spectrum
from recon3d.tuning.targets import target_of
from recon3d.tuning.tune import tune

from .pictures import SIREN, banded, image_config, stripes

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
QUICK = TuneOptions(draws=1)


def siren_values(omega, grid, width=64):
    field = dataclasses.replace(SIREN, width=width, siren=SirenConfig(first_omega=omega)).resolved()
    return values_on(untrained_field(field, torch.zeros(4, 4, 1), seed=0), grid, CPU)


def test_larger_omega_larger_centroid():
    bins = Bins(32)
    found = [centroid(spectrum(siren_values(omega, (96, 96)), bins)) for omega in (20.0, 40.0, 70.0, 120.0)]
    assert found == sorted(found)
    assert found[-1] > 1.8 * found[0]


def test_coarser_grid_sees_the_same_low_bins():
    bins = Bins(32)
    for omega in (20.0, 60.0):
        fine, coarse = (spectrum(siren_values(omega, (side, side)), bins) for side in (256, 96))
        other = spectrum(siren_values(omega + 10, (256, 256)), bins)
        assert distance(fine, coarse) < 0.7
        assert distance(fine, coarse) < 0.5 * distance(fine, other)


def test_smooth_and_rough_images(tmp_path):
    chosen = {}
    for name, low, high in [("smooth", 1, 4), ("middle", 4, 12), ("rough", 20, 30)]:
        tuning = tune(image_config(tmp_path, banded(64, low, high)), CPU, QUICK)
        chosen[name] = tuning.chosen
        assert tuning.distances[tuning.chosen] == min(tuning.distances.values())
        assert len(tuning.distances) == 20
        assert tuning.default == 30
        assert tuning.default_distance == tuning.distances[30]
    assert chosen["smooth"] < chosen["middle"] < chosen["rough"]
    assert chosen["smooth"] <= 20


def test_published_bins_overlook_falling_stripes(tmp_path):
    choice = {}
    for name, across in [("rising", 3), ("falling", -3)]:
        image = np.clip(stripes(64, across, 2).astype(int) + (banded(64, 20, 24) // 16), 0, 255).astype(np.uint8)
        for binning in ("published", "radial"):
            options = TuneOptions(draws=1, binning=binning)
            choice[name, binning] = tune(image_config(tmp_path, image), CPU, options).chosen
    assert choice["rising", "radial"] == choice["falling", "radial"]
    assert choice["falling", "published"] > choice["rising", "published"]


def test_same_seed_same_choice(tmp_path):
    config = image_config(tmp_path, banded(48, 3, 15), seed=5)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = tune(config, CPU, QUICK)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = tune(config, CPU, QUICK)
    assert first.distances == second.distances
    third = tune(dataclasses.replace(config, seed=6), CPU, QUICK)
    assert first.distances != third.distances


def test_progress_and_application(tmp_path):
    told = []
    config = image_config(tmp_path, banded(32, 3, 9))
    tuning = tune(config, CPU, QUICK, lambda value, found: told.append((value, found)))
    assert dict(told) == tuning.distances
    changed = tuning.apply(config)
    assert changed.field.siren.first_omega == tuning.chosen
    assert dataclasses.replace(changed, field=config.field) == config


def test_finer_has_its_own_default(tmp_path):
    field = FieldConfig(encoder=("identity",), network="finer", width=16, depth=1)
    tuning = tune(image_config(tmp_path, banded(32, 3, 9), field), CPU, QUICK)
    assert tuning.default is None
    assert math.isfinite(tuning.default_distance)
    assert len(tuning.distances) == 31


def test_gaps_are_filled_before_the_transform(tmp_path):
    image = banded(64, 1, 4)
    whole, gaps = (
        SignalTarget.read(image_config(tmp_path, image, keep=keep, holdout=holdout), CPU)
        for keep, holdout in ((1.0, 0.0), (0.5, 0.1))
    )
    bins = whole.bins(32, "radial")
    assert distance(spectrum(whole.values, bins), spectrum(gaps.values, bins)) < 5
    assert whole.grid == gaps.grid == (64, 64)


def test_only_what_is_trained_on_is_looked_at(tmp_path):
    target = SignalTarget.read(image_config(tmp_path, banded(64, 1, 20), train_scale=2), CPU)
    assert target.grid == (32, 32)


def test_oblong_images_become_square(tmp_path):
    target = SignalTarget.read(image_config(tmp_path, banded(64, 1, 20)[:40]), CPU)
    assert target.grid == (64, 64)
    assert target.values.shape == (64, 64, 1)


def test_sound(tmp_path):
    field = FieldConfig(
        encoder=("identity",), network="siren", width=16, depth=1, identity=IdentityConfig(scale=20.0)
    ).resolved()
    time = np.arange(2048) / 8000
    chosen = []
    for pitch in (100.0, 2000.0):
        path = tmp_path / f"{pitch:.0f}.wav"
        soundfile.write(path, 0.5 * np.sin(2 * np.pi * pitch * time), 8000)
        tuning = tune(AudioConfig(data=path, steps=10, field=field), CPU, QUICK)
        assert tuning.bins == Bins(64, 16)
        chosen.append(tuning.chosen)
    assert chosen[0] < chosen[1]


@pytest.fixture(scope="module")
def ball(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ball")
    write_ball_folder(folder, train=6, test=1, size=32)
    head = RenderConfig(grid=16, samples_per_diagonal=48)
    return NerfConfig(data=folder, steps=10, head=head, max_rays=1024)


def test_views_of_a_scene(ball):
    field = RadianceFieldConfig(encoder=("frequency",), width=32, depth=3, color_width=16)
    config = dataclasses.replace(ball, field=field)
    assert target_of(config, CPU).bins(128, "radial").count == 16
    tuning = tune(config, CPU, QUICK)
    assert tuning.bins.count == 16
    assert tuning.default == 10
    assert tuning.default_distance == tuning.distances[10]
    assert tuning.distances[tuning.chosen] == min(tuning.distances.values())
    assert tuning.apply(config).field.frequency.levels == tuning.chosen


def test_fog_of_a_hash_grid_says_nothing(ball):
    with pytest.raises(UserError, match="fog of one colour"):
        tune(ball, CPU, QUICK)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_constant_image_is_refused(tmp_path, value):
    config = image_config(tmp_path, np.full((32, 32), value, np.uint8))
    with pytest.raises(UserError, match=r"image\.png: constant"):
        tune(config, CPU, QUICK)


def test_options_are_checked():
    for options in ({"bins": 1}, {"draws": 0}):
        with pytest.raises(UserError, match="give"):
            TuneOptions(**options)
