"""recon3d render RUN for shapes: a shape has no colours of its own, so it is its mesh that is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from recon3d.commands.meshes import MeshFile, checked_frames, checked_resolution, has_exported, mesh_file
from recon3d.commands.opened import RunOptions, State, opened
from recon3d.config import ShapeConfig
from recon3d.errors import UserError

if TYPE_CHECKING:
    import trimesh


@dataclass(frozen=True)
class RenderShape(RunOptions):
    """Render the mesh of a shape from all around: a video, or pictures."""

    mesh: MeshFile = None
    """The mesh of this file, or the run's exported one (default: the exported one, else one made from the field)."""
    turntable: bool = True
    """Once around the vertical axis (the only path there is)."""
    resolution: int = 256
    """Cells a side of the lattice that the mesh is made on, where none was exported."""
    frames: int = 120
    fps: int = 30
    size: int = 400
    """Width and height in pixels, even."""
    background: Literal["white", "black"] = "white"
    state: State | None = None
    """Which state of the run (default: the best, where the run kept one)."""
    output: Path | None = None
    """A video (.mp4), or a folder for PNG pictures (default: RUN/exports/turntable.mp4)."""


def main(args: list[str]) -> dict[str, Any]:
    options = tyro.cli(RenderShape, args=args, prog="recon3d render")
    checked_frames(options.frames, options.fps, options.size)
    if not options.turntable:
        raise UserError("--no-turntable leaves nothing to render: a shape has no colours and no cameras of its own")
    checked_resolution(options.resolution)

    from tqdm import tqdm

    from recon3d.export.meshview import MeshView, as_bytes
    from recon3d.export.video import frame_writer
    from recon3d.geometry.paths import turntable

    with opened(options, ShapeConfig, "render", options.state) as run:
        if options.mesh is not None or has_exported(run.folder):
            from recon3d.export.meshfiles import read_mesh

            mesh = read_mesh(mesh_file(options.mesh, run.folder))
        else:
            mesh = _extracted(run.task, options.resolution)
        low, high = (tuple(corner) for corner in mesh.bounds.tolist())
        cameras = turntable(low, high, options.frames, options.size - options.size % 2)
        view = MeshView(mesh, "shaded")
        output = options.output or run.folder.exports / "turntable.mp4"
        with frame_writer(output, float(options.fps)) as writer:
            for index in tqdm(range(len(cameras)), unit="frame", desc="turntable"):
                writer.add(as_bytes(view.picture(cameras, index).over(options.background)))
    print(f"written: {output}")
    return {
        "run": str(run.folder.path),
        "state": run.state,
        "step": run.step,
        "video" if output.suffix else "folder": str(output),
        "frames": len(cameras),
        "size": cameras.width,
        "faces": len(mesh.faces),
    }


def _extracted(task: Any, resolution: int) -> trimesh.Trimesh:
    """The mesh of the field as it is now."""
    from recon3d.export.mesh import export_mesh
    from recon3d.export.sources import level_set

    mesh, _ = export_mesh(level_set(task), task.normalizer, resolution=resolution, device=task.device)
    return mesh
