"""The surface head: the weights of NeuS and VolSDF on a plane, their gradients, and where it looks."""

import math

import pytest
import torch

from recon3d.config import SurfaceRenderConfig
from recon3d.geometry.cameras import Rays
from recon3d.heads.surface import SurfaceRenderer, interval_ends, laplace_density, neus_optical_depth
from recon3d.heads.volume import VolumeRenderer
from recon3d.kernels.compositing.reference import composite, transmittance

KINDS = ["neus", "volsdf"]


class Plane(torch.nn.Module):
    """The half space below height ``z``, in the manner of a surface field, of one colour."""

    def __init__(self, z=0.0, tilt=1.0):
        super().__init__()
        self.z, self.tilt = torch.nn.Parameter(torch.tensor(z)), tilt

    def encode(self, x):
        return x

    def geometry(self, x, encoded=None, features=None):
        return self.tilt * (x[:, 2] - self.z), x

    def slope(self, x):
        return self.tilt * torch.tensor([0.0, 0.0, 1.0]).expand(len(x), 3)

    def shade(self, features, directions, ray_index=None, plain=None):
        return torch.tensor([0.5, 0.5, 1.0]).expand(len(features), 3)


class Ball(Plane):
    def geometry(self, x, encoded=None, features=None):
        return x.norm(dim=-1) - 0.5 + self.z, x

    def slope(self, x):
        return torch.nn.functional.normalize(x, dim=-1)


def renderer(kind, **changes):
    values = {"grid": 32, "samples_per_diagonal": 512, "sharpness": 100.0, "early_stop": 1e-6, **changes}
    return SurfaceRenderer(SurfaceRenderConfig(weights=kind, **values))


def looking_down(count=16, lean=0.0, height=2.0):
    """Rays from above onto the plane z = 0, that meet it at the origin's side."""
    origins = torch.tensor([0.0, 0.0, height]).repeat(count, 1)
    origins[:, 0] = torch.linspace(-0.5, 0.5, count) - lean * height
    directions = torch.nn.functional.normalize(torch.tensor([lean, 0.0, -1.0]).repeat(count, 1), dim=-1)
    return Rays(origins, directions)


def weights_along(kind, sharpness, cosine, step=0.01, distance=1.0):
    """Weights (K,) and distances (K,) along one ray that meets a plane at ``distance``."""
    t = torch.arange(step / 2, 2 * distance, step, dtype=torch.float64)
    f, dt, offsets = cosine * (distance - t), torch.full_like(t, step), torch.tensor([0, len(t)])
    s = torch.tensor(sharpness, dtype=torch.float64)
    if kind == "volsdf":
        tau = laplace_density(f, s) * dt
    else:
        tau = neus_optical_depth(*interval_ends(f, t, dt, offsets), s)
    return transmittance(tau, offsets) * -torch.expm1(-tau), t


# --- the weights ---


@pytest.mark.parametrize("cosine", [1.0, 0.3])
@pytest.mark.parametrize("sharpness", [30.0, 200.0])
def test_neus_weights_are_unbiased_and_sum_to_one(sharpness, cosine):
    weight, t = weights_along("neus", sharpness, cosine)
    assert float(weight.sum()) == pytest.approx(1, abs=1e-3)
    assert float(t[weight.argmax()]) == pytest.approx(1, abs=0.0051)
    assert float((weight * t).sum()) == pytest.approx(1, abs=2e-3)


def test_neus_weights_are_the_logistic_density_of_the_distance():
    s, step = 40.0, 0.01
    weight, t = weights_along("neus", s, 1.0, step)
    f = 1 - t
    density = s * torch.sigmoid(s * f) * torch.sigmoid(-s * f)
    torch.testing.assert_close(weight, density * step, atol=1e-3, rtol=1e-2)


def test_volsdf_weights_sum_to_one_and_near_the_surface_as_they_sharpen():
    errors = []
    for sharpness in (30.0, 100.0, 300.0):
        weight, t = weights_along("volsdf", sharpness, 1.0, step=0.001)
        assert float(weight.sum()) == pytest.approx(1, abs=1e-3)
        errors.append(abs(float((weight * t).sum()) - 1))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01


def test_volsdf_density_is_its_definition():
    """Half the sharpness on the surface, all of it deep inside, continuous."""
    s = torch.tensor(10.0)
    f = torch.tensor([0.0, -10.0, 10.0, 1e-6, -1e-6])
    torch.testing.assert_close(
        laplace_density(f, s), torch.tensor([5.0, 10.0, 5 * math.exp(-100), 5.0, 5.0]), atol=1e-3, rtol=0
    )


