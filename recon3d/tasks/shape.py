"""The shape task: a mesh, or the points of a surface, supervise a field of space.

Everything is in field coordinates: half the cube is 1, distances are negative inside. The task tells whoever takes a
surface out of it (:mod:`recon3d.export`) where it is, by ``inside``, ``inside_slope`` and ``occupied``, and needs no
data for that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from recon3d import distributed
from recon3d.config import OptimizerConfig, ShapeConfig
from recon3d.data.shape_distance import Rule, ShapeDistance, sign_rule
from recon3d.data.shape_files import Shape, read_shape
from recon3d.data.shape_samples import SurfacePoints, cube_of_shape, points_near, uniform_points
from recon3d.errors import UserError
from recon3d.fields.field import Field
from recon3d.fields.groups import parameter_groups
from recon3d.geometry.boxes import Normalizer
from recon3d.geometry.grids import grid_points
from recon3d.heads import shape as head
from recon3d.tasks.shape_pictures import field_picture, true_picture
from recon3d.training.chunks import fastest_chunk
from recon3d.training.trainer import Preview, StepResult

logger = logging.getLogger(__name__)

CELLS = 64
"""Cells a side of the grid that remembers where the surface is."""
CHUNK = 2**16
"""Points evaluated at once."""
FAR = 0.05
"""Distance from which on the field's value is compared with the distance, to know its slope."""
SLOPE_MARGIN = 1.1
SLOPE_POINTS = 2**14
"""Points at which the slope of a field is looked at that was not trained on distances."""
PREVIEW_POINTS = 2**17


@dataclass(frozen=True)
class Pool:
    """Points that are measured already: occupancies (0 or 1), or signed distances."""

    number: int
    points: Float[Tensor, "n 3"]
    target: Float[Tensor, " n"]


@dataclass(frozen=True)
class Truth:
    """The data of a run: the shape, its surface, and distances to it where it is a mesh."""

    shape: Shape
    surface: SurfacePoints
    distance: ShapeDistance | None


