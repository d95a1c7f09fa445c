"""The other renderers: EfficientNeRF, light fields and Neural Volumes, each where its answer is known."""

import functools

import pytest
import torch
from torch import nn

from autoint.scenes.data.procedural import procedural, solids
from autoint.scenes.models.efficient_nerf import EfficientNerf, Sampling
from autoint.scenes.models.light_field import Residual
from autoint.scenes.models.neural_volumes import NeuralVolumes
from autoint.scenes.occupancy import Occupancy, visual_hull
from autoint.scenes.rays import Rays
from autoint.scenes.rendering import DENSITY
from tests.runs.test_cli import composed
from tests.scenes.test_task import tiny_config


class TrueField(nn.Module):
    """The embedded scene, as a field of density and harmonics in the coordinates of the volume's networks."""

    hidden_features = 8

    def __init__(self, occupancy):
        super().__init__()
        self.scene, self.occupancy, self.asked = solids(0, 5), occupancy, 0

    def forward(self, x):
        self.asked += len(x)
        lower, upper = self.occupancy.lower, self.occupancy.upper
        parts = self.scene.densities(x * (upper - lower).max() / 2 + (lower + upper) / 2)
        total = parts.sum(-1, keepdim=True)
        rgb = parts @ self.scene.colors / total.clamp_min(1e-12)
        out = torch.zeros(len(x), 28)
        out[:, :1] = 1 + torch.where(total > 0, torch.log(torch.expm1(total.clamp(1e-6, 500) / DENSITY)), -20.0)
        out[:, 1::9] = torch.logit(rgb.clamp(1e-4, 1 - 1e-4)) / 0.28209479177387814
        return out


@functools.cache
def scene():
    return procedural("", "val", 24, 1), visual_hull(procedural("", "train", 24))


def efficient(**sampling):
    views, occupancy = scene()
    fields = [TrueField(occupancy), TrueField(occupancy)]
    return EfficientNerf(fields, Sampling(**sampling), 32, occupancy), views


def error_of(volume, views):
    with torch.no_grad():
        rgb, _, acc = volume.view(views.rays_of(0), torch.zeros(3), 4096)
    truth = views.images[0].reshape(-1, 4)
    return float((rgb - truth[:, :3]).abs().mean()), float((acc - truth[:, 3]).abs().mean())


def drawing(seed=0):
    g = torch.Generator().manual_seed(seed)
    return lambda _, *shape: torch.rand(shape, generator=g)


def test_the_true_fields_give_the_true_image_with_few_evaluations():
    """Also after the grid has learned where nothing is; what it leaves out costs next to nothing."""
    volume, views = efficient(coarse=64, fine=4, most=64, momentum=0.4)
    before = error_of(volume, views)
    all_made = volume.made
    rays = volume.edges(views.rays_of(0))
    hit = views.rays_of(0)[(rays[:, 1] > rays[:, 0])]
    for seed in range(14):
        volume.renderings(hit, volume.edges(hit), torch.zeros(3), drawing(seed), 0.0)
    volume._made = volume._rays = 0
    after = error_of(volume, views)
    assert max(before) < 1e-3
    assert max(after) < 1e-2  # soft rims, of which a voxel absorbs less than a hundredth
    assert volume.made < 0.9 * all_made < 64 + 256
    asked = [field.asked for field in volume.fields]
    assert asked[1] < 4 * asked[0]


def test_the_grid_follows_the_coarse_density_with_momentum():
    volume, _ = efficient(momentum=0.25)
    points = volume.occupancy.lower + (volume.occupancy.upper - volume.occupancy.lower) * torch.tensor(
        [[0.01, 0.01, 0.01], [0.012, 0.01, 0.01], [0.51, 0.51, 0.51]]
    )
    volume._follow(points, torch.tensor([2.0, 4.0, 0.0]))
    assert float(volume.voxels[0, 0, 0]) == pytest.approx(0.75 * 10 + 0.25 * 3)
    assert float(volume.voxels[16, 16, 16]) == pytest.approx(7.5)
    assert float(volume.voxels[5, 5, 5]) == 10


def test_pivotal_are_the_heaviest_above_the_threshold():
    volume, _ = efficient(most=2, pivot=0.1)
    weights = torch.tensor([[0.05, 0.3, 0.2, 0.4], [0.01, 0.02, 0.5, 0.03]])
    assert volume.pivotal(weights).tolist() == [[False, True, False, True], [False, False, True, False]]


def test_what_the_grid_calls_empty_is_seen_again_by_a_few_rays():
    volume, views = efficient(uniform=0.5, warm_up=0.0)
    volume.voxels.zero_()
    rays = views.rays_of(0)
    hit = rays[volume.edges(rays).diff(dim=-1)[:, 0] > 0]
    assert not volume.valid(hit, volume.edges(hit).mean(dim=-1, keepdim=True)).any()
    volume.renderings(hit, volume.edges(hit), torch.zeros(3), drawing(), 0.5)
    assert (volume.voxels > 0).any()


