import dataclasses
import math
from itertools import pairwise

import pytest
import torch

from autoint.scenes import rendering
from autoint.scenes.data.procedural import solids
from autoint.scenes.rays import Rays
from autoint.scenes.rendering import composite, density_from_mean, render_dense
from tests import reference


def test_composite_is_equations_16_and_17():
    g = torch.Generator().manual_seed(0)
    density = 3 * torch.rand(5, 7, generator=g, dtype=torch.float64)
    rgb = torch.rand(5, 7, 3, generator=g, dtype=torch.float64)
    edges = torch.cumsum(torch.rand(5, 8, generator=g, dtype=torch.float64), -1)
    background = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    out = composite(density, rgb, edges, background)
    for ray in range(5):
        color, acc = reference.composite(density[ray], rgb[ray], edges[ray], background)
        assert out.rgb[ray].tolist() == pytest.approx(color, abs=1e-14)
        assert float(out.acc[ray]) == pytest.approx(acc, abs=1e-14)
    assert torch.allclose(out.weights.sum(-1), out.acc)
    middle = 0.5 * (edges[:, 1:] + edges[:, :-1])
    assert torch.allclose(out.depth, (out.weights * middle).sum(-1) / out.acc)


def field_rays():
    origins = torch.tensor([[-2.0, 0.1, 0.2], [-2.0, -0.4, 0.0], [0.3, 0.2, -2.0]], dtype=torch.float64)
    directions = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.2, 0.1], [0.0, 0.1, 1.0]], dtype=torch.float64)
    directions = torch.nn.functional.normalize(directions, dim=-1)
    return Rays(origins, directions, torch.full((3,), 0.5).double(), torch.full((3,), 3.5).double())


def smooth_density(x):
    return 1.5 * torch.exp(-2 * x.square().sum(-1)) + 0.2


def smooth_rgb(x):
    return 0.5 + 0.4 * torch.sin(2 * x)


def exact_means(rays, count, field):
    """Section means by 24-point Gauss-Legendre, exact to rounding for these fields."""
    from autoint.integrals.quadrature import gauss_legendre

    t = torch.linspace(0, 1, count + 1, dtype=torch.float64)
    edges = rays.near[:, None] + (rays.far - rays.near)[:, None] * t
    nodes, w = gauss_legendre(edges, 24)
    values = field(rays.at(nodes))
    return edges, (values * (w if values.ndim == 3 else w[:, None])).sum(2)


