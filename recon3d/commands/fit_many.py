"""recon3d fit-many PRESET FOLDER: a run for every file of a folder, and a table of what they reached."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from recon3d.commands.opened import RunOptions, opened
from recon3d.commands.train import fit, parse
from recon3d.config import RunConfig, SignalConfig, preset_names, task_of
from recon3d.errors import UserError

SUFFIXES = {
    "image": (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".npy"),
    "audio": (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".opus"),
    "video": (".mp4", ".gif", ".mov", ".mkv", ".webm", ".avi", ".m4v"),
}
"""The files of a folder that a task is given."""
COLUMNS = ("psnr_best", "psnr_last", "ssim", "seconds")
USAGE = """usage: recon3d fit-many PRESET FOLDER [--jobs N] [options as recon3d train]

A run of PRESET for every image, sound or video in FOLDER, under OUT/NAME; a second call goes on where the first ended.
--jobs N: so many runs at a time, each with its share of the cores (default: 1).
recon3d train PRESET --help shows the other options."""

_stopped = False  # in a worker: Ctrl-C has ended a run, so what is still waiting is not begun


@dataclass(frozen=True)
class Job:
    """One file's run."""

    config: SignalConfig
    preset: str

    @property
    def row(self) -> dict[str, Any]:
        """The beginning of its line in the table."""
        return {"file": self.config.data.name, "run": str(self.config.out / str(self.config.name))}


def main(args: list[str]) -> dict[str, Any]:
    if not args or args[0] in ("-h", "--help") or "--help" in args:
        print(USAGE)
        raise SystemExit(0)
    if args[0].startswith("-"):
        names = ", ".join(preset_names())
        raise UserError(f"fit-many: name a preset first: recon3d fit-many PRESET FOLDER (there are: {names})")
    if len(args) > 1 and not args[1].startswith("-"):
        args = [args[0], "--data", *args[1:]]
    count, args = _jobs_option(args)
    preset, config = parse(args)
    if not isinstance(config, SignalConfig):
        raise UserError(f"fit-many takes presets of {', '.join(SUFFIXES)}; {preset} is one of {task_of(config)}")
    jobs = _jobs(config, preset, count)
    out = jobs[0].config.out
    rows = []
    for row in _done(jobs, count):
        rows.append(row)
        print(f"[{len(rows)}/{len(jobs)}] {_line(row)}", file=sys.stderr)
        if row.get("stopped"):
            print("run the same command again to go on", file=sys.stderr)
            raise KeyboardInterrupt
    rows.sort(key=lambda row: row["file"])
    figures = _table(rows, config.data, out)
    good = [row for row in rows if "error" not in row]
    if not good:
        raise UserError(f"{config.data}: all {len(rows)} files failed, the first with: {rows[0]['error']}")
    _show(rows, figures)
    return figures


def _jobs_option(args: list[str]) -> tuple[int, list[str]]:
    """``--jobs N`` or ``--jobs=N``, and the other arguments."""
    kept, value, rest = [], "1", iter(args)
    for arg in rest:
        if arg == "--jobs":
            value = next(rest, "")
        elif arg.startswith("--jobs="):
            value = arg.removeprefix("--jobs=")
        else:
            kept.append(arg)
    if not value.isdecimal() or int(value) < 1:
        raise UserError(f"--jobs is {value!r}: give the number of runs at a time, 1 or more")
    return int(value), kept


def _jobs(config: SignalConfig, preset: str, count: int) -> list[Job]:
    """A job for every file of the folder that looks like the task's, sorted."""
    from recon3d.training.machine import physical_cores

    task, folder = task_of(config), config.data
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; fit-many takes one of {task} files")
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in SUFFIXES[task])
    if not files:
        raise UserError(f"{folder}: no {task} files there ({', '.join(SUFFIXES[task])})")
    stems = [path.stem for path in files]
    out = config.out / (config.name or f"{preset}-{folder.resolve().name}")
    threads = config.threads or max(1, physical_cores() // count)
    shared = replace(config, out=out, threads=threads)
    return [
        Job(replace(shared, data=path, name=path.stem if stems.count(path.stem) == 1 else path.name).resolved(), preset)
        for path in files
    ]


def _done(jobs: list[Job], count: int) -> Iterator[dict[str, Any]]:
    """The rows of the table, as the runs end."""
    if count == 1:
        yield from map(run_job, jobs)
        return
    pool = ProcessPoolExecutor(min(count, len(jobs)), mp_context=get_context("spawn"), initializer=_without_bars)
    try:
        waiting = {pool.submit(run_job, job): job for job in jobs}
        for future in as_completed(waiting):
            try:
                yield future.result()
            except BrokenProcessPool:
                yield {**waiting[future].row, "error": "its process was ended from outside (out of memory?)"}
    finally:
        pool.shutdown(cancel_futures=True)


def _without_bars() -> None:
    os.environ["TQDM_DISABLE"] = "1"


def run_job(job: Job) -> dict[str, Any]:
    """Train, or go on, or leave as it is; then measure. What goes wrong with one file is its row's error."""
    global _stopped
    if _stopped:
        return {**job.row, "stopped": True}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            if _trained(job):
                return {**job.row, **_scores(job)}
        _stopped = True
        return {**job.row, "stopped": True}
    except UserError as error:
        return {**job.row, "error": " ".join(str(error).splitlines())}
    except Exception as error:  # of a night's work only this file is lost
        return {**job.row, "error": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def _trained(job: Job) -> bool:
    """Bring a run to the end of its budget; False where it was asked to stop before."""
    from recon3d.tasks import new_task
    from recon3d.training import checkpoints
    from recon3d.training.machine import prepare
    from recon3d.training.run_folder import RunFolder

    config = job.config
    begun = RunFolder(config.out / str(config.name))
    resume = begun.config_file.is_file() and not config.overwrite
    if resume:
        if _what_matters(begun.read_config()) != _what_matters(config):
            raise UserError(f"{begun.path}: a run with other settings is there: give --name, or --overwrite")
        resume = any(begun.checkpoints.glob(checkpoints.PATTERN))
        if resume and _finished(begun, config):
            return True
    device, precision = prepare(config)
    task = new_task(config, device, precision)
    run = begun if resume else RunFolder.create(replace(config, overwrite=True), job.preset)
    return not fit(task, config, run, device, precision, resume=resume)["stopped"]


def _what_matters(config: RunConfig) -> RunConfig:
    """A configuration without what does not change the outcome."""
    return replace(config, out=Path(), overwrite=False, device="auto", threads=None)


def _finished(run: Any, config: SignalConfig) -> bool:
    from recon3d.training import checkpoints
    from recon3d.training.trainer import Progress

    _, header = checkpoints.load(checkpoints.newest(run.checkpoints))
    return Progress(header["step"], header["seconds"]).share(config) >= 1


def _scores(job: Job) -> dict[str, Any]:
    """What the best and the last state reach; the best is the one in RUN/eval."""
    from recon3d.commands.eval_signal import measured, psnr_of
    from recon3d.training import checkpoints

    options = RunOptions(job.config.out / str(job.config.name), device=job.config.device, threads=job.config.threads)
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
    if row.get("stopped"):
        return f"{row['file']}: stopped"
    return f"{row['file']}: {row.get('error') or '{:.2f} dB'.format(row['psnr_best'])}"
