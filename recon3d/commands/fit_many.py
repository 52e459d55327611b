"""recon3d fit-many PRESET FOLDER: a run for every file of a folder, and a table of what they reached."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro

from recon3d.commands.jobs import Job, Placement, done
from recon3d.commands.opened import RunOptions, opened
from recon3d.commands.train import parse
from recon3d.config import SignalConfig, preset_names, task_of
from recon3d.errors import UserError

SUFFIXES = {
    "image": (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".npy"),
    "audio": (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".opus"),
    "video": (".mp4", ".gif", ".mov", ".mkv", ".webm", ".avi", ".m4v"),
}
"""The files of a folder that a task is given."""
COLUMNS = ("psnr_best", "psnr_last", "ssim", "seconds")
USAGE = """usage: recon3d fit-many PRESET FOLDER [--jobs N | --ray] [options as recon3d train]

A run of PRESET for every image, sound or video in FOLDER, under OUT/NAME; a second call goes on where the first ended.
--jobs N: so many runs at a time, each with its share of the cores (default: 1).
--ray, --address, --cpus, --gpus: on Ray, as recon3d sweep --help says.
recon3d train PRESET --help shows the other options."""


def main(args: list[str]) -> dict[str, Any]:
    if not args or args[0] in ("-h", "--help") or "--help" in args:
        print(USAGE)
        raise SystemExit(0)
    if args[0].startswith("-"):
        names = ", ".join(preset_names())
        raise UserError(f"fit-many: name a preset first: recon3d fit-many PRESET FOLDER (there are: {names})")
    if len(args) > 1 and not args[1].startswith("-"):
        args = [args[0], "--data", *args[1:]]
    placement, args = tyro.cli(Placement, args=args, prog="recon3d fit-many", return_unknown_args=True)
    preset, config = parse(args)
    if not isinstance(config, SignalConfig):
        raise UserError(f"fit-many takes presets of {', '.join(SUFFIXES)}; {preset} is one of {task_of(config)}")
    jobs = _jobs(config, preset, placement)
    out = jobs[0].config.out
    rows = []
    for row in done(jobs, placement):
        rows.append(row)
        print(f"[{len(rows)}/{len(jobs)}] {_line(row)}", file=sys.stderr)
    rows.sort(key=lambda row: row["file"])
    figures = _table(rows, config.data, out)
    good = [row for row in rows if "error" not in row]
    if not good:
        raise UserError(f"{config.data}: all {len(rows)} files failed, the first with: {rows[0]['error']}")
    _show(rows, figures)
    return figures


def _jobs(config: SignalConfig, preset: str, placement: Placement) -> list[Job]:
    """A job for every file of the folder that looks like the task's, sorted."""
    task, folder = task_of(config), config.data
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; fit-many takes one of {task} files")
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in SUFFIXES[task])
    if not files:
        raise UserError(f"{folder}: no {task} files there ({', '.join(SUFFIXES[task])})")
    stems = [path.stem for path in files]
    out = config.out / (config.name or f"{preset}-{folder.resolve().name}")
    if placement.ray:
        out = out.resolve()  # its workers may be elsewhere
    shared = replace(config, out=out, threads=placement.threads(config.threads))
    jobs = []
    for path in files:
        name = path.stem if stems.count(path.stem) == 1 else path.name
        row = {"file": path.name, "run": str(out / name)}
        jobs.append(Job(replace(shared, data=path, name=name).resolved(), preset, row, _scores))
    return jobs


def _scores(job: Job) -> dict[str, Any]:
    """What the best and the last state reach; the best is the one in RUN/eval."""
    from recon3d.commands.eval_signal import measured, psnr_of
    from recon3d.training import checkpoints

    options = RunOptions(job.folder, device=job.config.device, threads=job.config.threads)
    with opened(options, SignalConfig, "eval", None) as run:
        best = measured(run)
    last = best["psnr"]
    if best["state"] == "best":
        with opened(options, SignalConfig, "eval", "last") as run:
            last = psnr_of(run)
    _, header = checkpoints.load(checkpoints.newest(run.folder.checkpoints))
    return {
        "psnr_best": best["psnr"],
        "psnr_last": last,
        "ssim": best.get("ssim"),
        "seconds": round(header["seconds"], 3),
        "step_best": best["step"],
    }


# --- the table ------------------------------------------------------------------------------------------------------


def _table(rows: list[dict[str, Any]], folder: Path, out: Path) -> dict[str, Any]:
    """The rows with mean and standard deviation (of a sample), written as table.json and table.csv."""
    import numpy as np

    from recon3d.files import write_bytes

    mean, deviation = {}, {}
    for name in COLUMNS:
        values = [row[name] for row in rows if row.get(name) is not None]
        if values:
            mean[name] = float(np.mean(values))
            deviation[name] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    figures = {
        "folder": str(folder),
        "out": str(out),
        "files": len(rows),
        "failed": sum("error" in row for row in rows),
        "mean": mean,
        "deviation": deviation,
        "rows": rows,
    }
    write_bytes(out / "table.json", (json.dumps(figures, indent=2) + "\n").encode())
    text = io.StringIO()
    writer = csv.DictWriter(text, ["file", *COLUMNS, "step_best", "run", "error"], lineterminator="\n")
    writer.writeheader()
    writer.writerows([*rows, {"file": "mean", **mean}, {"file": "standard deviation", **deviation}])
    write_bytes(out / "table.csv", text.getvalue().encode())
    return figures


def _show(rows: list[dict[str, Any]], figures: dict[str, Any]) -> None:
    summary = [{"file": "mean", **figures["mean"]}, {"file": "standard deviation", **figures["deviation"]}]
    width = max(len(str(row["file"])) for row in [*rows, *summary])
    print(f"{'file':<{width}}  {'PSNR best':>9}  {'PSNR last':>9}  {'SSIM':>7}  {'seconds':>8}")
    for row in [*rows, *summary]:
        if "error" in row:
            print(f"{row['file']:<{width}}  failed: {row['error']}")
            continue
        best, last, seconds = (f"{row[name]:.2f}" for name in ("psnr_best", "psnr_last", "seconds"))
        ssim = "" if row.get("ssim") is None else f"{row['ssim']:.4f}"
        print(f"{row['file']:<{width}}  {best:>9}  {last:>9}  {ssim:>7}  {seconds:>8}")
    print(f"written: {figures['out']}/table.json, {figures['out']}/table.csv")


def _line(row: dict[str, Any]) -> str:
    return f"{row['file']}: {row.get('error') or '{:.2f} dB'.format(row['psnr_best'])}"
