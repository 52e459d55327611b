"""recon3d render RUN: a camera path of a radiance field, or a signal sampled anew; which depends on the run's task."""

from __future__ import annotations

from typing import Any

from recon3d.commands.opened import for_the_run


def main(args: list[str]) -> dict[str, Any]:
    return for_the_run("render", args)
