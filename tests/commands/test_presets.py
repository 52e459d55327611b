"""The presets of signals say what they say they do, whatever the defaults around them are."""

from pathlib import Path

import pytest

from recon3d.config import ShapeConfig, load_preset, preset_names
from recon3d.config.shapes import ImplicitConfig
from recon3d.config.signals import PLAIN_ADAM, SignalConfig

PUBLISHED = {
    "image_siren": ("siren", 1e-4),
    "image_spder": ("spder", 1e-4),
    "image_sl2a": ("fusion", 1e-4),
    "image_finer": ("finer", 5e-4),
    "image_wire": ("wire", 5e-3),
    "image_relu": ("relu", 1e-4),
    "image_superres": ("fusion", 1e-4),
    "image_denoise": ("siren", 1e-4),
    "image_poisson": ("siren", 1e-4),
    "audio": ("siren", 5e-5),
    "audio_spder": ("spder", 5e-5),
    "video_spder": ("spder", 5e-6),
}


def config(name):
    made = load_preset(name).config("cpu", Path("data")).resolved()
    assert isinstance(made, SignalConfig)
    return made


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_protocols_are_plain_adam(name):
    network, rate = PUBLISHED[name]
    made = config(name)
    assert made.field.network == network
    assert made.optimizer.learning_rate == rate
    for setting in ("final_share", "warmup_steps", "betas", "epsilon", "weight_decay"):
        assert getattr(made.optimizer, setting) == getattr(PLAIN_ADAM, setting), setting
    assert made.batch is None
    assert made.field.siren.gain == 1.0 or made.field.network != "siren"


def test_what_differs():
    assert config("image_superres").train_scale == 4
    assert config("image_superres").field.chebyshev.degree == 200
    assert config("image_sl2a").field.chebyshev.degree == 512
    assert config("image_denoise").holdout == 0.05
    assert config("image_poisson").supervision == "gradient"
    assert config("audio").field.identity.scale == 100
    assert config("audio_spder").field.spder.damping == "arctan"
    assert config("video_spder").field.width == 1024
    assert {"image", "image_hash", "video"} <= set(preset_names())


def test_shapes():
    """Of papers: SIREN's terms and points, WIRE's frequencies, loss and fall of the rate."""

    def shape(name):
        made = load_preset(name).config("cpu", Path("data")).resolved()
        assert isinstance(made, ShapeConfig)
        return made

    siren, wire = shape("shape_siren"), shape("shape_wire")
    assert (siren.supervision, siren.field.network, siren.field.siren.omega) == ("oriented_points", "siren", 30.0)
    assert siren.implicit == ImplicitConfig() and siren.optimizer.learning_rate == 1e-4
    assert (wire.supervision, wire.loss) == ("occupancy", "mse")
    assert (wire.field.wire.omega, wire.field.wire.scale, wire.field.width, wire.field.depth) == (10.0, 40.0, 256, 2)
    assert (wire.optimizer.learning_rate, wire.optimizer.final_share) == (5e-3, 0.2)
    assert (shape("shape").supervision, shape("shape").loss) == ("sdf", "mape")
    assert (shape("shape_hash").supervision, shape("shape_hash").loss) == ("occupancy", "bce")
    assert (shape("shape_sl2a").field.network, shape("shape_sl2a").precision) == ("fusion", "float32")