def test_the_composite_is_of_second_order_and_acc_is_exact():
    rays, background = field_rays(), torch.ones(3, dtype=torch.float64)
    truth = render_dense(smooth_density, smooth_rgb, rays, background, num_samples=20_000)
    total = exact_means(rays, 64, smooth_density)
    acc = -torch.expm1(-(total[1] * total[0].diff(dim=-1)).sum(-1))
    errors = []
    for count in (4, 8, 16, 32, 64):
        edges, density = exact_means(rays, count, smooth_density)
        _, rgb = exact_means(rays, count, smooth_rgb)
        out = composite(density, rgb, edges, background)
        errors.append(float((out.rgb - truth.rgb).abs().max()))
        assert torch.allclose(out.acc, acc, atol=1e-12, rtol=0), count
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(1.7 <= order <= 2.3 for order in orders[1:]), (orders, errors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sections", [1, 5])
@pytest.mark.parametrize("thickness", [0.0, *(10.0**k for k in range(-10, 11))])
def test_extreme_optical_depths_are_finite(dtype, sections, thickness):
    """σδ from 0 to 1e10, made once by a large density and once by a long section, with outputs and gradients finite."""
    for length in (1e-3, 1.0, 1e3):
        mean = torch.full((2, sections), thickness / length, dtype=dtype, requires_grad=True)
        raw = torch.zeros(2, sections, 3, dtype=dtype, requires_grad=True)
        edges = (length * torch.arange(sections + 1, dtype=dtype)).expand(2, -1).clone().requires_grad_()
        out = composite(density_from_mean(mean), torch.sigmoid(raw), edges, torch.ones(3, dtype=dtype))
        total = out.rgb.sum() + out.acc.sum() + out.depth.sum() + out.weights.sum()
        gradients = torch.autograd.grad(total, [mean, raw, edges])
        assert all(v.isfinite().all() for v in (out.rgb, out.acc, out.depth, out.weights, *gradients))
        assert (out.acc >= 0).all()
        assert (out.acc <= 1).all()


def test_equal_edges_show_the_background():
    edges = torch.full((1, 5), 2.0, requires_grad=True)
    density = torch.full((1, 4), 3.0, requires_grad=True)
    out = composite(density, torch.rand(1, 4, 3), edges, torch.tensor([0.1, 0.2, 0.3]))
    gradients = torch.autograd.grad(out.rgb.sum() + out.depth.sum(), [edges, density])
    assert torch.allclose(out.rgb, torch.tensor([[0.1, 0.2, 0.3]]))
    assert out.depth.item() == 2.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        out.depth = density
    assert all(g.isfinite().all() for g in gradients)


def test_density_is_relu_and_a_dark_ray_can_come_back():
    mean = torch.tensor([[-1.0, -2.0], [1.0, -2.0], [1.0, 0.0]], requires_grad=True)
    density = density_from_mean(mean)
    assert torch.equal(density, torch.relu(mean))
    (up,) = torch.autograd.grad(density.sum(), mean, -torch.ones(()), retain_graph=True)
    (down,) = torch.autograd.grad(density.sum(), mean, torch.full((), 0.5))
    assert torch.equal(up, torch.tensor([[-1.0, -1.0], [-1.0, 0.0], [-1.0, 0.0]]))  # the loss asks for more density
    assert torch.equal(down, torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.5, 0.0]]))  # the loss asks for less


def test_the_procedural_scene_has_exact_images():
    """Closed-form line integrals and extrapolated sections against the dense reference renderer, to 1e-6."""
    scene = solids(seed=0, num_solids=3)
    scene = type(scene)(*(getattr(scene, f).double() for f in ("centers", "shapes", "amplitudes", "colors")))
    target = torch.tensor([[0.0, 0.0, 0.0], [0.4, 0.1, 0.1], [-0.3, 0.2, -0.1]], dtype=torch.float64)
    origins = torch.tensor([[4.0, 0.0, 0.0], [0.0, 3.9, 0.9], [-2.0, -3.4, 0.7]], dtype=torch.float64)
    directions = torch.nn.functional.normalize(target - origins, dim=-1)
    rays = Rays(origins, directions, torch.full((3,), 2.5).double(), torch.full((3,), 5.5).double())
    white = torch.ones(3, dtype=torch.float64)

    def mixed(x):
        parts = scene.densities(x)
        return (parts @ scene.colors) / parts.sum(-1, keepdim=True)

    acc, rgb = scene.render(rays, white)
    dense = rendering.render_dense(lambda x: scene.densities(x).sum(-1), mixed, rays, white, num_samples=20_000)
    assert float(acc.max()) > 0.9
    assert torch.allclose(rgb, dense.rgb, atol=1e-6, rtol=0)
    assert torch.allclose(acc, dense.acc, atol=1e-6, rtol=0)


@pytest.mark.parametrize("opacity", [1e-40, 1e-25])
def test_the_depth_of_next_to_nothing_is_that_of_the_far_end(opacity):
    """With an opacity whose reciprocal, or its square, is no number in float32, the gradient is still one."""
    density = torch.full((4,), opacity, requires_grad=True)
    out = composite(density, torch.zeros(4, 3), torch.linspace(1, 2, 5), torch.ones(3))
    out.depth.backward()
    assert out.depth.item() == 2.0
    assert density.grad.isfinite().all()
