"""The models that the benchmarks compare, as their papers set them up, at SPDER's size: a first layer, five hidden ones
of 256 and a linear one; SL2A and what it compares with have three."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from recon3d.config import FieldConfig, SignalConfig
from recon3d.config.fields import (
    ChebyshevConfig,
    Damping,
    FinerConfig,
    FourierConfig,
    FrequencyConfig,
    FusionConfig,
    GaussConfig,
    HashGridConfig,
    NetworkName,
    SirenConfig,
    SpderConfig,
    WireConfig,
)
from recon3d.training.machine import prepare
from recon3d.tuning.tune import tune

RATE = 1e-4
LEVELS = FrequencyConfig(levels=5)
"""What FreSh chooses for pictures of 256 x 256 (``recon3d tune image_relu``: camera, cat, moon)."""
GRID = HashGridConfig(log2_size=16, finest=128)
"""For images of 256 x 256: half the width (Müller et al. 2022)."""


@dataclass(frozen=True)
class Model:
    """A field and the learning rate it is trained with."""

    field: FieldConfig
    learning_rate: float = RATE
    final_share: float = 1.0
    """Share of the learning rate that a cosine over the training leaves (1: constant)."""
    decay_steps: int | None = None
    """Steps over which that cosine falls (default: all of the training's)."""
    fresh: bool = False
    """Choose the field's frequency from the data first."""

    def into(self, config: SignalConfig) -> SignalConfig:
        """``config`` with this model in it."""
        optimizer = dataclasses.replace(
            config.optimizer,
            learning_rate=self.learning_rate,
            final_share=self.final_share,
            decay_steps=self.decay_steps,
        )
        config = dataclasses.replace(config, field=self.field, optimizer=optimizer)
        if not self.fresh:
            return config
        device, _ = prepare(config)
        return tune(config.resolved(), device).apply(config)


def spder(damping: Damping, depth: int = 5) -> FieldConfig:
    return FieldConfig(encoder=("identity",), network="spder", depth=depth, spder=SpderConfig(damping=damping))


def sl2a(degree: int, rank: int | None = None, width: int = 256, skips: bool = True) -> FieldConfig:
    return FieldConfig(
        encoder=("chebyshev",),
        network="fusion",
        width=width,
        depth=3,
        chebyshev=ChebyshevConfig(degree=degree),
        fusion=FusionConfig(rank=rank, skips=skips),
    )


def siren(depth: int = 5, **changes: float) -> FieldConfig:
    return FieldConfig(encoder=("identity",), network="siren", depth=depth, siren=SirenConfig(**changes))


MODELS: dict[str, Model] = {
    "ours": Model(siren(gain=2.0), 1e-4, final_share=0.01, decay_steps=500),
    "relu": Model(FieldConfig(encoder=("identity",), network="relu", width=256, depth=5)),
    "pe": Model(FieldConfig(encoder=("frequency",), network="relu", width=256, depth=5, frequency=LEVELS)),
    "ffn": Model(
        FieldConfig(
            encoder=("fourier",), network="relu", width=256, depth=5, fourier=FourierConfig(features=256, sigma=10.0)
        )
    ),
    "siren": Model(siren()),
    "hash_grid": Model(
        FieldConfig(
            encoder=("hash_grid",),
            network="relu",
            width=64,
            depth=2,
            hash_grid=GRID,
        ),
        1e-2,
    ),
    "spder": Model(spder("sqrt")),
    "spder_arctan": Model(spder("arctan")),
    "spder_log": Model(spder("log")),
    "spder_sqrt_relu": Model(spder("sqrt_relu")),
    "spder_identity": Model(spder("identity")),
    "spder_relu": Model(spder("relu")),
    "spder_square": Model(spder("square")),
    "finer": Model(FieldConfig(encoder=("identity",), network="finer", depth=3), 5e-4),
    "gauss": Model(FieldConfig(encoder=("identity",), network="gauss", depth=3), 1e-3),
    "wire": Model(FieldConfig(encoder=("identity",), network="wire", depth=2), 5e-3),
    "mfn": Model(FieldConfig(encoder=("identity",), network="mfn", depth=3), 1e-3),
    "incode": Model(FieldConfig(encoder=("identity",), network="incode", depth=3), 9e-4),
    "siren3": Model(siren(3)),
    "pe3": Model(FieldConfig(encoder=("frequency",), network="relu", width=256, depth=4, frequency=LEVELS)),
    "sl2a": Model(sl2a(512)),
    "sl2a_low_rank": Model(sl2a(256, rank=32)),
    "sl2a_128": Model(sl2a(500, width=128)),
    "sl2a_no_skips": Model(sl2a(512, skips=False)),
    "hash_spder": Model(
        FieldConfig(
            encoder=("hash_grid",),
            network="spder",
            width=64,
            depth=2,
            hash_grid=GRID,
            spder=SpderConfig(omega=3.0),
        ),
        1e-2,
    ),
    "hash_sl2a": Model(
        FieldConfig(
            encoder=("hash_grid", "chebyshev"),
            network="fusion",
            width=64,
            depth=2,
            chebyshev=ChebyshevConfig(degree=4),
            hash_grid=GRID,
        ),
        1e-2,
    ),
}


# --- occupancy ------------------------------------------------------------------------------------------------------

SPACE = HashGridConfig(levels=12, log2_size=16, finest=256)


def _of_shapes(network: NetworkName, learning_rate: float, **kinds: Any) -> Model:
    """A network on coordinates, with WIRE's sizes for shapes and its fall of the rate to a fifth."""
    field = FieldConfig(encoder=("identity",), network=network, width=256, depth=2, **kinds)
    return Model(field, learning_rate, final_share=0.2)


OCCUPANCY_MODELS: dict[str, Model] = {
    "hash_grid": Model(
        FieldConfig(encoder=("hash_grid",), network="relu", width=64, depth=2, hash_grid=SPACE), 1e-2, final_share=0.2
    ),
    "siren": _of_shapes("siren", 1e-3, siren=SirenConfig(omega=10.0)),
    "wire": _of_shapes("wire", 5e-3, wire=WireConfig(omega=10.0, scale=40.0)),
    "sl2a": Model(dataclasses.replace(sl2a(128), depth=2), 1e-3, final_share=0.2),
    "pe": Model(
        FieldConfig(encoder=("frequency",), network="relu", width=256, depth=3, frequency=LEVELS), 1e-3, final_share=0.2
    ),
    "gauss": _of_shapes("gauss", 1e-3, gauss=GaussConfig(scale=10.0)),
    "finer": _of_shapes("finer", 1e-3, finer=FinerConfig(omega=10.0)),
    "spder": _of_shapes("spder", 1e-4, spder=SpderConfig(omega=10.0)),
    "mfn": _of_shapes("mfn", 1e-3),
    "incode": _of_shapes("incode", 9e-4),
}
"""On shapes: frequencies as WIRE's authors chose them for all (omega 10; Gauss 10)."""
