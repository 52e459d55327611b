"""recon3d bench NAME: reproduce a paper's table."""

from __future__ import annotations

from typing import Any

import tyro

from recon3d.bench.options import Options
from recon3d.errors import UserError


def main(args: list[str]) -> dict[str, Any]:
    from recon3d.bench import BENCHES

    names = ", ".join(BENCHES)
    if not args or args[0] in ("-h", "--help"):
        print(f"usage: recon3d bench NAME [options]\n\nNAME is one of: {names}.")
        print("recon3d bench NAME --help shows the options.")
        raise SystemExit(0)
    if args[0] not in BENCHES:
        raise UserError(f"no benchmark {args[0]!r} (there are: {names})")
    options = tyro.cli(Options, args=args[1:], prog=f"recon3d bench {args[0]}")
    report = BENCHES[args[0]](options)
    report.print()
    written = report.write(options.out)
    print(f"written: {', '.join(map(str, written))}")
    return report.figures
