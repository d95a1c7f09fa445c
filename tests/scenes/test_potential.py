"""One antiderivative for all rays: differences of a network of the position alone."""

import torch

from autoint.integrals import quadrature
from autoint.networks.activations import swish
from autoint.registry import ENCODINGS, PLACEMENTS
from autoint.scenes import sections
from autoint.scenes.models.potential import Potential
from autoint.scenes.models.section_means import SectionField
from autoint.scenes.occupancy import Occupancy
from autoint.scenes.rays import Rays
from tests.scenes.test_sections import some_rays


def volume(encoding="identity", count=8):
    torch.manual_seed(0)
    occupancy = Occupancy(torch.full((3,), -1.0), torch.full((3,), 1.0))
    encodings = [ENCODINGS.build(choice, 3) for choice in (encoding, "identity")]
    placement = PLACEMENTS.build("uniform", count, occupancy)
    return Potential(SectionField(*encodings, 16, 3, 5, swish()), placement, occupancy).double()


def test_differences_of_the_potential_are_integrals_of_its_slope_along_the_ray():
    """The fundamental theorem, against Gauss-Legendre quadrature of d·∇Φ; what falls counts as nothing."""
    model, rays = volume({"name": "positional", "num_frequencies": 1}), some_rays()
    edges = rays.even_edges(4)
    nodes, weights = quadrature.gauss_legendre(edges, 24)
    nodes.requires_grad_()
    (slope,) = torch.autograd.grad(model.values(rays, nodes)[0].sum(), nodes)
    means = sections.means_from_samples(slope[..., None], weights)[..., 0]
    assert (means > 1e-3).any()
    assert (means < -1e-3).any()
    assert torch.allclose(model.means(rays, edges)[0], means.clamp_min(0), atol=1e-8)


def test_who_comes_from_the_other_side_sees_what_falls():
    """One Φ behind all rays: of a section, each direction sees what the other one does not."""
    model, rays = volume(), some_rays()
    edges = rays.even_edges(4)
    there = model.means(rays, edges)[0]
    back = Rays(rays.at(rays.far[:, None])[:, 0], -rays.directions, torch.zeros_like(rays.near), rays.far - rays.near)
    other = model.means(back, rays.far[:, None] - edges.flip(-1))[0].flip(-1)
    potential = model.values(rays, edges)[0].diff(dim=-1) / edges.diff(dim=-1)
    assert torch.allclose(there - other, potential, atol=1e-9)
    assert not (there * other).any()


def test_a_ray_s_colour_converges_at_second_order():
    model, rays = volume().requires_grad_(False), some_rays()
    white = torch.ones(3, dtype=torch.float64)
    truth = model.render(rays, rays.even_edges(2048), white).rgb
    errors = [float((model.render(rays, rays.even_edges(n), white).rgb - truth).abs().max()) for n in (32, 64)]
    assert errors[0] > 3 * errors[1] > 0


def test_it_counts_what_it_asks_for_and_takes_sections_of_no_length():
    model, rays = volume("grid"), some_rays()
    assert (model.evaluations, model.look_ups, model.colors, model.fit) == (9, 9, 1, "integral_net")
    edges = rays.even_edges(8).repeat_interleave(2, dim=-1)
    out = model.render(rays, edges, torch.ones(3, dtype=torch.float64))
    assert torch.allclose(out.rgb, model.render(rays, edges[:, ::2], torch.ones(3, dtype=torch.float64)).rgb)
    out.rgb.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_density_at_a_point_is_what_is_met_in_a_cell_around_it():
    model, rays = volume(), some_rays()
    t = torch.rand(len(rays), 3, dtype=torch.float64)
    half = 0.5 * model.occupancy.cell
    for k in range(3):
        edges = torch.stack([t[:, k] - half, t[:, k] + half], dim=-1)
        assert torch.allclose(model.density(rays, t)[:, k], model.means(rays, edges)[0][:, 0])


def test_what_is_baked_is_the_steepest_slope_whatever_the_direction():
    """|∇Φ| against autograd; no direction meets more."""
    model, g = volume({"name": "positional", "num_frequencies": 1}), torch.Generator().manual_seed(0)
    points = (torch.rand(40, 3, generator=g).double() - 0.5).requires_grad_()
    d = torch.nn.functional.normalize(torch.randn(40, 3, generator=g).double(), dim=-1)
    nothing = torch.zeros(40).double()
    rays = Rays(points, d, nothing, nothing)
    (slope,) = torch.autograd.grad(model.values(rays, nothing[:, None])[0].sum(), points)
    density, rgb = model.radiance(points.detach(), d, 1e-3)
    assert torch.allclose(density, slope.norm(dim=-1), rtol=1e-4)
    assert (torch.relu((slope * d).sum(-1)) <= density * (1 + 1e-4)).all()
    assert rgb.shape == (40, 3)


def test_differences_are_taken_in_full_precision():
    model, rays = volume("grid").float(), some_rays()
    rays = rays.to(torch.float32)
    edges = rays.even_edges(64)
    plain = model.means(rays, edges)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.means(rays, edges)[0], plain)
