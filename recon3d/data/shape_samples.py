"""Points to train a shape on: on its surface, near it, and anywhere in the cube [-1, 1]^3."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon3d.data.shape_files import Shape
from recon3d.geometry.boxes import Normalizer


def cube_of_shape(shape: Shape, padding: float) -> Normalizer:
    """The cube around a shape's bounding box; ``padding`` is a share of the cube's half size left free on all sides."""
    low, high = shape.bounds
    x, y, z = ((low + high) / 2).tolist()
    return Normalizer((x, y, z), float((high - low).max()) / 2 / (1 - padding))


@dataclass(frozen=True)
class SurfacePoints:
    """A surface to draw points from: the faces of a mesh, evenly by area, or the points of a cloud; field coordinates.

    ``corners`` (F, 3, 3) of faces, or (N, 1, 3) of points; ``normals`` (F or N, 3), None where they are not known.
    """

    corners: Float[Tensor, "f k 3"]
    normals: Float[Tensor, "f 3"] | None
    ends: Float[Tensor, " f"] | None
    """Of a mesh: the area up to and with each face, as a share of all."""

    @staticmethod
    def of(shape: Shape, normalizer: Normalizer, device: torch.device) -> SurfacePoints:
        vertices = normalizer.to_field(torch.from_numpy(shape.vertices)).to(device)
        if not shape.is_mesh:
            normals = None if shape.normals is None else torch.from_numpy(shape.normals).float().to(device)
            return SurfacePoints(vertices.float().unsqueeze(1), normals, None)
        corners = vertices[torch.from_numpy(shape.faces.astype(np.int64)).to(device)]
        vector = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        area = torch.linalg.vector_norm(vector, dim=1)
        ends = area.cumsum(0) / area.sum()
        return SurfacePoints(corners.float(), (vector / area.clamp_min(1e-300).unsqueeze(1)).float(), ends)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"] | None]:
        """Random points, and their normals where these are known."""
        device = self.corners.device
        if self.ends is None:
            index = torch.randint(len(self.corners), (count,), generator=generator, device=device)
            return self.corners[index, 0], None if self.normals is None else self.normals[index]
        # One in each of ``count`` equal parts of the area, which evens out the spacing.
        place = torch.rand(count, 3, generator=generator, device=device, dtype=torch.float64)
        share = (torch.arange(count, device=device) + place[:, 0]) / count
        index = torch.searchsorted(self.ends, share).clamp_max(len(self.corners) - 1)
        root, along = place[:, 1:2].sqrt().float(), place[:, 2:].float()
        a, b, c = self.corners[index].unbind(1)
        points = (1 - root) * a + root * (1 - along) * b + root * along * c
        return points, None if self.normals is None else self.normals[index]


def uniform_points(count: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Float[Tensor, "n 3"]:
    """Points anywhere in [-1, 1]^3."""
    return 2 * torch.rand(count, 3, generator=generator, device=device) - 1


def points_near(
    surface: SurfacePoints, count: int, scales: tuple[float, ...], generator: torch.Generator
) -> Float[Tensor, "n 3"]:
    """Surface points moved by normal noise of the given standard deviations, equally many by each, within the cube."""
    points, _ = surface.draw(count, generator)
    scale = points.new_tensor(scales)[torch.arange(count, device=points.device) % len(scales)]
    noise = torch.randn(count, 3, generator=generator, device=points.device)
    return (points + scale.unsqueeze(1) * noise).clamp(-1, 1)
