"""The visual hull, the estimates on its grid, and the placements that follow them."""

import dataclasses

import pytest
import torch

from autoint.files import machine
from autoint.registry import PLACEMENTS
from autoint.runs.seeding import generator
from autoint.scenes import sections
from autoint.scenes.data.blender import blender
from autoint.scenes.data.procedural import procedural, solids
from autoint.scenes.occupancy import RESOLUTION, Occupancy, visual_hull
from autoint.scenes.rays import Rays
from tests.conftest import SHARED_DATA

LEGO = SHARED_DATA / "nerf_synthetic" / "lego"


@pytest.fixture(scope="module")
def views():
    return procedural("", "train", 32)


@pytest.fixture(scope="module")
def hull(views):
    return visual_hull(views)


def test_the_hull_s_box_holds_the_solids_tightly(views, hull):
    assert (hull.lower < -0.3).all()
    assert (hull.upper > 0.3).all()
    assert (hull.upper - hull.lower < 3.6).all()
    assert 0.02 < float((hull.density > 0).float().mean()) < 0.5


def test_a_ray_that_misses_every_cell_of_the_hull_shows_nothing(views, hull):
    for view in (0, 7, 23):
        rays = views.rays_of(view).clipped_to(hull.lower, hull.upper)
        _, density, _ = hull.along(rays, 96)
        missed = ~((density > 0).any(-1) & rays.hit)
        assert missed.any()
        assert views.images[view].reshape(-1, 4)[missed, 3].max() < 2 / 255


def test_nothing_opaque_gives_the_box_of_all_that_is_seen():
    views = procedural("", "val", 8)
    views.images[..., 3] = 0
    hull = visual_hull(views)
    lower, _upper = views.frustum_box()
    assert torch.equal(hull.lower, lower)
    assert (hull.density > 0).all()


def test_cells_are_counted_along_x_y_and_z():
    hull = torch.zeros(RESOLUTION, RESOLUTION, RESOLUTION, dtype=torch.bool)
    hull[3, 10, 60] = True
    occupancy = Occupancy(torch.tensor([0.0, -1.0, 2.0]), torch.tensor([1.0, 3.0, 4.0]), hull)
    x = torch.tensor([3.5 / 64, -1 + 4 * 10.5 / 64, 2 + 2 * 60.5 / 64])
    assert occupancy.occupied(occupancy.at(x))
    for axis in range(3):
        beside = x.clone()
        beside[axis] += [1, 4, 2][axis] / 64
        assert occupancy.at(beside) == 0


def test_a_cell_s_mean_lets_through_what_its_points_do_on_average():
    """Of cells that are opaque in a third of their volume two thirds pass, however opaque; the largest is that."""
    third = torch.zeros(RESOLUTION, RESOLUTION, RESOLUTION, dtype=torch.bool)
    third[10:20, 10:20, 10:20] = True
    occupancy = Occupancy(torch.zeros(3), torch.ones(3), third)
    cells, passed = RESOLUTION, []
    for step in range(60):
        occupancy.update(lambda x: 1e6 * ((x[:, 0] * cells) % 1 < 1 / 3), 1.0, generator(0, step))
        passed.append(torch.exp(-occupancy.mean[third] / cells).mean())
    assert float(torch.stack(passed[30:]).mean()) == pytest.approx(2 / 3, abs=0.01)
    assert (occupancy.density[third] > 1e4).all()
    assert not occupancy.mean[~third].any()


def test_a_cell_s_mean_forgets_and_takes_densities_below_0_as_none():
    occupancy = Occupancy(torch.zeros(3), torch.ones(3))
    for density, mean in ((7.0, 7.0), (-3.0, 0.0)):
        for step in range(40):
            occupancy.update(lambda x, value=density: torch.full_like(x[:, 0], value), 1.0, generator(0, step))
        assert torch.allclose(occupancy.mean, torch.tensor(mean), rtol=1e-3, atol=1e-3)
    assert occupancy.mean.min() >= 0


