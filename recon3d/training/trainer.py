"""The trainer: steps, schedule, checkpoints, logs and clean stops. It knows tasks by the protocol below only."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from recon3d import distributed
from recon3d.config import OptimizerConfig, RunConfig, to_plain
from recon3d.errors import Diverged, UserError
from recon3d.files import cannot_write
from recon3d.training import checkpoints
from recon3d.training.adam import Adam
from recon3d.training.recorded import RecordedStep
from recon3d.training.run_folder import RunFolder


@dataclass(frozen=True)
class StepResult:
    """What a training step tells of itself."""

    terms: dict[str, Tensor]
    """The loss is their sum; they have names, so that a NaN can be told."""
    scalars: dict[str, float]
    """Figures to log."""
    score: float | None = None
    """How good the weights were before this step's update, where the step has measured just that; more is better."""
    phase: str = ""
    """What is being trained, where that changes during a run: for the progress bar."""


@dataclass(frozen=True)
class Preview:
    """What a task shows of itself during training: images (H, W, 3) uint8 by name, and figures."""

    images: dict[str, np.ndarray]
    scalars: dict[str, float]
    score: float | None = None
    """How good the weights are, for tasks whose steps do not tell; more is better."""


class Task(Protocol):
    """What the trainer needs of a task: a module (its state is what a checkpoint keeps) with these methods."""

    unit: str
    """What the steps' scalars count the work by: rays, points."""

    spent: float
    """Share of the budget that is spent: the trainer tells it before every step."""

    def parameter_groups(self, config: OptimizerConfig) -> list[dict[str, Any]]: ...

    def training_step(self, step: int, backward: Callable[[Tensor], None]) -> StepResult:
        """Calls ``backward(loss)`` for every part of the batch: the gradients of the parts add up, and so do those of
        several processes (:mod:`recon3d.distributed`). The result is that of the whole batch in all of them."""
        ...

    def preview(self) -> Preview:
        """Asked of the first process only."""
        ...

    def score(self) -> float | None:
        """How good the weights are now, by the measure of the steps' scores; None for tasks that have none. Asked of
        the first process only."""
        ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> object: ...


@dataclass
class Progress:
    """How far a run is: finished steps, and seconds spent training (without evaluation and saving)."""

    step: int = 0
    seconds: float = 0.0

    def share(self, config: RunConfig) -> float:
        """Share of the budget that is spent, by steps or by time, whichever is nearer its end."""
        by_steps = self.step / config.steps if config.steps else 0.0
        by_time = self.seconds / config.max_seconds if config.max_seconds else 0.0
        return max(by_steps, by_time)


@dataclass
class Best:
    """The best state so far: after ``step`` steps. ``state`` is None where it is on the disk only."""

    step: int
    score: float
    state: dict[str, Tensor] | None


def learning_rate_factor(progress: Progress, config: RunConfig, optimizer: OptimizerConfig) -> float:
    """Linear warm-up over the first steps, and half a cosine from 1 to ``final_share`` over the budget, or over
    ``decay_steps`` where they are given."""
    decay = optimizer.decay_steps
    share = progress.share(config) if decay is None else progress.step / decay
    warmup = min(1.0, (progress.step + 1) / (optimizer.warmup_steps + 1))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    return warmup * (optimizer.final_share + (1 - optimizer.final_share) * cosine)


