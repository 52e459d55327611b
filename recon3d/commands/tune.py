"""recon3d tune PRESET DATA: choose a field's frequencies from the spectrum of the data, before training."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import tyro

from recon3d.commands.train import named
from recon3d.config import preset_names
from recon3d.errors import UserError
from recon3d.tuning.options import TuneOptions


def main(args: list[str]) -> dict[str, Any]:
    names = ", ".join(preset_names())
    if not args or args[0] in ("-h", "--help"):
        print(f"usage: recon3d tune PRESET DATA [options]\n\nPRESET is one of: {names}; or the path of a YAML file.")
        print("recon3d tune PRESET --help shows the options; those of recon3d train PRESET may be given, too.")
        raise SystemExit(0)
    if args[0].startswith("-"):
        raise UserError(f"tune: name a preset first: recon3d tune PRESET DATA [options] (there are: {names})")
    options, rest = tyro.cli(
        TuneOptions,
        args=args[1:],
        prog=f"recon3d tune {args[0]} DATA",
        description="Choose a field's frequencies from the spectrum of the data, before training (FreSh). Takes what "
        f"recon3d train {args[0]} takes, and:",
        return_unknown_args=True,
    )
    preset, config = named([args[0], *rest])

    from tqdm import tqdm

    from recon3d.files import write_bytes
    from recon3d.training.machine import prepare
    from recon3d.training.run_folder import RunFolder
    from recon3d.tuning import report
    from recon3d.tuning.tune import tune

    run = RunFolder.planned(dataclasses.replace(config, overwrite=True), preset).path
    folder = RunFolder(run.with_name(f"tune-{run.name}"))
    device, _ = prepare(config)
    with tqdm(unit="value", desc="tune", file=sys.stderr) as bar:
        tuning = tune(config.resolved(), device, options, lambda value, distance: bar.update())
    print(report.table(tuning))
    picture = folder.write_image("spectra.png", report.picture(tuning))
    tuned = folder.path / f"{preset}_tuned.yaml"
    write_bytes(tuned, report.preset_yaml(tuning, config, args[0], device.type).encode())
    print(f"{report.sentence(tuning)} ({tuning.seconds:.1f} s)")
    print(f"written: {tuned}, {picture}")
    print(f"train with: recon3d train {tuned} {config.data}")
    return {**report.figures(tuning), "preset": str(tuned), "picture": str(picture)}
