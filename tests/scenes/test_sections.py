import math

import pytest
import torch

from autoint.integrals import quadrature
from autoint.networks.grad_nets import grad_net
from autoint.registry import COLORS, ENCODINGS, PLACEMENTS
from autoint.runs.seeding import generator
from autoint.scenes import sections
from autoint.scenes.models.integral_volume import IntegralVolume, Training
from autoint.scenes.occupancy import RESOLUTION, Occupancy
from autoint.scenes.rays import Rays
from autoint.scenes.rendering import composite
from tests.cases import network


def volume(num_sections=8):
    net = network(
        "swish", "normalized_positional", in_features=3, out_features=4, condition=ENCODINGS.build("identity", 3)
    )
    occupancy = Occupancy(torch.full((3,), -1.0), torch.full((3,), 1.0))
    placement = PLACEMENTS.build("uniform", num_sections, occupancy)
    color = COLORS.build("mean", ENCODINGS.build("identity", 3))
    return IntegralVolume([net], [grad_net(net)], placement, color, occupancy, Training()).double()


def some_rays(count=16):
    g = torch.Generator().manual_seed(1)
    o = torch.randn(count, 3, generator=g, dtype=torch.float64)
    d = torch.nn.functional.normalize(torch.randn(count, 3, generator=g, dtype=torch.float64), dim=-1)
    return Rays(o, d, torch.full((count,), 0.1, dtype=torch.float64), torch.full((count,), 1.9, dtype=torch.float64))


def test_means_from_samples_tend_to_means_from_differences_at_the_monte_carlo_rate():
    """Stratified samples of a smooth field: the error falls as M^(−3/2)."""
    model, rays = volume(), some_rays(64)
    edges = model.placement(rays)
    exact = model.means_from_differences(rays, edges)
    counts = [4, 8, 16, 32, 64, 128]
    errors = []
    for count in counts:
        sampled = model.means_from_samples(
            rays, edges, torch.rand(64, 8, count, generator=generator(0, count), dtype=torch.float64)
        )
        errors.append(float((sampled - exact).detach().square().mean().sqrt()))
    x, y = (torch.tensor(v).log2() for v in (counts, errors))
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    assert -1.7 < slope < -1.3, (slope, errors)


def test_both_ways_give_one_rendering_with_the_same_gradients():
    model, rays = volume(), some_rays(4)
    edges = model.placement(rays)
    nodes, node_weights = quadrature.gauss_legendre(edges, 12)
    by_nodes = sections.means_from_samples(model.integrand(rays, nodes), node_weights)
    by_edges = model.means_from_differences(rays, edges)
    gradients = []
    for means in (by_nodes, by_edges):
        rgb = model.composite(rays, means, edges, torch.ones(3)).rgb
        gradients.append(torch.autograd.grad(rgb.square().sum(), list(model.parameters())))
    assert torch.allclose(by_nodes, by_edges, atol=1e-8)
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-7)


@pytest.mark.parametrize("rule", [quadrature.midpoint, quadrature.gauss_legendre, quadrature.stratified])
def test_quadrature_nodes_lie_in_their_sections(rule):
    edges = torch.tensor([[0.0, 0.5, 0.5, 2.0]])
    nodes, node_weights = rule(edges, torch.rand(1, 3, 5) if rule is quadrature.stratified else 5)
    assert nodes.shape == (1, 3, 5)
    assert node_weights.sum() == pytest.approx(1)
    assert (nodes >= edges[:, :-1, None]).all()
    assert (nodes <= edges[:, 1:, None]).all()
    assert (nodes.diff(dim=-1)[:, [0, 2]] > 0).all()


@pytest.mark.parametrize(("rule", "order"), [(quadrature.midpoint, 2), (quadrature.gauss_legendre, 8)])
def test_quadrature_converges_at_its_order(rule, order):
    """Four nodes at most: composite rules over 1 and 2 sections differ by 2^order."""
    errors = []
    for count in (2, 4):
        edges = torch.linspace(0, 2, count + 1, dtype=torch.float64)
        nodes, w = rule(edges, 4)
        value = ((torch.exp(nodes) * w).sum(-1) * edges.diff()).sum()
        errors.append(abs(float(value) - (torch.e**2 - 1)))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)


