"""The surface task: a signed distance field from posed photographs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recon3d.config.fields import RadianceFieldConfig
from recon3d.config.photographs import PhotographsConfig, RenderConfig
from recon3d.errors import require


@dataclass(frozen=True)
class SurfaceFieldConfig(RadianceFieldConfig):
    """Signed distance and view-dependent colour. It starts as a sphere, or as the visual hull, whatever the encoder and
    the network are."""

    radius: float = 0.7
    """Of the sphere that it starts as without silhouettes, in field units: the box reaches from -1 to 1."""
    normals: Literal["numerical", "analytic"] = "numerical"
    """numerical: differences over a cell of the finest level in use (Neuralangelo); analytic: by autograd."""
    first_levels: int = 4
    """Levels of a hash grid that are in use from the start, where the others follow."""
    level_every: int = 0
    """Steps after which each further one follows, coarse to fine (0: all are in use from the start)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.radius <= 1, f"field.radius is {self.radius}: give 0 to 1, in units of half the box")
        require(self.first_levels >= 1, f"field.first_levels is {self.first_levels}: give 1 or more")
        require(self.level_every >= 0, f"field.level_every is {self.level_every}: give 0 or more")


@dataclass(frozen=True)
class SurfaceRenderConfig(RenderConfig):
    """Volume rendering of a signed distance field."""

    weights: Literal["neus", "volsdf"] = "neus"
    """neus: unbiased weights of a logistic distribution around the surface (Wang et al. 2021); volsdf: a density that
    is the Laplace distribution of the distance (Yariv et al. 2021), which carves hollows faster and shrinks shapes."""
    sharpness: float = 60.0
    """Of the rendered surface at the start, per field unit: NeuS's s, one over VolSDF's beta; it is learned."""
    sharpness_rate: float = 1e-2
    """Learning rate of its logarithm."""
    early_stop: float = 1e-3
    decay: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.sharpness > 0, f"head.sharpness is {self.sharpness}: give a positive number")
        require(self.sharpness_rate >= 0, f"head.sharpness_rate is {self.sharpness_rate}: give 0 or more")


@dataclass(frozen=True)
class SurfaceConfig(PhotographsConfig):
    """A closed surface with colours from posed photographs."""

    loss: Literal["l1", "huber", "mse"] = "l1"
    """Of colours."""
    fog_steps: int = 1000
    """Steps that train a radiance field first, whose fused depths are the surface's first guess; at most 0.65 of the
    run. 0: the first guess is the visual hull, or without silhouettes a sphere."""
    eikonal: float = 0.003
    """Weight of (|gradient| - 1)^2 (Gropp et al. 2020), on the surface that the rays see and anywhere in the box."""
    space_points: int = 1024
    """Points of a step anywhere in the box, where the eikonal term is taken too."""
    slope_share: float = 0.2
    """Share of the rays where the eikonal and the curvature term are taken on the surface."""
    curvature: float = 0.0
    """Weight of |Laplacian| on the surface that the rays see (Neuralangelo, equation 6)."""
    curvature_steps: int = 1000
    """The curvature's weight falls by a factor of e over so many steps."""
    mask: float = 0.02
    """Weight of the cross-entropy between the rays' opacity and the images' alpha, where they have it."""
    plain_share: float = 0.1
    """Share of the rays whose colour is asked for without a viewing direction: what a mesh is painted with."""
    field: SurfaceFieldConfig = SurfaceFieldConfig()
    head: SurfaceRenderConfig = SurfaceRenderConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("eikonal", "curvature", "mask"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}: give 0 or more")
        require(self.fog_steps >= 0, f"fog_steps is {self.fog_steps}: give 0 or more")
        require(self.space_points >= 0, f"space_points is {self.space_points}: give 0 or more")
        require(self.curvature_steps >= 1, f"curvature_steps is {self.curvature_steps}: give 1 or more")
        require(0 <= self.slope_share <= 1, f"slope_share is {self.slope_share}: give 0 to 1")
        require(0 < self.plain_share < 1, f"plain_share is {self.plain_share}: give a number between 0 and 1")
