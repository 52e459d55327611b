"""Measured scans: a tooth at a synchrotron, and the fan beams of the Helsinki Tomography Challenge 2022.

Nothing is known of them but their projections and, of the challenge, masks. The files are given by ``--images``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from recon3d.bench.ct_fits import CLASSICAL, once, settings_of, trained_task
from recon3d.bench.options import Options
from recon3d.bench.report import Report
from recon3d.classical import Projector, reconstruct
from recon3d.config.classical import FbpConfig
from recon3d.config.scans import PreprocessConfig
from recon3d.data.scan import Scan, load_scan
from recon3d.data.scan_files import read_scan
from recon3d.data.scan_preprocess import prepare
from recon3d.data.volume_files import read_volume
from recon3d.errors import UserError
from recon3d.files import write_bytes
from recon3d.geometry.voxels import VolumeGrid
from recon3d.metrics import volume as metrics
from recon3d.tasks.ct_data import tensor_of
from recon3d.tasks.ct_pictures import beside, bright, grey
from recon3d.training.machine import set_up

EVERY = 4
"""Of the tooth's views one is used."""
CHALLENGE_PIXEL = 0.2 * 410.66 / 553.74
CHALLENGE_SIZE = 512
RANGES = (360, 180, 90, 60, 30)
"""Degrees of the challenge's tb."""

Volume = Float[Tensor, "nz ny nx"]


def ct_tooth(options: Options) -> Report:
    """``--images tooth.h5``: one row, the axis of rotation found, every fourth view; against filtered back-projection
    of all views and against the views that were left out."""
    file = _asked(options, "tooth.h5")
    models = options.chosen_models(
        ("fbp", "sirt", "tv", "ct_parallel", "ct_sparse"), ("fbp", "sirt", "cgls", "tv", "ct_parallel", "ct_sparse")
    )
    whole = prepare(read_scan(file, raw=True), PreprocessConfig(rows=(0, 1), find_axis=True)).load()
    column = float(whole.geometry.shadows(torch.zeros(1, 3, dtype=torch.float64))[0].median())
    used = np.arange(0, len(whole), EVERY)
    left = whole.views(np.setdiff1d(np.arange(len(whole)), used))
    scan = options.out / "ct" / f"tooth-{EVERY}.npz"
    scan.parent.mkdir(parents=True, exist_ok=True)
    whole.views(used).load().save(scan)
    device = set_up(options.device, options.threads)
    full = reconstruct("fbp", tensor_of(whole, device), whole.geometry.to(device), whole.grid, FbpConfig()).volume
    unseen = tensor_of(left, device)
    projector = Projector(left.geometry.to(device), whole.grid)

    def measure(volume: Volume) -> dict[str, float]:
        error = float((projector.forward(volume) - unseen).square().mean())
        return {
            "psnr_fbp181": metrics.psnr(volume, full),
            "ssim_fbp181": metrics.ssim_slices(volume, full),
            "psnr_unseen": 10 * float(np.log10(float(unseen.max()) ** 2 / error)),
        }

    report = Report(
        "ct-tooth",
        f"{file.name}: {len(used)} of {len(whole)} views, axis of rotation at column {column:.2f}",
        ["psnr_fbp181", "ssim_fbp181", "psnr_unseen", "seconds"],
        notes=["fbp181: against FBP of all views; unseen: line integrals of the views that were left out"],
    )
    volumes = {}
    for model in models:
        figures, volumes[model] = _made(scan, model, options, measure)
        report.figures[model] = figures
    report.figures["all views, fbp"] = measure(full)
    _picture([full, *volumes.values()], options.out / "ct-tooth-slices.png", bright(full))
    return report


