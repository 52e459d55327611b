"""Occupancy of a shape by several fields (SL2A, figures 3 and 12, after WIRE's protocol): IoU on a full grid, time, and
the surfaces side by side.

Points anywhere in the cube that just holds the shape, squared error, Adam whose rate falls to a fifth; two hidden
layers of 256 after the first, as WIRE's authors have them. The papers measure Stanford's Thai statue at 512^3 and print
their figures beside pictures only, so there are none to stand beside ours.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from recon3d.bench.models import OCCUPANCY_MODELS, Model
from recon3d.bench.options import Options
from recon3d.bench.report import Report
from recon3d.config import ShapeConfig, to_plain
from recon3d.config.shapes import SampleConfig
from recon3d.config.signals import PLAIN_ADAM
from recon3d.data.shape_distance import ShapeDistance
from recon3d.data.shape_files import read_shape
from recon3d.data.shape_samples import cube_of_shape
from recon3d.files import write_bytes
from recon3d.tasks.shape import ShapeTask, rule_of
from recon3d.tasks.shape_evaluation import grid_overlap
from recon3d.tasks.shape_pictures import shaded, surface_hits, true_hits
from recon3d.training.machine import prepare
from recon3d.training.run_folder import RunFolder
from recon3d.training.trainer import Trainer

NAME = "sl2a-occupancy"
SMALL = ("hash_grid", "siren", "wire", "sl2a")
BATCH = {False: 2**14, True: 200_000}
"""Points a step, in the small version and in the papers'."""
PICTURE_CELLS = {False: 96, True: 256}
"""Cells a side of the grid that the surfaces in the picture are looked for on."""
ANYWHERE = SampleConfig(near=0.0, pool=2**21, passes=4)


@dataclass(frozen=True)
class ShapeFit:
    """One training: IoU after so many updates, and a picture of the surface at the end."""

    iou: dict[int, float]
    seconds_per_step: float
    parameters: int
    picture: Path


def sl2a_occupancy(options: Options) -> Report:
    """IoU of every model after equally many updates; ``--images FILE`` names the shape (default: a knot), ``--size``
    the points a side of the grid."""
    names = options.chosen_models(SMALL, tuple(OCCUPANCY_MODELS))
    steps = options.chosen_steps((50, 200), (500, 2000))
    grid = options.size or (512 if options.full else 96)
    folder = options.out / NAME
    files = [Path(name) for name in options.images or ()] or [knot_file(folder)]
    report = Report(
        NAME,
        f"SL2A, figures 3 and 12 (occupancy): {', '.join(file.stem for file in files)}, IoU on {grid}^3 points",
        [*(f"iou_{step}" for step in steps), "parameters", "seconds_per_step"],
    )
    report.axes = ("step", "IoU")
    rows = []
    for file in files:
        fits = {
            name: fit_shape(config_of(options, file, name), steps, grid, PICTURE_CELLS[options.full]) for name in names
        }
        for name, found in fits.items():
            label = name if len(files) == 1 else f"{name} {file.stem}"
            report.figures[label] = {
                **{f"iou_{step}": found.iou[step] for step in steps},
                "parameters": found.parameters,
                "seconds_per_step": found.seconds_per_step,
            }
            report.curves[label] = (list(map(float, steps)), [found.iou[step] for step in steps])
        truth = true_surface(config_of(options, file, names[0]))
        rows.append(np.concatenate([truth, *(iio.imread(found.picture) for found in fits.values())], axis=1))
    picture = folder / "surfaces.png"
    write_bytes(picture, iio.imwrite("<bytes>", np.concatenate(rows), extension=".png"))
    report.notes = [f"surfaces side by side, the truth first, then {', '.join(names)}: {picture}"]
    return report


def config_of(options: Options, file: Path, name: str) -> ShapeConfig:
    """The run of one model on one shape."""
    config = ShapeConfig(
        data=file,
        out=options.out / NAME,
        name=f"{file.stem}-{name}",
        steps=1,
        supervision="occupancy",
        loss="mse",
        batch=BATCH[options.full],
        padding=0.02,
        samples=ANYWHERE,
        device=options.device,
        threads=options.threads,
        seed=options.seed,
    )
    model: Model = OCCUPANCY_MODELS[name]
    optimizer = dataclasses.replace(
        PLAIN_ADAM, learning_rate=model.learning_rate, final_share=model.final_share, decay_steps=model.decay_steps
    )
    return dataclasses.replace(config, field=model.field, optimizer=optimizer)


