"""What a run is told of its signal: masks, shares, every other sample, shrunk images, derivatives, noise."""

from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from recon3d.config import AudioConfig, ImageConfig, VideoConfig
from recon3d.errors import UserError
from recon3d.heads import points
from recon3d.tasks import measurements
from recon3d.tasks.measurements import measure, read_signal, shrunk

from .pictures import smooth_image, write_film, write_image, write_sound

CPU = torch.device("cpu")


@pytest.fixture
def image(tmp_path):
    return ImageConfig(data=write_image(tmp_path / "image.png"), steps=1)


def measured(config):
    signal = read_signal(config)
    return signal, measure(config, signal, CPU)


def refused(config, *parts):
    with pytest.raises(UserError) as caught:
        measured(config)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert str(part) in str(caught.value)


def test_all_of_an_image(image):
    signal, data = measured(image)
    assert (data.grid, data.train, data.held, data.count) == ((16, 20), None, None, 320)
    values = data.values(None)
    assert torch.equal(values, torch.from_numpy(signal.normalized()).view(-1, 3))
    index = torch.tensor([0, 21, 319])
    assert torch.equal(data.values(index), values[index])
    assert values[21, 1] == pytest.approx(smooth_image()[1, 1, 1] / 127.5 - 1, abs=1e-6)


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_random_share(image, share):
    _, data = measured(replace(image, keep=share))
    assert 0.7 * share < data.count / 320 < 1.3 * share
    assert len(data.train.unique()) == data.count
    again = measured(replace(image, keep=share))[1]
    other = measured(replace(image, keep=share, seed=1))[1]
    assert torch.equal(again.train, data.train) and not torch.equal(other.train[:50], data.train[:50])


def test_a_mask(image, tmp_path):
    mask = np.zeros((16, 20), np.uint8)
    mask[4:8, 5:15] = 255
    iio.imwrite(tmp_path / "mask.png", mask)
    _, data = measured(replace(image, mask=tmp_path / "mask.png"))
    assert torch.equal(data.train, torch.from_numpy(mask).flatten().nonzero().squeeze(1))


@pytest.mark.parametrize(
    ("mask", "parts"),
    [
        (np.full((16, 19), 255, np.uint8), ["mask.png", "19 x 16", "20 x 16"]),
        (np.zeros((16, 20), np.uint8), ["mask.png", "hides everything"]),
    ],
)
def test_masks_that_cannot_be(image, tmp_path, mask, parts):
    iio.imwrite(tmp_path / "mask.png", mask)
    refused(replace(image, mask=tmp_path / "mask.png"), *parts)


def test_holdout_parts_what_is_trained_on(image):
    _, data = measured(replace(image, keep=0.5, holdout=0.2))
    kept = measured(replace(image, keep=0.5))[1].train
    assert torch.equal(torch.cat([data.train, data.held]).sort().values, kept)
    assert 0.05 < len(data.held) / len(kept) < 0.4


def test_noise_is_drawn_once_and_has_the_size_asked_for(image):
    signal, data = measured(replace(image, noise=0.1))
    noise = data.values(None) - torch.from_numpy(signal.normalized()).view(-1, 3)
    assert float(noise.std()) == pytest.approx(0.2, rel=0.1)  # a tenth of a range of 2
    assert torch.equal(measured(replace(image, noise=0.1))[1].values(None), data.values(None))


def test_a_shrunk_image_covers_the_same_ground(tmp_path):
    """With 18 x 23 pixels and a factor of 4, two rows and three columns are left out on both sides."""
    config = ImageConfig(data=write_image(tmp_path / "image.png", 18, 23), steps=1, train_scale=4)
    signal, data = measured(config)
    assert (signal.grid, data.grid) == ((16, 20), (4, 5))
    assert shrunk(signal, 4).grid == (4, 5)
    ramp = replace(signal, values=np.ascontiguousarray(np.indices((16, 20)).transpose(1, 2, 0).astype(np.float32)))
    middle = shrunk(ramp, 4).values[1:-1, 1:-1]
    expected = np.stack(np.meshgrid([5.5, 9.5], [5.5, 9.5, 13.5], indexing="ij"), axis=-1)
    assert np.abs(middle - expected).max() < 1e-3


