"""Every implementation of every kernel against its reference in float64, gradients included."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import (
    COSINE_SHAPES,
    HASH_SHAPES,
    IMPLEMENTATIONS,
    MLP_SHAPES,
    PACKS,
    SCANS,
    cosine_inputs,
    hash_inputs,
    hash_layout,
    layout_lists,
    mlp_inputs,
    move,
    occupancy_blobs,
    packed_samples,
    projection_inputs,
    rays_through_box,
    sine_arguments,
)
from torch.testing import assert_close

from recon3d.kernels.adam import reference as adam_reference
from recon3d.kernels.compositing import reference as compositing_reference
from recon3d.kernels.cosine_series import reference as cosine_reference
from recon3d.kernels.hash_grid import reference as hash_reference
from recon3d.kernels.marching import reference as marching_reference
from recon3d.kernels.mlp import reference as mlp_reference
from recon3d.kernels.projection import reference as projection_reference
from recon3d.kernels.sine import reference as sine_reference

pytestmark = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
POINTS = 140


def hash_truth(x, table, grad, lists):
    """Features and both gradients, by autograd through the reference in float64."""
    x, table = x.double().requires_grad_(), table.double().requires_grad_()
    out = hash_reference.encode(x, table, *lists)
    return out.detach(), *torch.autograd.grad(out, (table, x), grad.double())


def hash_run(implementation, x, table, shadow, grad, lists, need_table=True, need_x=True):
    module = implementation.of("hash_grid")
    x, table, shadow, grad = move((x, table, shadow, grad), implementation.device)
    out = module.encode(x, table, shadow, *lists)
    gradients = module.encode_backward(grad.to(out.dtype), x, table, shadow, *lists, need_table, need_x)
    return [v.cpu() for v in (out, *gradients)]


@pytest.mark.parametrize(("dim", "features"), HASH_SHAPES)
def test_hash_grid_float64(implementation, dim, features):
    layout = hash_layout(dim, features)
    x, table, grad = hash_inputs(layout, POINTS, torch.float64)
    truth = hash_truth(x, table, grad, layout_lists(layout))
    for value, expected in zip(hash_run(implementation, x, table, None, grad, layout_lists(layout)), truth):
        assert_close(value, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("dim", "features"), [(2, 4), (3, 2)])
def test_hash_grid_float32(implementation, dim, features):
    layout = hash_layout(dim, features)
    x, table, grad = hash_inputs(layout, POINTS, torch.float32)
    truth = hash_truth(x, table, grad, layout_lists(layout))
    # A coordinate's gradient grows with the finest level's scale.
    for value, expected, atol in zip(
        hash_run(implementation, x, table, None, grad, layout_lists(layout)), truth, (1e-4, 1e-4, 1e-2)
    ):
        assert value.dtype == torch.float32
        assert_close(value.double(), expected, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_hash_grid_with_shadow(implementation, dtype):
    """The shadow is what is read; the table's gradient keeps the table's type."""
    layout = hash_layout(3, 2)
    x, table, grad = hash_inputs(layout, POINTS, torch.float32)
    shadow = table.to(dtype)
    grad = grad.to(dtype).float()
    truth = hash_truth(x, shadow, grad, layout_lists(layout))
    out, grad_table, grad_x = hash_run(implementation, x, table * 0, shadow, grad, layout_lists(layout))
    assert out.dtype == dtype
    assert_close(out.double(), truth[0], rtol=torch.finfo(dtype).eps, atol=1e-3)
    assert grad_table.dtype == torch.float32
    assert_close(grad_table.double(), truth[1], rtol=1e-4, atol=1e-4)
    assert_close(grad_x.double(), truth[2], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_hash_grid_in_half_precision(implementation, dtype):
    """A table in half precision, without a shadow, gets its gradient in its own type, but not summed in it."""
    layout = hash_layout(2, 2)
    x, table, grad = hash_inputs(layout, POINTS, torch.float32)
    truth = hash_truth(x, table.to(dtype), grad.to(dtype), layout_lists(layout))
    out, grad_table, _ = hash_run(implementation, x, table.to(dtype), None, grad, layout_lists(layout))
    assert out.dtype == grad_table.dtype == dtype
    assert_close(out.double(), truth[0], rtol=torch.finfo(dtype).eps, atol=1e-3)
    assert_close(grad_table.double(), truth[1], rtol=torch.finfo(dtype).eps, atol=1e-3)


def test_hash_grid_gradients_on_demand(implementation):
    layout = hash_layout(2, 2)
    x, table, grad = hash_inputs(layout, 20, torch.float32)
    for need_table, need_x in [(True, False), (False, True)]:
        _, grad_table, grad_x = hash_run(implementation, x, table, None, grad, layout_lists(layout), need_table, need_x)
        assert grad_table.shape == (table.shape if need_table else (0,))
        assert grad_x.shape == (x.shape if need_x else (0,))


def test_hash_grid_no_points(implementation):
    layout = hash_layout(3, 2)
    x, table, grad = hash_inputs(layout, 5, torch.float32)
    out, grad_table, grad_x = hash_run(implementation, x[:0], table, None, grad[:0], layout_lists(layout))
    assert out.shape == (0, layout.levels * 2) and grad_x.shape == (0, 3)
    assert_close(grad_table, torch.zeros_like(table))


def test_hash_grid_strided_inputs(implementation):
    layout = hash_layout(3, 2)
    x, table, grad = hash_inputs(layout, 20, torch.float64)
    plain = hash_run(implementation, x, table, None, grad, layout_lists(layout))
    strided = [v.T.contiguous().T for v in (x, table, grad)]
    assert not any(v.is_contiguous() for v in strided)
    for value, expected in zip(hash_run(implementation, *strided[:2], None, strided[2], layout_lists(layout)), plain):
        assert_close(value, expected)


def march_run(implementation, *inputs):
    return [v.cpu() for v in implementation.of("marching").march(*move(inputs, implementation.device))]


@pytest.mark.parametrize("cone", [0.0, 0.02])
@pytest.mark.parametrize(("rays", "cells"), [(30, 20), (40, 16)])
def test_marching_float64(implementation, rays, cells, cone):
    """Sample for sample what testing every position finds."""
    *rays, jitter = rays_through_box(rays, torch.float64)
    inputs = (*rays, occupancy_blobs(cells), jitter, 0.04, cone)
    offsets, ray_index, t, dt = march_run(implementation, *inputs)
    expected = marching_reference.march(*inputs)
    assert len(expected[1]) >= 40
    assert_close(offsets, expected[0])
    assert_close(ray_index, expected[1])
    assert_close(t, expected[2], rtol=1e-12, atol=0)
    assert_close(dt, expected[3], rtol=1e-12, atol=0)


@pytest.mark.parametrize("cone", [0.0, 0.02])
def test_marching_float32(implementation, cone):
    """As in float64, but for the few samples that rounding puts on the other side of a cell's border."""
    *rays, jitter = rays_through_box(32, torch.float32, seed=3)
    inputs = (*rays, occupancy_blobs(24), jitter, 0.031, cone)
    offsets, ray_index, t, dt = march_run(implementation, *inputs)
    _, expected_ray, expected_t, _ = marching_reference.march(
        *(v.double() if torch.is_tensor(v) and v.is_floating_point() else v for v in inputs)
    )
    assert t.dtype == dt.dtype == torch.float32 and offsets.dtype == torch.int64 and ray_index.dtype == torch.int32
    found = {(r, round(d / 0.005)) for r, d in zip(ray_index.tolist(), t.tolist())}
    wanted = [(r, d / 0.005) for r, d in zip(expected_ray.tolist(), expected_t.tolist())]
    missed = sum(not {(r, round(d - 0.1)), (r, round(d + 0.1))} & found for r, d in wanted)
    assert missed <= 0.01 * len(wanted)
    assert abs(len(t) - len(wanted)) <= 0.01 * len(wanted)
    assert_close(dt, torch.clamp(cone * t, min=0.031))


