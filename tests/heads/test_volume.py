"""The volume renderer against fields whose images are known in closed form."""

import math

import pytest
import torch

from recon3d.config import HashGridConfig, RadianceFieldConfig, RenderConfig
from recon3d.fields.radiance import RadianceField
from recon3d.geometry.boxes import intersect_unit_cube
from recon3d.geometry.cameras import Rays
from recon3d.heads.volume import VolumeRenderer

from .analytic import Uniform, in_ball

FINE = RenderConfig(grid=32, samples_per_diagonal=2048)


def towards_cube(count=60, seed=0):
    """Rays from around the cube to points in it."""
    generator = torch.Generator().manual_seed(seed)
    origins = 3 * torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    targets = 1.2 * torch.rand(count, 3, generator=generator) - 0.6
    return Rays(origins, torch.nn.functional.normalize(targets - origins, dim=-1))


def straight(*x_and_y):
    """Rays that look along -z from z = 3 at the given (x, y)."""
    origins = torch.tensor([[x, y, 3.0] for x, y in x_and_y])
    return Rays(origins, torch.tensor([[0.0, 0.0, -1.0]]).expand(len(origins), 3).contiguous())


@pytest.mark.parametrize("density", [0.1, 1.0, 4.0])
def test_a_cube_of_fog(density):
    rays = towards_cube()
    near, far = intersect_unit_cube(rays)
    length = far - near
    through = torch.exp(-density * length)
    rendering = VolumeRenderer(FINE)(Uniform(density), rays)
    torch.testing.assert_close(rendering.opacity, 1 - through, atol=3e-3, rtol=0)
    torch.testing.assert_close(rendering.color, (0.5 * (1 - through))[:, None].expand(-1, 3), atol=3e-3, rtol=0)
    depth = near * (1 - through) + (1 - through * (1 + density * length)) / density
    torch.testing.assert_close(rendering.depth, depth, atol=1e-2, rtol=0)
    assert rendering.samples > 60 * 500


def test_a_ball_of_fog():
    radius, density = 0.7, 2.0
    offsets = torch.linspace(0, 0.69, 20)
    rays = straight(*[(float(b), 0.0) for b in offsets])
    rendering = VolumeRenderer(FINE)(Uniform(density, in_ball(radius)), rays)
    chord = 2 * (radius**2 - offsets**2).sqrt()
    torch.testing.assert_close(rendering.opacity, 1 - torch.exp(-density * chord), atol=5e-3, rtol=0)


@pytest.mark.parametrize("density", [0.1, 1.0, 4.0, 100.0])
def test_half_the_light_is_gone_where_the_fog_is_ln_2_deep(density):
    rays = towards_cube()
    near, far = intersect_unit_cube(rays)
    depth, opacity = VolumeRenderer(FINE).half_light(Uniform(density), rays)
    reached = density * (far - near) > math.log(2)
    assert bool(reached.any()) == (density > 0.2)
    wanted = torch.where(reached, near + math.log(2) / density, 0.0)
    torch.testing.assert_close(depth, wanted, atol=2e-3, rtol=0)  # a step is 1.7e-3
    torch.testing.assert_close(opacity, 1 - torch.exp(-density * (far - near)), atol=3e-3, rtol=0)


def test_half_light_does_not_float_between_a_thin_veil_and_what_is_behind_it():
    def veil_or_wall(x):
        return (x[:, 2] < -0.5) | ((x[:, 2] > 0.5) & (x[:, 2] < 0.51))

    rays = straight((0.0, 0.0), (0.3, 0.2))
    rendering = VolumeRenderer(FINE)(Uniform(30.0, veil_or_wall), rays)  # the veil takes a quarter of the light
    assert 2.6 < float(rendering.depth.min() / rendering.opacity.min()) < 3.4
    depth, _ = VolumeRenderer(FINE).half_light(Uniform(30.0, veil_or_wall), rays)
    torch.testing.assert_close(depth, torch.full((2,), 3.5 + (math.log(2) - 0.3) / 30), atol=5e-3, rtol=0)


