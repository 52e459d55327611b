"""How well a field stands for a mesh: IoU on a grid, errors of the distance; in parts, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.config import ShapeConfig
from recon3d.data.shape_distance import ShapeDistance
from recon3d.data.shape_files import Shape
from recon3d.data.shape_samples import SurfacePoints, points_near, uniform_points
from recon3d.geometry.grids import grid_points
from recon3d.tasks.shape import CHUNK, ShapeTask, rule_of

SLAB = 2**20
"""Points of a grid that are compared at a time."""
NEAR = 0.01
"""Standard deviation of the points near the surface, in units of half the cube."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Reference:
    """What a field is measured against: the shape in the run's field coordinates."""

    shape: Shape
    surface: SurfacePoints
    distance: ShapeDistance | None

    @staticmethod
    def of(task: ShapeTask, shape: Shape) -> Reference:
        """``shape`` in the cube of a restored run, by the run's own rule for inside."""
        rule, normalizer = rule_of(shape, task.config), task.normalizer
        distance = None if rule is None else ShapeDistance(shape, normalizer, rule, task.config.shell)
        return Reference(shape, SurfacePoints.of(shape, normalizer, CPU), distance)

    def tells_sides(self, config: ShapeConfig) -> bool:
        """Whether inside of the shape is what the run's field takes for inside. It is not where points of an open mesh
        were fitted: their distance has two sides, and the mesh does not say which is in."""
        return self.distance is not None and (config.is_measured or self.distance.rule != "unsigned")


@dataclass(frozen=True)
class Overlap:
    """Points of a grid that are inside the truth, inside the field, and inside both."""

    truth: int
    field: int
    both: int

    @property
    def iou(self) -> float:
        """Intersection over union; 1 where both are empty."""
        union = self.truth + self.field - self.both
        return self.both / union if union else 1.0


def grid_overlap(
    task: ShapeTask, distance: ShapeDistance, grid: int, progress: Callable[[int], None] = lambda points: None
) -> Overlap:
    """The overlap of field and shape on ``grid``^3 points over the cube (the papers' protocol: 512).

    ``progress`` is told how many points were compared, part by part.
    """
    truth = field = both = 0
    for points in _slabs(grid):
        true = torch.from_numpy(distance.inside(points.numpy()))
        found = asked(task, points) > 0
        truth, field, both = truth + int(true.sum()), field + int(found.sum()), both + int((true & found).sum())
        progress(len(points))
    return Overlap(truth, field, both)


def _slabs(grid: int) -> Iterator[Float[Tensor, "n 3"]]:
    for begin in range(0, grid**3, SLAB):
        yield grid_points((grid,) * 3, torch.arange(begin, min(begin + SLAB, grid**3)))


@torch.no_grad()
def asked(task: ShapeTask, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
    """``task.inside`` at points on the CPU, in parts."""
    return torch.cat([task.inside(part.to(task.device)).cpu() for part in points.split(CHUNK)])


def distance_errors(task: ShapeTask, reference: Reference, points: int = 2**18) -> dict[str, float]:
    """Mean |error| of a signed distance in world units: near the surface, and anywhere in the cube; and the share of
    points near the surface on whose side the field is right."""
    assert reference.distance is not None
    generator = torch.Generator().manual_seed(0)
    half = task.normalizer.half_size
    near = points_near(reference.surface, points, (NEAR,), generator)
    truth = reference.distance.signed(near.numpy())
    found = -asked(task, near).numpy()
    anywhere = uniform_points(points // 8, generator)
    beyond = np.abs(reference.distance.signed(anywhere.numpy()) + asked(task, anywhere).numpy())
    return {
        "near_error": float(np.abs(found - truth).mean()) * half,
        "far_error": float(beyond.mean()) * half,
        "near_sign_accuracy": float(((found < 0) == (truth < 0)).mean()),
    }


def surface_errors(task: ShapeTask, reference: Reference, points: int = 2**17) -> dict[str, float]:
    """Mean |value| of a signed distance at points of the surface, in world units: 0 if it were exact."""
    generator = torch.Generator().manual_seed(0)
    x, _ = reference.surface.draw(points, generator)
    return {"surface_error": float(asked(task, x).abs().mean()) * task.normalizer.half_size}
