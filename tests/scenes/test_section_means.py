"""One field that all directions share: its means over sections, and what they are decoded to."""

import itertools

import pytest
import torch
from torch import nn

from autoint.networks.activations import swish
from autoint.registry import ENCODINGS, PLACEMENTS
from autoint.runs.seeding import generator
from autoint.scenes import sections
from autoint.scenes.models.radiance_field import RadianceField
from autoint.scenes.models.sampled_means import SampledMeans
from autoint.scenes.models.section_means import SectionField, SectionMeans
from autoint.scenes.occupancy import Occupancy
from tests.scenes.test_nerf import TrueField, scene
from tests.scenes.test_sections import some_rays


def volume(encoding="identity", nodes=None, sections=8, placement="uniform"):
    """A closed form, or with ``nodes`` the samples of before."""
    torch.manual_seed(0)
    occupancy = Occupancy(torch.full((3,), -1.0), torch.full((3,), 1.0))
    encodings = [ENCODINGS.build(choice, 3) for choice in (encoding, "identity")]
    placement = PLACEMENTS.build(placement, sections, occupancy)
    if nodes is None:
        field = SectionField(*encodings, 16, 3, 5, swish())
        nn.init.constant_(field.decoded.bias[:1], 1.0)  # something can be seen
        model = SectionMeans(field, placement, occupancy)
    else:
        field = RadianceField(*encodings, 16, 2, swish())
        nn.init.constant_(field.density.bias, 1.0)
        model = SampledMeans(field, nodes, placement, occupancy)
    return model.double().requires_grad_(False)


both = pytest.mark.parametrize("nodes", [None, 4], ids=["closed_form", "samples"])


def test_sections_are_those_of_very_many_samples():
    """The closed form against an obvious twin: the encoding averaged over 512 nodes of every section."""
    model, rays = volume({"name": "positional", "num_frequencies": 3}), some_rays()
    edges = rays.even_edges(4)
    nodes = rays.at(sections.subdivided(edges, 512)).unfold(1, 2, 1).mean(-1)  # midpoints
    mean = model.field.encoding(nodes).unflatten(1, (4, 512)).mean(2)
    for found, truth in zip(model.means(rays, edges), model._decoded(mean), strict=True):
        assert torch.allclose(found, truth, atol=1e-4)


def test_a_ray_shows_base_colours_and_the_gloss_of_its_features():
    model, rays = volume("grid"), some_rays()
    edges, background = model.edges(rays), torch.rand(3, dtype=torch.float64)
    density, base, features = model.means(rays, edges)
    out = model.render(rays, edges, background)
    for r in range(len(rays)):
        passed, rgb, mean, acc = 1.0, torch.zeros(3), torch.zeros(5), 0.0
        for i in range(8):
            alpha = 1 - torch.exp(-density[r, i] * (edges[r, i + 1] - edges[r, i]))
            rgb, mean, acc = (
                rgb + passed * alpha * base[r, i],
                mean + passed * alpha * features[r, i],
                acc + passed * alpha,
            )
            passed = passed * (1 - alpha)
        if acc > 0:
            rgb = rgb + acc * model.field.shine(mean / acc, rays.directions[r])
        assert torch.allclose(out.rgb[r], rgb + passed * background, atol=1e-9)
        assert float(out.acc[r]) == pytest.approx(float(acc), abs=1e-9)
    assert float(out.acc.max()) > 0.1


def test_a_section_alone_on_its_ray_shows_its_own_values():
    model, rays = volume("grid", sections=1), some_rays()
    edges = model.edges(rays)
    density, rgb = model.section_values(rays, edges)
    acc = -torch.expm1(-density * edges.diff(dim=-1))
    out = model.render(rays, edges, torch.zeros(3, dtype=torch.float64))
    seen = acc[:, 0] > 1e-3
    assert seen.any()
    assert torch.allclose(out.rgb[seen], (acc[..., None] * rgb)[seen, 0], atol=1e-9)


