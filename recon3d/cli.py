"""The command line. Commands live in ``recon3d.commands``, one module each; this only picks one and reports.

Every command takes ``--json`` (the last line of standard output is one JSON object with its figures) and ``--debug``
(a traceback where something goes wrong). Nothing heavy is imported before a command has read its arguments.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from typing import Any

from recon3d import __version__
from recon3d.errors import UserError

COMMANDS = {
    "train": "train a field: recon3d train nerf FOLDER, train shape MESH, train ct_sparse SCAN, train image FILE",
    "tune": "choose a field's frequencies from the data before training: recon3d tune image FILE",
    "fit-many": "a run for every file of a folder, and a table: recon3d fit-many image FOLDER",
    "sweep": "many runs of a YAML file (presets x scenes x seeds x settings), here or on Ray, and a table",
    "resume": "continue a stopped run",
    "eval": "measure a run against its data, or a mesh against another: recon3d eval mesh A B",
    "render": "render a run: a camera path, slices, or an image, a sound, a video at any size or rate",
    "export": "export a mesh, or a signal as a file of weights",
    "decode": "sample a file of weights that export signal wrote",
    "ct": "reconstruct a scan by FBP, FDK, SIRT, CGLS or total variation: recon3d ct fbp SCAN",
    "data": "make data: the embedded toy scene, a scan of a phantom",
    "bench": "reproduce a paper's table: recon3d bench spder-image",
    "doctor": "what this machine has and what recon3d would use",
}
TOGETHER = ("train", "resume")
"""The commands that several processes can do together."""


def usage() -> str:
    lines = [
        f"recon3d {__version__}: reconstruct by fitting a continuous neural field to measurements",
        "",
        "usage: recon3d COMMAND [options]        (recon3d COMMAND --help shows its options)",
        "",
        *(f"  {name:<8} {summary}" for name, summary in COMMANDS.items()),
        "",
        "  --json     every command: the last line of standard output is a JSON object with the figures",
        "  --debug    every command: show a traceback when something goes wrong",
        "  --version",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for what the user can mend, 130 when interrupted."""
    args = list(sys.argv[1:] if argv is None else argv)
    as_json, debug = "--json" in args, "--debug" in args
    args = [arg for arg in args if arg not in ("--json", "--debug")]
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return 0
    if args[0] == "--version":
        print(__version__)
        return 0
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        if args[0] not in COMMANDS:
            raise UserError(f"no command {args[0]!r} (there are: {', '.join(COMMANDS)})")
        figures = _do(args[0], args[1:])
    except UserError as error:
        if debug:
            raise
        print(f"recon3d: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder without permission
        if debug:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"recon3d: {place}{error.strerror or error} (--debug shows where)", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:  # numpy's, and torch's, which is told by its words alone
        if debug or not (isinstance(error, MemoryError) or "allocate memory" in str(error)):
            raise
        reason = " ".join(str(error).split())[:120]
        print(f"recon3d: out of memory: give smaller sizes ({reason}; --debug shows where)", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if debug:
            raise
        print("recon3d: interrupted", file=sys.stderr)
        return 130
    if as_json and figures is not None:
        print(json.dumps(figures), flush=True)
    return 0


def _do(name: str, args: list[str]) -> dict[str, Any] | None:
    """The figures of a command; None in all but the first of the processes that torchrun started."""
    command = importlib.import_module(f"recon3d.commands.{name.replace('-', '_')}")
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return command.main(args)
    from recon3d import distributed

    with distributed.joined():
        if distributed.processes() > 1 and name not in TOGETHER:
            raise UserError(f"torchrun is for {' and '.join(TOGETHER)}: recon3d {name} takes one process, without it")
        figures = command.main(args)
        return figures if distributed.is_first() else None


if __name__ == "__main__":
    sys.exit(main())