def test_jitter_keeps_the_order_and_the_ends():
    edges = torch.cumsum(torch.rand(1000, 17, generator=torch.Generator().manual_seed(0)), -1)
    moved = sections.jittered(edges, torch.rand(1000, 15, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(moved[:, [0, -1]], edges[:, [0, -1]])
    assert (moved.diff(dim=-1) >= 0).all()
    assert (moved[:, 1:-1] != edges[:, 1:-1]).float().mean() > 0.99


def test_rays_come_in_any_shape():
    """What is done to a block of rays is what is done to each."""
    g = torch.Generator().manual_seed(0)
    edges = torch.rand(2, 3, 5, generator=g).cumsum(-1)
    values, samples, rgb = (torch.rand(2, 3, *shape, generator=g) for shape in ((5, 2), (4, 6, 2), (4, 3)))
    shares = torch.full((6,), 1 / 6)
    cases = (
        (sections.means_from_differences, values, edges),
        (lambda x: sections.means_from_samples(x, shares), samples),
        (sections.jittered, edges, values[..., 1:4, 0]),
        (lambda x: sections.subdivided(x, 3), edges),
        (lambda *x: list(vars(composite(*x, torch.ones(3))).values()), samples[..., 0, 0], rgb, edges),
        (lambda x: quadrature.midpoint(x, 3)[0], edges),
        (lambda x: quadrature.gauss_legendre(x, 3)[0], edges),
    )
    for function, *arguments in cases:
        whole = function(*arguments)
        for i, j in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
            one = function(*(argument[i, j] for argument in arguments))
            for a, b in zip(whole, one, strict=True) if isinstance(whole, list) else [(whole, one)]:
                assert torch.allclose(a[i, j], b, atol=1e-6)


def test_sections_of_no_length_are_finite():
    values = torch.randn(2, 4, 3, requires_grad=True)
    edges = torch.tensor([[0.0, 1.0, 1.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    means = sections.means_from_differences(values, edges)
    (gradient,) = torch.autograd.grad(means.sum(), values)
    assert means.isfinite().all()
    assert gradient.isfinite().all()
    assert (means[0, 1] == 0).all()


def test_the_integral_is_evaluated_in_float32_under_autocast():
    model = volume().float()
    rays = some_rays().to(torch.float32)
    edges = model.placement(rays)
    plain = model.means_from_differences(rays, edges)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.means_from_differences(rays, edges), plain)


def test_the_sampling_network_learns():
    """Rendering depends on the predicted edges, so the loss reaches the sampler, once."""
    model = volume()
    model.placement = PLACEMENTS.build("predicted", 8, model.occupancy).double()
    rays = some_rays()
    edges = model.placement(rays)
    means = model.means_from_differences(rays, edges).abs()
    rgb = model.composite(rays, means, edges, torch.ones(3)).rgb
    rgb.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.placement.parameters())
    assert model.placement.network[-1].weight.grad.abs().max() > 0


def test_predicted_lengths_are_the_network_s_and_never_nothing():
    """0.99 of the softmax and 0.01 of the equal length, one after the other from near to far."""
    rays, net = some_rays(), PLACEMENTS.build("predicted", 8, volume().occupancy).double()
    assert not net.adaptive
    assert torch.allclose(net(rays), rays.even_edges(8))
    net.network[-1].bias.data[3] = 50.0
    wanted = torch.full((8,), 0.01 / 8, dtype=torch.float64)
    wanted[3] += 0.99
    assert torch.allclose(net(rays).diff(dim=-1), wanted * (rays.far - rays.near)[:, None], rtol=1e-9)
    short = Rays(*(v.float() for v in (rays.origins, rays.directions, rays.near, rays.far)))
    many = PLACEMENTS.build({"name": "predicted", "num_layers": 1}, 64, volume().occupancy)
    torch.nn.init.normal_(many.network[-1].bias, generator=torch.Generator().manual_seed(0))
    assert torch.equal(many(short)[:, -1], short.span(torch.ones(16, 1))[:, 0])  # their sum is not quite 1 in float32
    seen = []
    net.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    net(rays)
    entry = rays.origins + rays.near[:, None] * rays.directions
    assert torch.equal(seen[0], torch.cat([entry, rays.directions], dim=-1))
    widths = [layer.out_features for layer in net.network if hasattr(layer, "out_features")]
    assert widths == [64, 64, 8]


def test_the_proposal_shares_the_rendering_s_weights():
    """Step by step: the weights of the grid's means, each as large as its neighbours', a quarter spread evenly."""
    occupancy = Occupancy(torch.zeros(3), torch.ones(3))
    slabs = torch.rand(RESOLUTION, generator=torch.Generator().manual_seed(0)) * 20
    slabs[RESOLUTION // 4 : RESOLUTION // 2] = 0
    occupancy.density[:] = slabs[:, None, None]
    occupancy.mean[:] = 0.5 * occupancy.density
    rays = Rays(torch.tensor([[0.0, 0.5, 0.5]]), torch.tensor([[1.0, 0.0, 0.0]]), torch.zeros(1), torch.ones(1))
    placement = PLACEMENTS.build({"name": "proposal", "steps": RESOLUTION // 4, "floor": 0.25}, 6, occupancy)
    bounds, largest, mean = occupancy.along(rays, RESOLUTION // 4)
    inside = occupancy.occupied(largest)[0].tolist()
    assert 0 < sum(inside) < len(inside)
    passed, weights = 0.0, []
    for sigma, is_in, length in zip(mean[0].tolist(), inside, bounds[0].diff().tolist(), strict=True):
        depth = sigma * length if is_in else 0.0
        weights.append(math.exp(-passed) * (1 - math.exp(-depth)))
        passed += depth
    wide = [max(weights[max(0, i - 1) : i + 2]) * is_in for i, is_in in enumerate(inside)]
    mixed = [0.75 * w / sum(wide) + 0.25 * is_in / sum(inside) for w, is_in in zip(wide, inside, strict=True)]
    wanted = sections.inverse_cdf(bounds, torch.tensor([mixed]), 6)
    assert torch.allclose(placement(rays), wanted, atol=1e-5)


@pytest.mark.parametrize("floor", [-1, 0, 1.01])
def test_the_evenly_spread_share_is_a_share(floor):
    with pytest.raises(ValueError, match="must be above 0 and at most 1"):
        PLACEMENTS.build({"name": "proposal", "floor": floor}, 4, volume().occupancy)
    PLACEMENTS.build({"name": "proposal", "floor": 1.0}, 4, volume().occupancy)


def test_the_noise_of_directions_is_told_to_the_network_alone():
    """Points and edges are the ray's own; only the condition moves, and only while training."""
    model, rays = volume(), some_rays()
    edges = model.placement(rays)
    other = torch.nn.functional.normalize(rays.directions + 0.1, dim=-1)
    told = model.means_from_differences(rays, edges, other)
    nodes, node_weights = quadrature.gauss_legendre(edges, 12)
    assert torch.allclose(
        sections.means_from_samples(model.integrand(rays, nodes, other), node_weights), told, atol=1e-8
    )
    plain, background = model.means_from_differences(rays, edges), torch.ones(3)
    assert not torch.allclose(told, plain, atol=1e-4)

    def draw(_, *shape):
        return torch.full(shape, 0.75, dtype=torch.float64)

    rendered = []
    for noise in (0.0, 0.3):
        model.training_options = Training(jitter=False, direction_noise=noise)
        (out,), _ = model.renderings(rays, edges, background, draw, 0.0)
        rendered.append(out.rgb)
        assert torch.equal(
            model.render(rays, edges, background).rgb, model.composite(rays, plain, edges, background).rgb
        )
    assert not torch.allclose(*rendered, atol=1e-5)


def test_subdivided_and_inverse_cdf_by_hand():
    edges = torch.tensor([[0.0, 1.0, 3.0]], dtype=torch.float64)
    assert sections.subdivided(edges, 2).tolist() == [[0.0, 0.5, 1.0, 2.0, 3.0]]
    bounds, weights = torch.tensor([[0.0, 1, 2, 4]], dtype=torch.float64), torch.tensor([[2.0, 0, 6]]).double()
    expected = torch.tensor([[0.0, 1, 2 + 2 / 3, 3 + 1 / 3, 4]], dtype=torch.float64)
    assert torch.allclose(sections.inverse_cdf(bounds, weights, 4), expected, atol=1e-15)
    inside = sections.inverse_cdf(bounds, torch.tensor([[0.0, 5, 0]]).double(), 2)
    assert inside.tolist() == [[1.0, 1.5, 2.0]]