def test_looks_in_mixed_precision_are_as_good_as_that():
    occupancy = Occupancy(torch.zeros(3), torch.ones(3))
    occupancy.update(lambda x: torch.full_like(x[:, 0], 5.0, dtype=torch.bfloat16), 1.0, generator(0, 0))
    assert (occupancy.density == 5).all()
    assert occupancy.mean.dtype == torch.float32


def test_what_was_saved_without_means_renders_as_it_did():
    occupancy, other = (Occupancy(torch.zeros(3), torch.ones(3)) for _ in range(2))
    occupancy.density.uniform_(0, 9, generator=generator(0))
    other.load_state_dict({k: v for k, v in occupancy.state_dict().items() if k != "mean"})
    assert torch.equal(other.mean, occupancy.density)


def test_estimates_follow_the_density_and_leave_what_the_hull_rules_out(views, hull):
    """After some looks at the true density, the occupied cells are those that are dense somewhere."""
    occupancy = Occupancy(hull.lower, hull.upper, hull.density > 0)
    scene = solids(0, 5)
    for step in range(200):
        occupancy.update(lambda x: scene.densities(x).sum(-1), 0.5, generator(0, step))
    assert torch.equal(occupancy.density > 0, hull.density > 0)
    cell = (hull.upper - hull.lower) / RESOLUTION
    index = torch.cartesian_prod(*[torch.arange(RESOLUTION)] * 3)
    truth = scene.densities(hull.lower + (index + 0.5) * cell).sum(-1).view(RESOLUTION, RESOLUTION, RESOLUTION)
    occupied = occupancy.occupied(occupancy.density)
    limit = float(0.01 * RESOLUTION / (hull.upper - hull.lower).max())
    assert not occupied[truth < 0.2 * limit].any()
    assert occupied[(truth > 5 * limit) & (hull.density > 0)].all()
    assert float(occupied.float().mean()) < 0.8 * float((hull.density > 0).float().mean())


def slow_inverse_cdf(bounds, weights, count):
    """The slow obvious twin: walk along the ray until the share is reached."""
    held = [k for k, w in enumerate(weights) if w > 0]
    if not held:
        return [bounds[0]] * (count + 1)
    edges = [bounds[held[0]]]
    for i in range(1, count):
        left = i / count * sum(weights)
        for k, w in enumerate(weights):
            if w > 0 and left <= w:
                edges.append(bounds[k] + left / w * (bounds[k + 1] - bounds[k]))
                break
            left -= w
    return [*edges, bounds[held[-1] + 1]]


def test_inverse_cdf_is_that_of_the_slow_twin():
    g = torch.Generator().manual_seed(4)
    weights = torch.rand(40, 12, generator=g, dtype=torch.float64)
    weights[torch.rand(40, 12, generator=g) < 0.6] = 0
    weights[3] = 0
    bounds = torch.rand(40, 13, generator=g, dtype=torch.float64).cumsum(-1)
    ours = sections.inverse_cdf(bounds, weights, 5)
    for row in range(40):
        twin = slow_inverse_cdf(bounds[row].tolist(), weights[row].tolist(), 5)
        assert ours[row].tolist() == pytest.approx(twin, abs=1e-9), row
    assert (ours.diff(dim=-1) >= 0).all()
    assert float(ours[3, -1] - ours[3, 0]) == 0


def test_subdivided_sections_hold_the_edges():
    edges = torch.tensor([[0.0, 1.0, 4.0]])
    assert sections.subdivided(edges, 2).tolist() == [[0, 0.5, 1, 2.5, 4]]


