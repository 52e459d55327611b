#!/usr/bin/env python
"""What rounding a signal network's products costs in PSNR, and what it gives in time.

    python scripts/bench_precision.py --json precision.json [--image FILE] [--size 256] [--steps 500] [--device cuda]

Fits an image (default: scikit-image's camera man) by the presets image_siren, image_spder and image_sl2a in float32,
tf32 and bfloat16, the same seed for all. PSNR is of all pixels; milliseconds are the median over the logged stretches,
without the first. On a CPU tf32 is float32, and left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import tempfile
from pathlib import Path

from recon3d.config import ImageConfig, load_preset  # before torch: it sets how torch's threads wait

import torch  # isort: skip

from recon3d.bench.pictures import image_file
from recon3d.tasks.signal import SignalTask
from recon3d.training.machine import prepare
from recon3d.training.run_folder import RunFolder
from recon3d.training.trainer import Trainer

STRETCHES = 20


def fitted(config: ImageConfig) -> dict[str, float]:
    """The PSNR on the way and at the end, and the median milliseconds of a step."""
    device, precision = prepare(config)
    run = RunFolder.create(config, "bench_precision")
    task = SignalTask.from_data(config, device, precision)
    Trainer(task, config, config.optimizer, run, device, precision).train()
    entries = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    curve = [entry for entry in entries if "step_ms" in entry]
    reached = {f"psnr_{entry['step']}": entry["psnr"] for entry in curve if entry["step"] * 5 % config.steps == 0}
    later = [entry["step_ms"] for entry in curve[2:]] or [curve[-1]["step_ms"]]
    return {**reached, "psnr": task.score(), "step_ms": statistics.median(later)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="camera", help="a file, or the name of one of scikit-image's images")
    parser.add_argument("--size", type=int, default=256, help="pixels a side that it is resized to")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--models", nargs="+", default=["siren", "spder", "sl2a"])
    parser.add_argument("--precisions", nargs="+", default=["float32", "tf32", "bfloat16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="where to write the table as JSON, row by row")
    options = parser.parse_args()
    machine = platform.processor() or platform.machine()
    if options.device == "cuda":
        machine = torch.cuda.get_device_name()
    result = {
        "machine": machine,
        "device": options.device,
        "torch": torch.__version__,
        "size": options.size,
        "steps": options.steps,
    }
    rows: list[dict[str, object]] = []
    precisions = [name for name in options.precisions if options.device == "cuda" or name != "tf32"]
    print(f"{machine}, {options.size} x {options.size} pixels, {options.steps} steps")
    print(f"{'model':8}{'precision':12}{'ms a step':>12}{'PSNR':>8}")
    with tempfile.TemporaryDirectory() as folder:
        image = image_file(options.image, Path(folder))
        for model in options.models:
            for precision in precisions:
                preset = load_preset(f"image_{model}").config(options.device, image)
                assert isinstance(preset, ImageConfig)
                config = dataclasses.replace(
                    preset,
                    out=Path(folder),
                    name=f"{model}_{precision}",
                    size=(options.size, options.size),
                    steps=options.steps,
                    precision=precision,
                    device=options.device,
                    threads=options.threads,
                    log_every=max(1, options.steps // STRETCHES),
                    preview_every=options.steps + 1,
                    checkpoint_every=options.steps + 1,
                ).resolved()
                rows.append({"model": model, "precision": precision, **fitted(config)})
                print(f"{model:8}{precision:12}{rows[-1]['step_ms']:12.2f}{rows[-1]['psnr']:8.2f}", flush=True)
                if options.json:
                    options.json.write_text(json.dumps({**result, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
