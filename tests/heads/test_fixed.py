"""Rendering in buffers of a fixed size: the same as rendering with as many samples as there are."""

import torch

from recon3d.config import HashGridConfig, RadianceFieldConfig, RenderConfig
from recon3d.fields.radiance import RadianceField
from recon3d.geometry.cameras import Rays
from recon3d.heads.fixed import Capacity, render_within
from recon3d.heads.volume import VolumeRenderer

GRID = HashGridConfig(levels=4, log2_size=10, coarsest=4, finest=32)
CONFIG = RenderConfig(grid=16, samples_per_diagonal=64)
ROOMY = Capacity(8000, 6000)
NEAR = {"rtol": 1e-4, "atol": 1e-4}  # points differ in their last bit, and the density is steep


def scene(brightness=30.0):
    """A field of uneven density, a head whose grid is partly occupied, and rays of which some miss the cube."""
    torch.manual_seed(0)
    field = RadianceField(RadianceFieldConfig(hash_grid=GRID).resolved())
    with torch.no_grad():
        field.encoder.table.copy_(torch.randn_like(field.encoder.table))
    field.density_network.damp(0, brightness)
    head = VolumeRenderer(CONFIG, torch.rand(16, 16, 16) < 0.4)
    origins = torch.nn.functional.normalize(torch.randn(60, 3), dim=-1) * 3
    targets = torch.rand(60, 3) * 3 - 1.5
    return field, head, Rays(origins, torch.nn.functional.normalize(targets - origins, dim=-1)), torch.rand(60)


def test_as_with_room_for_all():
    field, head, rays, jitter = scene()
    truth = head(field, rays, jitter)
    weights = torch.randn(60, 3)
    grads = torch.autograd.grad((truth.color * weights).sum(), field.parameters())
    fixed = render_within(head, field, rays, torch.ones(60, dtype=torch.bool), jitter, ROOMY)
    assert fixed.whole.all()
    assert int(fixed.marched) > int(fixed.lit) > 100, "some samples have to lie in the dark"
    for name in ("color", "depth", "opacity"):
        torch.testing.assert_close(getattr(fixed.rendering, name), getattr(truth, name), **NEAR)
    again = torch.autograd.grad((fixed.rendering.color * weights).sum(), field.parameters())
    for value, expected in zip(again, grads):
        assert (value - expected).norm() < 1e-3 * expected.norm()


def test_rays_that_do_not_fit_are_told():
    field, head, rays, jitter = scene()
    every = torch.ones(60, dtype=torch.bool)
    full = render_within(head, field, rays, every, jitter, ROOMY)
    lit, marched = int(full.lit), int(full.marched)
    for capacity in (Capacity(marched // 2, marched // 2), Capacity(marched, lit // 2), Capacity(marched, lit)):
        part = render_within(head, field, rays, every, jitter, capacity)
        tight = capacity.marched < marched or capacity.lit < lit
        assert bool(part.whole.all()) is not tight and part.whole.any()
        assert int(part.marched) == marched
        torch.testing.assert_close(part.rendering.color[part.whole], full.rendering.color[part.whole])


def test_only_the_wanted_are_rendered():
    field, head, rays, jitter = scene()
    wanted = torch.arange(60) % 3 == 0
    part = render_within(head, field, rays, wanted, jitter, ROOMY)
    truth = head(field, rays, jitter)
    torch.testing.assert_close(part.rendering.color[wanted], truth.color[wanted], **NEAR)
    assert not part.rendering.opacity[~wanted].any()
    assert torch.equal(part.whole, wanted)


def test_what_is_not_a_number_stays_in_its_ray():
    field, head, rays, jitter = scene()
    truth = head(field, rays, jitter)
    ray = int((truth.opacity > 0.5).nonzero()[0])
    rays.origins[ray] = torch.nan
    broken = render_within(head, field, rays, torch.ones(60, dtype=torch.bool), jitter, ROOMY)
    others = torch.arange(60) != ray
    torch.testing.assert_close(broken.rendering.color[others], truth.color[others], **NEAR)