def test_ends_of_intervals_are_shared_within_a_run_of_a_ray():
    distance = torch.tensor([3.0, 2.0, 0.0, 5.0, 4.0, 7.0])
    t = torch.tensor([0.0, 1.0, 2.0, 7.0, 8.0, 1.0])
    begin, end = interval_ends(distance, t, torch.ones(6), torch.tensor([0, 5, 5, 6]))
    # Samples 0 to 2 are one run, 3 and 4 another behind a gap, 5 is a ray of its own.
    torch.testing.assert_close(begin, torch.tensor([3.5, 2.5, 1.0, 5.5, 4.5, 7.0]))
    torch.testing.assert_close(end, torch.tensor([2.5, 1.0, -1.0, 4.5, 3.5, 7.0]))


def test_no_samples_have_no_ends():
    begin, end = interval_ends(*(torch.zeros(0) for _ in range(3)), torch.tensor([0, 0, 0]))
    assert len(begin) == len(end) == 0


def test_a_surface_behind_another_is_not_seen():
    """Two walls: f falls through 0, rises again and falls through 0 once more."""
    t = torch.arange(0.005, 3, 0.01, dtype=torch.float64)
    f = torch.where(t < 1.3, 1 - t, torch.where(t < 1.9, t - 1.6, 2.2 - t))
    offsets, dt = torch.tensor([0, len(t)]), torch.full_like(t, 0.01)
    tau = neus_optical_depth(*interval_ends(f, t, dt, offsets), torch.tensor(60.0, dtype=torch.float64))
    _, depth, opacity = composite(tau / dt, torch.zeros(len(t), 3).double(), t, dt, offsets, 1e-6)
    assert float(opacity) == pytest.approx(1, abs=1e-3)
    assert float(depth) == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_against_finite_differences(kind):
    """Of a ray's composited value, in the distances and in the sharpness."""
    generator = torch.Generator().manual_seed(0)
    t = torch.arange(0.05, 1, 0.1, dtype=torch.float64)
    dt, offsets = torch.full_like(t, 0.1), torch.tensor([0, 6, len(t)])
    wobble = 0.01 * torch.randn(len(t), generator=generator, dtype=torch.float64)
    f = torch.cat([0.4 - t[:6], 0.9 - t[6:]]) + wobble
    rgb = torch.rand(len(t), 3, generator=generator, dtype=torch.float64)

    def value(distance, sharpness):
        if kind == "volsdf":
            sigma = laplace_density(distance, sharpness)
        else:
            sigma = neus_optical_depth(*interval_ends(distance, t, dt, offsets), sharpness) / dt
        return torch.cat([part.flatten() for part in composite(sigma, rgb, t, dt, offsets, 0.0)])

    s = torch.tensor(12.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(value, (f.requires_grad_(), s))


# --- rendering ---


@pytest.mark.parametrize("lean", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_plane_from_above(kind, lean):
    rays = looking_down(lean=lean)
    rendering = renderer(kind, sharpness=300.0, samples_per_diagonal=2048).eval()(Plane(), rays)
    distance = 2 * math.sqrt(1 + lean**2)
    torch.testing.assert_close(rendering.opacity, torch.ones(16), atol=1e-2, rtol=0)
    torch.testing.assert_close(rendering.depth, torch.full((16,), distance), atol=0.02, rtol=0)
    torch.testing.assert_close(rendering.color, torch.tensor([0.5, 0.5, 1.0]).expand(16, 3), atol=1e-2, rtol=0)
    torch.testing.assert_close(rendering.normal, torch.tensor([0.0, 0.0, 1.0]).expand(16, 3))


def test_jitter_moves_the_samples_not_the_surface():
    rays = looking_down(64)
    rendering = renderer("neus")(Plane(), rays, torch.rand(64, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(rendering.depth, torch.full((64,), 2.0), atol=2e-3, rtol=0)


def test_a_ray_that_passes_an_edge_loses_what_it_lost_at_its_nearest_sample():
    """The distance falls to 0.01 and rises again: light L(0.01 s) is left, whichever sample is the nearest."""

    class Edge(Plane):
        def geometry(self, x, encoded=None, features=None):
            return 0.01 + 0.7 * x[:, 2].abs(), x

    head, rays, s = renderer("neus", sharpness=200.0, samples_per_diagonal=256), looking_down(64), 200.0
    left = 1 - head(Edge(), rays, torch.linspace(0, 0.999, 64)).opacity.detach()
    nearest = math.log(float(left.max()) / (1 - float(left.max()))) / s
    assert float(left.min()) == pytest.approx(1 / (1 + math.exp(-0.01 * s)), abs=0.01)
    assert nearest < 0.01 + 0.7 * head.grid.step / 2 + 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_behind_the_surface_is_left_out(kind):
    """A ray's samples end where less of its light is left than --head.early-stop says, and one later."""
    rays, head = looking_down(), renderer(kind, sharpness=300.0, early_stop=1e-3)
    whole = renderer(kind, sharpness=300.0, early_stop=1e-12)(Plane(), rays)
    rendering = head(Plane(), rays)
    in_front, behind = 1 / head.grid.step, math.log(1e3) / 300 / head.grid.step
    assert in_front <= rendering.samples / 16 <= in_front + behind + 4
    for name in ("color", "depth", "opacity"):
        torch.testing.assert_close(getattr(rendering, name), getattr(whole, name), atol=3e-3, rtol=0, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_from_below_a_surface_a_ray_sees_nothing_of_neus_and_all_of_volsdf(kind):
    """NeuS has no surface where the distance grows; VolSDF's inside is a fog."""
    rays = Rays(torch.tensor([[0.0, 0.0, -2.0]]), torch.tensor([[0.0, 0.0, 1.0]]))
    opacity = float(renderer(kind)(Plane(), rays).opacity.detach())
    assert opacity == pytest.approx(0 if kind == "neus" else 1, abs=1e-3)


def test_rays_that_meet_nothing_have_no_normal():
    rays = Rays(torch.tensor([[0.9, 0.9, 2.0], [5.0, 0.0, 2.0]]), torch.tensor([[0.0, 0.0, -1.0]] * 2))
    rendering = renderer("neus").eval()(Ball(), rays)
    torch.testing.assert_close(rendering.opacity, torch.zeros(2), atol=1e-4, rtol=0)
    assert (rendering.normal == 0).all()
    assert len(rendering.points) == len(rendering.hit) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_to_the_surface_against_finite_differences(kind):
    """A photograph's brightness moves the plane as differences say."""
    head, rays, field = renderer(kind, sharpness=20.0), looking_down(lean=0.5), Plane(0.01)
    head(field, rays).depth.mean().backward()
    ends = []
    for z in (0.0, 0.02):
        with torch.no_grad():
            ends.append(float(head(Plane(z), rays).depth.mean()))
    assert float(field.z.grad) == pytest.approx((ends[1] - ends[0]) / 0.02, rel=0.02)
    assert head.log_sharpness.grad is not None


# --- where it looks ---


@pytest.mark.parametrize("kind", KINDS)
def test_only_cells_near_the_surface_are_occupied(kind):
    head, field = renderer(kind, warmup_steps=10, early_stop=1e-4), Ball()
    for step in range(8):
        head.update(field, step, torch.Generator().manual_seed(step))
    r = (torch.arange(32) + 0.5) / 16 - 1
    radius = torch.stack(torch.meshgrid(r, r, r, indexing="ij"), -1).norm(dim=-1)
    shell = (radius - 0.5).abs() < math.sqrt(3) / 32
    assert head.grid.occupied[shell].all()
    assert not head.grid.occupied[(radius > 0.75) | (radius < 0.25)].any()
    down = Rays(torch.tensor([[0.1, 0.0, 2.0]]), torch.tensor([[0.0, 0.0, -1.0]]))
    narrow = head(field, down).depth
    head.grid.occupied.fill_(True)
    torch.testing.assert_close(narrow, head(field, down).depth, atol=1e-3, rtol=0)


# --- fog ---


def test_a_fog_is_what_a_radiance_field_of_that_density_is():
    """Values v are densities exp(-v), rendered as the volume renderer does."""

    class Fog(Ball):
        def geometry(self, x, encoded=None, features=None):
            return 20 * (x.norm(dim=-1) - 0.5) - 2, x

    class Dense(Fog):
        def geometry(self, x, encoded=None, features=None):
            value, features = super().geometry(x)
            return torch.exp(-value), features

    fog, volume = renderer("volsdf"), VolumeRenderer(SurfaceRenderConfig(grid=32, samples_per_diagonal=512))
    fog.fog = True
    fog.config = volume.config
    rays = looking_down()
    for train in (True, False):
        fog.train(train), volume.train(train)
        seen, expected = fog(Fog(), rays), volume(Dense(), rays)
        for name in ("color", "depth", "opacity"):
            torch.testing.assert_close(getattr(seen, name), getattr(expected, name), msg=name)
        assert seen.normal is None if train else not seen.normal.any()
        assert len(seen.points) == len(seen.hit) == 0
    for head, field in ((fog, Fog()), (volume, Dense())):
        head.update(field, 0, torch.Generator().manual_seed(0))
    assert torch.equal(fog.grid.occupied, volume.grid.occupied)
    assert 0 < float(fog.grid.occupied_share) < 1


def test_a_checkpoint_knows_whether_it_is_fog():
    head, copy = renderer("volsdf"), renderer("volsdf")
    head.fog = True
    copy.load_state_dict(head.state_dict())
    assert copy.fog