def test_rays_past_everything_have_no_half_light():
    rays = straight((0.0, 0.0), (5.0, 0.0), (0.9, 0.9))
    depth, opacity = VolumeRenderer(FINE).half_light(Uniform(50.0, in_ball(0.5)), rays)
    assert (depth[1:].tolist(), opacity[1:].tolist()) == ([0, 0], [0, 0])
    assert float(depth[0]) == pytest.approx(2.5 + math.log(2) / 50, abs=2e-3)


@pytest.mark.parametrize("jitter", [0.0, 0.3, 0.99])
def test_jitter_moves_the_samples_not_the_answer(jitter):
    rays = towards_cube()
    head, field = VolumeRenderer(FINE), Uniform(1.0)
    plain, moved = head(field, rays), head(field, rays, torch.full((len(rays),), jitter))
    torch.testing.assert_close(moved.opacity, plain.opacity, atol=5e-3, rtol=0)
    torch.testing.assert_close(moved.depth, plain.depth, atol=2e-2, rtol=0)


def test_the_front_hides_what_is_behind():
    """An opaque cube, red in front and blue behind: only red is seen, and little is evaluated."""

    def color(x):
        front = (x[:, 2:] > 0).float()
        return torch.cat([front, torch.zeros_like(front), 1 - front], dim=-1)

    field = Uniform(500.0, color=color)
    rendering = VolumeRenderer(FINE)(field, straight((0.0, 0.0), (0.5, -0.5)))
    torch.testing.assert_close(rendering.color, torch.tensor([[1.0, 0.0, 0.0]] * 2), atol=1e-3, rtol=0)
    torch.testing.assert_close(rendering.depth, torch.tensor([2.0, 2.0]), atol=1e-2, rtol=0)
    assert rendering.samples < 0.3 * 2 * 1182  # of the samples that a wholly transparent cube would take


def test_fog_before_a_wall():
    """A quarter of the light passes the fog: a quarter of the wall's colour, three quarters of the fog's."""
    wall = lambda x: x[:, 2] < -0.5  # noqa: E731

    class Two(Uniform):
        def geometry(self, x, encoded=None, features=None):
            sigma = torch.where(wall(x), 2000.0, math.log(4) / 1.5)
            return sigma, x

    field = Two(1.0, color=lambda x: torch.where(wall(x)[:, None], 1.0, torch.zeros_like(x)))
    rendering = VolumeRenderer(FINE)(field, straight((0.0, 0.0)))
    torch.testing.assert_close(rendering.color, torch.full((1, 3), 0.25), atol=5e-3, rtol=0)
    torch.testing.assert_close(rendering.opacity, torch.ones(1), atol=1e-3, rtol=0)


def test_a_background_goes_behind():
    rays = towards_cube(10)
    rendering = VolumeRenderer(FINE)(Uniform(1.0, color=torch.zeros_like), rays)
    near, far = intersect_unit_cube(rays)
    behind = rendering.color + (1 - rendering.opacity)[:, None] * torch.tensor([0.2, 0.6, 1.0])
    expected = torch.exp(near - far)[:, None] * torch.tensor([0.2, 0.6, 1.0])
    torch.testing.assert_close(behind, expected, atol=3e-3, rtol=0)


def test_rays_that_miss_show_nothing():
    rays = Rays(torch.tensor([[0.0, 5.0, 3.0], [0.0, 0.0, 3.0]]), torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, 1.0]]))
    rendering = VolumeRenderer(FINE)(Uniform(10.0), rays)
    assert rendering.samples == 0
    for part in (rendering.color, rendering.opacity, rendering.depth):
        assert not part.any()


def test_hits_and_misses_do_not_mix():
    rays = straight((0.0, 0.0), (5.0, 0.0), (0.5, 0.5), (-7.0, 0.0))
    opacity = VolumeRenderer(FINE)(Uniform(1.0), rays).opacity
    assert (opacity[[0, 2]] > 0.8).all()
    assert not opacity[[1, 3]].any()