class Trainer:
    """Trains ``task`` into a run folder, from its newest checkpoint if ``resume``.

    Of several processes (:mod:`recon3d.distributed`) only the first writes into the folder.

    On a GPU, steps of a task that is ``recordable`` run as one CUDA graph (:mod:`recon3d.training.recorded`), but for
    those whose figures are logged: between them the figures are the last ones. (Where ``visit`` wants those of every
    step, none is recorded.) Such a task has ``generator``, ``prepare_step(step)``, for the host, and
    ``device_step(backward)``, a step after it without a word to the host.

    A task may have ``finish``: a function, or None, to call when the budget is spent, before its last score and
    checkpoint.
    """

    def __init__(
        self,
        task: Any,
        config: RunConfig,
        optimizer: OptimizerConfig,
        run: RunFolder,
        device: torch.device,
        precision: torch.dtype,
        resume: bool = False,
    ) -> None:
        self.task, self.config, self.optimizer_config, self.run = task, config, optimizer, run
        self.device = device
        self.progress = Progress()
        self.best: Best | None = None
        self.phase = ""
        self.optimizer = Adam(task.parameter_groups(optimizer), betas=optimizer.betas, eps=optimizer.epsilon)
        self.base_rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
        recordable = getattr(task, "recordable", False)
        self.recorded = RecordedStep(self._device_step, task.generator) if recordable else None
        self.figures: dict[str, float] = {}
        if resume:
            self._load()
        distributed.start_alike([*task.parameters(), *task.buffers()])

    # --- the loop ---

    def train(self, visit: Callable[[int, dict[str, float]], None] | None = None) -> dict[str, Any]:
        """Train until the budget is spent or a signal asks to stop; the state is saved in both cases.

        ``visit`` is called after every step with the number of finished steps and the step's figures, and its time is
        not counted. Returns the figures of the run: steps, seconds, whether it was stopped, the last scalars, and the
        best score with its step where the task tells scores.

        Raises:
            UserError: the loss is not finite, memory ran out, or the disk is full; the last checkpoint stays.
        """
        try:
            with _summary_writer(self.run, self.progress.step) as writer:
                return self._train(writer, visit)
        except OSError as error:
            raise cannot_write(self.run.path, error) from None

    def _train(self, writer: Any, visit: Callable[[int, dict[str, float]], None] | None) -> dict[str, Any]:
        scalars: dict[str, float] = {}
        config, progress = self.config, self.progress
        bar = tqdm(total=config.steps, initial=progress.step, unit="step", dynamic_ncols=True, leave=True)
        unit = self.task.unit
        window_step, window_seconds, window_work = progress.step, progress.seconds, 0.0
        saved_at = -1
        with _stop_requests() as stopped, bar:
            while self._goes_on(stopped):
                begin = time.perf_counter()
                scalars = self._step(told=visit is not None)
                progress.step += 1
                progress.seconds += time.perf_counter() - begin
                window_work += scalars.get(unit, 0.0)
                bar.update()
                if visit is not None:
                    visit(progress.step, scalars)
                if progress.step % config.log_every == 0 or progress.step == 1:
                    spent = max(progress.seconds - window_seconds, 1e-9)
                    scalars["step_ms"] = 1000 * spent / (progress.step - window_step)
                    scalars[f"{unit}_per_second"] = window_work / spent
                    window_step, window_seconds, window_work = progress.step, progress.seconds, 0.0
                    self._log(writer, scalars)
                    bar.set_description_str(self.phase, refresh=False)
                    bar.set_postfix_str(_postfix(scalars, unit, progress, config))
                if progress.step % config.preview_every == 0:
                    self._preview(writer)
                if progress.step % config.checkpoint_every == 0:
                    self.save()
                    saved_at = progress.step
            finish = getattr(self.task, "finish", None)
            if progress.share(config) >= 1 and finish is not None:
                bar.set_description_str("finishing")
                begin = time.perf_counter()
                finish()
                progress.seconds += time.perf_counter() - begin
                saved_at = -1
        if distributed.is_first():
            self._keep_if_best(self.task.score())
        if saved_at != progress.step or (self.best is not None and self.best.step == progress.step):
            self.save()
        figures = {
            "steps": progress.step,
            "seconds": round(progress.seconds, 3),
            "stopped": progress.share(config) < 1,
            **scalars,
        }
        if self.best is not None:
            figures.update(best_score=self.best.score, best_step=self.best.step)
        if writer is not None:
            _add_hparams(writer, config, figures)
        return figures

    def _goes_on(self, stopped: _Stop) -> bool:
        """Whether there is a step to do; all processes decide alike."""
        stop, self.progress.seconds = distributed.agreed(bool(stopped), self.progress.seconds)
        return not stop and self.progress.share(self.config) < 1

    def _step(self, told: bool) -> dict[str, float]:
        """One step; ``told``: its own figures are wanted."""
        told = told or self.recorded is None or (self.progress.step + 1) % self.config.log_every == 0
        factor = learning_rate_factor(self.progress, self.config, self.optimizer_config)
        self.optimizer.set_rates([rate * factor for rate in self.base_rates])
        try:
            self.task.spent = self.progress.share(self.config)
            if told or not self.figures:
                self.figures = self._told_step()
            else:
                assert self.recorded is not None
                self.task.prepare_step(self.progress.step)
                self.recorded()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"out of memory at step {self.progress.step} on {self.device}: give smaller batches or smaller images "
                "(nerf: --samples, --downscale; image, audio, video, shape: --batch, --chunk; ct: --chunk, --bin); "
                "the last checkpoint is intact"
            ) from None
        return {**self.figures, "learning_rate": self.base_rates[0] * factor}

    def _told_step(self) -> dict[str, float]:
        """A step that the host watches; its figures."""
        self.optimizer.zero_grad(set_to_none=True)
        result = self.task.training_step(self.progress.step, self._backward)
        self.phase = result.phase
        scalars = {**result.scalars, "loss": sum(float(term) for term in result.terms.values())}
        if not math.isfinite(scalars["loss"]):
            self._refuse(result.terms)
        self._keep_if_best(result.score)
        distributed.add_gradients(weight for group in self.optimizer.param_groups for weight in group["params"])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return scalars

    def _device_step(self) -> None:
        """A step that the host only starts."""
        self.optimizer.zero_grad(set_to_none=True)
        self.task.device_step(self._backward)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _backward(self, loss: Tensor) -> None:
        if loss.requires_grad:  # a part may have met none of the weights
            self.scaler.scale(loss).backward()

    def _keep_if_best(self, score: float | None) -> None:
        """Remember the state as it is now, if nothing scored more before."""
        if score is None or (self.best is not None and score <= self.best.score) or not distributed.is_first():
            return
        kept = {name: value.detach().clone() for name, value in self.task.state_dict().items()}
        self.best = Best(self.progress.step, score, kept)

    def _refuse(self, terms: dict[str, Tensor]) -> None:
        bad = [name for name, value in terms.items() if not _is_finite(value)] or ["loss"]
        raise self._diverged(f"loss is not finite at step {self.progress.step} (term: {', '.join(bad)})")

    def _diverged(self, what: str) -> Diverged:
        saved = sorted(self.run.checkpoints.glob(checkpoints.PATTERN))
        kept = f"the last good checkpoint is {saved[-1]}" if saved else "nothing was saved yet"
        return Diverged(f"{what}: training stopped, {kept}; lower --optimizer.learning-rate or use --precision float32")

    # --- state ---

    def save(self) -> None:
        """Write a checkpoint of the task, the optimiser and the progress, in the first process.

        Raises:
            UserError: the weights are not finite, or the disk is full; the checkpoints before stay.
        """
        if not distributed.is_first():
            return
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        if not all(_is_finite(weight) for weight in weights):
            raise self._diverged(f"weights are not finite after step {self.progress.step}")
        tensors = {f"task.{name}": value for name, value in self.task.state_dict().items()}
        state = self.optimizer.state_dict()["state"]
        for index, entries in state.items():
            for key, value in entries.items():
                tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value)
        header = {"seconds": self.progress.seconds, "scaler": self.scaler.state_dict()}
        if self.best is not None:
            header["best"] = [self.best.step, self.best.score]
            if self.best.state is not None:
                best = {f"task.{name}": value for name, value in self.best.state.items()}
                checkpoints.save_best(self.run.checkpoints, self.best.step, best, {"score": self.best.score})
        checkpoints.save(self.run.checkpoints, self.progress.step, tensors, header)

    def _load(self) -> None:
        path = checkpoints.newest(self.run.checkpoints)
        tensors, header = checkpoints.load(path, self.device)
        _fill(self.task.load_state_dict, tensors, path)
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _with_prefix(tensors, "optimizer.").items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        if header["scaler"]:
            self.scaler.load_state_dict(header["scaler"])
        self.progress = Progress(header["step"], header["seconds"])
        if "best" in header:
            step, score = header["best"]
            self.best = Best(step, score, state=None)
        if distributed.is_first():
            self.run.forget_after(self.progress.step)

    # --- records ---

    def _log(self, writer: Any, scalars: dict[str, float]) -> None:
        if writer is None:
            return
        step = self.progress.step
        self.run.log({"step": step, "seconds": round(self.progress.seconds, 3), **scalars})
        for name, value in scalars.items():
            writer.add_scalar(f"train/{name}", value, step)

    def _preview(self, writer: Any) -> None:
        if writer is None:
            return
        preview = self.task.preview()
        step = self.progress.step
        for name, image in preview.images.items():
            writer.add_image(f"preview/{name}", image, step, dataformats="HWC")
            self.run.write_image(f"previews/{name}_{step:08d}.png", image)
        for name, value in preview.scalars.items():
            writer.add_scalar(f"preview/{name}", value, step)
        self.run.log({"step": step, **{f"preview_{k}": v for k, v in preview.scalars.items()}})
        self._keep_if_best(preview.score)