@pytest.mark.parametrize("name", ["occupied", "proposal"])
def test_sections_go_where_the_scene_is(name):
    """One slab of cells: rays through it get their sections inside of it, others none."""
    hull = torch.zeros(RESOLUTION, RESOLUTION, RESOLUTION, dtype=torch.bool)
    hull[16:24, :32] = True
    occupancy = Occupancy(torch.zeros(3), torch.ones(3), hull)
    placement = PLACEMENTS.build({"name": name, "steps": 128}, 4, occupancy)
    origins = torch.tensor([[-1.0, 0.2, 0.5], [-1.0, 0.8, 0.5]])
    rays = Rays(origins, torch.tensor([[1.0, 0.0, 0.0]]).expand(2, 3), torch.zeros(2), torch.full((2,), 3.0))
    edges = placement(rays.clipped_to(occupancy.lower, occupancy.upper))
    assert edges[0, 0] == pytest.approx(1.25, abs=0.01)
    assert edges[0, -1] == pytest.approx(1.375, abs=0.01)
    assert (edges[0].diff() > 0).all()
    assert placement.adaptive
    assert float(edges[1, -1] - edges[1, 0]) == 0


def test_the_proposal_looks_at_the_front():
    """Where the estimate is opaque, most sections are before and in the surface, not behind it."""
    occupancy = Occupancy(torch.zeros(3), torch.ones(3))
    for estimates in (occupancy.density, occupancy.mean):
        estimates[:32], estimates[32:] = 1.0, 500.0
    rays = Rays(torch.tensor([[0.0, 0.5, 0.5]]), torch.tensor([[1.0, 0.0, 0.0]]), torch.zeros(1), torch.ones(1))
    even, placed = (PLACEMENTS.build(n, 16, occupancy)(rays)[0] for n in ("occupied", "proposal"))
    near = [int(((e > 0.45) & (e < 0.55)).sum()) for e in (even, placed)]
    assert near[0] <= 2
    assert near[1] >= 4


@pytest.mark.skipif(not LEGO.is_dir(), reason="needs the Lego scene in ../shared/data")
def test_lego_s_hull_is_that_of_the_bulldozer():
    views = blender(str(SHARED_DATA), "train", 50, path="nerf_synthetic/lego")
    hull = visual_hull(dataclasses.replace(views, images=views.images[::2], poses=views.poses[::2]))
    assert (hull.lower > -1.5).all()
    assert (hull.upper < 1.5).all()
    assert (hull.upper - hull.lower > 1.2).all()
    assert 0.05 < float((hull.density > 0).float().mean()) < 0.4


@pytest.mark.parametrize("placement", ["occupied", "proposal"])
def test_compiled_loops_place_sections_where_torch_does(placement, monkeypatch):
    """On two threads, for rays that miss, that graze and that end inside; of any size of the box."""
    kernel = pytest.importorskip("autoint.scenes.placement_kernel")
    monkeypatch.setattr(kernel, "SHARED", 20)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    g = torch.Generator().manual_seed(0)
    occupancy = Occupancy(
        torch.tensor([-1.0, 2, 5]), torch.tensor([3.0, 4, 11]), torch.rand(32, 32, 32, generator=g) < 0.1
    )
    for estimates in (occupancy.density, occupancy.mean):
        estimates *= torch.rand(32, 32, 32, generator=g) * 4
    inside = occupancy.lower + torch.rand(200, 3, generator=g) * (occupancy.upper - occupancy.lower)
    d = torch.nn.functional.normalize(torch.randn(200, 3, generator=g), dim=-1)
    d[:3] = torch.eye(3)
    origins = inside - torch.rand(200, 1, generator=g) * 20 * d
    origins[-9:] += 100
    rays = Rays(origins, d, torch.zeros(200), torch.full((200,), 40.0)).clipped_to(occupancy.lower, occupancy.upper)
    fast = PLACEMENTS.build(placement, 7, occupancy)(rays)
    monkeypatch.setattr(machine, "has_numba", lambda: False)
    slow = PLACEMENTS.build(placement, 7, occupancy)(rays)
    assert torch.allclose(fast, slow, atol=2e-5)
    assert (slow[:, -1] > slow[:, 0]).float().mean() > 0.5
