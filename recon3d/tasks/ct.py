"""The CT task: projections of a scan supervise a field of attenuation, in the plane or in space.

A field's value 1 is the scan's ``scale`` in 1/mm; lengths of rays are mm. Several fields may be trained side by side
(``ensemble``): what the task shows is their mean, and their spread tells where they do not agree.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from recon3d import distributed
from recon3d.classical.projector import Projector
from recon3d.config import CtConfig, OptimizerConfig
from recon3d.errors import require
from recon3d.fields.field import Field
from recon3d.fields.groups import parameter_groups
from recon3d.geometry.boxes import Normalizer
from recon3d.geometry.cameras import Rays
from recon3d.geometry.voxels import VolumeGrid
from recon3d.heads.attenuation import Attenuation
from recon3d.heads.projection import (
    RayProjector,
    Support,
    ValueFn,
    Voxels,
    descend,
    poisson_deviance,
    sampled_variation,
    squared_error,
)
from recon3d.tasks import ct_data, ct_pictures, ct_refine, ct_start
from recon3d.tasks.ct_data import CtData, Parts
from recon3d.tasks.ct_prior import Prior
from recon3d.tasks.ct_start import Start
from recon3d.training.trainer import Preview, StepResult

CHUNKS = {"cpu": 2**18, "cuda": 2**22}
"""Voxels whose activations are kept at a time."""
SAMPLES = 2**16
"""Points evaluated at once without gradients."""
HELD_EVERY = 10
"""Steps between two looks at the held-out rays."""
HELD_RAYS = 2**14
"""Held-out rays looked at by the ray projector, at most."""

LOSSES = {"l2": squared_error, "poisson": poisson_deviance}


@dataclass(frozen=True)
class CtHeader:
    """What must be known of a scan to make a volume of its fields, without the scan."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    center: tuple[float, float, float]
    scale: float
    counts: float | None

    @staticmethod
    def of(data: CtData) -> CtHeader:
        return CtHeader(data.grid.shape, data.grid.spacing, data.grid.center, data.scale, data.counts)

    @property
    def grid(self) -> VolumeGrid:
        return VolumeGrid(self.shape, self.spacing, self.center)

    @property
    def dim(self) -> int:
        return 2 if self.shape[0] == 1 else 3


