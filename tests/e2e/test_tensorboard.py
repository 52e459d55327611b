"""The event files of a real run, read back as TensorBoard reads them."""

import io

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recon3d.config.fields import PUBLISHED
from recon3d.training.run_folder import RunFolder
from recon3d.training.trainer import Progress, learning_rate_factor

from .conftest import STEPS, TOY

RATE = PUBLISHED["hash_grid"].learning_rate
LOGGED = [1, 50, 100, 150, 200, 250, 300]


@pytest.fixture(scope="module")
def events(trained):
    return EventAccumulator(str(trained.path), size_guidance={"images": 0, "scalars": 0, "tensors": 0}).Reload()


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("loss", 0, 1),
        ("psnr", 5, 60),
        ("learning_rate", 0, RATE),
        ("rays_per_second", 0, 1e9),
        ("samples_per_ray", 0.1, 1000),
        ("occupied_fraction", 0, 1),
        ("step_ms", 0.1, 1e5),
    ],
)
def test_scalars(events, name, low, high):
    scalars = events.Scalars(f"train/{name}")
    assert [event.step for event in scalars] == LOGGED
    assert all(low < event.value <= high for event in scalars)


def test_the_loss_falls_and_the_rate_follows_its_schedule(events, trained):
    loss = [event.value for event in events.Scalars("train/loss")]
    assert loss[-1] < 0.5 * loss[0]
    config = RunFolder.open(trained.path).read_config()
    for event in events.Scalars("train/learning_rate"):
        expected = RATE * learning_rate_factor(Progress(event.step - 1), config, config.optimizer)
        assert event.value == pytest.approx(expected, rel=1e-4)


def test_previews(events):
    previews = events.Images("preview/view")
    assert [event.step for event in previews] == [100, 200, 300]
    picture = np.asarray(Image.open(io.BytesIO(previews[-1].encoded_image_string)))
    size = TOY["size"]
    assert picture.shape == (size, 4 * size, 3)
    photograph, rendering, depth, opacity = (picture[:, i * size : (i + 1) * size] for i in range(4))
    assert np.abs(photograph.astype(float) - rendering).mean() < 40
    assert opacity[:3, :3].max() < 30 and opacity.max() > 200  # empty in the corner, solid somewhere
    assert depth[opacity > 200].mean() > depth[opacity < 20].mean()
    assert [event.step for event in events.Scalars("preview/psnr")] == [100, 200, 300]


def texts(events):
    return {
        tag: [value.decode() for event in events.Tensors(tag) for value in event.tensor_proto.string_val]
        for tag in events.Tags()["tensors"]
    }


def test_the_configuration_is_there_as_text(events, trained):
    (text,) = texts(events)["config/text_summary"]
    assert (trained.path / "config.yaml").read_text().strip() in text


def test_hparams(trained):
    """The hyperparameters and the final figures, as the HPARAMS page reads them."""
    from tensorboard.plugins.hparams import plugin_data_pb2

    accumulator = EventAccumulator(str(trained.path)).Reload()
    content = accumulator.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["samples"].number_value == 4096
    assert start.hparams["field.hash_grid.levels"].number_value == 6
    assert start.hparams["field.encoder"].string_value == "hash_grid"
    assert start.hparams["optimizer.learning_rate"].number_value == RATE
    final = {
        tag.removeprefix("final/"): accumulator.Scalars(tag)[-1].value
        for tag in accumulator.Tags()["scalars"]
        if tag.startswith("final/")
    }
    assert final["steps"] == STEPS
    assert final["psnr"] == pytest.approx(trained.figures["psnr"], rel=1e-5)
    assert final["seconds"] == pytest.approx(trained.figures["seconds"], rel=1e-5)