def test_neural_volumes_add_alpha_up_to_one():
    occupancy = Occupancy(-torch.ones(3), torch.ones(3))
    volume = NeuralVolumes(8, 8, 0.0, 0.0, occupancy)
    with torch.no_grad():
        color, warp = volume.decoded()
        identity = warp[0, :, 3, 7, 12]
        axis = torch.linspace(-1, 1, 16)
        assert torch.allclose(identity, torch.stack([axis[12], axis[7], axis[3]]), atol=0.1)
        for alpha, expected in ((0.25, 0.5), (0.8, 1.0)):  # a chord of length 2
            volume._decoded = (
                torch.cat([torch.full_like(color[:, :3], 0.3), torch.full_like(color[:, 3:], alpha)], 1),
                warp,
            )
            rays = Rays(
                torch.tensor([[0.0, 0.0, -4.0]]), torch.tensor([[0.0, 0.0, 1.0]]), torch.zeros(1), torch.ones(1) * 9
            )
            rgb, depth, acc = volume.view(rays, torch.ones(3), 4)
            assert float(acc) == pytest.approx(expected, abs=1e-5)
            assert rgb[0].tolist() == pytest.approx([0.3 * expected + 1 - expected] * 3, abs=1e-5)
            assert 3 < float(depth) < 5
    shown, penalty = volume.renderings(rays, volume.edges(rays), torch.ones(3), drawing(), 0.0)
    assert torch.equal(shown[0].weights.sum(-1), shown[0].acc)
    assert float(penalty.detach()) == 0.0


def test_what_is_decoded_is_decoded_once_and_anew_after_training():
    volume = NeuralVolumes(8, 8, 0.1, 0.1, Occupancy(-torch.ones(3), torch.ones(3)))
    with torch.no_grad():
        first = volume.decoded()
        assert volume.decoded() is first
    volume.decoded()[0].sum().backward()
    assert volume.code.grad is not None
    with torch.no_grad():
        assert volume.decoded() is not first
    volume.load_state_dict(volume.state_dict())
    assert volume._decoded is None


def light_field(**options):
    from autoint.runs import build

    return build.task(tiny_config(model={"name": "light_field"}, sections=4, **options), with_data=False).module.volume


def through_the_middle(count, seed):
    d = torch.nn.functional.normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)), dim=-1)
    return Rays(0.5 - 3 * d, d, torch.zeros(count), torch.full((count,), 9.0))


def test_a_light_field_is_one_network_of_the_ray():
    from autoint.runs import build

    with torch.device("meta"):
        volume = build.task(composed("model=light_field", "scale=full"), with_data=False).module.volume
    assert len([m for m in volume.modules() if isinstance(m, nn.Linear)]) == 88
    assert (volume.width, volume.look_ups, volume.evaluations) == (256, 16, 1)
    small = light_field()
    with torch.no_grad():
        small.tail.weight.zero_()
        small.tail.bias.copy_(torch.tensor([0.0, 1.0, -1.0, 2.0]))
        rgb, _, acc = small.view(through_the_middle(5, 0), torch.ones(3), 2)
    expected = torch.sigmoid(torch.tensor([0.0, 1.0, -1.0, 2.0]))
    assert torch.allclose(acc, expected[3].expand(5))
    assert torch.allclose(rgb, (expected[3] * expected[:3] + 1 - expected[3]).expand(5, 3))


def test_a_light_field_averages_what_its_encoding_learns_and_samples_what_is_fixed():
    rays = through_the_middle(5, 1)
    given = []
    for encoding, learned in (("grid", True), ("normalized_positional", False)):
        volume = light_field(encoding={"name": encoding})
        hook = volume.head.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].view(5, 4, -1)))
        with torch.no_grad():
            volume.render(rays, volume.edges(rays), torch.ones(3))
            x = volume.points(rays, volume.edges(rays))[0]
            a, b = x[:, :-1], x[:, 1:]
            mean, middle = volume.encoding.mean(a, b), volume.encoding(0.5 * (a + b))
        hook.remove()
        expected, other = (mean, middle) if learned else (middle, mean)
        assert torch.allclose(given[-1], expected, atol=1e-6), encoding
        assert not torch.allclose(given[-1], other, atol=1e-2), encoding


def test_a_deep_sum_of_residuals_begins_near_its_input():
    from autoint.networks.activations import swish

    torch.manual_seed(0)
    body = nn.Sequential(*(Residual(64, swish()) for _ in range(43)))
    h = torch.randn(100, 64)
    assert 0.5 < float((body(h).std() / h.std()).detach()) < 2


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"name": "efficient_nerf", "pivot": 2.0}, "model.pivot=2.0 must be between 0 and 1"),
        ({"name": "efficient_nerf", "fine": 0}, "model.fine=0 must be an integer of at least 1"),
        ({"name": "nerf_tree", "resolution": 30}, "model.resolution=30 must be a multiple of 4 from 4 to 256"),
        ({"name": "nerf_tree", "degree": 3}, "model.degree=3 must be 0, 1 or 2"),
        ({"name": "neural_volumes", "resolution": 48}, "model.resolution=48 must be 8, 16, 32, 64 or 128"),
        ({"name": "neural_volumes", "smooth": -1.0}, "model.smooth=-1.0 cannot be negative"),
        ({"name": "light_field", "depth": 0}, "model.depth=0 must be an integer of at least 1"),
    ],
)
def test_bad_values_are_named(choice, said):
    from autoint.runs import build

    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        build.task(tiny_config(model=choice), with_data=False)
