"""From a run to the surface in it: densities, signed distances and occupancies become one :class:`LevelSet`.

Marching cubes places vertices by linear interpolation along lattice edges. Density is far from linear there: the
networks give its logarithm, and it grows by factors across one cell. So for a density the values are log(density /
level), whose zero set is the same surface: on an exponential ramp of a third of a cell, normals are then off by 0.6
degrees instead of 7.4. They are clamped to +-4, so that where density jumps from nothing to a plateau no end of the
edge is preferred. Distances and the logits of occupancies are taken as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from recon3d.errors import UserError
from recon3d.export.appearance import field_cameras
from recon3d.export.fusion import fused_surface
from recon3d.export.level import choose_level
from recon3d.export.levelset import ColorFn, LevelSet, NoSurfaceError, ValueFn
from recon3d.export.solid import filled, solid_cells
from recon3d.geometry.boxes import Normalizer
from recon3d.geometry.cameras import Cameras
from recon3d.geometry.depth_views import DepthView, truncation_for, views_of
from recon3d.heads.projection import cells_of
from recon3d.metrics.volume import otsu_threshold
from recon3d.tasks.ct import CtTask
from recon3d.tasks.nerf import NerfTask

LOG_RANGE = 4.0
VOLUME_CELLS = 128
"""Cells a side in which the surface of a volume is looked for."""


@runtime_checkable
class Solid(Protocol):
    """A task whose field tells inside from outside: runs of shape and of surface.

    Attributes:
        normalizer: world to field coordinates.
        inside_slope: a bound on the slope of ``inside`` for fields of signed distance, None for logits of occupancy.
        occupied: cells (R, R, R) where the surface may be, None: anywhere.
        has_color: whether ``color(points, directions)`` gives colours.
    """

    normalizer: Normalizer
    inside_slope: float | None
    occupied: Bool[Tensor, "r r r"] | None
    has_color: bool

    def inside(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """Above 0 inside: minus the signed distance in field units, or the logit of the occupancy."""


def level_set(task: Any, level: float | None = None, *, fill: bool = True) -> LevelSet:
    """The surface of a run of any task that has one.

    ``level``, where it is given, is the surface's density in 1 / field unit for a radiance field; for a field of
    signed distance the distance from its surface outward, in world units; for a field of occupancy the probability,
    in (0, 1); for a CT run attenuation in 1/mm (default: Otsu's threshold of the volume). ``fill``: for a radiance
    field, count as solid what no training camera can see into.

    Raises:
        UserError: the task has no surface, or the level is none that its field could have.
    """
    if isinstance(task, NerfTask):
        return _of_density_run(task, level, fill)
    if isinstance(task, Solid):
        return _of_solid(task, level)
    if isinstance(task, CtTask):
        return _of_volume(task, level)
    raise UserError(f"a field of {type(task).__name__} has no surface")


def fused_level_set(
    task: Any, resolution: int, progress: Callable[[float], None] | None = None
) -> tuple[LevelSet, list[DepthView]]:
    """The surface where the training cameras' depths say that it is, for a lattice of ``resolution`` cells an axis, and
    these depths. ``progress`` is called with the share of the views that are done.

    Raises:
        UserError: the run was not trained from photographs, or they show nothing.
    """
    cameras, normalizer = getattr(task, "train_cameras", None), task.normalizer
    if cameras is None:
        raise UserError("fusion takes runs that were trained from photographs; give --route level")
    views = list(views_of(task, cameras, progress=progress))
    truncation = truncation_for(views, 2 * normalizer.half_size / resolution)
    occupied = task.head.grid.occupied.cpu().numpy()
    surface = fused_surface(views, normalizer, occupied, truncation, device=task.device)
    if isinstance(task, NerfTask):
        return replace(surface, color_fn=task.field.color, cameras=field_cameras(cameras, normalizer)), views
    return replace(surface, color_fn=task.color), views


def density_surface(
    density_fn: ValueFn,
    active: Bool[np.ndarray, "r r r"],
    level: float | None = None,
    *,
    color_fn: ColorFn | None = None,
    cameras: Cameras | None = None,
    batch_points: int = 2**18,
    device: torch.device | str = "cpu",
) -> LevelSet:
    """The surface of a density, which lies in the ``active`` cells; ``level`` None: :func:`choose_level`."""
    if level is None:
        level = choose_level(density_fn, active, batch_points=batch_points, device=device)
    if not level > 0:
        raise UserError(f"the surface's density is {level:g}, but must be above 0")
    log_density = _LogDensity(density_fn, level)
    return LevelSet(
        log_density,
        0.0,
        active,
        color_fn=color_fn,
        cameras=cameras,
        quantity="density",
        given_level=level,
        in_units=log_density.span,
    )


def _of_density_run(task: NerfTask, level: float | None, fill: bool) -> LevelSet:
    density_fn: ValueFn = task.field.density
    active = task.head.grid.occupied.cpu().numpy()
    if fill:
        solid = solid_cells(active, task.lit_cells().cpu().numpy())
        density_fn = filled(density_fn, torch.from_numpy(solid).to(task.device))
        active = active | solid
    cameras = None if task.train_cameras is None else field_cameras(task.train_cameras, task.normalizer)
    return density_surface(density_fn, active, level, color_fn=task.field.color, cameras=cameras, device=task.device)


def _of_volume(task: CtTask, level: float | None) -> LevelSet:
    """The surface of a volume lies between voxels above and below its level; what is above is searched, too, since what
    is not searched is outside."""
    if task.header.dim == 2:
        raise UserError("a scan of one slice has no surface: recon3d export volume writes it, recon3d render shows it")
    volume = task.volume()
    level = otsu_threshold(volume) if level is None else level
    above = (volume > level).float()[None, None]
    edge = (F.max_pool3d(above, 3, 1, 1) + F.max_pool3d(-above, 3, 1, 1))[0, 0] > 0
    surface = LevelSet(
        task.attenuation,
        level,
        cells_of(task.header.grid, VOLUME_CELLS, (edge | (volume > level)).cpu()).numpy(),
        quantity="attenuation",
        given_level=level,
    )
    if not bool(edge.any()):
        raise surface.no_surface(NoSurfaceError("no surface", (float(volume.min()), float(volume.max()))))
    return surface


def _of_solid(task: Any, level: float | None) -> LevelSet:
    distances = task.inside_slope is not None
    half = task.normalizer.half_size
    if level is None:
        value = 0.0
    elif distances:
        value = -level / half
    elif 0 < level < 1:
        value = math.log(level / (1 - level))
    else:
        raise UserError(f"the surface's occupancy is {level:g}, but must lie between 0 and 1")

    def in_units(low: float, high: float) -> tuple[float, float]:
        return (-high * half, -low * half) if distances else (_probability(low), _probability(high))

    return LevelSet(
        task.inside,
        value,
        None if task.occupied is None else task.occupied.cpu().numpy(),
        slope=task.inside_slope,
        probed=not distances,
        color_fn=task.color if task.has_color else None,
        normals_from_field=distances,
        quantity="signed distance" if distances else "occupancy",
        given_level=level if level is not None else 0.0 if distances else 0.5,
        in_units=in_units,
    )


def _probability(logit: float) -> float:
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, logit))))


class _LogDensity:
    """log(density / level), clamped; remembers the range of the densities."""

    def __init__(self, density_fn: ValueFn, level: float) -> None:
        self.density_fn, self.level = density_fn, level
        self.low, self.high = math.inf, -math.inf

    def __call__(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        density = self.density_fn(points).float()
        low, high = (float(value) for value in torch.aminmax(density.detach()))
        self.low, self.high = min(self.low, low), max(self.high, high)
        return (density / self.level).log().clamp(-LOG_RANGE, LOG_RANGE)

    def span(self, low: float, high: float) -> tuple[float, float]:
        """The range of the densities that were met; ``low`` and ``high`` are their clamped logarithms."""
        return self.low, self.high