def load_task_state(task: nn.Module, run: RunFolder, device: torch.device, state: str = "last") -> int:
    """Fill a task from a run's newest checkpoint, without the optimiser's state; returns the step.

    With ``state`` "best", from the best state instead, where the run kept one.
    """
    best = run.checkpoints / checkpoints.BEST
    path = best if state == "best" and best.is_file() else checkpoints.newest(run.checkpoints)
    tensors, header = checkpoints.load(path, device)
    _fill(task.load_state_dict, tensors, path)
    return int(header["step"])


def _fill(load: Callable[[dict[str, Tensor]], object], tensors: dict[str, Tensor], path: Path) -> None:
    """Give a task, by its ``load_state_dict``, the state that a checkpoint has.

    Raises:
        UserError: its names or shapes are not those of the task.
    """
    try:
        load(_with_prefix(tensors, "task."))
    except RuntimeError as error:
        what = str(error).splitlines()[1:] or [str(error)]
        raise UserError(
            f"{path}: its weights are not those of the run's config.yaml ({what[0].strip().rstrip('.')}); another "
            "version of recon3d may have made it: train again with --overwrite"
        ) from None


def _is_finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of torch or Python means that memory ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@contextmanager
def _summary_writer(run: RunFolder, step: int) -> Iterator[Any]:
    """A TensorBoard writer that goes on after ``step``, and is closed whatever happens, so that nothing is lost; None
    in all processes but the first."""
    if not distributed.is_first():
        yield None
        return
    from torch.utils.tensorboard import SummaryWriter

    # The thread that writes raises what went wrong at the next entry; it need not print it as well.
    old = threading.excepthook
    threading.excepthook = lambda args: None if issubclass(args.exc_type, OSError) else old(args)
    writer = SummaryWriter(str(run.path), purge_step=step + 1 if step else None)
    try:
        writer.add_text("config", "```\n" + run.config_file.read_text() + "\n```")
        yield writer
    finally:
        threading.excepthook = old
        with suppress(OSError):  # a full disk is told by whoever found it first
            writer.close()


