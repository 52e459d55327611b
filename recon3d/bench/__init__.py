"""Benchmarks: the papers' tables reproduced by one command each, ours beside theirs."""

from __future__ import annotations

from collections.abc import Callable

from recon3d.bench.ct import ct_cone, ct_sparse
from recon3d.bench.ct_measured import ct_helsinki, ct_tooth
from recon3d.bench.fresh import fresh_image
from recon3d.bench.occupancy import sl2a_occupancy
from recon3d.bench.options import Options
from recon3d.bench.report import Report
from recon3d.bench.siren import siren_poisson
from recon3d.bench.sl2a import sl2a_image, sl2a_inpaint, sl2a_spectral_bias, sl2a_superres
from recon3d.bench.spder_images import spder_damping, spder_image, spder_superres
from recon3d.bench.spder_signals import spder_audio, spder_audio_interp, spder_video
from recon3d.bench.step import signal_step
from recon3d.bench.tuned import rates

BENCHES: dict[str, Callable[[Options], Report]] = {
    "spder-image": spder_image,
    "spder-superres": spder_superres,
    "spder-damping": spder_damping,
    "spder-audio": spder_audio,
    "spder-audio-interp": spder_audio_interp,
    "spder-video": spder_video,
    "sl2a-image": sl2a_image,
    "sl2a-superres": sl2a_superres,
    "sl2a-inpaint": sl2a_inpaint,
    "sl2a-spectral-bias": sl2a_spectral_bias,
    "sl2a-occupancy": sl2a_occupancy,
    "siren-poisson": siren_poisson,
    "fresh-image": fresh_image,
    "signal-step": signal_step,
    "ct-sparse": ct_sparse,
    "ct-cone": ct_cone,
    "ct-tooth": ct_tooth,
    "ct-helsinki": ct_helsinki,
    "rates": rates,
}
