"""recon3d eval RUN: measure a run against its data; how depends on the run's task.

recon3d eval mesh A B: measure a mesh against another.
"""

from __future__ import annotations

from typing import Any

from recon3d.commands.opened import for_the_run


def main(args: list[str]) -> dict[str, Any]:
    if args[:1] == ["mesh"]:
        from recon3d.commands import eval_mesh

        return eval_mesh.main(args[1:])
    return for_the_run("eval", args)
