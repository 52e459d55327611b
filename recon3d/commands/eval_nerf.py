"""recon3d eval RUN for runs on photographs: render the held-out views, measure them, lay them beside the truth."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from recon3d.commands.opened import RunOptions, opened
from recon3d.config import PhotographsConfig


@dataclass(frozen=True)
class Eval(RunOptions):
    """Render the held-out views of a run and write PSNR, SSIM, the images and a comparison sheet.

    Whole images, composited over a plain background on both sides; the mean is over images. Where the photographs have
    alpha, also the intersection over union of the silhouettes: opacity and alpha above one half.
    """

    split: Literal["test", "val", "train"] = "test"
    background: Literal["white", "black"] | None = None
    """Default: the run's eval_background."""
    data: Path | None = None
    """Where the data is now, if it has moved."""


def main(args: list[str]) -> dict[str, Any]:
    options = tyro.cli(Eval, args=args, prog="recon3d eval")

    import numpy as np
    import torch
    from tqdm import tqdm

    from recon3d.data.scene_files import load_scene
    from recon3d.metrics.image import psnr, silhouette_iou, ssim
    from recon3d.tasks.photographs import depth_picture, gray, normal_picture, reference_image, to_uint8

    with opened(options, PhotographsConfig, "eval") as run:
        config = run.config
        background = options.background or config.eval_background
        scene = load_scene(options.data or config.data, options.split, config.downscale, config.test_every)
        cameras = scene.cameras.to(run.task.device)
        folder = f"eval_{options.split}"
        views, rows = [], []
        begin = time.perf_counter()
        rendering = 0.0
        with tqdm(range(len(scene)), unit="view", desc="eval") as bar:
            for index in bar:
                started = time.perf_counter()
                view = run.task.render_view(cameras, index, background)
                rendering += time.perf_counter() - started
                truth = reference_image(scene, index, background).to(run.task.device)
                color = view["color"].float()
                scores = {"psnr": float(psnr(color, truth)), "ssim": float(ssim(color, truth))}
                if scene.has_alpha:
                    alpha = scene.images[index, ..., 3].to(run.task.device) > 127
                    scores["silhouette_iou"] = silhouette_iou(view["opacity"] > 0.5, alpha)
                views.append({"name": scene.names[index], **scores})
                bar.set_postfix_str(f"{np.mean([v['psnr'] for v in views]):.2f} dB")
                run.folder.write_image(f"{folder}/{index:03d}.png", to_uint8(color))
                error = (color - truth).abs().mean(-1) * 4
                panels = [truth, color, gray(error), depth_picture(view["depth"], view["opacity"])]
                if "normal" in view:
                    panels.append(normal_picture(view["normal"]))
                rows.append(to_uint8(torch.cat(panels, dim=1)))
        chosen = np.linspace(0, len(rows) - 1, min(len(rows), 6)).round().astype(int)
        sheet = run.folder.write_image(f"{folder}/comparison.png", np.concatenate([rows[i] for i in chosen]))
        figures = {
            "run": str(run.folder.path),
            "step": run.step,
            "split": options.split,
            "background": background,
            "size": [cameras.width, cameras.height],
            "psnr": float(np.mean([v["psnr"] for v in views])),
            "ssim": float(np.mean([v["ssim"] for v in views])),
            **({"silhouette_iou": float(np.mean([v["silhouette_iou"] for v in views]))} if scene.has_alpha else {}),
            "seconds": round(time.perf_counter() - begin, 3),
            "seconds_per_view": round(rendering / len(views), 4),
            "comparison": str(sheet),
        }
        metrics = run.folder.write_json(f"{folder}/metrics.json", {**figures, "views": views})
    silhouettes = f", silhouette IoU {figures['silhouette_iou']:.4f}" if scene.has_alpha else ""
    print(
        f"{options.split}: {len(views)} views of {cameras.width} x {cameras.height} on {background}: "
        f"PSNR {figures['psnr']:.2f} dB, SSIM {figures['ssim']:.4f}{silhouettes}"
    )
    print(f"written: {metrics}, {sheet}")
    return {**figures, "views": len(views), "metrics": str(metrics)}
