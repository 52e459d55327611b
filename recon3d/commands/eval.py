"""recon3d eval RUN: measure a run against its data; how depends on the run's task."""

from __future__ import annotations

from typing import Any

from recon3d.commands.opened import for_the_run


def main(args: list[str]) -> dict[str, Any]:
    return for_the_run("eval", args)
