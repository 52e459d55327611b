"""recon3d render RUN for shapes: a shape has no colours of its own, so it is its mesh that is looked at."""

from __future__ import annotations

from typing import Any

from recon3d.errors import UserError

INSTEAD = "a shape has no colours to render: recon3d export mesh RUN writes its mesh, recon3d eval RUN a picture of it"


def main(args: list[str]) -> dict[str, Any]:
    if set(args) & {"-h", "--help"}:
        print(INSTEAD)
        raise SystemExit(0)
    raise UserError(INSTEAD)
