"""Small trainings of every task: by one process or by two together (test_distributed.py), on the CPU or on a GPU that
is not there (test_emulated_gpu.py)."""

import os
import signal
import socket
import sys
import traceback

import torch
from geometry.ball import write_ball_folder
from tasks.pictures import write_image
from tasks.scans import cone_scan, slice_scan
from tasks.shapes import write_ball, write_points
from torch.multiprocessing import get_context

from recon3d import distributed
from recon3d.config import (
    CtConfig,
    FieldConfig,
    HashGridConfig,
    ImageConfig,
    NerfConfig,
    OptimizerConfig,
    RadianceFieldConfig,
    RenderConfig,
    ShapeConfig,
    SurfaceConfig,
    SurfaceFieldConfig,
    SurfaceRenderConfig,
)
from recon3d.config.ct import RaysConfig
from recon3d.config.shapes import SampleConfig
from recon3d.errors import UserError
from recon3d.tasks import new_task
from recon3d.training.run_folder import RunFolder
from recon3d.training.trainer import Trainer

STEPS = 5
CPU = torch.device("cpu")
ADAM = OptimizerConfig(learning_rate=1e-2, warmup_steps=2, final_share=1.0)
GRID = HashGridConfig(levels=4, log2_size=10, coarsest=4, finest=32)
FIELD = FieldConfig(width=16, depth=1, hash_grid=GRID)
PHOTOGRAPHS = {"samples": 2048, "max_rays": 512}
HEAD = {"grid": 16, "samples_per_diagonal": 64, "update_every": 2, "warmup_steps": 2}
MADE = {
    "nerf": (NerfConfig, "ball", {
        **PHOTOGRAPHS,
        "field": RadianceFieldConfig(hash_grid=GRID, width=16, color_width=16),
        "head": RenderConfig(**HEAD),
    }),
    "surface": (SurfaceConfig, "ball", {
        **PHOTOGRAPHS, "space_points": 63, "mask": 0.1, "curvature": 1e-3,
        "field": SurfaceFieldConfig(hash_grid=GRID, width=16, color_width=16, first_levels=2, level_every=2),
        "head": SurfaceRenderConfig(**HEAD),
    }),
    "ct": (CtConfig, "slice.npz", {"field": FIELD, "tv": 0.1, "loss": "poisson", "chunk": 100}),
    "ct_rays": (CtConfig, "cone.npz", {
        "field": FIELD, "tv": 0.1, "projector": "rays",
        "rays": RaysConfig(batch=101, grid=16, update_every=2, warmup_steps=2, samples_per_diagonal=64),
    }),
    "image": (ImageConfig, "image.png", {"field": FieldConfig(encoder=("identity",), network="siren", width=16)}),
    "batches": (ImageConfig, "image.png", {"field": FIELD, "batch": 101, "holdout": 0.1}),
    "sdf": (ShapeConfig, "ball.ply", {"field": FIELD, "batch": 501, "samples": SampleConfig(pool=4096)}),
    "points": (ShapeConfig, "ball.xyz", {"field": FIELD, "batch": 501, "supervision": "oriented_points"}),
}  # fmt: skip
"""Configuration class, data and settings of each."""


def write_data(folder):
    """What the trainings take."""
    write_ball_folder(folder / "ball", train=6, test=1)
    slice_scan(folder / "slice.npz")
    cone_scan(folder / "cone.npz")
    write_image(folder / "image.png", 15, 21)
    write_ball(folder / "ball.ply", subdivisions=2)
    write_points(folder / "ball.xyz", count=500)
    return folder


def trainer_of(name, data, out, resume=False, device=CPU, **changes):
    kind, file, settings = MADE[name]
    values = {"steps": STEPS, "log_every": 1, "precision": "float32", "optimizer": ADAM, **settings, **changes}
    config = kind(data=data / file, out=out, name=name, **values).resolved()
    torch.manual_seed(0)
    task = new_task(config, device, torch.float32)
    run = RunFolder.open(out / name) if resume else RunFolder.create(config, name)
    return Trainer(task, config, config.optimizer, run, device, torch.float32, resume=resume)


def train(name, data, out, **changes):
    """The figures of every step, and the weights at the end."""
    trainer, figures = trainer_of(name, data, out, **changes), []
    trainer.train(lambda step, scalars: figures.append({key: float(value) for key, value in scalars.items()}))
    return figures, {key: value.clone() for key, value in trainer.task.state_dict().items()}


# --- what the two processes do --------------------------------------------------------------------------------------


def all_tasks(data, out):
    return {name: train(name, data, out) for name in MADE}


def stop_at_a_signal(data, out):
    """One of the two is asked to stop; both do, after the same step."""
    trainer = trainer_of("image", data, out, steps=10**6)

    def ask(step, scalars):
        if step == 3 and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    return trainer.train(ask)["steps"]


def stop_by_the_clock(data, out):
    return trainer_of("image", data, out, steps=None, max_seconds=0.05).train()["steps"]


def gradients():
    """Large and small ones, and some that one process, or none, has."""
    weights = [torch.nn.Parameter(torch.zeros(size)) for size in (distributed.LARGE, 3, 2, 5)]
    first = distributed.is_first()
    weights[0].grad = torch.full((distributed.LARGE,), 1.0 + distributed.rank())
    weights[1].grad = torch.arange(3.0)
    weights[2].grad = torch.ones(2) if first else None
    distributed.add_gradients(weights)
    return [weight.grad for weight in weights]


def parts():
    rows = torch.arange(7.0)
    return {
        "own": distributed.own(rows),
        "mapped": distributed.mapped(lambda part: part.unsqueeze(1) ** 2, rows),
        "mean": float(distributed.added(distributed.mean(distributed.own(rows)))),
        "once": float(distributed.added(distributed.once(torch.tensor(3.0)))),
        "none": float(distributed.mean(rows[:0])),
        "largest": float(distributed.largest(torch.tensor(float(distributed.rank())))),
        "from_first": distributed.from_first(lambda: [distributed.rank()]),
        "agreed": distributed.agreed(not distributed.is_first(), 1.0 + distributed.rank()),
    }


def one_fails(data, out):
    """The second finds a disk that is full, the first is in the middle of its work."""
    trainer = trainer_of("image", data, out, steps=10**6)

    def fail(step, scalars):
        if step == 3 and distributed.rank() == 1:
            raise UserError("the disk is full")

    trainer.train(fail)


def work(number, port, data, out, folder):
    """What a process does, as if torchrun had started it; what it finds is left in ``folder``."""
    here = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in here.items()}}
    torch.set_num_threads(1)
    try:
        with distributed.joined():
            found = {
                "parts": parts(),
                "gradients": gradients(),
                "tasks": all_tasks(data, out),
                "signal": stop_at_a_signal(data, out / "signal"),
                "clock": stop_by_the_clock(data, out / "clock"),
            }
            torch.save(found, folder / f"{number}.pt")
            one_fails(data, out / "fails")
    except (UserError, SystemExit) as error:
        (folder / f"{number}.txt").write_text(repr(error))
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
        raise


def two_processes(data, out, folder):
    """Start them, and wait for their end; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    context = get_context("spawn")
    both = [context.Process(target=work, args=(i, port, data, out, folder)) for i in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(600)  # a busy machine; by itself it takes some seconds
        process.kill()
    return [process.exitcode for process in both]