def _add_hparams(writer: Any, config: RunConfig, figures: dict[str, Any]) -> None:
    flat: dict[str, Any] = {}

    def flatten(values: dict[str, Any], prefix: str) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                flatten(value, f"{prefix}{key}.")
            elif isinstance(value, list):
                flat[prefix + key] = " ".join(map(str, value))
            else:
                flat[prefix + key] = value if isinstance(value, bool | int | float) else str(value)

    flatten(to_plain(config), "")
    numbers = {f"final/{k}": float(v) for k, v in figures.items() if isinstance(v, int | float)}
    writer.add_hparams(flat, numbers, run_name=".")


def _postfix(scalars: dict[str, float], unit: str, progress: Progress, config: RunConfig) -> str:
    parts = []
    if "psnr" in scalars:
        parts.append(f"{scalars['psnr']:.2f} dB")
    rate = scalars.get(f"{unit}_per_second")
    if rate is not None:
        parts.append(f"{rate / 1000:.0f}k {unit}/s")
    share = progress.share(config)
    if share > 0:
        parts.append(f"{progress.seconds * (1 - share) / share:.0f} s left")
    return ", ".join(parts)


class _Stop:
    def __init__(self) -> None:
        self.requested = False

    def __bool__(self) -> bool:
        return self.requested


@contextmanager
def _stop_requests() -> Iterator[_Stop]:
    """Within it, the first SIGINT or SIGTERM asks for a stop after the current step; a second SIGINT interrupts."""
    stop = _Stop()
    old: dict[signal.Signals, Any] = {}

    def ask(signum: int, frame: object) -> None:
        stop.requested = True
        signal.signal(signal.SIGINT, old[signal.SIGINT])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            old[number] = signal.signal(number, ask)
        yield stop
    finally:
        for number in old:
            signal.signal(number, old[number])
