"""A recorded step repeats what its function does."""

import pytest
import torch

from recon3d.training.adam import Adam
from recon3d.training.recorded import WARM_UP, RecordedStep

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_a_recording_is_the_function():
    """Seeds and learning rates that change between calls are followed; gradients, scaler and state move on."""
    device = torch.device("cuda")
    ends = []
    for recorded in (True, False):
        generator = torch.Generator(device)
        weight = torch.ones(64, 2, device=device, requires_grad=True)
        optimizer = Adam([{"params": [weight], "lr": 0.1, "tables": True}], (0.9, 0.99), 1e-15)
        scaler = torch.amp.GradScaler("cuda")

        def step(weight=weight, optimizer=optimizer, scaler=scaler, generator=generator):
            optimizer.zero_grad(set_to_none=True)
            noise = torch.randn(weight.shape, device=weight.device, generator=generator)
            scaler.scale((weight - noise).square().sum()).backward()
            scaler.step(optimizer)
            scaler.update()

        run = RecordedStep(step, generator) if recorded else step
        for index in range(10):
            generator.manual_seed(index)
            optimizer.set_rates([0.1 / (index + 1)])
            run()
        assert not recorded or run.graph is not None
        ends.append((weight.detach().cpu(), optimizer.state[weight]["step"].cpu()))
    torch.testing.assert_close(ends[0], ends[1])
    assert ends[0][1].tolist() == [10.0] * 64


def test_what_cannot_be_recorded_is_done_step_by_step():
    """A function that asks the device for a number: a warning says so, and its draws go on as if nothing had been."""
    device = torch.device("cuda")
    ends = []
    for recorded in (True, False):
        generator, sums = torch.Generator(device), []

        def step(generator=generator, sums=sums):
            sums.append(float(torch.rand(5, device=device, generator=generator).sum()))

        run = RecordedStep(step, generator) if recorded else step
        for index in range(8):
            generator.manual_seed(index)
            if recorded and index == WARM_UP:
                with pytest.warns(UserWarning, match="cannot be recorded"):
                    run()
            else:
                run()
        ends.append(sums[-4:])
    assert ends[0] == ends[1]
    assert torch.rand(3, device=device).isfinite().all()
