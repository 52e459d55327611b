"""What every exporter needs to know of a run: where its surface is.

Values above the level are inside; everything is in field coordinates, [-1, 1]^3. A density, a signed distance and an
occupancy differ in what is known of them: of a density, in which cells it can be found; of a distance, how fast it can
change; of an occupancy, that it keeps its sign over more than a few points. :mod:`recon3d.export.refinement` makes the
cells to search of whichever is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from recon3d.errors import UserError
from recon3d.geometry.cameras import Cameras

ValueFn = Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]]
ColorFn = Callable[[Float[Tensor, "n 3"], Float[Tensor, "n 3"]], Float[Tensor, "n 3"]]


class NoSurfaceError(UserError):
    """The level lies outside the field's values, or there is nowhere to look for it.

    Attributes:
        span: the least and the largest value met, None where the field was not asked.
    """

    def __init__(self, message: str, span: tuple[float, float] | None = None) -> None:
        super().__init__(message)
        self.span = span


@dataclass(frozen=True)
class LevelSet:
    """The surface of a field: where ``value_fn`` is ``level``.

    Attributes:
        value_fn: values at (N, 3) points; above ``level`` is inside.
        level: the value of the surface.
        active: cells over [-1, 1]^3 in which the surface may lie, indexed [ix, iy, iz]; None: in any.
        slope: |value(x) - value(y)| <= ``slope`` |x - y|, as for distances (slope 1); None: no bound is known.
        probed: whether the field may be searched by its signs at some points, where no ``slope`` is known. Not so for
            densities, which have floaters and holes of any size.
        color_fn: rgb in [0, 1] at points seen along unit directions, or None.
        cameras: those that the colours were learned from, in field coordinates; None where the colours do not depend on
            the direction, or nothing is known of it.
        normals_from_field: whether the gradient of ``value_fn`` gives better normals than the triangles do.
        quantity: what the user knows the values as ("density").
        given_level: the level in the units of that quantity.
        in_units: from the least and the largest value met to the range of that quantity.
    """

    value_fn: ValueFn
    level: float = 0.0
    active: Bool[np.ndarray, "r r r"] | None = None
    slope: float | None = None
    probed: bool = False
    color_fn: ColorFn | None = None
    cameras: Cameras | None = None
    normals_from_field: bool = False
    quantity: str = "level"
    given_level: float = 0.0
    in_units: Callable[[float, float], tuple[float, float]] = lambda low, high: (low, high)

    def __post_init__(self) -> None:
        if self.slope is not None and not self.slope > 0:
            raise ValueError(f"the bound on the slope is {self.slope}, but must be above 0")
        if self.active is None and self.slope is None and not self.probed:
            raise ValueError("nothing tells where the surface may lie: give active cells, a slope, or probed")

    def no_surface(self, error: NoSurfaceError) -> UserError:
        """``error`` in the units that the user gives levels in."""
        if error.span is None:
            return error
        low, high = self.in_units(*error.span)
        return UserError(
            f"no surface at {self.quantity} {self.given_level:g}: the field's values span [{low:g}, {high:g}]; "
            "choose a level between them"
        )