def ct_helsinki(options: Options) -> Report:
    """``--images FOLDER`` of the challenge's files: Matthews correlation and IoU against the masks, of tb over ever
    fewer degrees (``--views`` degrees), and of ta and tc over 30."""
    folder = _asked(options, "htc2022")
    models = options.chosen_models(
        ("fbp", "tv", "ct_one_material"), ("fbp", "sirt", "tv", "ct_limited_angle", "ct_one_material")
    )
    size = options.size or (CHALLENGE_SIZE if options.full else CHALLENGE_SIZE // 2)
    degrees = options.views or (RANGES if options.full else (180, 30))
    cases = [("tb", folder / "tb_assembled_549.npz", span) for span in degrees]
    cases += [(name, folder / f"{name}_category7.mat", 30) for name in ("ta", "tc")] if options.full else []
    report = Report(
        "ct-helsinki",
        f"Helsinki Tomography Challenge 2022, {size} x {size}: Matthews correlation with the mask (IoU in the files)",
        [f"{name} {span}" for name, _, span in cases],
        notes=["cut at Otsu's threshold; everything chosen blind"],
    )
    for name, file, span in cases:
        mask = _mask(folder / f"{name}_category7_groundtruth.png", size)
        scan = _challenge(file, span, size, options.out / "ct" / f"{name}-{span}-{size}.npz")

        def measure(volume: Volume, mask: Tensor = mask) -> dict[str, float]:
            found = metrics.segment(volume.cpu())
            return {"mcc": metrics.mcc(found, mask), "iou": metrics.iou(found, mask)}

        volumes = []
        for model in models:
            figures, volume = _made(scan, model, options, measure)
            volumes.append(volume)
            row = report.figures.setdefault(model, {})
            row |= {f"{name} {span}": figures["mcc"], f"{name} {span} iou": figures["iou"]}
            row[f"{name} {span} seconds"] = figures["seconds"]
        top = bright(volumes[0])
        _picture([top * mask.to(volumes[0]), *volumes], options.out / f"ct-helsinki-{name}-{span}.png", top)
    return report


def _asked(options: Options, usual: str) -> Path:
    """The file or folder of the data."""
    if not options.images:
        raise UserError(f"this benchmark needs its data: give --images PATH (of {usual})")
    path = Path(options.images[0])
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; give the path of {usual}")
    return path


def _challenge(file: Path, span: int, size: int, target: Path) -> Path:
    """A scan of the challenge over so many degrees from its first view on, for the grid of the masks."""
    scan = read_scan(file)
    angles = scan.geometry.angles
    assert angles is not None
    first = float(torch.rad2deg(angles[0]))
    if span < 360:
        scan = prepare(scan, PreprocessConfig(angle_range=(first, first + span - 0.01)))
    pixel = CHALLENGE_PIXEL * CHALLENGE_SIZE / size
    target.parent.mkdir(parents=True, exist_ok=True)
    dataclasses.replace(scan, grid=VolumeGrid((1, size, size), (pixel, pixel, pixel))).load().save(target)
    return target


def _mask(path: Path, size: int) -> Tensor:
    values = torch.tensor(read_volume(path).values > 0).float()
    return F.interpolate(values[None], (size, size), mode="area")[0] > 0.5


def _made(
    path: Path, model: str, options: Options, measure: Callable[[Volume], dict[str, float]]
) -> tuple[dict[str, float], Volume]:
    """A volume by a method or a preset, kept as a file, and its figures with its seconds."""
    kept = path.with_name(f"{path.stem}-{model}.npy")

    def make() -> dict[str, float]:
        import time

        begin = time.perf_counter()
        volume = _volume(path, model, options)
        seconds = time.perf_counter() - begin
        np.save(kept, volume.cpu().numpy())
        return {"seconds": seconds, **measure(volume)}

    if not kept.is_file():
        kept.with_suffix(".json").unlink(missing_ok=True)
    figures = once(kept.with_suffix(".json"), settings_of(path, model, options), make)
    return figures, torch.from_numpy(np.load(kept)).to(set_up(options.device, options.threads))


def _volume(path: Path, model: str, options: Options) -> Volume:
    if model.startswith("ct_"):
        task, _ = trained_task(path, model, options)
        return task.volume()
    method, settings = CLASSICAL[model]
    device = set_up(options.device, options.threads)
    scan: Scan = load_scan(path).load()
    with torch.no_grad():
        return reconstruct(
            method, tensor_of(scan, device), scan.geometry.to(device), scan.grid, settings, counts=scan.counts
        ).volume


def _picture(volumes: list[Volume], path: Path, top: float) -> None:
    pictures: list[Any] = [grey(volume[0].flip(0), 0.0, 1.2 * top) for volume in volumes]
    write_bytes(path, iio.imwrite("<bytes>", beside(pictures), extension=".png"))
