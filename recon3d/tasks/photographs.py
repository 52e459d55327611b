"""What the tasks on posed photographs share: the space, the batches, the step, and looking at whole images."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from recon3d import distributed
from recon3d.config import PhotographsConfig
from recon3d.data.scene import Scene
from recon3d.data.scene_files import load_scene
from recon3d.errors import UserError
from recon3d.fields.base import in_kernels
from recon3d.geometry.boxes import Normalizer, cube_of_cameras
from recon3d.geometry.cameras import Cameras, Rays
from recon3d.geometry.hull import bounding_cube, shadow, visual_hull
from recon3d.heads.volume import Rendering, VolumeRenderer
from recon3d.kernels.threads import small_operations
from recon3d.metrics.image import psnr
from recon3d.training.trainer import Preview, StepResult, is_out_of_memory

BACKGROUNDS = {"white": 1.0, "black": 0.0}
BOX_GRID = 64
NEARLY_ALL = 0.9
"""Share of the pixels from which on it is not worth remembering which of them are drawn."""
GROWTHS = 3
MOST_CELLS = 1024
"""Cells a side of the finest level that is chosen by the photographs, at most: finer ones learn more slowly, and share
the rows of a table of the size that a CPU likes with too many others."""
RENDERED_AT_ONCE = {"cpu": 0.25, "cuda": 8.0}
"""Rays of an image that are rendered together, in units of the most of a training step. Steps are finer on a CPU; a GPU
has the room, and each part waits for its host several times. What does not fit is halved until it does."""
T = TypeVar("T", bound="PhotographsTask")
R = TypeVar("R")


def _beside_kernels(method: Callable[..., R]) -> Callable[..., R]:
    """A method of a task in which operations are small where its field is in kernels: :func:`small_operations`."""

    @functools.wraps(method)
    def run(task: PhotographsTask, *args: Any, **kwargs: Any) -> R:
        if task.device.type != "cpu" or not in_kernels(task.field):
            return method(task, *args, **kwargs)
        with small_operations():
            return method(task, *args, **kwargs)

    return run


class PhotographsTask(nn.Module):
    """A field with colours, a volume renderer and the photographs that train them.

    Subclasses make ``field`` and ``head``, and say what a step's loss is. ``box`` and ``allowed`` come from the data
    when a run starts (:meth:`from_data`) and from the checkpoint afterwards.
    """

    unit = "rays"
    spent = 0.0
    phase = ""
    box: Float[Tensor, "4"]
    rays_per_step: Tensor

    def __init__(
        self,
        config: PhotographsConfig,
        device: torch.device,
        precision: torch.dtype = torch.float32,
        normalizer: Normalizer | None = None,
        allowed: Bool[Tensor, "r r r"] | None = None,
        train: Scene | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.field, self.head = self.parts(precision, allowed)
        center, half = (normalizer.center, normalizer.half_size) if normalizer else ((0.0, 0.0, 0.0), 1.0)
        self.register_buffer("box", torch.tensor([*center, half], dtype=torch.float64))
        self.register_buffer("rays_per_step", torch.tensor(float(min(config.max_rays, config.samples // 16))))
        self.to(device)
        self.device = device
        self.generator = torch.Generator(device=device)
        self.preview_scene: Scene | None = None
        self.train_cameras: Cameras | None = None
        self.cameras_inside: Cameras | None = None
        self.drawn: Int[Tensor, " p"] | None = None
        self.drawn_share = 1.0
        if train is not None:
            self.use_training_data(train)

    def parts(self, precision: torch.dtype, allowed: Bool[Tensor, "r r r"] | None) -> tuple[Any, VolumeRenderer]:
        """The field and the head of ``self.config``."""
        raise NotImplementedError

    @classmethod
    def from_data(cls: type[T], config: PhotographsConfig, device: torch.device, precision: torch.dtype) -> T:
        """A new task: reads the training images and finds the box that holds the scene."""
        scene = load_scene(config.data, "train", config.downscale, config.test_every)
        normalizer, allowed = find_space(scene, config, device)
        return cls(_with_cells(config, scene.cameras, normalizer), device, precision, normalizer, allowed, scene)

    def use_training_data(self, scene: Scene) -> None:
        self.train_cameras, self.cameras_inside = scene.cameras.to(self.device), None
        self.pixels = scene.images.reshape(-1, scene.images.shape[-1]).to(self.device)
        self.observe(scene.images[0, ..., :3].to(self.device).movedim(-1, 0) / 127.5 - 1)
        self.preview_scene = _held_out_view(self.config) or scene[:1]

    def get_extra_state(self) -> Tensor:
        """The training cameras: what may be seen of the field, for whoever opens the run without its data."""
        return torch.zeros(0, 26) if self.train_cameras is None else self.train_cameras.packed()

    def set_extra_state(self, state: Tensor) -> None:
        self.train_cameras = Cameras.unpacked(state.to(self.device)) if len(state) else None
        self.cameras_inside = None

    def observe(self, picture: Float[Tensor, "3 h w"]) -> None:
        """Show the first photograph, in [-1, 1], to networks that want to see one."""
        raise NotImplementedError

    @property
    def normalizer(self) -> Normalizer:
        x, y, z, half = self.box.tolist()
        return Normalizer((x, y, z), half)

    # --- training ---

    @_beside_kernels
    def training_step(self, step: int, backward: Callable[[Tensor], None]) -> StepResult:
        self.prepare_step(step)
        self.head.grid.require_occupied(step)
        count = int(self.rays_per_step)
        rays, target = self._batch(count)
        background = self._background(count)
        rendering = self.render_batch(count, rays, self.uniform(count))
        prediction = rendering.color + (1 - rendering.opacity)[:, None] * background
        truth = composite_pixels(target, background)
        terms = self.loss_terms(step, rendering, prediction, truth, target)
        error = self.mean_of_pixels((prediction.detach() - truth).square())
        samples = torch.tensor(float(rendering.samples), device=self.device)
        whole = distributed.summed({**terms, "mse": error, "samples": samples})
        error, samples = whole.pop("mse"), whole.pop("samples")
        scalars = {
            "psnr": -10 * math.log10(max(float(error), 1e-12)),
            "rays": float(count),
            "samples": float(samples),
            "samples_per_ray": float(samples) / count,
            "occupied_fraction": float(self.head.grid.occupied_share),
            **self.figures(),
        }
        self._adapt_batch(count, int(samples))
        backward(torch.stack(list(terms.values())).sum())
        return StepResult(whole, scalars, phase=self.phase)

    def prepare_step(self, step: int) -> None:
        """What the host does for a step: its seed, and at times the occupancy grid."""
        # Seeded anew at every step: a resumed run draws what an uninterrupted one would have drawn.
        self.generator.manual_seed(self.config.seed * 1_000_003 + step)
        self.begin_step(step)
        if step % self.config.head.update_every == 0:
            self.head.update(self.field, step, self.generator)
        if self.cameras_inside is None:
            assert self.train_cameras is not None, "training needs use_training_data first"
            self.cameras_inside = self.normalizer.cameras_to_field(self.train_cameras)
            self._choose_pixels(self.train_cameras)
            _ = self.cameras_inside.is_distorted  # asked once, and not on the device's way through a step

    def _choose_pixels(self, cameras: Cameras) -> None:
        """Draw only pixels whose rays pass cells that may be occupied, ``drawn_share`` of all; the others' colours are
        the background's, whatever the field is."""
        drawn = shadow(self.head.grid.allowed, cameras, self.normalizer).flatten()
        share = float(drawn.sum()) / len(drawn)
        self.drawn, self.drawn_share = None, 1.0
        if share < NEARLY_ALL:
            place = drawn.nonzero().squeeze(1)
            self.drawn, self.drawn_share = place.int() if len(drawn) < 2**31 else place, share

    def mean_of_pixels(self, errors: Float[Tensor, "n ..."]) -> Float[Tensor, ""]:
        """This process's part of the mean over all pixels, from errors of drawn ones: those that are not drawn have
        errors without a gradient, which count as 0."""
        return self.drawn_share * distributed.mean(errors)

    def begin_step(self, step: int) -> None:
        """What has to happen before a step."""

    def uniform(self, count: int, *shape: int) -> Float[Tensor, "n ..."]:
        """This process's part of ``count`` random numbers, or arrays, in [0, 1)."""
        return distributed.own(torch.rand(count, *shape, device=self.device, generator=self.generator))

    def render_batch(self, count: int, rays: Rays, jitter: Float[Tensor, "n"]) -> Any:
        """This process's ``rays`` of a batch of ``count``."""
        return self.head(self.field, rays, jitter)

    def loss_terms(
        self,
        step: int,
        rendering: Any,
        prediction: Float[Tensor, "n 3"],
        truth: Float[Tensor, "n 3"],
        target: UInt8[Tensor, "n c"],
    ) -> dict[str, Float[Tensor, ""]]:
        """This process's part of the terms of a step's loss, by name: ``prediction`` is ``rendering`` over the
        background, as ``truth`` is ``target``."""
        raise NotImplementedError

    def figures(self) -> dict[str, float]:
        """Further figures to log."""
        return {}

    def _batch(self, count: int) -> tuple[Rays, Tensor]:
        """This process's part of ``count`` random pixels of those that are drawn: rays in field coordinates and their
        uint8 colours (N, C)."""
        cameras = self.cameras_inside
        assert cameras is not None, "prepare_step comes first"
        among = len(self.pixels) if self.drawn is None else len(self.drawn)
        place = distributed.own(torch.randint(among, (count,), device=self.device, generator=self.generator))
        index = place if self.drawn is None else self.drawn[place].long()
        area = cameras.width * cameras.height
        camera, pixel = index // area, index % area
        uv = torch.stack([pixel % cameras.width, pixel // cameras.width], dim=-1) + 0.5
        return cameras.rays(camera, uv), self.pixels[index]

    def _background(self, count: int) -> Float[Tensor, "#n 3"]:
        if self.config.background == "random":
            return self.uniform(count, 3)
        return torch.full((1, 3), BACKGROUNDS[self.config.background], device=self.device)

    def _adapt_batch(self, rays: int, samples: int) -> None:
        """Aim at a constant number of samples: the batch may at most double or halve from one step to the next."""
        wanted = rays * self.config.samples / max(samples, 1)
        wanted = min(max(wanted, 0.5 * rays), 2.0 * rays, self.config.max_rays)
        self.rays_per_step.fill_(max(64.0, float(distributed.processes()), wanted))

    # --- looking ---

    @_beside_kernels
    @torch.no_grad()
    def render(self, cameras: Cameras, index: int) -> Rendering:
        """One whole image, in chunks that fit the memory: arrays are (H * W, ...), depth is in world units.

        Raises:
            UserError: not even a few rows fit.
        """
        rows_at_once = max(1, int(RENDERED_AT_ONCE[self.device.type] * self.config.max_rays) // cameras.width)
        parts: list[Rendering] = []
        row = 0
        while row < cameras.height:
            rays = cameras.image_rays(index, slice(row, row + rows_at_once))
            try:
                parts.append(self.head(self.field, self.normalizer.rays_to_field(rays)))
                row += rows_at_once
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if rows_at_once == 1:
                    raise UserError(f"out of memory while rendering on {self.device}: raise --downscale") from None
                rows_at_once //= 2
        return Rendering(
            torch.cat([p.color for p in parts]),
            torch.cat([p.depth for p in parts]) * self.normalizer.half_size,
            torch.cat([p.opacity for p in parts]),
            sum(p.samples for p in parts),
            None if parts[0].normal is None else torch.cat([p.normal for p in parts if p.normal is not None]),
        )

    def render_view(self, cameras: Cameras, index: int, background: str) -> dict[str, Tensor]:
        """``color`` (H, W, 3) over ``background``, ``depth`` and ``opacity`` (H, W) of one camera; where the head knows
        it, ``normal`` (H, W, 3) in world axes."""
        rendering = self.render(cameras, index)
        shape = cameras.height, cameras.width
        color = rendering.color + (1 - rendering.opacity)[:, None] * BACKGROUNDS[background]
        view = {
            "color": color.clamp(0, 1).view(*shape, 3),
            "depth": rendering.depth.view(shape),
            "opacity": rendering.opacity.view(shape),
        }
        return view if rendering.normal is None else {**view, "normal": rendering.normal.view(*shape, 3)}

    @_beside_kernels
    @torch.no_grad()
    def surface_depth(self, cameras: Cameras, index: int) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
        """Where each ray of one camera has lost half its light, as a distance along the ray in world units (0 where it
        keeps more), and the opacity of each ray."""
        rays = self.normalizer.rays_to_field(cameras.image_rays(index))
        at_once = max(1, self.config.max_rays // 4)
        parts = [self.head.half_light(self.field, rays[i : i + at_once]) for i in range(0, len(rays), at_once)]
        shape = cameras.height, cameras.width
        depth = torch.cat([part[0] for part in parts]) * self.normalizer.half_size
        return depth.view(shape), torch.cat([part[1] for part in parts]).view(shape)

    @_beside_kernels
    @torch.no_grad()
    def lit_cells(self, rays: int = 2**19) -> Bool[Tensor, "r r r"]:
        """Cells of the occupancy grid that light reaches on its way to the training cameras, from about ``rays`` pixels
        spread evenly over all of them."""
        cameras = self.train_cameras
        assert cameras is not None, "a trained run keeps its cameras"
        lit = torch.zeros_like(self.head.grid.occupied)
        pixels = len(cameras) * cameras.width * cameras.height
        stride = max(1, math.isqrt(pixels // rays))
        u = torch.arange(stride // 2, cameras.width, stride, device=self.device) + 0.5
        v = torch.arange(stride // 2, cameras.height, stride, device=self.device) + 0.5
        uv = torch.cartesian_prod(u, v)
        for index in range(len(cameras)):
            camera = torch.full((len(uv),), index, device=self.device)
            every = self.normalizer.rays_to_field(cameras.rays(camera, uv))
            for begin in range(0, len(every), self.config.max_rays):
                self.head.mark_lit(self.field, every[begin : begin + self.config.max_rays], lit)
        return lit

    def score(self) -> None:
        """No step measures whole images."""

    def preview(self) -> Preview:
        """The first held-out view side by side: photograph, rendering, depth, opacity, and normals where there are
        any."""
        scene = self.preview_scene
        assert scene is not None, "a preview needs images"
        self.eval()
        view = self.render_view(scene.cameras.to(self.device), 0, self.config.eval_background)
        self.train()
        truth = reference_image(scene, 0, self.config.eval_background).to(self.device)
        panels = [truth, view["color"], depth_picture(view["depth"], view["opacity"]), gray(view["opacity"])]
        if "normal" in view:
            panels.append(normal_picture(view["normal"]))
        sheet = to_uint8(torch.cat(panels, dim=1))
        return Preview({"view": sheet}, {"psnr": float(psnr(view["color"], truth))})


def _held_out_view(config: PhotographsConfig) -> Scene | None:
    """The first view of the validation split, else of the test split, else None: to look at, not to choose by."""
    for split in ("val", "test"):
        try:
            return load_scene(config.data, split, config.downscale, config.test_every)[:1]
        except UserError:
            continue
    return None


def _with_cells(config: PhotographsConfig, cameras: Cameras, box: Normalizer) -> PhotographsConfig:
    """``config`` with the finest level of its hash grid, where that was left to the photographs."""
    grid = config.field.hash_grid
    if grid.finest is not None or "hash_grid" not in config.field.encoder:
        return config
    finest = max(grid.coarsest, min(pixels_across(cameras, box), MOST_CELLS))
    return replace(config, field=replace(config.field, hash_grid=replace(grid, finest=finest)))


def pixels_across(cameras: Cameras, box: Normalizer) -> int:
    """As many pixels as a side of ``box`` covers at its middle in the median photograph, in whole sixteens; for cameras
    inside, at a quarter of a side from them."""
    distance = (cameras.positions - torch.tensor(box.center)).norm(dim=-1).clamp_min(0.5 * box.half_size)
    pixels = 2 * box.half_size * cameras.focal.mean(dim=-1) / distance
    return 16 * math.ceil(float(pixels.median()) / 16)


def find_space(
    scene: Scene, config: PhotographsConfig, device: torch.device
) -> tuple[Normalizer, Bool[Tensor, "r r r"]]:
    """The cube a field should live in, and the cells of it that rays may be sampled in.

    With alpha, it is around the visual hull. Else it is the one that the data tell, or what all cameras see whole, and
    as large as ``config.box_scale`` says.

    Raises:
        UserError: the silhouettes leave no room (wrong poses, or blank images).
    """
    cameras = scene.cameras.to(device)
    box = cube_of_cameras(cameras)
    masks = scene.images[..., 3].to(device) > 0 if scene.has_alpha and config.head.visual_hull else None
    if masks is not None:
        box = _tight_box(masks, cameras, box, scene)
    else:
        box = scene.box or box
        box = Normalizer(box.center, config.box_scale * box.half_size)
    return box, visual_hull(masks, cameras, box, config.head.grid)


def _tight_box(masks: Bool[Tensor, "n h w"], cameras: Cameras, box: Normalizer, scene: Scene) -> Normalizer:
    """The cube around the visual hull; where the hull reaches the sides of the first guess, a larger one is tried."""
    for _ in range(GROWTHS):
        hull = visual_hull(masks, cameras, box, BOX_GRID)
        if not bool(hull.any()):
            raise UserError(
                f"{scene.path}: no point of space is inside all silhouettes: check the poses and the alpha channel, "
                "or use --head.no-visual-hull"
            )
        hull = _main_parts(hull)
        sides = (hull[0], hull[-1], hull[:, 0], hull[:, -1], hull[:, :, 0], hull[:, :, -1])
        if not any(bool(side.any()) for side in sides):
            return bounding_cube(hull, box)
        box = Normalizer(box.center, 1.5 * box.half_size)
    return box


def _main_parts(cells: Bool[Tensor, "r r r"]) -> Bool[Tensor, "r r r"]:
    """Without the connected pieces that have less than a twentieth of the largest one's cells: few views leave stray
    cells at the sides that no silhouette rules out."""
    from scipy import ndimage

    label, _ = ndimage.label(cells.cpu().numpy())
    sizes = np.bincount(label.ravel())
    sizes[0] = 0
    return torch.from_numpy((20 * sizes >= sizes.max())[label]).to(cells.device) & cells


def composite_pixels(pixels: UInt8[Tensor, "n c"], background: Float[Tensor, "#n 3"]) -> Float[Tensor, "n 3"]:
    """RGB or RGBA pixels (N, C) over a background (one for all, or one each), in [0, 1]."""
    values = pixels.float() / 255
    if values.shape[-1] == 3:
        return values
    alpha = values[:, 3:]
    return values[:, :3] * alpha + background * (1 - alpha)


def reference_image(scene: Scene, index: int, background: str) -> Float[Tensor, "h w 3"]:
    """A photograph over a plain background, in [0, 1]."""
    pixels = scene.images[index].reshape(-1, scene.images.shape[-1])
    flat = composite_pixels(pixels, torch.full((1, 3), BACKGROUNDS[background]))
    return flat.view(*scene.images.shape[1:3], 3)


def gray(values: Float[Tensor, "h w"]) -> Float[Tensor, "h w 3"]:
    return values.unsqueeze(-1).expand(-1, -1, 3)


def depth_picture(depth: Float[Tensor, "h w"], opacity: Float[Tensor, "h w"]) -> Float[Tensor, "h w 3"]:
    """Near bright, far dark, nothing black; scaled to the depths of opaque pixels."""
    seen = opacity > 0.5
    mean = depth / opacity.clamp_min(1e-6)
    if not bool(seen.any()):
        return gray(torch.zeros_like(depth))
    low, high = mean[seen].min(), mean[seen].max()
    return gray(torch.where(seen, 1 - 0.8 * (mean - low) / (high - low).clamp_min(1e-6), 0.0))


def normal_picture(normal: Float[Tensor, "h w 3"]) -> Float[Tensor, "h w 3"]:
    """Unit normals as colours: each axis from -1 to 1 as 0 to 1; no normal is white."""
    return torch.where(normal.square().sum(-1, keepdim=True) > 0, 0.5 + 0.5 * normal, 1.0)


def color_error(
    kind: Literal["l1", "huber", "mse"], prediction: Float[Tensor, "n 3"], truth: Float[Tensor, "n 3"]
) -> Float[Tensor, "n 3"]:
    """What the loss is the mean of, by ray and channel."""
    if kind == "mse":
        return F.mse_loss(prediction, truth, reduction="none")
    if kind == "l1":
        return F.l1_loss(prediction, truth, reduction="none")
    return F.huber_loss(prediction, truth, reduction="none", delta=0.1)


def to_uint8(image: Float[Tensor, "h w c"]) -> np.ndarray:
    return (image.float().clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu().numpy()
