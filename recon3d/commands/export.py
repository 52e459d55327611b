"""recon3d export mesh|pointcloud|volume|signal RUN: what a run has learned, in files of its own."""

from __future__ import annotations

import importlib
from typing import Any

from recon3d.errors import UserError

KINDS = {
    "mesh": "the surface of a radiance field, a field of distances or of occupancy",
    "pointcloud": "points of the surface with normals and colours",
    "volume": "the density, signed distance or occupancy of a field on a grid",
    "signal": "an image, a sound or a video as the weights of its field",
}


def main(args: list[str]) -> dict[str, Any]:
    if not args or args[0] not in KINDS:
        if args and args[0] in ("-h", "--help"):
            print(f"usage: recon3d export {'|'.join(KINDS)} RUN [options]\n")
            print("".join(f"  {name:<10} {what}\n" for name, what in KINDS.items()))
            print("recon3d export mesh --help shows the options, and so on.")
            raise SystemExit(0)
        raise UserError(f"export: say what: recon3d export {'|'.join(KINDS)} RUN")
    module: Any = importlib.import_module(f"recon3d.commands.export_{args[0]}")
    return module.main(args[1:])
