"""Many runs, each brought to its end, or left as it is where it has ended: in this process, in several, or on Ray.

Whatever goes wrong with one run is told in its row; the others go on.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from recon3d.commands.train import fit
from recon3d.config import RunConfig
from recon3d.errors import UserError, require

Row = dict[str, Any]
LAST_WORDS = 120.0
"""Seconds that runs on Ray have to save what they have when all is stopped."""

_stopped = False  # in a worker: Ctrl-C has ended a run, so what is still waiting is not begun


@dataclass(frozen=True)
class Job:
    """One run: ``row`` is the beginning of its line in the table, ``measure`` gives the rest once it has ended.

    The configuration is resolved, and has a name and threads. ``measure`` is found by its name in other processes.
    """

    config: RunConfig
    preset: str
    row: Row
    measure: Callable[[Job], Row]

    @property
    def folder(self) -> Path:
        return self.config.out / str(self.config.name)


@dataclass(frozen=True)
class Placement:
    """Where runs are done, and how many at a time."""

    jobs: int = 1
    """Runs at a time on this machine, each in a process with its share of the cores."""
    ray: bool = False
    """On Ray: as many runs at a time as their shares fit the machine, or the cluster at --address."""
    address: str | None = None
    """Ray cluster: auto (of which this machine is one), or ray://HOST:PORT (default: one of this machine alone, which
    listens on 127.0.0.1 only)."""
    cpus: int | None = None
    """Cores of a run on Ray, and so its threads (default: 1)."""
    gpus: float | None = None
    """GPUs of a run on Ray; runs share one by fractions (default: 1 where there are some)."""

    def __post_init__(self) -> None:
        require(self.jobs >= 1, f"--jobs is {self.jobs}: give the number of runs at a time, 1 or more")
        require(self.cpus is None or self.cpus >= 1, f"--cpus is {self.cpus}: give 1 or more")
        require(self.gpus is None or self.gpus >= 0, f"--gpus is {self.gpus}: give 0 or more")
        for name in ("address", "cpus", "gpus"):
            require(self.ray or getattr(self, name) is None, f"--{name} is for --ray: give both")

    def threads(self, given: int | None) -> int:
        """CPU threads of a run whose settings give so many."""
        from recon3d.training.machine import physical_cores

        if self.ray:
            return self.cpus or given or 1
        return given or max(1, physical_cores() // self.jobs)

    def device(self) -> str:
        """What runs that do not say themselves are configured for, "cpu" or "cuda"."""
        if self.gpus is not None:
            return "cuda" if self.gpus else "cpu"
        from recon3d.training.machine import select_device

        return select_device("auto").type


def done(jobs: list[Job], placement: Placement) -> Iterator[Row]:
    """The rows of the jobs, as they end; after a Ctrl-C, what has been done until then is gone on from another time."""
    place = _on_ray if placement.ray else _in_processes if placement.jobs > 1 else _here
    try:
        for row in place(jobs, placement):
            if row.get("stopped"):
                raise KeyboardInterrupt
            yield row
    except KeyboardInterrupt:
        print("stopped: run the same command again to go on", file=sys.stderr)
        raise


def do(job: Job) -> Row:
    """Train, or go on, or leave as it is; then measure. What goes wrong is the row's error."""
    global _stopped
    if _stopped:
        return {**job.row, "stopped": True}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            if trained(job):
                return {**job.row, **job.measure(job)}
        _stopped = True
        return {**job.row, "stopped": True}
    except UserError as error:
        return {**job.row, "error": " ".join(str(error).splitlines())}
    except Exception as error:  # of a night's work only this run is lost
        return {**job.row, "error": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def trained(job: Job) -> bool:
    """Bring a run to the end of its budget; False where it was asked to stop before."""
    from recon3d.tasks import new_task
    from recon3d.training import checkpoints
    from recon3d.training.machine import prepare
    from recon3d.training.run_folder import RunFolder

    config = job.config
    begun = RunFolder(job.folder)
    resume = begun.config_file.is_file() and not config.overwrite
    if resume:
        if _what_matters(begun.read_config(), config) != _what_matters(config, config):
            raise UserError(f"{begun.path}: a run with other settings is there: give --name, or --overwrite")
        resume = any(begun.checkpoints.glob(checkpoints.PATTERN))
        if resume and _finished(begun, config):
            return True
    device, precision = prepare(config)
    task = new_task(config, device, precision)
    config = task.config
    run = begun if resume else RunFolder.create(replace(config, overwrite=True), job.preset)
    return not fit(task, config, run, device, precision, resume=resume)["stopped"]


def _what_matters(config: Any, wanted: Any) -> RunConfig:
    """A configuration without what does not change the outcome, and without what ``wanted`` leaves to the data."""
    if wanted.field.hash_grid.finest is None:
        config = replace(config, field=replace(config.field, hash_grid=replace(config.field.hash_grid, finest=None)))
    return replace(config, out=Path(), overwrite=False, device="auto", threads=None)


def _finished(run: Any, config: RunConfig) -> bool:
    from recon3d.training import checkpoints
    from recon3d.training.trainer import Progress

    _, header = checkpoints.load(checkpoints.newest(run.checkpoints))
    return Progress(header["step"], header["seconds"]).share(config) >= 1


# --- where they are done ----------------------------------------------------------------------------------------------


def _here(jobs: list[Job], placement: Placement) -> Iterator[Row]:
    yield from map(do, jobs)


def _in_processes(jobs: list[Job], placement: Placement) -> Iterator[Row]:
    pool = ProcessPoolExecutor(
        min(placement.jobs, len(jobs)), mp_context=get_context("spawn"), initializer=_without_bars
    )
    try:
        waiting = {pool.submit(do, job): job for job in jobs}
        for future in as_completed(waiting):
            try:
                yield future.result()
            except BrokenProcessPool:
                yield {**waiting[future].row, "error": "its process was ended from outside (out of memory?)"}
    finally:
        pool.shutdown(cancel_futures=True)


def _without_bars() -> None:
    os.environ["TQDM_DISABLE"] = "1"


# --- Ray ------------------------------------------------------------------------------------------------------------


def _on_ray(jobs: list[Job], placement: Placement) -> Iterator[Row]:
    ray = _connected(placement)
    gpus = _gpus(ray, placement, max(int(job.config.threads or 1) for job in jobs))
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        remote = ray.remote(num_gpus=gpus, max_retries=0)(do)
        waiting = {remote.options(num_cpus=job.config.threads).remote(job): job for job in jobs}
        try:
            while waiting:
                (ended, *_), _ = ray.wait(list(waiting))
                yield _row(ray, ended, waiting.pop(ended))
        except KeyboardInterrupt:
            for reference in waiting:  # a run takes it for a Ctrl-C: it saves and stops
                ray.cancel(reference)
            ray.wait(list(waiting), num_returns=len(waiting), timeout=LAST_WORDS)
            raise
    finally:
        signal.signal(signal.SIGTERM, before)
        ray.shutdown()


def _connected(placement: Placement) -> Any:
    """Ray, connected to a cluster, or to one on this machine that ends with us.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """
    from recon3d.training.machine import physical_cores

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if placement.address is None:
        # Or its servers would listen on all interfaces of the machine; read when ray is imported.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray
    except ImportError:
        raise UserError("--ray needs Ray: pip install 'recon3d[sweep]', or use --jobs N") from None
    try:
        own = {"num_cpus": physical_cores(), "include_dashboard": False}
        given = own if placement.address is None else {"address": placement.address}
        ray.init(**given, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = placement.address or "this machine"
        raise UserError(f"--ray: no Ray cluster on {where} ({str(error).splitlines()[0]})") from None
    return ray


def _gpus(ray: Any, placement: Placement, cpus: int) -> float:
    """GPUs of a run that has at most so many cores.

    Raises:
        UserError: no machine of the cluster has what a run is to have: it would wait forever.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = placement.gpus
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU", 0) for node in nodes) else 0.0
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        most = ", ".join(f"{node.get('CPU', 0):g} cores and {node.get('GPU', 0):g} GPUs" for node in nodes)
        ray.shutdown()
        raise UserError(f"--ray: no machine has {cpus} cores and {gpus:g} GPUs for a run (there are: {most})")
    return gpus


def _row(ray: Any, ended: Any, job: Job) -> Row:
    try:
        return ray.get(ended)
    except ray.exceptions.TaskCancelledError:
        return {**job.row, "stopped": True}
    except ray.exceptions.RayError as error:
        return {**job.row, "error": f"its process was ended from outside ({type(error).__name__}; out of memory?)"}
