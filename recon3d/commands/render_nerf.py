"""recon3d render RUN for runs on photographs: a camera path or the held-out views, of the field, its mesh, or both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from recon3d.commands.meshes import Look, MeshFile, checked_frames, mesh_file
from recon3d.commands.opened import OpenedRun, RunOptions, opened
from recon3d.config import PhotographsConfig
from recon3d.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from recon3d.geometry.cameras import Cameras


@dataclass(frozen=True)
class Render(RunOptions):
    """Render a run along a camera path, or from the cameras of the held-out photographs.

    With --mesh the exported mesh is rendered beside the field, from the same cameras; with --turntable alone.
    """

    path: Literal["orbit", "spiral", "test"] = "orbit"
    """orbit: around the scene, at the distance and height of the training cameras. spiral: a loop among cameras that
    all look the same way. test: the held-out views, each beside its photograph."""
    mesh: MeshFile = None
    """Beside the field's picture one of a mesh: of this file, or of the run's exported mesh."""
    turntable: bool = False
    """The mesh alone (that of --mesh, or the run's exported one)."""
    look: Look = "colors"
    """The mesh in its colours, or in grey, shaded."""
    frames: int = 120
    """Of an orbit or a spiral."""
    fps: int = 30
    size: int | None = None
    """Width and height of an orbit's pictures in pixels, the smaller side of a spiral's (default: the smaller side of
    the photographs, even)."""
    background: Literal["white", "black"] | None = None
    """Default: the run's eval_background."""
    data: Path | None = None
    """Held-out views: where the data is now, if it has moved."""
    output: Path | None = None
    """A video (.mp4), or a folder for PNG pictures (default: in RUN/exports, orbit.mp4, orbit_mesh.mp4, spiral.mp4,
    spiral_mesh.mp4, turntable.mp4, or the folder test_views)."""


def main(args: list[str]) -> dict[str, Any]:
    options = tyro.cli(Render, args=args, prog="recon3d render")
    checked_frames(options.frames, options.fps, options.size)
    if options.path == "test" and options.size is not None:
        raise UserError("--size is for a path: held-out views have the size of their photographs")

    from tqdm import tqdm

    from recon3d.export.meshview import side_by_side
    from recon3d.export.video import frame_writer

    with opened(options, PhotographsConfig, "render") as run:
        panels = _mesh_panels(options, run)
        cameras, photographs = _views(options, run)
        if not options.turntable:
            panels.insert(0, _field_panel(options, run))
        if photographs is not None:
            panels.insert(0, photographs)
        output = options.output or run.folder.exports / _default_name(options)
        with frame_writer(output, float(options.fps)) as writer:
            for index in tqdm(range(len(cameras)), unit="frame", desc="render"):
                writer.add(side_by_side(*(panel(cameras, index) for panel in panels)))
    print(f"written: {output}")
    return {
        "run": str(run.folder.path),
        "video" if output.suffix else "folder": str(output),
        "frames": len(cameras),
        "size": cameras.width,
    }


Panel = Callable[["Cameras", int], "np.ndarray"]


def _default_name(options: Render) -> str:
    if options.path == "test":
        return "test_views"
    if options.turntable:
        return "turntable.mp4"
    return f"{options.path}.mp4" if options.mesh is None else f"{options.path}_mesh.mp4"


def _background(options: Render, run: OpenedRun[PhotographsConfig]) -> str:
    return options.background or run.config.eval_background


def _views(options: Render, run: OpenedRun[PhotographsConfig]) -> tuple[Cameras, Panel | None]:
    """The cameras, and the photographs that were taken there."""
    if options.path == "test":
        from recon3d.data.scene_files import load_scene
        from recon3d.tasks.photographs import reference_image, to_uint8

        config = run.config
        scene = load_scene(options.data or config.data, "test", config.downscale, config.test_every)
        background = _background(options, run)
        return scene.cameras.to(run.task.device), lambda _, i: to_uint8(reference_image(scene, i, background))

    from recon3d.geometry.paths import orbit, spiral

    seen = run.task.train_cameras
    assert seen is not None
    size = options.size or max(16, min(seen.width, seen.height))
    path = {"orbit": orbit, "spiral": spiral}[options.path]
    cameras = path(seen.to("cpu"), run.task.normalizer.center, options.frames, size - size % 2)
    return cameras.to(run.task.device), None


def _field_panel(options: Render, run: OpenedRun[PhotographsConfig]) -> Panel:
    from recon3d.tasks.photographs import to_uint8

    background = _background(options, run)
    return lambda cameras, index: to_uint8(run.task.render_view(cameras, index, background)["color"])


def _mesh_panels(options: Render, run: OpenedRun[PhotographsConfig]) -> list[Panel]:
    """The mesh's picture, if it is asked for; its file is read before anything is rendered."""
    if options.mesh is None and not options.turntable:
        return []

    from recon3d.export.meshfiles import read_mesh
    from recon3d.export.meshview import MeshView, as_bytes

    view = MeshView(read_mesh(mesh_file(options.mesh, run.folder)), options.look)
    background = _background(options, run)
    return [lambda cameras, index: as_bytes(view.picture(cameras, index).over(background))]
