"""Shared by the tests of commands."""

import pytest
import torch

from recon3d.commands import jobs


@pytest.fixture
def as_before(monkeypatch):
    """Jobs that are run here leave the process as it was: its threads, and that nobody asked to stop."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(jobs, "_stopped", False)
    yield
    torch.set_num_threads(threads)
