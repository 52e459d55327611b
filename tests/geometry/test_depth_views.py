"""Depths of a known ball as cameras see them, and what they vote for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from geometry.seen_ball import HOME, RADIUS, SIZE, Ball, Thin, around
from recon3d.errors import UserError
from recon3d.geometry.cameras import Cameras
from recon3d.geometry.depth_views import along_axis, mean_vote, truncation_for, views_of


def test_depth_is_along_the_axis_not_the_ray() -> None:
    cameras = around(2)
    wall = torch.full((SIZE, SIZE), 2.0) / along_axis(cameras, 0)  # distances along rays to a wall across the axis

    class Wall:
        def surface_depth(self, cameras: Cameras, index: int):
            return wall, torch.ones(SIZE, SIZE)

    (view,) = views_of(Wall(), cameras, [0])
    np.testing.assert_allclose(view.depth, 2.0, rtol=1e-6)
    rays = cameras.image_rays(0)
    cosine = (rays.directions * cameras.forward_axes[0]).sum(-1).view(SIZE, SIZE)
    torch.testing.assert_close(along_axis(cameras, 0), cosine)


def test_only_what_is_opaque_is_seen() -> None:
    (view,) = views_of(Thin(), around(1))
    assert np.isinf(view.depth).all()
    assert not view.seen.any()
    with pytest.raises(UserError, match="no surface: none of 1 views sees anything that is opaque"):
        truncation_for([view], 0.1)


def test_the_truncation_spans_voxels_and_pixels() -> None:
    views = list(views_of(Ball(), around(3)))
    assert truncation_for(views, 1.0) == 3
    footprint = 2.4 / 150  # depths are 2.3 to 2.85, the focal length 150 pixels
    assert truncation_for(views, 1e-6) == pytest.approx(2.5 * footprint, rel=0.05)


def test_the_mean_vote_is_the_distance_near_the_surface() -> None:
    views = list(views_of(Ball(), around(40)))
    vote = mean_vote(views, HOME, 0.2, torch.full((4, 4, 4), -1.0))
    outward = torch.nn.functional.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert (vote((RADIUS + 0.03) * outward) > 0).all()
    assert (vote((RADIUS - 0.03) * outward) < 0).all()
    deeper, higher = vote((RADIUS - 0.06) * outward), vote((RADIUS + 0.06) * outward)
    assert 0.12 / 0.2 < float((higher - deeper).mean()) < 2 * 0.12 / 0.2  # at a slant, depths differ by more
    assert (vote(0.3 * outward) == -1).all()  # deeper than any view's truncation: as it is told
    assert (vote(0.95 * outward) == 1).all()  # seen through


def test_what_no_view_votes_on_is_as_told() -> None:
    (view,) = views_of(Ball(), around(1))
    for told in (-1.0, 1.0):
        vote = mean_vote([replace(view, depth=view.seen)], HOME, 0.1, torch.full((4, 4, 4), told))
        assert (vote(torch.tensor([[0.9, 0.0, 0.0], [0.0, 0.9, 0.0], [0.0, 0.0, 0.0]])) == told).all()
