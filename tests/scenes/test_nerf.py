"""The baseline: quadrature at hierarchical samples, against a scene whose images are known."""

import functools
import itertools

import pytest
import torch
from torch import nn

from autoint.networks.activations import swish
from autoint.registry import ENCODINGS
from autoint.scenes.data.procedural import procedural, solids
from autoint.scenes.models.nerf import Nerf
from autoint.scenes.models.radiance_field import RadianceField
from autoint.scenes.occupancy import Occupancy, visual_hull


class TrueField(nn.Module):
    """The embedded scene itself, in the coordinates of the volume's networks."""

    def __init__(self, occupancy):
        super().__init__()
        self.scene, self.occupancy = solids(0, 5), occupancy
        self.density = nn.Linear(8, 1)  # what the volume reads the width from
        self.looked_at = []

    def forward(self, x, directions):
        lower, upper = self.occupancy.lower, self.occupancy.upper
        point = x * (upper - lower).max() / 2 + (lower + upper) / 2
        parts = self.scene.densities(point)
        self.looked_at.append(parts.sum(-1))
        rgb = (parts @ self.scene.colors) / parts.sum(-1, keepdim=True).clamp_min(1e-12)
        return parts.sum(-1), rgb if directions is not None else None


@functools.cache
def scene():
    return procedural("", "val", 24, 1), visual_hull(procedural("", "train", 24))


def image(coarse, fine):
    views, occupancy = scene()
    nerf = Nerf([TrueField(occupancy), TrueField(occupancy)], coarse, fine, occupancy)
    rgb, _, acc = nerf.view(views.rays_of(0), torch.zeros(3), 4096)
    truth = views.images[0].reshape(-1, 4)
    return nerf, float((rgb - truth[:, :3]).abs().mean()), float((acc - truth[:, 3]).abs().mean())


def test_the_true_field_gives_the_true_image_the_better_the_more_samples():
    errors = [image(n, n)[1] for n in (8, 16, 32, 64)]
    assert errors[-1] < 2e-4
    for few, many in itertools.pairwise(errors):
        assert many < 0.6 * few, errors


def test_fine_samples_go_where_the_density_is():
    nerf, *_ = image(32, 64)
    coarse, fine = (torch.cat([d.flatten() for d in field.looked_at]) for field in nerf.fields)
    assert float((fine > 1).float().mean()) > 1.5 * float((coarse > 1).float().mean())


def test_evaluations_are_what_is_counted():
    nerf, *_ = image(8, 12)
    rays = len(nerf.fields[0].looked_at[0])
    per_ray = sum(field.looked_at[0].shape[-1] for field in nerf.fields)
    assert rays > 0
    assert per_ray == nerf.evaluations == 28


@pytest.mark.parametrize("layers", [2, 8])
def test_a_field_is_trained_by_density_and_colour(layers):
    encodings = [ENCODINGS.build({"name": "positional", "num_frequencies": n}, 3) for n in (4, 2)]
    field = RadianceField(*encodings, 16, layers, swish())
    x, d = torch.rand(5, 7, 3), torch.nn.functional.normalize(torch.randn(5, 3), dim=-1)
    density, rgb = field(x, d)
    assert density.shape == (5, 7)
    assert rgb.shape == (5, 7, 3)
    assert torch.equal(field(x, None)[0], density)
    assert not torch.allclose(field(x, -d)[1], rgb)
    (density.sum() + rgb.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in field.parameters())
    assert field.trunk[layers // 2].in_features == 16 + (27 if layers == 8 else 0)


def test_rays_that_miss_the_box_are_background():
    occupancy = Occupancy(torch.full((3,), 10.0), torch.full((3,), 11.0))
    nerf = Nerf([TrueField(occupancy), TrueField(occupancy)], 4, 4, occupancy)
    rgb, _, acc = nerf.view(procedural("", "val", 8, 1).rays_of(0), torch.ones(3), 100)
    assert torch.equal(rgb, torch.ones_like(rgb))
    assert not acc.any()