def test_too_little_is_left(image):
    refused(replace(image, train_scale=5), "20 x 16", "4 x 3", "--train-scale")
    refused(replace(image, keep=0.001), "points are left", "hide fewer")
    refused(replace(image, holdout=0.0001), "holdout", "raise")


@pytest.mark.parametrize("every", [2, 3])
def test_every_other_sample_of_a_sound(tmp_path, every):
    config = AudioConfig(data=write_sound(tmp_path / "sound.wav"), steps=1, train_every=every)
    signal, data = measured(config)
    assert torch.equal(data.train, torch.arange(0, signal.points, every))


def test_every_other_frame_of_a_film(tmp_path):
    config = VideoConfig(data=write_film(tmp_path / "film.mp4"), steps=1, train_every=2)
    signal, data = measured(config)
    assert signal.grid == (6, 16, 16)
    assert torch.equal((data.train // 256).unique(), torch.tensor([0, 2, 4]))
    assert data.count == 3 * 256
    index = torch.tensor([5, 700])
    assert torch.equal(data.values(index), torch.from_numpy(signal.normalized()).view(-1, 3)[index])  # a memory map


def test_frames_are_counted_after_the_stride(tmp_path):
    config = VideoConfig(data=write_film(tmp_path / "film.mp4"), steps=1, stride=2, count=2, channels="grey")
    assert read_signal(config).values.shape == (2, 16, 16, 1)


def test_large_signals_are_fetched_as_they_are_asked_for(image, monkeypatch):
    whole = measured(image)[1].values
    monkeypatch.setattr(measurements, "ON_DEVICE", 10)
    fetched = measured(image)[1].values
    for index in (None, torch.tensor([3, 3, 310])):
        assert torch.equal(fetched(index), whole(index))


@pytest.mark.parametrize("supervision", ["gradient", "laplacian"])
def test_derivatives_in_their_own_unit(image, supervision):
    signal, data = measured(replace(image, supervision=supervision))
    assert float(data.values(None).square().mean()) == pytest.approx(1, rel=1e-4)
    samples = torch.from_numpy(signal.normalized())
    plain = points.differences(samples) if supervision == "gradient" else points.second_differences(samples)
    ratio = data.values(None) / plain
    assert torch.allclose(ratio[plain.abs() > 1e-3], ratio[plain.abs() > 1e-3][0], rtol=1e-3)


def test_blended_gradients_are_a_weighted_sum(image, tmp_path):
    write_image(tmp_path / "second.png", 9, 9)
    config = replace(image, supervision="gradient", blend=tmp_path / "second.png")
    first, second, both = (measured(replace(config, blend_weight=w))[1].values(None) for w in (0.0, 1.0, 0.5))
    mixed = torch.stack([first.flatten(), second.flatten()], dim=1)
    fit = torch.linalg.lstsq(mixed, both.flatten()[:, None])
    assert float((mixed @ fit.solution - both.flatten()[:, None]).abs().max()) < 1e-3
    assert (fit.solution > 0).all()


def test_blending_images_of_other_channels(image, tmp_path):
    write_image(tmp_path / "grey.png", channels=1)
    refused(replace(image, supervision="gradient", blend=tmp_path / "grey.png"), "grey.png", "1 channels", "--channels")


def test_signals_that_are_none(tmp_path):
    (tmp_path / "empty.png").touch()
    refused(ImageConfig(data=tmp_path / "empty.png", steps=1), "empty.png")
    refused(ImageConfig(data=write_image(tmp_path / "thin.png", 3, 20), steps=1), "only 20 x 3 pixels")
    refused(AudioConfig(data=Path("nowhere.wav"), steps=1), "nowhere.wav")
    refused(AudioConfig(data=write_sound(tmp_path / "short.wav", 3 / 8000), steps=1), "only 3 samples")
