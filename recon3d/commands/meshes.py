"""The mesh of a run, found and looked at: shared by the commands that make and render one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from recon3d.errors import UserError

if TYPE_CHECKING:
    from recon3d.training.run_folder import RunFolder

MeshFile = Annotated[tuple[Path, ...] | None, tyro.conf.arg(metavar="[FILE]")]
"""--mesh with or without a file."""
Look = Literal["colors", "shaded"]
FINEST = 4096
"""Cells a side of the lattice that a surface is extracted on; two layers of a finer one are no longer small."""


def mesh_file(given: tuple[Path, ...] | None, folder: RunFolder) -> Path:
    """The file after --mesh, or where there is none what recon3d export mesh wrote last: a GLB that has a texture,
    else the PLY, whose coordinates and colours are the input's own.

    Raises:
        UserError: several files, or a run without an exported mesh.
    """
    if given:
        if len(given) > 1:
            raise UserError(f"--mesh takes one file, not {len(given)}")
        return given[0]
    for name in ("mesh.ply", "mesh.glb", "mesh.obj"):
        if (folder.exports / name).is_file():
            return _textured(folder.exports) or folder.exports / name
    raise UserError(f"{folder.path}: no mesh in exports/: run recon3d export mesh {folder.path}, or give --mesh FILE")


def _textured(exports: Path) -> Path | None:
    """The GLB, if it has a texture and is no older than the PLY."""
    glb, ply = exports / "mesh.glb", exports / "mesh.ply"
    if not glb.is_file() or (ply.is_file() and ply.stat().st_mtime > glb.stat().st_mtime + 60):
        return None
    with glb.open("rb") as file:
        return glb if b'"baseColorTexture"' in file.read(2**16) else None


def has_exported(folder: RunFolder) -> bool:
    """Whether the run has a mesh in exports/."""
    return any((folder.exports / f"mesh.{suffix}").is_file() for suffix in ("ply", "glb", "obj"))


def checked_resolution(resolution: int) -> None:
    """Raises UserError for a lattice that no surface can be extracted on."""
    if not 2 <= resolution <= FINEST:
        raise UserError(f"the resolution is {resolution}: give 2 to {FINEST}")


def checked_frames(frames: int, fps: int, size: int | None) -> None:
    """Raises UserError for what no video can be made with."""
    if frames < 1 or fps < 1:
        raise UserError(f"frames is {frames}, fps is {fps}: give 1 or more")
    if size is not None and size < 16:
        raise UserError(f"size is {size}: give 16 pixels or more")
