"""Distances to a mesh, and which side of it a point is on.

open3d's ray casting measures distances. Which side a point is on is a rule of its own (:data:`SIGNS`):

- parity: a ray from the point crosses the surface an odd number of times. Exact for watertight meshes.
- winding: the generalised winding number is above 1/2 (:mod:`recon3d.kernels.winding_number`). For meshes with holes,
  or with parts that overlap; faces must look outwards.
- unsigned: no point is inside; the shape is the shell of points nearer to the surface than ``shell``. For sheets.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float

from recon3d.data.ray_casting import import_open3d
from recon3d.data.shape_files import Shape
from recon3d.errors import UserError
from recon3d.geometry.boxes import Normalizer
from recon3d.kernels.winding_number import WindingNumber

Sign = Literal["auto", "parity", "winding", "unsigned"]
Rule = Literal["parity", "winding", "unsigned"]
SIGNS: tuple[Rule, ...] = ("parity", "winding", "unsigned")
_AT_ONCE = 2**20
logger = logging.getLogger(__name__)


def sign_rule(shape: Shape, sign: Sign) -> Rule:
    """The rule to use: what is asked for; for auto parity where the mesh is watertight, else winding, with a warning.

    Raises:
        UserError: a flat mesh has no inside.
    """
    if sign == "unsigned":
        return "unsigned"
    if shape.is_flat:
        raise UserError(f"{shape.path}: all of the mesh lies in one plane, so it has no inside: give --sign unsigned")
    report = shape.report
    if sign != "auto":
        return sign
    if report.watertight:
        return "parity"
    mixed = f" and {report.flipped_edges} edges whose faces run around differently" if report.flipped_edges else ""
    logger.warning(
        f"{shape.path}: not watertight ({report.boundary_edges} boundary edges{mixed}): inside is where the winding "
        "number passes 1/2 (--sign winding; sheets: --sign unsigned)"
    )
    return "winding"


@dataclass(frozen=True)
class Hits:
    """Where rays meet the mesh: ``distance`` (inf: nowhere) and the face's unit ``normal``."""

    distance: Float[np.ndarray, " n"]
    normal: Float[np.ndarray, "n 3"]


class ShapeDistance:
    """Distances to the mesh of a shape in field coordinates, on torch's number of threads.

    ``shell`` (field units) is the half thickness that unsigned surfaces are given; it is 0 for the other rules.
    """

    def __init__(self, shape: Shape, normalizer: Normalizer, rule: Rule, shell: float) -> None:
        open3d = import_open3d("distances to a mesh are measured")
        self.rule, self.shell = rule, shell if rule == "unsigned" else 0.0
        self._tensor = open3d.core.Tensor
        vertices = normalizer.to_field(torch.from_numpy(shape.vertices)).numpy()
        self._scene: Any = open3d.t.geometry.RaycastingScene()
        self._scene.add_triangles(
            self._tensor(vertices.astype(np.float32)), self._tensor(shape.faces.astype(np.uint32))
        )
        self._winding = WindingNumber(vertices, shape.faces) if rule == "winding" else None

    def unsigned(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
        """Distance to the surface, 0 or more."""
        return self._asked("compute_distance", points)

    def inside(self, points: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
        """Which points are inside by the rule."""
        if self.rule == "unsigned":
            return self.unsigned(points) < self.shell
        if self._winding is not None:
            return self._winding(points) > 0.5
        return self._asked("compute_occupancy", points) > 0.5

    def signed(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
        """Distance to the surface, negative inside; to the shell where the rule is unsigned."""
        distance = self.unsigned(points)
        if self.rule == "unsigned":
            return distance - np.float32(self.shell)
        return np.where(self.inside(points), -distance, distance)

    def cast(self, origins: Float[np.ndarray, "n 3"], directions: Float[np.ndarray, "n 3"]) -> Hits:
        """The nearest hits of rays with unit directions."""
        rays = np.concatenate([origins, directions], axis=1).astype(np.float32)
        found = self._scene.cast_rays(self._tensor(rays), nthreads=torch.get_num_threads())
        return Hits(found["t_hit"].numpy(), found["primitive_normals"].numpy())

    def _asked(self, question: str, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
        points = np.ascontiguousarray(points, np.float32)
        ask, threads = getattr(self._scene, question), torch.get_num_threads()
        parts = [
            ask(self._tensor(points[begin : begin + _AT_ONCE]), nthreads=threads).numpy()
            for begin in range(0, len(points), _AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)