class CtTask(nn.Module):
    """Fields of attenuation and the scan that trains them.

    ``header`` comes from the data when a run starts (:meth:`from_data`), and from the checkpoint afterwards.
    """

    unit = "rays"

    def __init__(
        self,
        config: CtConfig,
        device: torch.device,
        precision: torch.dtype = torch.float32,
        header: CtHeader | None = None,
    ) -> None:
        super().__init__()
        self.config, self.device, self.precision = config, device, precision
        self.generator = torch.Generator(device=device)
        self.data: CtData | None = None
        if header is not None:
            self._build(header)

    @property
    def loss(self) -> str:
        if self.config.loss != "auto":
            return self.config.loss
        return "l2" if self.header.counts is None else "poisson"

    @property
    def nonnegative(self) -> bool:
        return self.config.activation != "none"

    def _build(self, header: CtHeader, inside: Bool[Tensor, "nz ny nx"] | None = None) -> None:
        self.header = header
        config, grid = self.config, header.grid
        self.support = Support(grid, inside)
        self.fields = nn.ModuleList(Field(config.field, header.dim, 1, self.precision) for _ in range(config.ensemble))
        self.prior = Prior(config, grid)
        self.activate = Attenuation(config.activation)
        if self.prior.start is not None:
            for field in self.members:
                field.network.damp(0, 0.0)
        self.heads = nn.ModuleList(
            RayProjector(config.rays, grid, inside) for _ in range(config.ensemble if config.projector == "rays" else 0)
        )
        self.to(self.device)

    @staticmethod
    def from_data(config: CtConfig, device: torch.device, precision: torch.dtype) -> CtTask:
        """A new task: reads and prepares the scan.

        Raises:
            UserError: a file that is no scan, or one that cannot be trained on as configured.
        """
        parts = ct_data.Parts.of(config)
        data = ct_data.measure(config, parts, device)
        task = CtTask(config, device, precision)
        task._build(CtHeader.of(data), data.inside)
        task.use_training_data(data, parts)
        start = ct_start.by_variation(data) if config.start == "tv" else None
        if config.activation == "material":
            found = config.material or ct_start.material(data.guess if start is None else start.volume)
            task.activate.most.fill_(found / data.scale)
        if start is not None:
            task._begin(start)
        return task

    def _begin(self, start: Start) -> None:
        """Let the fields be added to a volume, and count the weight of total variation in that volume's."""
        assert self.data is not None and self.prior.start is not None
        self.prior.start.copy_(self.activate.before(start.volume / self.data.scale))
        share = ct_start.likelihood_share(self.data.projections[self.data.trained]) if self.loss == "poisson" else 1.0
        self.prior.weight.fill_(self.config.tv * start.weight * share)

    def use_training_data(self, data: CtData, parts: Parts | None = None) -> None:
        """``parts``: of the scan that the data are the first part of, where they are not all of it."""
        self.parts, self.part = parts, 0
        self.voxels = Voxels(data.grid, data.inside, self.device)
        self._take(data)
        for field in self.members:
            field.network.observe(self._glimpse(data))

    def _take(self, data: CtData) -> None:
        """Train on these views."""
        self.data = data
        self.trained = data.trained.flatten().nonzero().squeeze(1)
        self.projector = Projector(data.geometry, data.grid, self.config.finer)
        views, processes = len(data.geometry), distributed.processes()
        require(views >= processes, f"{self.config.data}: {views} views are too few for {processes} processes")
        if not self.projectors:
            self.own_views = slice(*distributed.own_span(views))
            self.own_projector = Projector(data.geometry.subset(self.own_views), data.grid, self.config.finer)
            self.own_trained = data.trained[self.own_views].flatten().nonzero().squeeze(1)

    def _exchange(self, part: int) -> None:
        """Have the views of a part of the scan in memory."""
        if self.parts is None or self.parts.number == 1 or part == self.part:
            return
        assert self.data is not None
        self._take(ct_data.exchanged(self.data, self.config, self.parts, part))
        self.part = part

    @property
    def members(self) -> list[Field]:
        """The fields, one or an ensemble."""
        return [field for field in self.fields if isinstance(field, Field)]

    @property
    def projectors(self) -> list[RayProjector]:
        """The fields' ray projectors; none of a run on the grid."""
        return [head for head in self.heads if isinstance(head, RayProjector)]

    @property
    def normalizer(self) -> Normalizer:
        """World (mm) to field coordinates."""
        return self.header.grid.normalizer()

    def _glimpse(self, data: CtData) -> Float[Tensor, "1 *grid"]:
        """The volume, roughly, in [-1, 1] and with x first: what networks that want to see the data are shown."""
        guess = (2 * data.guess / data.scale - 1).clamp(-1, 1)
        return guess.permute(2, 1, 0).unsqueeze(0) if self.header.dim == 3 else guess[0].t().unsqueeze(0)

    # --- state ---

    def get_extra_state(self) -> Tensor:
        """The header, so that a run can be opened without its data."""
        return torch.frombuffer(bytearray(json.dumps(asdict(self.header)).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        values = json.loads(bytes(state.cpu().tolist()))
        triples = {name: tuple(values[name]) for name in ("shape", "spacing", "center")}
        header = CtHeader(**{**values, **triples})
        if not hasattr(self, "header"):
            self._build(header)
        self.header = header

    def parameter_groups(self, config: OptimizerConfig) -> list[dict[str, Any]]:
        networks, encoders = [field.network for field in self.members], [field.encoder for field in self.members]
        return parameter_groups(networks, encoders, config)

    # --- the field ---

    def values(self, member: int = 0) -> ValueFn:
        """One field's attenuation at points of its cube, in units of the scale, as it is trained: neither masked nor
        refined."""
        field = self.members[member]

        def value(x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
            raw = field(x)[:, 0].float()
            if self.prior.start is not None:
                raw = raw + self.prior.at(self.prior.start, x)
            return self.activate(raw)

        return value

    @torch.no_grad()
    def members_at(self, points: Float[Tensor, "n d"]) -> Float[Tensor, "members n"]:
        """Every field's attenuation in 1/mm at points of the field's cube; 0 where there may be nothing."""
        inside = self.support.contains(points)
        out = torch.zeros(len(self.fields), len(points), device=points.device)
        for member in range(len(self.fields)):
            where = inside & self.projectors[member].occupied_at(points) if self.projectors else inside
            value = self.values(member)
            parts = [value(part) for part in points[where].split(SAMPLES)]
            out[member, where] = torch.cat(parts) if parts else out.new_zeros(0)
        out *= self.header.scale
        if self.prior.rest is not None:
            out[:, inside] += self.prior.at(self.prior.rest, points[inside])
        return out.clamp_min(0) if self.nonnegative else out

    def attenuation(self, points: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Attenuation in 1/mm at points of the field's cube, the mean of all fields."""
        return self.members_at(points).mean(0)

    @torch.no_grad()
    def volume(self, grid: VolumeGrid | None = None, spread: bool = False) -> Float[Tensor, "nz ny nx"]:
        """Attenuation in 1/mm on the scan's grid or another one: the mean of all fields, or, with ``spread``, their
        standard deviation (0 of a single one)."""
        grid = grid or self.header.grid
        voxels = Voxels(grid, None, self.device, self.header.grid)

        def value(x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
            found = self.members_at(x)
            return found.std(0, correction=0) if spread else found.mean(0)

        return voxels.sample(value, SAMPLES)

    # --- training ---

    def training_step(self, step: int, backward: Callable[[Tensor], None]) -> StepResult:
        assert self.data is not None, "training needs use_training_data first"
        # Seeded anew at every step: a resumed run draws what an uninterrupted one would have drawn.
        self.generator.manual_seed(self.config.seed * 1_000_003 + step)
        self.prior.forget()
        taken = self._on_rays if self.projectors else self._on_grid
        terms, scalars, score = taken(step, backward)
        for field in self.members:
            penalty = field.network.penalty()
            if penalty is not None:
                backward(distributed.once(penalty))
                terms["penalty"] = terms.get("penalty", 0) + penalty.detach()
        return StepResult(terms, scalars, score)

    def _on_grid(
        self, step: int, backward: Callable[[Tensor], None]
    ) -> tuple[dict[str, Tensor], dict[str, float], float | None]:
        """A step on all rays: of several processes, each projects its own views."""
        data, config = self.data, self.config
        assert data is not None
        projections, trained = data.projections[self.own_views], self.own_trained
        measured = projections.flatten()[trained]
        total = torch.zeros_like(projections)
        terms: dict[str, Tensor] = {}

        def terms_of(volume: Float[Tensor, "nz ny nx"]) -> dict[str, Tensor]:
            predicted = data.scale * self.own_projector.forward(volume)
            total.add_(predicted.detach())
            made = {"error": self._error(predicted.flatten()[trained] - measured, measured)}
            if config.tv > 0:
                made["variation"] = distributed.once(self.prior.variation(volume, step, member))
            if config.decide > 0:
                made["indecision"] = distributed.once(config.decide * self.activate.indecision(volume))
            return made

        chunk = config.chunk or CHUNKS[self.device.type]
        for member in range(len(self.fields)):
            found = descend(self.values(member), self.voxels, terms_of, backward, chunk)
            terms = {name: terms.get(name, 0) + term for name, term in found.items()}
        predicted = total.flatten() / len(self.fields)
        scalars = {
            "psnr": self._decibels_together(predicted[trained], measured),
            "rays": float(len(self.trained)),
        }
        score = None
        if data.held is not None and step % HELD_EVERY == 0:
            held = data.held[self.own_views].flatten()
            score = scalars["psnr_held_out"] = self._decibels_together(predicted[held], projections.flatten()[held])
        return distributed.summed(terms), scalars, score

    def _on_rays(
        self, step: int, backward: Callable[[Tensor], None]
    ) -> tuple[dict[str, Tensor], dict[str, float], float | None]:
        """A step on random rays, of which each process has its part."""
        self._exchange(step // self.config.rays.exchange_every)
        data, config = self.data, self.config
        assert data is not None
        terms: dict[str, Tensor] = {}
        error = torch.zeros((), device=self.device)
        steps = torch.tensor(data.grid.spacing[: self.header.dim], device=self.device) / self.normalizer.half_size
        for member, head in enumerate(self.projectors):
            value = self.values(member)
            if step % config.rays.update_every == 0:
                head.update(value, step, self.generator)
            drawn = torch.randint(len(self.trained), (config.rays.batch,), generator=self.generator, device=self.device)
            index = self.trained[distributed.own(drawn)]
            jitter = distributed.own(torch.rand(len(drawn), generator=self.generator, device=self.device))
            measured = data.projections.flatten()[index]
            predicted = data.scale * head(value, self._rays(index), jitter)
            found = {"error": self._error(predicted - measured, measured)}
            if config.tv > 0:
                count = min(config.rays.tv_points, len(self.voxels))
                place = torch.randint(len(self.voxels), (count,), generator=self.generator, device=self.device)
                points = self.voxels.at(distributed.own(place))
                variation = sampled_variation(value, points, steps, config.tv_smoothing)
                found["variation"] = self.prior.weight * variation
            backward(torch.stack(list(found.values())).sum())
            terms = {name: terms.get(name, 0) + term.detach() for name, term in found.items()}
            error += distributed.mean((predicted.detach() - measured).square()) / len(self.heads)
        whole = distributed.summed({**terms, "mse": error})
        scalars = {"psnr": self._psnr(float(whole.pop("mse"))), "rays": float(config.rays.batch * len(self.heads))}
        return whole, scalars, None

    @property
    def finish(self) -> Callable[[], None] | None:
        """What is left to do after the last step: with ``refine``, the volume comes nearer to the projections."""
        return None if self.prior.rest is None else self._refine

    @torch.no_grad()
    def _refine(self) -> None:
        assert self.data is not None and self.prior.rest is not None
        self.prior.forget()
        volume = self.volume()
        found = ct_refine.refined(self.projector, self.data, volume, self.config.refine, self.nonnegative)
        self.prior.rest.copy_(found - volume)

    def _error(self, difference: Float[Tensor, " n"], measured: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        assert self.data is not None
        return LOSSES[self.loss](difference, measured, self.data.unit)

    def _rays(self, index: Int[Tensor, " n"]) -> Rays:
        """The rays of places in the flattened projections."""
        data = self.data
        assert data is not None
        _, rows, columns = data.projections.shape
        view, rest = index // (rows * columns), index % (rows * columns)
        return data.geometry.rays_at(view, (rest // columns).double(), (rest % columns).double())

    # --- how good it is ---

    def _psnr(self, error: float) -> float:
        """PSNR in dB of a mean squared error of line integrals; the peak is the largest measured one."""
        assert self.data is not None
        peak = float(self.data.projections.max())
        return 10 * math.log10(peak**2 / max(error, 1e-18 * peak**2)) if math.isfinite(error) else math.nan

    def _decibels(self, predicted: Float[Tensor, " n"], measured: Float[Tensor, " n"]) -> float:
        return self._psnr(float((predicted - measured).square().mean()))

    def _decibels_together(self, predicted: Float[Tensor, " n"], measured: Float[Tensor, " n"]) -> float:
        """The same of the line integrals of all processes, of which each gives its own."""
        return self._psnr(float(distributed.added(distributed.mean((predicted - measured).square()))))

    @torch.no_grad()
    def predicted(self) -> Float[Tensor, "a rows columns"]:
        """Line integrals of the volume as the task gives it, along all rays of the scan."""
        return self.projector.forward(self.volume())

    @torch.no_grad()
    def score(self) -> float | None:
        """PSNR of held-out line integrals, None where nothing is held out."""
        data = self.data
        assert data is not None
        if data.held is None:
            return None
        if not self.projectors:
            return self._decibels(self.predicted()[data.held], data.projections[data.held])
        index = data.held.flatten().nonzero().squeeze(1)
        index = index[:: max(1, math.ceil(len(index) / HELD_RAYS))]
        rays = self._rays(index)
        found = [data.scale * head(self.values(member), rays) for member, head in enumerate(self.projectors)]
        return self._decibels(torch.stack(found).mean(0), data.projections.flatten()[index])

    # --- looking ---

    @torch.no_grad()
    def preview(self) -> Preview:
        """Slices beside filtered back-projection's, and the sinogram with what the field leaves of it."""
        data = self.data
        assert data is not None, "a preview needs the scan"
        self.eval()
        volume = self.volume()
        predicted = self.projector.forward(volume)
        beside = ct_pictures.analytic(data.projections, data.geometry, data.grid)
        images = {
            "slices": ct_pictures.compared(volume, beside, data.scale),
            "sinogram": ct_pictures.sinograms(data.projections, predicted),
        }
        scalars = {"residual": float((predicted - data.projections).square().mean().sqrt())}
        score = self.score()
        if score is not None:
            scalars["psnr_held_out"] = score
        self.train()
        return Preview(images, scalars, score)