def fit_shape(config: ShapeConfig, at: Sequence[int], grid: int, cells: int) -> ShapeFit:
    """Train for max(at) updates and measure the IoU on ``grid``^3 points after each number of updates in ``at``.

    A finished fit is kept beside its run folder and not trained again while its configuration is the same.
    """
    last = max(at)
    config = dataclasses.replace(config, steps=last, overwrite=True, checkpoint_every=last, preview_every=last + 1)
    config = config.resolved()
    assert config.name is not None
    folder = config.out / config.name
    record, picture = folder / "fit.json", folder / "surface.png"
    settings = to_plain(dataclasses.replace(config, threads=None))
    asked = json.loads(json.dumps({"config": settings, "at": list(at), "grid": grid, "cells": cells}))
    if record.is_file() and picture.is_file():
        saved = json.loads(record.read_text())
        if saved["asked"] == asked:
            kept = {int(step): value for step, value in saved["iou"].items()}
            return ShapeFit(kept, saved["seconds_per_step"], saved["parameters"], picture)
    device, precision = prepare(config)
    task = ShapeTask.from_data(config, device, precision)
    run = RunFolder.create(config, "bench")
    iou: dict[int, float] = {}

    def visit(step: int, scalars: dict[str, float]) -> None:
        if step in at:
            assert task.truth is not None and task.truth.distance is not None
            task.eval()
            iou[step] = grid_overlap(task, task.truth.distance, grid).iou
            task.train()

    figures = Trainer(task, config, config.optimizer, run, device, precision).train(visit)
    if figures["stopped"]:
        raise KeyboardInterrupt
    run.write_image("surface.png", surface_picture(task, cells))
    result = ShapeFit(iou, figures["seconds"] / figures["steps"], task.field.parameter_count(), picture)
    values = {"asked": asked, "iou": iou, "seconds_per_step": result.seconds_per_step, "parameters": result.parameters}
    write_bytes(record, json.dumps(values).encode())
    return result


@torch.no_grad()
def surface_picture(task: ShapeTask, cells: int) -> UInt8[np.ndarray, "h w 3"]:
    """The field's surface in a light."""

    def inside(points: Float[torch.Tensor, "n 3"]) -> Float[torch.Tensor, "n"]:
        return torch.cat([task.inside(part.to(task.device)).float().cpu() for part in points.split(2**16)])

    return _bytes(shaded(*surface_hits(inside, cells)))


def true_surface(config: ShapeConfig) -> UInt8[np.ndarray, "h w 3"]:
    """The shape itself in the same light."""
    shape = read_shape(config.data)
    rule = rule_of(shape, config)
    assert rule is not None
    return _bytes(shaded(*true_hits(ShapeDistance(shape, cube_of_shape(shape, config.padding), rule, config.shell))))


def _bytes(picture: Float[torch.Tensor, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return (picture.clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()


# --- the knot -------------------------------------------------------------------------------------------------------


def knot_file(folder: Path) -> Path:
    """A torus knot as an OFF file, for when no shape is named."""
    vertices, faces = torus_knot()
    lines = [f"OFF\n{len(vertices)} {len(faces)} 0"]
    lines += [f"{x:.9g} {y:.9g} {z:.9g}" for x, y, z in vertices.tolist()]
    lines += [f"3 {a} {b} {c}" for a, b, c in faces.tolist()]
    path = folder / "knot.off"
    write_bytes(path, ("\n".join(lines) + "\n").encode())
    return path


def torus_knot(
    along: int = 600, around: int = 36, turns: tuple[int, int] = (3, 2), ribs: int = 24
) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
    """A closed tube with ribs around the knot that winds ``turns`` times around a torus's axis and around its tube."""
    t = np.arange(along) * (2 * math.pi / along)
    p, q = turns

    def curve(t: np.ndarray) -> np.ndarray:
        radius = 2 + np.cos(p * t)
        return np.stack([radius * np.cos(q * t), radius * np.sin(q * t), -np.sin(p * t)], axis=1)

    center = curve(t)
    tangent = curve(t + 1e-4) - curve(t - 1e-4)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    # Away from the middle of the torus's own tube: never along the tangent, and closed as the knot is.
    ring = 2 * np.stack([np.cos(q * t), np.sin(q * t), 0 * t], axis=1)
    out = center - ring
    out -= (out * tangent).sum(axis=1, keepdims=True) * tangent
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    side = np.cross(tangent, out)
    angle = np.arange(around) * (2 * math.pi / around)
    radius = (0.36 + 0.05 * np.cos(ribs * t))[:, None, None]
    circle = np.cos(angle)[None, :, None] * out[:, None] + np.sin(angle)[None, :, None] * side[:, None]
    vertices = (center[:, None] + radius * circle).reshape(-1, 3)
    i, j = np.meshgrid(np.arange(along), np.arange(around), indexing="ij")
    a, b = i * around + j, i * around + (j + 1) % around
    c, d = (i + 1) % along * around + j, (i + 1) % along * around + (j + 1) % around
    faces = np.concatenate([np.stack([a, b, c], axis=-1), np.stack([b, d, c], axis=-1)]).reshape(-1, 3)
    return vertices, faces
