"""Reconstructions of the CT benchmarks, each made once: classical ones, and neural presets.

No method looks at the truth. Where a figure does, its name says so: "oracle" of a weight, "best" of the iterate that is
nearest to the truth, which published neural codes report.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.bench.ct_cases import Case
from recon3d.bench.options import Options
from recon3d.classical import reconstruct
from recon3d.config import CtConfig, load_preset, to_plain
from recon3d.config.classical import CglsConfig, FbpConfig, SirtConfig, TvConfig
from recon3d.data.scan import load_scan
from recon3d.files import write_bytes
from recon3d.tasks.ct import CtTask
from recon3d.tasks.ct_data import tensor_of
from recon3d.training.machine import prepare, set_up
from recon3d.training.run_folder import RunFolder
from recon3d.training.trainer import Trainer

LOOKS = 24
"""How often a training's volume is compared with the truth, for the figure that says so."""

CLASSICAL: dict[str, tuple[str, Any]] = {
    "fbp": ("fbp", FbpConfig()),
    "fdk": ("fdk", FbpConfig()),
    "sirt 200": ("sirt", SirtConfig(iterations=200)),
    "cgls 20": ("cgls", CglsConfig(iterations=20)),
    "sirt": ("sirt", SirtConfig()),
    "cgls": ("cgls", CglsConfig()),
    "tv": ("tv", TvConfig()),
}
"""By the name in tables: without a number, iterations and weights are chosen blind."""


def classical(case: Case, name: str, options: Options) -> dict[str, float]:
    """PSNR, seconds and what was chosen of a classical method."""
    method, settings = CLASSICAL[name]

    def make() -> dict[str, float]:
        begin = time.perf_counter()
        found = _reconstructed(case, method, settings, options)
        seconds = time.perf_counter() - begin
        return {"psnr": case.psnr(found.volume), "seconds": seconds, **found.chosen}

    record = options.out / "ct" / f"{case.name}-{name.replace(' ', '-')}.json"
    return once(record, settings_of(case.scan, name, options), make)


def tv_oracle(case: Case, blind: float, options: Options) -> dict[str, float]:
    """The best PSNR of total variation whose weight is picked against the truth: from the blind one on, half a decade
    at a time, as long as it gets better."""

    def make() -> dict[str, float]:
        def tried(step: int) -> tuple[float, float]:
            weight = blind * 10 ** (step / 2)
            return case.psnr(_reconstructed(case, "tv", TvConfig(weight=weight), options).volume), weight

        best = tried(0)
        for way in (1, -1):
            step = way
            while (found := tried(step)) > best:
                best, step = found, step + way
        return {"psnr": best[0], "weight": best[1]}

    return once(options.out / "ct" / f"{case.name}-tv-oracle.json", {"blind": blind}, make)


def neural(case: Case, preset: str, options: Options) -> dict[str, float]:
    """A preset: ``psnr`` of the state that held-out rays chose, ``best`` of the iterate nearest to the truth, ``start``
    of the volume of total variation that it begins as, where it does."""
    config = preset_config(case.scan, preset, options)
    assert config.steps is not None
    every = max(1, config.steps // LOOKS)

    def make() -> dict[str, float]:
        seen: list[float] = []

        def look(task: CtTask, step: int) -> None:
            if step % every == 0 or step == config.steps:
                seen.append(case.psnr(task.volume()))

        task, figures = trained_task(case.scan, preset, options, look)
        start, *after = seen
        begun = {"start": start} if config.start == "tv" else {}
        return {"psnr": case.psnr(task.volume()), "best": max(after), "last": after[-1], **begun, **figures}

    return once(options.out / "ct" / f"{config.name}.json", settings_of(case.scan, preset, options), make)


def settings_of(scan: Path, model: str, options: Options) -> Any:
    """What a method or a preset does with a scan, plain: a figure is kept for as long as this is the same."""
    if model in CLASSICAL:
        return to_plain(CLASSICAL[model][1])
    return to_plain(dataclasses.replace(preset_config(scan, model, options), threads=None))


def preset_config(scan: Path, preset: str, options: Options) -> CtConfig:
    """A preset for a scan of a benchmark; ``options.steps`` stands in for its own number."""
    config = load_preset(preset).config("cpu" if options.device == "auto" else options.device, scan)
    assert isinstance(config, CtConfig)
    steps = config.steps if options.steps is None else max(options.steps)
    assert steps is not None
    return dataclasses.replace(
        config,
        out=options.out / "ct",
        name=f"{scan.stem}-{preset}",
        overwrite=True,
        steps=steps,
        preview_every=steps + 1,
        checkpoint_every=steps + 1,
        device=options.device,
        threads=options.threads,
        seed=options.seed,
    ).resolved()


def trained_task(
    scan: Path, preset: str, options: Options, look: Callable[[CtTask, int], None] = lambda task, step: None
) -> tuple[CtTask, dict[str, float]]:
    """A preset's task in the state that held-out rays chose, with its step and the seconds of the training.

    ``look`` is called with the task before the first step and after every one; its time is not counted.
    """
    config = preset_config(scan, preset, options)
    device, precision = prepare(config)
    run = RunFolder.create(config, "bench")
    begin = time.perf_counter()
    task = CtTask.from_data(config, device, precision)
    ready = time.perf_counter() - begin
    trainer = Trainer(task, config, config.optimizer, run, device, precision)
    look(task, 0)
    figures = trainer.train(lambda step, scalars: look(task, step))
    if figures["stopped"]:
        raise KeyboardInterrupt
    best, step = trainer.best, figures["steps"]
    if best is not None and best.state is not None:
        task.load_state_dict(best.state)
        step = best.step
    return task, {"step": float(step), "seconds": ready + figures["seconds"]}


def _reconstructed(case: Case, method: str, settings: Any, options: Options) -> Any:
    device = set_up(options.device, options.threads)
    scan = load_scan(case.scan).load()
    projections: Float[Tensor, "a rows columns"] = tensor_of(scan, device)
    with torch.no_grad():
        return reconstruct(method, projections, scan.geometry.to(device), scan.grid, settings, counts=scan.counts)


def once(record: Path, asked: Any, make: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What ``make`` gives, from the record where it was made for the same question before."""
    asked = json.loads(json.dumps(asked))
    if record.is_file():
        saved = json.loads(record.read_text())
        if saved["asked"] == asked:
            return dict(saved["figures"])
    figures = make()
    write_bytes(record, json.dumps({"asked": asked, "figures": figures}).encode())
    return figures
