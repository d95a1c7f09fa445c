"""What section means become: the paper's colour, the density-weighted one, and decoded features."""

import torch

from autoint.registry import COLORS, ENCODINGS
from autoint.scenes.colors import _UnitInterval


def built(name, **options):
    torch.manual_seed(0)
    return COLORS.build({"name": name, **options}, ENCODINGS.build({"name": "positional", "num_frequencies": 2}, 3))


def test_mean_is_the_papers():
    means = torch.tensor([[[2.0, 0.0, 1.0, -1.0], [-3.0, 0.0, 0.0, 0.0]]])
    density, rgb = built("mean")(means, torch.zeros(1, 3))
    assert density.tolist() == [[2.0, 0.0]]
    assert torch.allclose(rgb[0, 0], torch.sigmoid(torch.tensor([0.0, 1.0, -1.0])))


def test_weighted_gives_the_surface_its_colour_however_much_of_the_section_is_empty():
    color = torch.tensor([0.2, 0.5, 0.9])
    for share in (1.0, 0.3, 1e-3):  # of the section that is filled, with density 40
        means = share * torch.cat([torch.tensor([40.0]), 40 * color])[None, None]
        density, rgb = built("weighted")(means, torch.zeros(1, 3))
        assert torch.allclose(density, torch.tensor(40.0 * share))
        assert torch.allclose(rgb[0, 0], color, atol=1e-6)


def test_weighted_is_finite_without_density_and_its_gradient_too():
    means = torch.tensor([[[0.0, 1.0, -1.0, 0.0], [1e-8, 5.0, 0.0, 0.0]]], requires_grad=True)
    density, rgb = built("weighted")(means, torch.zeros(1, 3))
    weight = -torch.expm1(-density)[..., None]
    (gradient,) = torch.autograd.grad((weight * rgb).sum(), means)
    assert rgb.min() >= 0
    assert rgb.max() <= 1
    assert gradient.isfinite().all()


def test_a_colour_outside_of_0_to_1_may_come_back_and_goes_no_farther():
    x = torch.tensor([-0.5, -0.5, 0.5, 1.5, 1.5], requires_grad=True)
    out = _UnitInterval.apply(x)
    assert out.tolist() == [0, 0, 0.5, 1, 1]
    (gradient,) = torch.autograd.grad(out, x, torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0]))
    assert gradient.tolist() == [0, -1, 1, 1, 0]


def test_decoded_is_told_the_direction_after_the_integration():
    color = built("decoded", features=5)
    assert color.outputs == 6
    means, d = torch.randn(2, 4, 6), torch.nn.functional.normalize(torch.randn(2, 3), dim=-1)
    density, rgb = color(means, d)
    assert rgb.shape == (2, 4, 3)
    assert torch.equal(density, color(means, -d)[0])
    assert not torch.allclose(rgb, color(means, -d)[1])