class ShapeTask(nn.Module):
    """A field and the shape that trains it.

    ``box`` and ``near_surface`` come from the data when a run starts (:meth:`from_data`), and from the checkpoint
    afterwards. ``slope`` is the largest ratio of value and distance of late (distance runs).
    """

    unit = "points"
    has_color = False
    train_cameras = None
    box: Float[Tensor, "4"]
    near_surface: Bool[Tensor, "r r r"]
    slope: Float[Tensor, ""]

    def __init__(self, config: ShapeConfig, device: torch.device, precision: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.device = config, device
        self.field = Field(config.field, 3, 1, precision)
        self.register_buffer("box", torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64))
        self.register_buffer("near_surface", torch.ones(CELLS, CELLS, CELLS, dtype=torch.bool))
        self.register_buffer("slope", torch.tensor(1.0))
        self.to(device)
        self.generator = torch.Generator(device=device)
        self.truth: Truth | None = None
        self.pool: Pool | None = None
        self._true_picture: np.ndarray | None = None
        self._found: dict[str, Any] = {}  # what was found out about the field as it is
        self.register_load_state_dict_post_hook(lambda task, keys: self._found.clear())
        self.chunk = config.chunk or CHUNK
        if config.supervision == "occupancy":
            self._loss = head.occupancy_loss("mse" if config.loss == "mse" else "bce")
        elif config.supervision == "sdf":
            self._loss = head.distance_loss("l1" if config.loss == "l1" else "mape", config.truncation)

    @staticmethod
    def from_data(config: ShapeConfig, device: torch.device, precision: torch.dtype) -> ShapeTask:
        """A new task: reads the shape and finds its cube.

        Raises:
            UserError: a file that is no shape, or one that does not have what the supervision needs.
        """
        task = ShapeTask(config, device, precision)
        task.use_training_data(read_shape(config.data))
        return task

    def use_training_data(self, shape: Shape) -> None:
        config, cleaned = self.config, shape.report.cleaned()
        rule = rule_of(shape, config)
        if cleaned is not None:
            logger.warning(f"{shape.path}: {cleaned}")
        normalizer = cube_of_shape(shape, config.padding)
        self.box.copy_(torch.tensor([*normalizer.center, normalizer.half_size], dtype=torch.float64))
        distance = ShapeDistance(shape, normalizer, rule, config.shell) if rule is not None else None
        # Pools are drawn on the CPU, where distances are measured; points of a surface are drawn where they are used.
        place = torch.device("cpu") if self.config.is_measured else self.device
        self.truth = Truth(shape, SurfacePoints.of(shape, normalizer, place), distance)
        self.near_surface.copy_(cells_near(self.truth.surface, CELLS))
        self.field.network.observe(self._glimpse())
        self.chunk = config.chunk or self._probe()

    @property
    def normalizer(self) -> Normalizer:
        x, y, z, half = self.box.tolist()
        return Normalizer((x, y, z), half)

    def _glimpse(self) -> Float[Tensor, "1 r r r"]:
        """Where the surface is, as a grid of -1 and 1: what networks that want to see the data are shown."""
        return (2 * self.near_surface.float() - 1).unsqueeze(0)

    def parameter_groups(self, config: OptimizerConfig) -> list[dict[str, Any]]:
        return parameter_groups([self.field.network], [self.field.encoder], config)

    # --- training ---

    def training_step(self, step: int, backward: Callable[[Tensor], None]) -> StepResult:
        assert self.truth is not None, "training needs use_training_data first"
        self._found.clear()
        # Seeded anew at every step: a resumed run draws what an uninterrupted one would have drawn.
        self.generator.manual_seed(self.config.seed * 1_000_003 + step)
        terms, scalars = self._sampled(step, backward) if self.config.is_measured else self._implicit(step, backward)
        penalty = self.field.network.penalty()
        if penalty is not None:
            backward(distributed.once(penalty))
            terms["penalty"] = penalty.detach()
        return StepResult(terms, {"points": float(self.config.batch), **scalars})

    def _sampled(self, step: int, backward: Callable[[Tensor], None]) -> tuple[dict[str, Tensor], dict[str, float]]:
        """A step on measured points."""
        pool, batch = self._pool_at(step), self.config.batch
        index = torch.randint(len(pool.points), (batch,), generator=self.generator, device=self.device)
        error = torch.zeros((), device=self.device)
        right = torch.zeros((), device=self.device)
        steepest = torch.zeros((), device=self.device)
        for part in distributed.own(index).split(self.chunk):
            x, target = pool.points[part], pool.target[part]
            value = self.field(x)[:, 0]
            loss = self._loss(value, target) / batch
            backward(loss)
            error += loss.detach()
            inside = self._inside(value.detach())
            right += ((inside > 0) == self._is_inside(target)).sum()
            steepest = torch.maximum(steepest, _steepest(inside, target))
        if self.config.is_distance:
            self.slope.copy_(torch.maximum(0.99 * self.slope, distributed.largest(steepest)))
        whole = distributed.summed({"error": error, "right": right})
        return {"error": whole["error"]}, {"sign_accuracy": float(whole["right"]) / batch}

    def _is_inside(self, target: Float[Tensor, " n"]) -> Bool[Tensor, " n"]:
        return target < 0 if self.config.is_distance else target > 0.5

    def _pool_at(self, step: int) -> Pool:
        """The pool of a step; its content depends on the seed and its number only."""
        samples = self.config.samples
        number = step * self.config.batch // (samples.pool * samples.passes)
        if self.pool is None or self.pool.number != number:
            self.pool = None  # before the next one needs its memory
            self.pool = self._new_pool(number)
        return self.pool

    def _new_pool(self, number: int) -> Pool:
        truth, samples = self.truth, self.config.samples
        assert truth is not None and truth.distance is not None
        generator = torch.Generator().manual_seed((self.config.seed * 1_000_003 + number) * 2 + 1)
        on, near = (round(share * samples.pool) for share in (samples.surface, samples.near))
        parts = [
            truth.surface.draw(on, generator)[0],
            points_near(truth.surface, near, samples.scales, generator),
            uniform_points(samples.pool - on - near, generator),
        ]
        points = torch.cat(parts)
        distance, occupancy = truth.distance, self.config.supervision == "occupancy"

        def measured(part: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
            found = distance.inside(part.numpy()) if occupancy else distance.signed(part.numpy())
            return torch.from_numpy(found).float()

        target = distributed.mapped(measured, points)
        return Pool(number, points.to(self.device), target.to(self.device))

    def _implicit(self, step: int, backward: Callable[[Tensor], None]) -> tuple[dict[str, Tensor], dict[str, float]]:
        """A step on points of the surface, and on points anywhere."""
        truth, weights, batch = self.truth, self.config.implicit, self.config.batch
        assert truth is not None
        bare = self.config.supervision == "points"
        half = max(1, batch // 2)
        anywhere = uniform_points(batch - half or 1, self.generator, self.device)
        terms: dict[str, Tensor] = {}

        def add(parts: dict[str, Tensor], count: int) -> None:  # of a batch of ``count``
            backward(torch.stack([part / count for part in parts.values()]).sum())
            for name, part in parts.items():
                terms[name] = terms.get(name, 0) + part.detach() / count

        if bare and step < self.config.implicit.sphere_steps:
            for x in distributed.own(anywhere).split(self.chunk):
                add({"ball": head.ball_loss(self.field, x)}, len(anywhere))
            return distributed.summed(terms), {}
        points, normals = truth.surface.draw(half, self.generator)
        first, last = distributed.own_span(half)
        for begin in range(first, last, self.chunk):
            part = slice(begin, min(begin + self.chunk, last))
            known = None if bare or normals is None else normals[part]
            add(head.on_surface_terms(self.field, points[part], known, weights), half)
        for x in distributed.own(anywhere).split(self.chunk):
            add(head.off_surface_terms(self.field, x, weights), len(anywhere))
        if bare:
            sides = _on_the_sides(max(1, half // 8), self.generator, self.device)
            for x in distributed.own(sides).split(self.chunk):
                add(head.outside_term(self.field, x, weights), len(sides))
        return distributed.summed(terms), {}

    def _probe(self) -> int:
        """The fastest chunk on this machine; leaves no trace in the task."""
        assert self.truth is not None
        parameters = [parameter for parameter in self.field.parameters() if parameter.requires_grad]
        generator = torch.Generator(device=self.device).manual_seed(0)
        points = uniform_points(self.config.batch, generator, self.device)

        def run(size: int) -> None:
            x = points[:size]
            if self.config.is_measured:
                loss = self.field(x).sum()
            else:
                loss = sum(head.off_surface_terms(self.field, x, self.config.implicit).values())
            torch.autograd.grad(loss, parameters, allow_unused=True)

        return fastest_chunk(run, self.config.batch, self.device)

    # --- the surface ---

    def _inside(self, value: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Above 0 inside: a logit, or the distance turned around. Of an occupancy (mse) the logit's tangent at 1/2."""
        if self.config.is_distance:
            cut = self.config.truncation
            return -value if cut is None else -value.clamp(-cut, cut)
        return 4 * (value - 0.5) if self.config.loss == "mse" else value

    def inside(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Above 0 inside the shape; of distance runs minus the signed distance, in field units."""
        return self._inside(self.field(points)[:, 0])

    @property
    def inside_slope(self) -> float | None:
        """A bound on |inside(x)| / (distance of x from the surface), as trained; None for occupancies."""
        if not self.config.is_distance:
            return None
        if self.config.is_measured:
            return SLOPE_MARGIN * max(1.0, float(self.slope))
        if "slope" not in self._found:
            generator = torch.Generator(device=self.device).manual_seed(0)
            slopes = self.field.gradient(uniform_points(SLOPE_POINTS, generator, self.device))[:, 0].detach()
            self._found["slope"] = SLOPE_MARGIN * max(1.0, float(torch.linalg.vector_norm(slopes, dim=1).max()))
        return self._found["slope"]

    @property
    def occupied(self) -> Bool[Tensor, "r r r"] | None:
        """Cells that are not all outside: near the shape's surface, inside, or where the field changes its sign; None
        (everywhere) for distance runs, whose values tell."""
        if self.config.is_distance:
            return None
        if "occupied" not in self._found:
            self._found["occupied"] = self.near_surface | grown(self.values_on((CELLS, CELLS, CELLS)) > 0)
        return self._found["occupied"]

    @torch.no_grad()
    def values_on(self, grid: tuple[int, ...]) -> Float[Tensor, "*grid"]:
        """``inside`` at the samples of a grid over the cube."""
        index = torch.arange(int(np.prod(grid)), device=self.device)
        parts = [self.inside(grid_points(grid, part, self.device)) for part in index.split(CHUNK)]
        return torch.cat(parts).view(grid)

    # --- looking ---

    def picture(self, distance: ShapeDistance | None) -> UInt8[np.ndarray, "h w 3"]:
        """The field, shaded and in slices; above it the shape, where distances to it are known."""
        is_distance = self.config.is_distance
        below = field_picture(self.inside, is_distance, self.device)
        if distance is None:
            return below
        if self._true_picture is None:
            self._true_picture = true_picture(distance, is_distance)
        return np.concatenate([self._true_picture, below])

    def score(self) -> None:
        """The last state is the best: nothing is held out."""

    @torch.no_grad()
    def preview(self) -> Preview:
        """The surface, shaded, and slices of the field, beside the truth; and the share of points on the right side."""
        truth = self.truth
        assert truth is not None, "a preview needs the shape"
        self.eval()
        picture = self.picture(truth.distance)
        scalars = {}
        if truth.distance is not None and truth.distance.rule != "unsigned":
            generator = torch.Generator().manual_seed(0)
            points = uniform_points(PREVIEW_POINTS, generator)
            inside = torch.from_numpy(truth.distance.inside(points.numpy()))
            found = torch.cat([self.inside(part.to(self.device)).cpu() > 0 for part in points.split(CHUNK)])
            scalars["iou"] = float((inside & found).sum() / (inside | found).sum().clamp_min(1))
        self.train()
        return Preview({"shape": picture}, scalars)


def rule_of(shape: Shape, config: ShapeConfig) -> Rule | None:
    """How inside is told from outside; None for a point cloud, which has distances to nothing.

    Raises:
        UserError: a shape that does not have what the supervision needs.
    """
    supervision = config.supervision
    if shape.is_mesh:
        if config.is_measured:
            return sign_rule(shape, config.sign)
        # Only looked at, so a mesh that is open is no reason to warn.
        return sign_rule(shape, "auto" if shape.report.watertight else "unsigned")
    if config.is_measured:
        better = "points" if shape.normals is None else "oriented_points"
        raise UserError(
            f"{shape.path}: a point cloud, and {supervision} needs a mesh: recon3d train shape_siren {shape.path}"
            + (" --supervision points" if better == "points" else "")
        )
    if supervision == "oriented_points" and shape.normals is None:
        raise UserError(f"{shape.path}: the points have no normals: give --supervision points")
    return None


def cells_near(surface: SurfacePoints, cells: int) -> Bool[Tensor, "r r r"]:
    """Cells of a grid over the cube that hold a part of the surface, and their neighbours."""
    generator = torch.Generator(device=surface.corners.device).manual_seed(0)
    points = surface.corners.flatten(0, 1)
    if surface.ends is not None:
        points = torch.cat([points, surface.draw(64 * cells * cells, generator)[0]])
    index = ((points + 1) * (cells / 2)).long().clamp(0, cells - 1)
    grid = torch.zeros(cells, cells, cells, dtype=torch.bool, device=points.device)
    grid[index[:, 0], index[:, 1], index[:, 2]] = True
    return grown(grid)


def grown(cells: Bool[Tensor, "r r r"]) -> Bool[Tensor, "r r r"]:
    """With all neighbours of every true cell."""
    return nn.functional.max_pool3d(cells.float()[None, None], 3, stride=1, padding=1)[0, 0] > 0


def _steepest(inside: Float[Tensor, " n"], distance: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """The largest |value| / |distance| of points that are not near the surface, where small errors would count much."""
    size = distance.abs()
    return torch.where(size > FAR, inside.abs() / size.clamp_min(FAR), 0.0).max()


def _on_the_sides(count: int, generator: torch.Generator, device: torch.device) -> Float[Tensor, "n 3"]:
    """Points on the sides of the cube."""
    points = uniform_points(count, generator, device)
    axis = torch.randint(3, (count, 1), generator=generator, device=device)
    side = 2.0 * torch.randint(2, (count, 1), generator=generator, device=device) - 1
    return points.scatter(1, axis, side)
