"""recon3d sweep SPEC.yaml: many runs (presets x scenes x seeds x settings), and a table of what they reached."""

from __future__ import annotations

import csv
import functools
import io
import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from recon3d.commands.jobs import Job, Placement, Row, done
from recon3d.config.sweeps import Sweep
from recon3d.errors import UserError
from recon3d.files import write_bytes

MEASURED = "sweep.json"
"""What a run measured, in its folder: it is not measured again while its last checkpoint is the same."""
SHOWN = 5
"""Measured columns on the screen; the files have all."""


@dataclass(frozen=True)
class SweepOptions:
    """Do all runs of a sweep, or go on where a call before ended, measure them, and write OUT/NAME/table.csv,
    OUT/NAME/summary.csv (mean and standard deviation over seeds), both in OUT/NAME/table.json, and
    OUT/NAME/tensorboard with what was set and what was reached (tensorboard --logdir OUT/NAME, tab HParams).

    SPEC.yaml has lists of presets, scenes and seeds, settings for all runs, and a grid of settings to try:

    {presets: [nerf], scenes: [lego], seeds: [0, 1], settings: {steps: 2000}, grid: {loss: [l1, huber]}}

    Runs that failed are told in the table; the same call tries them again.
    """

    spec: Annotated[Path, tyro.conf.Positional]
    """The sweep's YAML file; its scenes and files of presets are as seen from there."""
    out: Path = Path("runs")
    """Folder of all sweeps; the runs of this one are OUT/NAME/*."""
    name: str | None = None
    """Default: the name of the file."""
    overwrite: bool = False
    """Begin all runs anew."""
    placement: Annotated[Placement, tyro.conf.arg(name="")] = Placement()


def main(args: list[str]) -> dict[str, Any]:
    options = tyro.cli(SweepOptions, args=args, prog="recon3d sweep")
    sweep, placement = Sweep.read(options.spec), options.placement
    out = (options.out / (options.name or options.spec.stem)).resolve()
    jobs = _jobs(sweep, placement, out, options.overwrite)
    print(f"{len(jobs)} runs under {out}", file=sys.stderr)
    rows: list[Row] = []
    for row in done(jobs, placement):
        rows.append(row)
        print(f"[{len(rows)}/{len(jobs)}] {_line(row)}", file=sys.stderr)
    order = {str(job.row["run"]): place for place, job in enumerate(jobs)}
    rows.sort(key=lambda row: order[row["run"]])
    if all("error" in row for row in rows):
        raise UserError(f"{options.spec}: all {len(rows)} runs failed, the first with: {rows[0]['error']}")
    return _table(rows, list(jobs[0].row), out)


def _jobs(sweep: Sweep, placement: Placement, out: Path, overwrite: bool) -> list[Job]:
    jobs = []
    for run in sweep.runs(placement.device(), out, overwrite):
        config = replace(run.config, threads=placement.threads(run.config.threads))
        row = {**run.axes, "run": config.name}
        jobs.append(Job(config, run.preset, row, functools.partial(measured, options=sweep.eval)))
    return jobs


def measured(job: Job, options: tuple[str, ...] | None) -> Row:
    """The numbers that ``recon3d eval`` gives for a run that has ended, with the steps and seconds of its training."""
    from recon3d.commands import eval as evaluation
    from recon3d.training import checkpoints

    _, header = checkpoints.load(checkpoints.newest(job.folder / "checkpoints"))
    trained = {"steps": header["step"], "seconds": round(header["seconds"], 3)}
    if options is None:
        return trained
    file, asked = job.folder / MEASURED, {**trained, "eval": list(options)}
    if file.is_file():
        known = json.loads(file.read_text())
        if known.pop("measured", None) == asked:
            return known
    place = ["--device", job.config.device, "--threads", str(job.config.threads)]
    found = evaluation.main([str(job.folder), *place, *options])
    numbers = {name: value for name, value in found.items() if type(value) in (int, float)}
    row = {**numbers, **trained}
    write_bytes(file, (json.dumps({"measured": asked, **row}, indent=2) + "\n").encode())
    return row


# --- the table ------------------------------------------------------------------------------------------------------


def _table(rows: list[Row], given: list[str], out: Path) -> dict[str, Any]:
    """Write and show the rows, their means over seeds, and the events of TensorBoard; ``given`` names what is set."""
    found = list(dict.fromkeys(name for row in rows for name in row if name not in (*given, "error")))
    axes = [name for name in given if name not in ("seed", "run")]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(json.dumps([row[name] for name in axes], default=str), []).append(row)
    summary = [_summary(group, axes, found) for group in groups.values()]
    failed = [row for row in rows if "error" in row]
    figures = {"out": str(out), "runs": len(rows), "failed": len(failed), "summary": summary, "rows": rows}
    write_bytes(out / "table.json", (json.dumps(figures, indent=2, default=str) + "\n").encode())
    write_bytes(out / "table.csv", _csv([*given, *found, "error"], rows))
    write_bytes(out / "summary.csv", _csv(list(summary[0]), summary))
    _write_events(rows, given, found, out / "tensorboard")
    _show(rows, summary, axes, found)
    for row in failed:
        print(f"failed: {row['run']}: {row['error']}")
    print(f"written: {out}/table.csv, {out}/summary.csv, {out}/table.json, {out}/tensorboard")
    return figures


def _summary(group: list[Row], axes: list[str], found: list[str]) -> Row:
    """Means and standard deviations (of a sample) over the seeds of one setting."""
    import numpy as np

    good = [row for row in group if "error" not in row]
    row: Row = {**{name: group[0][name] for name in axes}, "seeds": len(good), "failed": len(group) - len(good)}
    for name in found:
        values = [each[name] for each in good if name in each]
        row[f"{name}_mean"] = float(np.mean(values)) if values else None
        row[f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else (0.0 if values else None)
    return row


def _csv(columns: list[str], rows: list[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _write_events(rows: list[Row], given: list[str], found: list[str], folder: Path) -> None:
    """One entry a run for TensorBoard's table of settings and results."""
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    for row in rows:
        if "error" in row:
            continue
        settings = {
            name: row[name] if isinstance(row[name], bool | int | float) else str(row[name])
            for name in given
            if name != "run"
        }
        with SummaryWriter(str(folder / str(row["run"]))) as writer:
            writer.add_hparams(settings, {f"final/{name}": row[name] for name in found if name in row}, run_name=".")


def _show(rows: list[Row], summary: list[Row], axes: list[str], found: list[str]) -> None:
    """The axes and the first measured columns, with means and standard deviations."""
    varied = [name for name in axes if name in ("preset", "scene") or len({str(row[name]) for row in summary}) > 1]
    counts = {name for name in found if all(type(row.get(name, 0)) is int for row in rows)}
    shown = [*[name for name in found if name not in counts and name != "seconds"][:SHOWN], "seconds"]
    lines = [[*(name.rsplit(".", 1)[-1] for name in varied), "seeds", *shown]]
    for row in summary:
        cells = [str(row[name]) for name in varied] + [str(row["seeds"])]
        for name in shown:
            mean, std = row[f"{name}_mean"], row[f"{name}_std"]
            cells.append("" if mean is None else f"{mean:.4g} ± {std:.2g}")
        lines.append(cells)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _line(row: Row) -> str:
    if "error" in row:
        return f"{row['run']}: {row['error']}"
    return f"{row['run']}: " + (f"{row['psnr']:.2f} dB" if "psnr" in row else f"{row['steps']} steps")
