"""UNISURF where its answer is known: a ball of distances, and the rays that meet it."""

import pytest
import torch
from torch import nn

from autoint.registry import MODELS
from autoint.scenes import meshes
from autoint.scenes.data import solid
from autoint.scenes.models.unisurf import Appearance, Sampling, Unisurf
from autoint.scenes.occupancy import Occupancy
from autoint.scenes.rays import Rays
from tests.scenes.test_task import tiny_config

RADIUS = 0.7
BOX = torch.tensor([2.0, 2.0, 2.0])


class Ball(nn.Module):
    """|x| − 0.7 and a feature, in the coordinates of the volume's networks."""

    hidden_features = 8

    def forward(self, x):
        away = x.norm(dim=-1, keepdim=True) - RADIUS
        return torch.cat([away, torch.ones_like(away)], dim=-1)


class Painted(nn.Module):
    """The colour is the normal."""

    def forward(self, x, normals, directions, features):
        assert features.shape == (len(x), 1)
        return 0.5 + 0.5 * normals


def ball(**sampling):
    return Unisurf(Ball(), Painted(), Sampling(**sampling), 0.1, Occupancy(-BOX, BOX))


def rays(count=64):
    """From a distance of 10 towards a disc that is wider than the ball, which has the radius 1.4 in the world."""
    g = torch.Generator().manual_seed(0)
    aim = 2.2 * torch.rand(count, 2, generator=g) - 1.1
    origins = torch.cat([aim, torch.full((count, 1), 10.0)], dim=-1)
    down = torch.tensor([0.0, 0.0, -1.0]).expand(count, 3)
    return Rays(origins, down, torch.full((count,), 2.0), torch.full((count,), 20.0))


def test_the_surface_is_found_where_it_is():
    volume, seen = ball(), rays()
    at, hit = volume.surface(seen, volume.edges(seen))
    height = (2 * RADIUS) ** 2 - seen.origins[:, :2].square().sum(-1)
    assert torch.equal(hit, height > 0) or int((hit != (height > 0)).sum()) <= 1  # a ray that only just meets it
    both = hit & (height > 0.1)
    assert both.sum() > 20
    assert torch.allclose(at[both], 10 - height[both].sqrt(), atol=1e-5)
    assert torch.equal(at[~hit], volume.edges(seen)[~hit, 1])


def test_samples_lie_around_the_surface_ever_closer_and_the_others_before_it():
    volume, seen = ball(inside=6, before=3, wide=2.0, narrow=0.125, settled=0.5), rays()
    edges = volume.edges(seen)
    at, hit = volume.surface(seen, edges)
    assert [volume.half_length(used) for used in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([2.0, 0.5, 0.125, 0.125])
    for used in (0.0, 0.25, 1.0):
        volume.interval.fill_(volume.half_length(used))
        bounds = volume.bounds(edges, at, hit)
        assert bounds.shape == (len(seen), 10)
        assert (bounds.diff(dim=-1) >= 0).all()
        assert torch.equal(bounds[:, 0], edges[:, 0])
        half = 2 * volume.half_length(used)  # the box is twice as large as the networks' cube
        first, last = bounds[hit, 3], bounds[hit, -1]
        assert torch.allclose(first, (at[hit] - half).clamp_min(edges[0, 0]))
        assert torch.allclose(last, (at[hit] + half).clamp_max(edges[0, 1]))
        assert torch.allclose(bounds[~hit].diff(dim=-1), edges[~hit].diff(dim=-1) / 9, atol=1e-5)


def test_a_pixel_is_what_opacities_and_colours_of_its_samples_make():
    """The slow twin: Σ o_i Π (1 − o_j) c_i of the samples one by one."""
    volume, seen = ball(inside=5, before=2), rays(8)
    volume.interval.fill_(0.1)
    assert float(volume.sharpness) == pytest.approx(40)
    edges, behind = volume.edges(seen), torch.tensor([0.2, 0.4, 0.9])
    shown = volume.render(seen, edges, behind)
    bounds = volume.bounds(edges, *volume.surface(seen, edges))
    for r in range(len(seen)):
        passed, color = 1.0, torch.zeros(3)
        for a, b in zip(bounds[r, :-1], bounds[r, 1:], strict=True):
            x = (seen.origins[r] + (a + b) / 2 * seen.directions[r]) / 2
            opacity = torch.sigmoid(-volume.sharpness * (x.norm() - RADIUS))
            color = color + passed * opacity * (0.5 + 0.5 * x / x.norm())
            passed = passed * (1 - opacity)
        assert torch.allclose(shown.rgb[r], color + passed * behind, atol=1e-5)


def test_its_mesh_is_where_f_is_zero():
    volume = ball()
    mesh, told = meshes.mesh_of(volume, 32)
    assert told == "f = 0"
    assert mesh.watertight
    assert torch.from_numpy(mesh.vertices).norm(dim=-1).numpy() == pytest.approx(2 * RADIUS, abs=5e-3)
    assert mesh.colors == pytest.approx(0.5 + 0.5 * mesh.vertices / (2 * RADIUS), abs=0.03)


def test_normals_that_differ_cost_something_and_everything_learns():
    torch.manual_seed(0)
    config = tiny_config(model="unisurf")
    volume = MODELS.build({"name": "unisurf", "march": 16}, config, Occupancy(-BOX, BOX))
    assert isinstance(volume.appearance, Appearance)
    g = torch.Generator().manual_seed(0)
    draw = lambda _, *shape: torch.rand(shape, generator=g)  # noqa: E731
    seen = rays()
    (shown,), penalty = volume.renderings(seen, volume.edges(seen), torch.ones(3), draw, 0.3)
    assert float(volume.interval) == pytest.approx(volume.half_length(0.3))
    assert float(penalty.detach()) > 0
    (shown.rgb.square().mean() + penalty).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in volume.parameters())
    assert 0 < float(shown.acc.mean().detach()) < 1  # it begins as a ball


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"march": 0}, "model.march=0"),
        ({"narrow": 3.0}, "0 < narrow ≤ wide ≤ 4"),
        ({"settled": 0.0}, "model.settled=0.0"),
        ({"smooth": -1.0}, "model.smooth=-1.0"),
    ],
)
def test_what_cannot_be_is_refused(choice, words):
    with pytest.raises(ValueError, match=words):
        MODELS.build({"name": "unisurf", **choice}, tiny_config(model="unisurf"), Occupancy(-BOX, BOX))


def test_the_solid_is_seen_where_its_distance_says():
    views = solid.solid("", "train", 12, 2)
    seen = views.rays_of(0)
    points, hit = solid.traced(seen)
    assert solid.distance(points).abs().max() < 2 * solid.CLOSE
    t = torch.linspace(2.5, 5.5, 400)
    nearest = solid.distance(seen.at(t.expand(len(seen), -1))).amin(dim=-1)
    assert (nearest[hit] < 0.01).all()
    assert (nearest[~hit] > 0).all()
    assert 0.1 < float(views.images[..., 3].mean()) < 0.6
    assert (views.images[..., :3] <= views.images[..., 3:] + 1e-6).all()  # premultiplied
    assert solid.distance(torch.tensor([[0.0, 0.0, 2.0], [solid.RING, 0.0, 0.0]])).tolist() == pytest.approx(
        [2 - solid.HEIGHT - solid.BALL, -solid.TUBE]
    )
    with pytest.raises(ValueError, match="at most 1024"):
        solid.solid("", "train", 4096)
