"""How near one surface is to another: Chamfer distance, F-score, normal consistency, Hausdorff distance.

Both surfaces are sampled evenly by area, and each sample takes the distance to the nearest place on the other surface
(not to its nearest sample: that would add about half the spacing of samples). So equal surfaces score 0 however they
are triangulated. One seed samples either mesh, whichever side it is on: swapping the meshes swaps accuracy and
completeness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from recon3d.errors import UserError
from recon3d.kernels.triangles import TriangleTree

if TYPE_CHECKING:
    import trimesh


@dataclass(frozen=True)
class ThresholdScore:
    """At ``threshold`` (a share of the reference's box diagonal; ``distance`` in world units): the share of the
    prediction's samples that near the reference (precision), of the reference's that near the prediction (recall),
    and their harmonic mean."""

    threshold: float
    distance: float
    precision: float
    recall: float
    f_score: float


@dataclass(frozen=True)
class MeshScores:
    """``accuracy``: mean distance from the prediction to the reference; ``completeness``: the other way; ``chamfer``:
    the mean of the two; all in world units. ``normal_consistency``: mean |n . n'| with the normal of the nearest face,
    over both directions. ``hausdorff``: the largest of all samples' distances; ``hausdorff_95``: the larger of the two
    directions' 95th percentiles. ``diagonal``: of the reference's bounding box."""

    chamfer: float
    chamfer_share: float
    accuracy: float
    completeness: float
    normal_consistency: float
    hausdorff: float
    hausdorff_95: float
    diagonal: float
    samples: int
    thresholds: tuple[ThresholdScore, ...]

    def f_score(self, threshold: float = 0.01) -> float:
        """The F-score at one of the thresholds measured (a share of the diagonal)."""
        return next(score.f_score for score in self.thresholds if score.threshold == threshold)

    def as_dict(self) -> dict[str, float]:
        """Flat, for JSON: f_score_0.01, precision_0.01, ..."""
        flat = {key: value for key, value in asdict(self).items() if key != "thresholds"}
        for score in self.thresholds:
            for name in ("f_score", "precision", "recall"):
                flat[f"{name}_{score.threshold:g}"] = getattr(score, name)
        return flat


def compare_meshes(
    prediction: trimesh.Trimesh,
    reference: trimesh.Trimesh,
    samples: int = 100_000,
    thresholds: Sequence[float] = (0.005, 0.01, 0.02),
    seed: int = 0,
) -> MeshScores:
    """Scores of ``prediction`` against ``reference``, both in the same world coordinates.

    ``samples``: points on each mesh; ``thresholds``: shares of the diagonal of the reference's bounding box. Raises
    UserError for a mesh without area or with coordinates that are not finite.
    """
    if samples < 1:
        raise UserError(f"cannot compare meshes with {samples} samples; take at least 1")
    points, normals = sample_surface(prediction, samples, seed, "predicted mesh")
    true_points, true_normals = sample_surface(reference, samples, seed, "reference mesh")
    true_faces = np.asarray(reference.vertices, np.float64)[np.asarray(reference.faces)]
    diagonal = float(np.linalg.norm(true_faces.max(axis=(0, 1)) - true_faces.min(axis=(0, 1))))
    to_reference, forward = _distances(points, normals, true_faces)
    to_prediction, backward = _distances(
        true_points, true_normals, np.asarray(prediction.vertices, np.float64)[np.asarray(prediction.faces)]
    )
    accuracy, completeness = float(to_reference.mean()), float(to_prediction.mean())
    chamfer = (accuracy + completeness) / 2
    return MeshScores(
        chamfer=chamfer,
        chamfer_share=chamfer / diagonal,
        accuracy=accuracy,
        completeness=completeness,
        normal_consistency=(forward + backward) / 2,
        hausdorff=float(max(to_reference.max(), to_prediction.max())),
        hausdorff_95=float(max(np.percentile(to_reference, 95), np.percentile(to_prediction, 95))),
        diagonal=diagonal,
        samples=samples,
        thresholds=tuple(_score(t, t * diagonal, to_reference, to_prediction) for t in thresholds),
    )


def _distances(
    points: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"], corners: Float[np.ndarray, "f 3 3"]
) -> tuple[Float[np.ndarray, "n"], float]:
    """Distances from points to triangles, and the mean |n . n'| with the normals of the nearest ones."""
    of_face = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(of_face, axis=1)
    flat = length > 0  # a face without area has no normal, and its places belong to its neighbours too
    distance, face = TriangleTree(corners[flat]).nearest(points)
    unit = of_face[flat][face] / length[flat][face, None]
    return distance, float(np.abs(np.einsum("ij,ij->i", normals, unit)).mean())


def _score(
    threshold: float, distance: float, to_reference: Float[np.ndarray, "n"], to_prediction: Float[np.ndarray, "m"]
) -> ThresholdScore:
    precision = float((to_reference <= distance).mean())
    recall = float((to_prediction <= distance).mean())
    total = precision + recall
    return ThresholdScore(threshold, distance, precision, recall, 2 * precision * recall / total if total else 0.0)


def sample_surface(
    mesh: trimesh.Trimesh, samples: int, seed: int, name: str = "mesh"
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """Points spread evenly by area, and the unit normals of their faces. ``name`` says in errors which mesh it is."""
    vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces)
    if len(faces) == 0:
        raise UserError(f"{name}: no faces, so there is no surface to compare")
    corners = vertices[faces]
    if not np.isfinite(corners).all():
        raise UserError(f"{name}: coordinates that are not finite (NaN or infinite)")
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    doubled = np.linalg.norm(normal, axis=1)
    if not doubled.sum() > 0:
        raise UserError(f"{name}: all {len(faces)} faces have zero area")
    face, weights = even_places(doubled, samples, seed)
    return np.einsum("nk,nkd->nd", weights, corners[face]), normal[face] / doubled[face, None]


def even_places(
    areas: Float[np.ndarray, "f"], samples: int, seed: int
) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n 3"]]:
    """Places spread evenly over faces of these areas (not all zero, in any unit): the face of each, and the weights of
    the face's corners there.

    Stratified: one place in each of ``samples`` equal parts of the area, which evens out the spacing.
    """
    total = np.cumsum(areas)
    generator = np.random.default_rng(seed)
    place = (np.arange(samples) + generator.random(samples)) / samples * total[-1]
    face = np.minimum(np.searchsorted(total, place, side="right"), len(areas) - 1)
    root, along = np.sqrt(generator.random(samples)), generator.random(samples)
    return face, np.stack([1 - root, root * (1 - along), root * along], axis=1)