def test_one_evaluation_of_the_gloss_and_two_look_ups_per_section():
    model = volume("grid", sections=8)
    assert (model.look_ups, model.evaluations, model.colors) == (16, 8, 1)
    assert model.fit == "closed form in each cell"


def test_rows_are_for_the_hull_and_come_back_from_a_checkpoint():
    hull = torch.zeros(64, 64, 64, dtype=torch.bool)
    hull[20:30, 20:30, 20:30] = True
    grid = {"name": "grid", "resolutions": [64], "features": 2, "entries": 5000}

    def build(hull):
        occupancy = Occupancy(torch.full((3,), -1.0), torch.full((3,), 1.0), hull)
        field = SectionField(ENCODINGS.build(grid, 3), ENCODINGS.build("identity", 3), 16, 3, 5, swish())
        return SectionMeans(field, PLACEMENTS.build("uniform", 8, occupancy), occupancy)

    model, again = build(hull), build(None)
    rows = model.field.encoding.rows_0.view(65, 65, 65)
    near = rows[19:32, 19:32, 19:32]  # corners of the hull's cells and of those beside them
    assert len(near.unique()) == near.numel() > 13**3 - 1
    assert int((rows == 0).sum()) > 65**3 - 5000
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.field.encoding.rows_0, model.field.encoding.rows_0)


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


@both
def test_from_the_other_side_there_is_the_same_density_in_another_colour(nodes):
    model, rays = volume("grid", nodes), some_rays()
    edges = rays.even_edges(8)
    back = type(rays)(rays.at(rays.far), -rays.directions, torch.zeros_like(rays.near), rays.far - rays.near)
    (density, rgb), (density_back, rgb_back) = (
        model.section_values(rays, edges),
        model.section_values(back, back.even_edges(8)),
    )
    assert torch.allclose(density, density_back.flip(-1), rtol=1e-9)
    assert not torch.allclose(rgb, rgb_back.flip(1), rtol=1e-2)


@both
def test_training_in_the_middle_of_every_bin_is_rendering(nodes):
    model, rays = volume("grid", nodes), some_rays()
    edges, black = model.edges(rays), torch.zeros(3, dtype=torch.float64)
    (trained,), penalty = model.renderings(rays, edges, black, lambda _, *shape: torch.full(shape, 0.5), 0.0)
    rendered = model.render(rays, edges, black)
    assert torch.allclose(trained.rgb, rendered.rgb)
    assert torch.allclose(trained.weights, rendered.weights)
    assert penalty == 0
    (elsewhere,), _ = model.renderings(rays, edges, black, lambda _, *shape: torch.full(shape, 0.9), 0.0)
    assert not torch.allclose(elsewhere.rgb, rendered.rgb)


@both
def test_what_it_sees_is_what_the_placement_learns(nodes):
    model = volume(nodes=nodes, placement="occupied")
    assert model.looks(500)
    assert not model.looks(499)
    last = model.field.decoded if nodes is None else model.field.density
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, 123.0)
    before = model.occupancy.density.clone()
    model.look(some_rays().directions, generator(0))
    density = 123.0 if nodes else 10.0 * 122.0
    looked_at = model.occupancy.density == density
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
    for count in (8, 16, 32, 64):
        placement = PLACEMENTS.build("uniform", count, occupancy)
        model = SampledMeans(AveragedTrueField(occupancy), 8, placement, occupancy)
        rgb, _, acc = model.view(views.rays_of(0), torch.zeros(3), 4096)
        errors.append(float((rgb - truth[:, :3]).abs().mean()))
        assert float((acc - truth[:, 3]).abs().mean()) < 2e-3  # as good for few sections as for many
        assert (model.look_ups, model.evaluations) == (8 * count, count)
    assert errors[-1] < 1e-3
    for few, many in itertools.pairwise(errors):
        assert many < 0.6 * few, errors


def test_nodes_are_at_least_one():
    from autoint.runs import build
    from tests.scenes.test_task import tiny_config

    with pytest.raises(ValueError, match=r"model.nodes=0 must be an integer of at least 1"):
        build.task(tiny_config(model={"name": "object", "nodes": 0}), with_data=False)
