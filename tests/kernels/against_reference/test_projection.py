"""The projector and its transpose."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import SCANS, move, projection_inputs
from torch.testing import assert_close

from recon3d.kernels.projection import reference

PROJECTIONS = [(scan, torch.float64, 1e-12) for scan in SCANS]
PROJECTIONS += [(scan, torch.float32, 3e-6) for scan in ("diagonal", "far", "arc", "cone")]


@pytest.mark.parametrize(("scan", "dtype", "tolerance"), PROJECTIONS)
def test_projection(implementation, scan, dtype, tolerance):
    module = implementation.of("projection")
    volume, projections, forward, backward = projection_inputs(scan, dtype)
    truth = reference.project(volume.double(), *forward)
    value = module.project(volume.to(implementation.device), *forward).cpu()
    assert value.dtype == dtype and value.shape == truth.shape
    assert (value - truth).abs().max() < tolerance * truth.abs().max()
    truth = reference.back_project(projections.double(), *backward)
    value = module.back_project(projections.to(implementation.device), *backward).cpu()
    assert value.dtype == dtype and value.shape == truth.shape
    assert (value - truth).abs().max() < tolerance * truth.abs().max()


def test_of_nothing_and_strided(implementation):
    module = implementation.of("projection")
    volume, projections, forward, backward = projection_inputs("cone", torch.float64)
    volume, projections = move((volume, projections), implementation.device)
    none = forward[0][:0]
    assert module.project(volume, none, *forward[1:]).shape == (0, 7, 8)
    assert not module.back_project(projections[:0], none, *backward[1:]).any()
    for run, value, rest in ((module.project, volume, forward), (module.back_project, projections, backward)):
        strided = value.mT.contiguous().mT
        assert not strided.is_contiguous()
        assert_close(run(strided, *rest), run(value, *rest))
