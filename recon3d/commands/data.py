"""recon3d data toy: make the embedded scene."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from recon3d.errors import UserError

KINDS = ("toy",)


@dataclass(frozen=True)
class Toy:
    """Make the embedded scene: a machine of studded bricks as a NeRF-synthetic folder with its true mesh."""

    out: Path
    """Folder to write."""
    size: int = 200
    """Width and height of the images in pixels."""
    train: int = 60
    """Training views."""
    test: int = 20
    """Test views."""
    seed: int = 0


def main(args: list[str]) -> dict[str, Any]:
    if not args or args[0] not in KINDS:
        if args and args[0] in ("-h", "--help"):
            print("usage: recon3d data toy --out DIR [options]\n\nrecon3d data toy --help shows the options.")
            raise SystemExit(0)
        raise UserError(f"data: say what: recon3d data {'|'.join(KINDS)} --out DIR")
    options = tyro.cli(Toy, args=args[1:], prog="recon3d data toy")

    from recon3d.data.toy import make_toy

    begin = time.perf_counter()
    made = make_toy(options.out, options.size, options.train, options.test, options.seed, progress=True)
    seconds = round(time.perf_counter() - begin, 2)
    print(f"{made.folder}: {made.train} training, {made.val} validation and {made.test} test views, {made.mesh}")
    return {
        "folder": str(made.folder),
        "mesh": str(made.mesh),
        "train": made.train,
        "val": made.val,
        "test": made.test,
        "faces": made.faces,
        "seconds": seconds,
    }
