"""recon3d eval mesh A B: how near mesh A is to mesh B, and what kind of surfaces they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from recon3d.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import trimesh
    from jaxtyping import Float


@dataclass(frozen=True)
class EvalMesh:
    """Compare a mesh with a reference: distances, F-scores, normals, volume and topology, and errors as colours.

    Distances run from points spread evenly by area to the nearest place on the other surface. Any format that trimesh
    reads; both meshes in the same coordinates and units (GLB has y up by definition and is turned to z up).
    """

    mesh: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    """The mesh to measure."""
    reference: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    """The mesh that is right."""
    thresholds: tuple[float, ...] = (0.0025, 0.005, 0.01, 0.02)
    """Distances for F-scores, as shares of the diagonal of B's bounding box."""
    samples: int = 200_000
    """Points on each mesh."""
    lines: int = 512
    """The IoU of two closed meshes is measured along this many lines squared."""
    self_intersections: bool = True
    """Count the faces that cross."""
    error_range: float = 0.02
    """The distance shown in the brightest colour of the error mesh, as a share of B's diagonal."""
    seed: int = 0
    """Seed of the points."""
    output: Path | None = None
    """Folder for mesh_metrics.json and mesh_errors.ply (default: beside A)."""


def main(args: list[str]) -> dict[str, Any]:
    options = tyro.cli(EvalMesh, args=args, prog="recon3d eval mesh")
    _check(options)

    import numpy as np

    from recon3d.export.meshfiles import write_mesh
    from recon3d.files import write_bytes
    from recon3d.metrics.mesh import compare_meshes
    from recon3d.metrics.mesh_topology import topology, volume_iou, welded

    meshes = [read_surface(path) for path in (options.mesh, options.reference)]
    mesh, reference = meshes
    scores = compare_meshes(mesh, reference, options.samples, options.thresholds, options.seed)
    facts = [topology(m.vertices, np.asarray(m.faces), crossings=options.self_intersections) for m in meshes]
    iou = None
    if all(fact.watertight for fact in facts):
        first, second = (welded(m.vertices, np.asarray(m.faces))[0] for m in meshes)
        iou = volume_iou(first, second, options.lines)
    distance = _to_reference(mesh, reference)
    brightest = options.error_range * scores.diagonal
    folder = options.output or options.mesh.parent
    colored = _colored(mesh, distance / brightest)
    files = write_mesh(colored, folder, "mesh_errors", ("ply",))
    figures: dict[str, Any] = {
        "mesh": str(options.mesh),
        "reference": str(options.reference),
        **scores.as_dict(),
        "iou": iou,
        "iou_lines": None if iou is None else options.lines,
        "topology": {"mesh": asdict(facts[0]), "reference": asdict(facts[1])},
        "error_mesh": str(files[0]),
        "error_range": [0.0, brightest],
        "largest_vertex_error": float(distance.max()),
    }
    written = folder / "mesh_metrics.json"
    write_bytes(written, (json.dumps(figures, indent=2) + "\n").encode())
    print(_told(figures, [score.threshold for score in scores.thresholds]))
    print(
        f"written: {written}, {files[0]} (viridis, 0 to {brightest:.4g}, which is {options.error_range:g} of B's box)"
    )
    return {**figures, "metrics": str(written)}


def _check(options: EvalMesh) -> None:
    if not options.thresholds or not all(0 < t < 1 for t in options.thresholds):
        raise UserError(f"--thresholds are shares of B's diagonal, between 0 and 1, not {_listed(options.thresholds)}")
    for name in ("samples", "lines", "error_range"):
        if not getattr(options, name) > 0:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(options, name)}, but must be above 0")


def _listed(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values) or "none"


def read_surface(path: Path) -> trimesh.Trimesh:
    """Any mesh file, all its parts as one, in world axes; finite, with an area.

    Raises:
        UserError: it is not there, cannot be read, or has no surface.
    """
    import numpy as np

    from recon3d.export.meshfiles import read_mesh

    mesh = read_mesh(path)
    corners = np.asarray(mesh.vertices, np.float64)[np.asarray(mesh.faces)]
    if not np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).any():
        raise UserError(f"{path}: all {len(corners)} faces have zero area, so there is no surface to compare")
    return mesh


def _to_reference(mesh: trimesh.Trimesh, reference: trimesh.Trimesh) -> Float[np.ndarray, "v"]:
    """The distance of each of the mesh's vertices to the reference."""
    import numpy as np

    from recon3d.kernels.triangles import TriangleTree

    return TriangleTree(np.asarray(reference.triangles)).nearest(np.asarray(mesh.vertices))[0]


def _colored(mesh: trimesh.Trimesh, share: Float[np.ndarray, "v"]) -> trimesh.Trimesh:
    import numpy as np
    import trimesh
    from matplotlib import colormaps

    colors = colormaps["viridis"](np.clip(share, 0, 1), bytes=True)
    return trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=colors, process=False, validate=False)


def _told(figures: dict[str, Any], thresholds: Sequence[float]) -> str:
    diagonal = figures["diagonal"]

    def both(name: str) -> str:
        return f"{figures[name]:.5g} ({100 * figures[name] / diagonal:.4f}% of B's diagonal)"

    there, back = figures["accuracy"], figures["completeness"]
    lines = [
        f"Chamfer              {both('chamfer')}: A to B {there:.5g}, B to A {back:.5g}",
        f"Hausdorff            {both('hausdorff')}; 95th percentile {both('hausdorff_95')}",
        f"normal consistency   {figures['normal_consistency']:.4f}",
        "IoU                  " + (f"{figures['iou']:.5f}" if figures["iou"] is not None else "- (not both closed)"),
    ]
    for t in thresholds:
        scores = [figures[f"{name}_{t:g}"] for name in ("f_score", "precision", "recall")]
        lines.append("F-score at {:<9} {:.4f} (precision {:.4f}, recall {:.4f})".format(f"{100 * t:g}%", *scores))
    a, b = figures["topology"]["mesh"], figures["topology"]["reference"]
    lines.append(f"{'':<20} {'A':>14} {'B':>14}")
    lines += [f"{name.replace('_', ' '):<20} {_cell(a[name]):>14} {_cell(b[name]):>14}" for name in a]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
