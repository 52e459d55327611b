"""The smallest task there is: the trainer is tested on it, so that it knows nothing of radiance fields."""

import math

import numpy as np
import torch
from torch import nn

from recon3d.config import NerfConfig, OptimizerConfig
from recon3d.training.run_folder import RunFolder
from recon3d.training.trainer import Preview, StepResult, Trainer

CPU = torch.device("cpu")


class Toy(nn.Module):
    """Fits a vector to noisy targets that are drawn anew at every step; ``hook(task, step)`` may do mischief."""

    unit = "rays"

    def __init__(self, hook=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8))
        self.unused = nn.Parameter(torch.ones(3))  # never gets a gradient, so has no state in the optimiser
        self.register_buffer("visits", torch.zeros((), dtype=torch.int64))
        self.hook = hook
        self.steps, self.rates, self.previews = [], [], 0
        self.extra = 0.0
        self.step_score = self.last_score = None

    def parameter_groups(self, config):
        return [
            {"params": [self.weight], "lr": config.learning_rate, "weight_decay": config.weight_decay},
            {"params": [self.unused], "lr": config.learning_rate, "weight_decay": 0.0},
        ]

    def training_step(self, step, backward):
        self.extra = torch.zeros(())
        if self.hook is not None:
            self.hook(self, step)
        self.steps.append(step)
        self.visits += 1
        noise = torch.randn(8, generator=torch.Generator().manual_seed(step))
        fit = (self.weight - 1 - 0.1 * noise).square().mean()
        size = 0.01 * self.weight.square().mean() + self.extra
        scalars = {"psnr": -10 * math.log10(float(fit.detach())), "rays": 10.0}
        backward(fit + size)
        return StepResult({"fit": fit.detach(), "size": size.detach()}, scalars, self.step_score)

    def score(self):
        return self.last_score

    def preview(self):
        self.previews += 1
        return Preview({"view": np.full((4, 6, 3), 128, dtype=np.uint8)}, {"psnr": 12.5})


def config_in(folder, **changes):
    values = {"data": folder, "out": folder, "name": "run", "steps": 20, "log_every": 5, **changes}
    return NerfConfig(**values)


OPTIMIZER = OptimizerConfig(learning_rate=0.1, warmup_steps=4)


def trainer_for(folder, hook=None, resume=False, optimizer=OPTIMIZER, **changes):
    config = config_in(folder, **changes)
    run = RunFolder.open(folder / "run") if resume else RunFolder.create(config, "toy")
    return Trainer(Toy(hook), config, optimizer, run, CPU, torch.float32, resume=resume)
