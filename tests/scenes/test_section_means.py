"""One field that all directions share: its means over sections, and what they are decoded to."""

import itertools

import pytest
import torch
from torch import nn

from autoint.networks.activations import swish
from autoint.registry import ENCODINGS, PLACEMENTS
from autoint.runs.seeding import generator
from autoint.scenes.models.radiance_field import RadianceField
from autoint.scenes.models.section_means import SectionMeans
from autoint.scenes.occupancy import Occupancy
from tests.scenes.test_nerf import TrueField, scene
from tests.scenes.test_sections import some_rays


def volume(encoding="identity", nodes=4, sections=8, placement="uniform"):
    torch.manual_seed(0)
    occupancy = Occupancy(torch.full((3,), -1.0), torch.full((3,), 1.0))
    encodings = (ENCODINGS.build(choice, 3) for choice in (encoding, "identity"))
    field = RadianceField(*encodings, 16, 2, swish())
    nn.init.constant_(field.density.bias, 1.0)  # something can be seen
    model = SectionMeans(field, nodes, PLACEMENTS.build(placement, sections, occupancy), occupancy)
    return model.double().requires_grad_(False)


def test_the_mean_of_what_is_linear_is_exact():
    rays = some_rays()
    one, many = (volume(nodes=nodes).section_values(rays, rays.even_edges(8)) for nodes in (1, 7))
    for a, b in zip(one, many, strict=True):
        assert torch.allclose(a, b, rtol=1e-12)


def test_the_error_of_the_mean_falls_with_the_square_of_the_nodes():
    rays = some_rays()
    edges = rays.even_edges(4)
    encoding = {"name": "positional", "num_frequencies": 2}
    exact = volume(encoding, 512).section_values(rays, edges)[0]
    errors = [float((volume(encoding, n).section_values(rays, edges)[0] - exact).abs().mean()) for n in (8, 16, 32, 64)]
    for few, many in itertools.pairwise(errors):
        assert 3.7 < few / many < 4.4, errors


def test_from_the_other_side_there_is_the_same_density_in_another_colour():
    model, rays = volume("grid"), some_rays()
    edges = rays.even_edges(8)
    back = type(rays)(rays.at(rays.far), -rays.directions, torch.zeros_like(rays.near), rays.far - rays.near)
    (density, rgb), (density_back, rgb_back) = (
        model.section_values(rays, edges),
        model.section_values(back, back.even_edges(8)),
    )
    assert torch.allclose(density, density_back.flip(-1), rtol=1e-9)
    assert not torch.allclose(rgb, rgb_back.flip(1), rtol=1e-2)


def test_training_in_the_middle_of_every_bin_is_rendering():
    model, rays = volume("grid"), some_rays()
    edges, black = model.edges(rays), torch.zeros(3, dtype=torch.float64)
    (trained,), penalty = model.renderings(rays, edges, black, lambda _, *shape: torch.full(shape, 0.5), 0.0)
    rendered = model.render(rays, edges, black)
    assert torch.allclose(trained.rgb, rendered.rgb)
    assert torch.allclose(trained.weights, rendered.weights)
    assert penalty == 0
    (elsewhere,), _ = model.renderings(rays, edges, black, lambda _, *shape: torch.full(shape, 0.9), 0.0)
    assert not torch.allclose(elsewhere.rgb, rendered.rgb)


def test_what_it_sees_is_what_the_placement_learns():
    model = volume(placement="occupied")
    assert model.looks(500)
    assert not model.looks(499)
    nn.init.zeros_(model.field.density.weight)
    nn.init.constant_(model.field.density.bias, 123.0)
    before = model.occupancy.density.clone()
    model.look(some_rays().directions, generator(0))
    looked_at = model.occupancy.density == 123
    assert float(looked_at.double().mean()) == pytest.approx(1 / 8, abs=0.01)
    assert torch.equal(model.occupancy.density[~looked_at], before[~looked_at])


class AveragedTrueField(TrueField):
    """The embedded scene's own means over the nodes."""

    def forward(self, x, directions):
        density, rgb = super().forward(x, directions)
        return density.mean(-1), (rgb * density[..., None]).sum(-2) / density.sum(-1, keepdim=True).clamp_min(1e-12)


def test_the_true_means_give_the_true_image_the_better_the_more_sections():
    views, occupancy = scene()
    truth, errors = views.images[0].reshape(-1, 4), []
    for sections in (8, 16, 32, 64):
        placement = PLACEMENTS.build("uniform", sections, occupancy)
        model = SectionMeans(AveragedTrueField(occupancy), 8, placement, occupancy)
        rgb, _, acc = model.view(views.rays_of(0), torch.zeros(3), 4096)
        errors.append(float((rgb - truth[:, :3]).abs().mean()))
        assert float((acc - truth[:, 3]).abs().mean()) < 2e-3  # as good for few sections as for many
        assert model.evaluations == 8 * sections
    assert errors[-1] < 1e-3
    for few, many in itertools.pairwise(errors):
        assert many < 0.6 * few, errors


def test_nodes_are_at_least_one():
    from autoint.runs import build
    from tests.scenes.test_task import tiny_config

    with pytest.raises(ValueError, match=r"model.nodes=0 must be an integer of at least 1"):
        build.task(tiny_config(model={"name": "object", "nodes": 0}), with_data=False)