def test_empty_cells_are_never_looked_at():
    allowed = torch.zeros(32, 32, 32, dtype=torch.bool)
    allowed[8:16, :, 20:24] = True
    field = Uniform(0.5)
    VolumeRenderer(FINE, allowed)(field, towards_cube(300))
    index = ((field.seen + 1) * 16).clamp(0, 31.999)
    # Points within rounding of a cell's side may be counted to either side.
    near_side = ((index - index.round()).abs() < 1e-3).any(-1)
    x, y, z = index[~near_side].long().unbind(-1)
    assert len(x) > 100
    assert allowed[x, y, z].all()


def test_a_slab_of_allowed_cells_cuts_the_fog():
    allowed = torch.zeros(32, 32, 32, dtype=torch.bool)
    allowed[:, :, 16:24] = True  # a quarter of the way through
    rendering = VolumeRenderer(FINE, allowed)(Uniform(1.0), straight((0.01, 0.01)))
    assert float(rendering.opacity) == pytest.approx(1 - math.exp(-0.5), abs=5e-3)


def test_the_gradient_to_the_density():
    density = torch.tensor(1.0, requires_grad=True)
    rays = towards_cube(20)
    near, far = intersect_unit_cube(rays)
    length = far - near
    (gradient,) = torch.autograd.grad(VolumeRenderer(FINE)(Uniform(density), rays).opacity.sum(), density)
    assert float(gradient) == pytest.approx(float((length * torch.exp(-length)).sum()), rel=5e-3)


def test_the_gradient_to_the_colour():
    level = torch.tensor(0.5, requires_grad=True)
    field = Uniform(1.0, color=lambda x: level.expand(len(x), 3))
    rendering = VolumeRenderer(FINE)(field, towards_cube(20))
    (gradient,) = torch.autograd.grad(rendering.color.sum(), level)
    assert float(gradient) == pytest.approx(3 * float(rendering.opacity.detach().sum()), rel=1e-4)


def test_cone_stepping_takes_fewer_samples():
    rays = towards_cube()
    plain = VolumeRenderer(FINE)(Uniform(1.0), rays)
    coned = VolumeRenderer(RenderConfig(grid=32, samples_per_diagonal=2048, cone=0.01))(Uniform(1.0), rays)
    assert coned.samples < 0.5 * plain.samples
    torch.testing.assert_close(coned.opacity, plain.opacity, atol=0.05, rtol=0)


def test_origins_inside_the_cube():
    rays = Rays(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]]))
    assert float(VolumeRenderer(FINE)(Uniform(1.0), rays).opacity) == pytest.approx(1 - math.exp(-1), abs=3e-3)


def test_rendering_in_parts_is_rendering_at_once():
    rays = towards_cube(64)
    head, field = VolumeRenderer(FINE), Uniform(3.0, in_ball(0.8), color=lambda x: x.abs().clamp(0, 1))
    whole = head(field, rays)
    parts = [head(field, rays[i : i + 16]) for i in range(0, 64, 16)]
    torch.testing.assert_close(torch.cat([p.color for p in parts]), whole.color, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat([p.depth for p in parts]), whole.depth, atol=1e-5, rtol=0)
    assert sum(p.samples for p in parts) == whole.samples


@pytest.mark.parametrize("encoder", ["hash_grid", "frequency"])
def test_takes_the_radiance_field_with_any_encoder(encoder):
    torch.manual_seed(0)
    config = RadianceFieldConfig(
        encoder=(encoder,), hash_grid=HashGridConfig(levels=4, log2_size=10, coarsest=4, finest=32), width=16
    )
    field = RadianceField(config.resolved())
    rendering = VolumeRenderer(RenderConfig(grid=16, samples_per_diagonal=64))(field, towards_cube(16))
    assert ((rendering.opacity > 0) & (rendering.opacity <= 1)).all()
    (rendering.color.sum() + rendering.depth.sum()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in field.parameters())