def test_marching_nothing(implementation):
    """No rays; rays that miss; an empty grid."""
    *rays, jitter = rays_through_box(8, torch.float32)
    grid = occupancy_blobs(16)
    none = [v[:0] for v in rays]
    missed = [*rays[:2], rays[3] + 1, rays[3]]
    for origins, directions, near, far, occupancy, shift in [
        (*none, grid, jitter[:0]),
        (*missed, grid, jitter),
        (*rays, torch.zeros_like(grid), jitter),
    ]:
        offsets, ray_index, t, dt = march_run(
            implementation, origins, directions, near, far, occupancy, shift, 0.05, 0.0
        )
        assert offsets.tolist() == [0] * (len(near) + 1)
        assert len(ray_index) == len(t) == len(dt) == 0


def test_marching_within(implementation):
    """In buffers too large, just right and too small; every sample that fits is where it would be."""
    *rays, jitter = rays_through_box(30, torch.float64)
    inputs = (*rays, occupancy_blobs(20), jitter, 0.04, 0.0)
    offsets, *expected = marching_reference.march(*inputs)
    samples = int(offsets[-1])
    for capacity in (samples + 7, samples, samples // 2):
        found = march_run(implementation, *inputs, capacity)
        assert torch.equal(found[0], offsets)
        for value, wanted in zip(found[1:], expected):
            assert value.shape == (capacity,) and not value[samples:].any()
            assert_close(value[:samples], wanted[:capacity], rtol=1e-12, atol=0)


def composite_run(implementation, samples, gradients, early_stop):
    module = implementation.of("compositing")
    samples, gradients = move(samples, implementation.device), move(gradients, implementation.device)
    outputs = module.composite(*samples, early_stop)
    grads = module.composite_backward(*gradients, *samples, early_stop)
    return [v.cpu() for v in (*outputs, *grads)]


def composite_truth(samples, gradients, early_stop):
    """Outputs, and gradients by autograd, through the reference in float64."""
    sigma, rgb, t, dt, offsets = (v.double() if v.is_floating_point() else v for v in samples)
    sigma.requires_grad_(), rgb.requires_grad_()
    outputs = compositing_reference.composite(sigma, rgb, t, dt, offsets, early_stop)
    grads = torch.autograd.grad(outputs, (sigma, rgb), [g.double() for g in gradients])
    return [v.detach() for v in (*outputs, *grads)]


def upstream(rays, channels, dtype):
    generator = torch.Generator().manual_seed(rays)
    color = torch.randn(rays, channels, generator=generator, dtype=dtype)
    return color, *torch.randn(2, rays, generator=generator, dtype=dtype)


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("channels", [1, 3, 8])
@pytest.mark.parametrize("early_stop", [0.0, 1e-2])
def test_compositing_float64(implementation, pack, channels, early_stop):
    samples = packed_samples(PACKS[pack], channels, torch.float64)
    gradients = upstream(len(PACKS[pack]), channels, torch.float64)
    truth = composite_truth(samples, gradients, early_stop)
    for value, expected in zip(composite_run(implementation, samples, gradients, early_stop), truth):
        assert_close(value, expected, rtol=1e-10, atol=1e-12)


def test_compositing_of_samples_that_no_ray_has(implementation):
    """In buffers that are larger than their rays' samples the rest counts for nothing, and has no gradient."""
    *samples, offsets = packed_samples(PACKS["mixed"], 3, torch.float64)
    gradients = upstream(len(PACKS["mixed"]), 3, torch.float64)
    plain = composite_run(implementation, (*samples, offsets), gradients, 1e-2)
    longer = [torch.cat([v, v[:50] + 1]) for v in samples]
    values = composite_run(implementation, (*longer, offsets), gradients, 1e-2)
    written = compositing_reference.composite_backward(*gradients, *longer, offsets, 1e-2)
    for value, expected in zip(values[:3], plain[:3]):
        assert torch.equal(value, expected)
    for value, expected in zip((*values[3:], *written), (*plain[3:], *plain[3:])):
        assert not value[len(expected) :].any()
        assert_close(value[: len(expected)], expected)


@pytest.mark.parametrize("density", [1e-3, 20.0, 1e6])
def test_compositing_float32(implementation, density):
    """From nearly transparent to opaque at the first sample."""
    samples = packed_samples(PACKS["mixed"], 3, torch.float32, density)
    gradients = upstream(len(PACKS["mixed"]), 3, torch.float32)
    truth = composite_truth(samples, gradients, 1e-4)
    for value, expected in zip(composite_run(implementation, samples, gradients, 1e-4), truth):
        assert value.dtype == torch.float32
        assert_close(value.double(), expected, rtol=2e-5, atol=2e-5)


def test_compositing_backward_of_reference(implementation):
    """The analytic gradient, which the reference also writes out, is autograd's."""
    samples = packed_samples(PACKS["mixed"], 3, torch.float64)
    gradients = upstream(len(PACKS["mixed"]), 3, torch.float64)
    truth = composite_truth(samples, gradients, 1e-2)
    written = compositing_reference.composite_backward(*gradients, *samples, 1e-2)
    for value, expected in zip(written, truth[3:]):
        assert_close(value, expected, rtol=1e-10, atol=1e-12)


def sine_run(implementation, x, grad, damping, order):
    module = implementation.of("sine")
    x, grad = move((x, grad), implementation.device)
    out = [module.damped_sine(x, damping, order)]
    if order < sine_reference.HIGHEST_ORDER:
        out.append(module.sine_backward(grad, x, damping, order))
    return [v.cpu() for v in out]


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("damping", sine_reference.DAMPINGS)
def test_sine_float32(implementation, damping, order):
    x, grad = sine_arguments(torch.float32)
    wide = x.double()
    truth = [sine_reference.damped_sine(wide, damping, order)]
    if order < sine_reference.HIGHEST_ORDER:
        truth.append(grad.double() * sine_reference.damped_sine(wide, damping, order + 1))
    for value, expected in zip(sine_run(implementation, x, grad, damping, order), truth, strict=True):
        assert value.dtype == torch.float32 and value.isfinite().all()
        scale = expected.abs().clamp_min(1)
        if damping == "square":  # whose derivatives are differences of terms of the size of x^2
            scale = scale.maximum(wide.square())
        error = (value - expected).abs() / scale
        assert error.max() < 2e-6


@pytest.mark.parametrize("damping", sine_reference.DAMPINGS)
def test_sine_float64(implementation, damping):
    x, grad = sine_arguments(torch.float64)
    value, gradient = sine_run(implementation, x, grad, damping, 1)
    assert_close(value, sine_reference.damped_sine(x, damping, 1), rtol=1e-12, atol=1e-12)
    assert_close(gradient, grad * sine_reference.damped_sine(x, damping, 2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sine_in_half_precision(implementation, dtype):
    x, grad = (v.to(dtype) for v in (torch.linspace(-30, 30, 500), torch.linspace(2, -1, 500)))
    value, gradient = sine_run(implementation, x, grad, "sqrt", 0)
    assert value.dtype == gradient.dtype == dtype
    eps = torch.finfo(dtype).eps
    assert_close(value.double(), sine_reference.damped_sine(x.double(), "sqrt"), rtol=eps, atol=1e-4)
    truth = grad.double() * sine_reference.damped_sine(x.double(), "sqrt", 1)
    assert_close(gradient.double(), truth, rtol=eps, atol=1e-4)


def test_sine_of_nan_nothing_and_strided(implementation):
    x, grad = sine_arguments(torch.float32)
    for damping in sine_reference.DAMPINGS:
        for order in range(4):
            given = torch.full((20,), torch.nan)
            assert all(v.isnan().all() for v in sine_run(implementation, given, given * 0 + 1, damping, order))
    assert sine_run(implementation, x[:0].reshape(0, 3), grad[:0].reshape(0, 3), "sqrt", 0)[1].shape == (0, 3)
    strided, upstream_of = x[:30].reshape(5, 6).T, grad[:30].reshape(5, 6).T
    plain = sine_run(implementation, strided.contiguous(), upstream_of.contiguous(), "sqrt", 0)
    for value, expected in zip(sine_run(implementation, strided, upstream_of, "sqrt", 0), plain):
        assert value.is_contiguous()
        assert_close(value, expected)


def cosine_error(value, truth):
    """Largest error, in units of the largest value."""
    assert value.shape == truth.shape
    return float((value - truth).abs().max() / truth.abs().max().clamp_min(1e-9)) if truth.numel() else 0.0


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("shape", COSINE_SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-12)])
def test_cosine_series(implementation, shape, order, weighted, dtype, tolerance):
    module = implementation.of("cosine_series")
    theta, weight, coefficients, grad = cosine_inputs(*shape, dtype)
    weight = weight if weighted else None
    wide = [None if v is None else v.double() for v in (theta, weight, coefficients, grad)]
    theta, weight, coefficients, grad = move((theta, weight, coefficients, grad), implementation.device)
    value = module.series(theta, weight, coefficients, order).cpu()
    assert value.dtype == dtype
    assert cosine_error(value, cosine_reference.series(*wide[:3], order)) < tolerance
    value = module.coefficients(theta, weight, grad, shape[3], order).cpu()
    assert cosine_error(value, cosine_reference.coefficients(*wide[:2], wide[3], shape[3], order)) < tolerance
    value = module.angles(theta, coefficients, grad, order).cpu()
    assert cosine_error(value, cosine_reference.angles(wide[0], wide[2], wide[3], order)) < tolerance


def test_cosine_series_high_terms(implementation):
    """cos(k theta) to 2e-6 at k = 2047 in float32, the ends of the interval included."""
    theta = torch.cat([torch.linspace(0, 1e-3, 50), torch.linspace(0, torch.pi, 150)])[:, None]
    picked = [0, 1, 31, 32, 512, 1000, 2047]
    coefficients = torch.zeros(1, len(picked), 2048)
    for row, k in enumerate(picked):
        coefficients[0, row, k] = 1
    given = move((theta, None, coefficients, 0), implementation.device)
    value = implementation.of("cosine_series").series(*given).cpu()
    assert (value - (theta.double() * torch.tensor(picked)).cos()).abs().max() < 2e-6


def test_cosine_series_of_nan(implementation):
    theta, _, coefficients, _ = move(cosine_inputs(10, 2, 4, 9, torch.float32), implementation.device)
    theta[3, 1] = torch.nan
    value = implementation.of("cosine_series").series(theta, None, coefficients, 0)
    assert value.isnan().all(1).nonzero().tolist() == [[3]]
    assert not value[torch.arange(10) != 3].isnan().any()


PROJECTIONS = [(scan, torch.float64, 1e-12) for scan in SCANS]
PROJECTIONS += [(scan, torch.float32, 3e-6) for scan in ("diagonal", "far", "arc", "cone")]


@pytest.mark.parametrize(("scan", "dtype", "tolerance"), PROJECTIONS)
def test_projection(implementation, scan, dtype, tolerance):
    module = implementation.of("projection")
    volume, projections, forward, backward = projection_inputs(scan, dtype)
    truth = projection_reference.project(volume.double(), *forward)
    value = module.project(volume.to(implementation.device), *forward).cpu()
    assert value.dtype == dtype and value.shape == truth.shape
    assert (value - truth).abs().max() < tolerance * truth.abs().max()
    truth = projection_reference.back_project(projections.double(), *backward)
    value = module.back_project(projections.to(implementation.device), *backward).cpu()
    assert value.dtype == dtype and value.shape == truth.shape
    assert (value - truth).abs().max() < tolerance * truth.abs().max()


def test_projection_of_nothing_and_strided(implementation):
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


ADAM_RATES = 0.01, 0.9, 0.99, 1e-15


def adam_run(step, tensors, grads, device="cpu", found_inf=0.0):
    """Table, moments and counts after steps with ``grads``, in units of a scale of 128."""
    tensors = move(tensors, device)
    rate, *settings = ADAM_RATES
    scalars = [torch.tensor(v, dtype=tensors[0].dtype, device=device) for v in (rate, 128.0, found_inf)]
    for grad in grads:
        step(tensors[0], 128 * grad.to(device), *tensors[1:], scalars[0], *settings, *scalars[1:])
    return [v.cpu() for v in tensors]


def adam_inputs(rows, features, dtype):
    """Table, moments, counts that differ by row, and gradients of three steps with untouched rows."""
    generator = torch.Generator().manual_seed(features)
    table, mean, square = torch.randn(3, rows, features, generator=generator, dtype=dtype)
    steps = torch.randint(0, 50, (rows,), generator=generator).to(dtype)
    grads = torch.randn(3, rows, features, generator=generator, dtype=dtype)
    grads[torch.rand(3, rows, generator=generator) < 0.6] = 0
    if features > 1:
        grads[:, 0, 1:], grads[:, 0, 0] = 0, 1e-20  # one entry is enough, however small
    return (table, mean, square.abs(), steps), grads


@pytest.mark.parametrize("features", [1, 2, 8])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_adam_rows(implementation, features, dtype, tolerance):
    tensors, grads = adam_inputs(300, features, dtype)
    wide = [v.double().clone() for v in tensors]
    truth = adam_run(adam_reference.adam_rows, wide, grads.double())
    values = adam_run(implementation.of("adam").adam_rows, [v.clone() for v in tensors], grads, implementation.device)
    for value, expected in zip(values, truth):
        assert value.dtype == dtype
        assert_close(value.double(), expected, rtol=tolerance, atol=tolerance)
    untouched = (grads == 0).all(dim=2).all(dim=0)
    assert untouched.any() and not untouched.all()
    for value, before in zip(values, tensors):
        assert torch.equal(value[untouched], before[untouched])


def test_adam_rows_of_an_infinite_gradient(implementation):
    tensors, grads = adam_inputs(40, 2, torch.float32)
    given = [v.clone() for v in tensors]
    values = adam_run(implementation.of("adam").adam_rows, given, grads * torch.inf, implementation.device, 1.0)
    for value, before in zip(values, tensors):
        assert torch.equal(value, before)


def mlp_run(implementation, x, weights, grad, compute, need_x=True):
    """Outputs, the gradient of x and those of the weights."""
    module, device = implementation.of("mlp"), implementation.device
    x, grad, weights = x.to(device), grad.to(device), move(weights, device)
    out = module.forward(x, weights, compute)
    grad_x, grad_weights = module.backward(grad.to(compute), x, weights, compute, need_x)
    return [v.cpu() for v in (out, grad_x, *grad_weights)]


def mlp_truth(x, weights, grad):
    """The same in float64, by autograd through the reference."""
    x, weights = x.double().requires_grad_(), [weight.double().requires_grad_() for weight in weights]
    out = mlp_reference.forward(x, weights, torch.float64)
    return [out.detach(), *torch.autograd.grad(out, [x, *weights], grad.double())]


@pytest.mark.parametrize("rows", [1, 300])
@pytest.mark.parametrize("sizes", MLP_SHAPES)
def test_mlp_of_small_integers(implementation, sizes, rows):
    """Whole numbers that float16 holds exactly: every value and every gradient is the float64 one."""
    x, weights, grad = mlp_inputs(sizes, rows, whole=True)
    truth = mlp_truth(x, weights, grad)
    assert max(float(v.abs().max()) for v in truth[:2]) <= 2048
    for value, expected in zip(mlp_run(implementation, x, weights, grad, torch.float16), truth, strict=True):
        assert torch.equal(value.double(), expected)


@pytest.mark.parametrize("sizes", [(32, 64, 64, 3), (24, 16, 16)])
@pytest.mark.parametrize("compute", [torch.float16, torch.float32, torch.float64])
def test_mlp(implementation, sizes, compute):
    x, weights, grad = mlp_inputs(sizes, 150)
    tolerance = 0.02 if compute == torch.float16 else 1e-6  # a unit whose sum is nearly 0 may round to the other side
    values, truth = mlp_run(implementation, x, weights, grad, compute), mlp_truth(x, weights, grad)
    assert values[0].dtype == compute and all(v.dtype == torch.float32 for v in values[1:])
    for value, expected in zip(values, truth, strict=True):
        assert (value - expected).norm() < tolerance * expected.norm()


def test_mlp_on_demand_of_nothing_and_strided(implementation):
    x, weights, grad = mlp_inputs((24, 64, 16), 40)
    assert mlp_run(implementation, x, weights, grad, torch.float16, need_x=False)[1].shape == (0,)
    out, grad_x, *grad_weights = mlp_run(implementation, x[:0], weights, grad[:0], torch.float16)
    assert out.shape == (0, 16) and grad_x.shape == (0, 24)
    assert not any(grad_weight.any() for grad_weight in grad_weights)
    strided = [v.T.contiguous().T for v in (x, *weights, grad)]
    plain = mlp_run(implementation, x, weights, grad, torch.float16)
    for value, expected in zip(
        mlp_run(implementation, strided[0], strided[1:-1], strided[-1], torch.float16), plain, strict=True
    ):
        assert_close(value, expected)
