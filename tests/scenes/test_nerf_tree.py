"""Trees of voxels: the march against exact integrals, the kernel against the march, baking against what is baked."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from autoint.files import machine
from autoint.reports import metrics
from autoint.runs import restoring
from autoint.runs.training import fit
from autoint.scenes import marching
from autoint.scenes.baking import fitted, tree_of
from autoint.scenes.data.procedural import solids
from autoint.scenes.models.nerf_tree import NerfTree, numbered, occupied_blocks
from autoint.scenes.occupancy import Occupancy
from autoint.scenes.rays import Rays
from autoint.scenes.scene import Camera
from autoint.scenes.spherical_harmonics import basis, colors
from autoint.scenes.volume import AbstractVolume
from tests.scenes.test_systems import scene
from tests.scenes.test_task import tiny_config


def unit(count, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=g, dtype=torch.float64), dim=-1)


def test_spherical_harmonics_are_orthonormal():
    """By a rule on the sphere that is exact for polynomials of degree 4: Gauss-Legendre times equal angles."""
    z, weights = (torch.as_tensor(a) for a in __import__("numpy").polynomial.legendre.leggauss(4))
    turn = torch.arange(8, dtype=torch.float64) * torch.pi / 4
    across = (1 - z**2).sqrt()
    x, y = across[:, None] * turn.cos(), across[:, None] * turn.sin()
    nodes = torch.stack([x, y, z[:, None].expand_as(x)], dim=-1).flatten(0, 1)
    y_k = basis(nodes, 2)
    gram = y_k.T @ ((weights[:, None] * torch.pi / 4).expand(4, 8).flatten()[:, None] * y_k)
    assert torch.allclose(gram, torch.eye(9, dtype=torch.float64), atol=1e-12)
    assert torch.equal(basis(nodes, 1), y_k[:, :4])
    c = torch.arange(27.0, dtype=torch.float64).expand(2, 27)
    assert torch.allclose(colors(c, y_k[:2])[:, 1], y_k[:2] @ torch.arange(9.0, 18, dtype=torch.float64))


def some_tree(seed=0, degree=1):
    """Blocks here and there, whose values agree where they meet: those of a grid of corners."""
    g = torch.Generator().manual_seed(seed)
    wanted = torch.rand(5, 5, 5, generator=g) < 0.4
    values = torch.rand(21, 21, 21, 1 + 3 * (degree + 1) ** 2, generator=g) - 0.2
    place = wanted.nonzero()[:, None] * 4 + torch.cartesian_prod(*[torch.arange(5)] * 3)
    of_blocks = values[place[..., 0], place[..., 1], place[..., 2]]
    return numbered(wanted), of_blocks[..., 0].contiguous(), of_blocks[..., 1:].contiguous()


def some_rays(count=200, size=20.0):
    """Through a box of that size from all sides, some along its axes, some past it, clipped to it."""
    d = unit(count).float()
    d[:6] = torch.cat([torch.eye(3), -torch.eye(3)])
    through = size * torch.rand(count, 3, generator=torch.Generator().manual_seed(2))
    through[-5:] += 3 * size
    rays = Rays(through - 50 * d, d, torch.zeros(count), torch.full((count,), 1e3))
    return rays.clipped_to(torch.zeros(3), torch.full((3,), size))


def marched(function, index, density, color, rays, step=0.5, **more):
    shift = torch.rand(len(rays), generator=torch.Generator().manual_seed(3))
    return function(index, density, color, rays.origins, rays.directions, rays.near, rays.far, step, shift, **more)


def test_the_march_is_exact_where_density_is_linear():
    """Along a ray the midpoint rule integrates it exactly; opacity is 1 − exp of minus that, whatever the step."""
    index = numbered(torch.ones(2, 2, 2, dtype=torch.bool))
    corner = (index >= 0).nonzero()[:, None] * 4 + torch.cartesian_prod(*[torch.arange(5)] * 3)
    slope = torch.tensor([0.02, 0.01, 0.03])
    density = 0.1 + corner.float() @ slope
    color = torch.full((8, 125, 3), 0.25 / 0.28209479177387814)
    rays = some_rays(40, 8.0)
    length = rays.far - rays.near
    middle = rays.at(0.5 * (rays.near + rays.far)[:, None])[:, 0]
    depth = (0.1 + middle @ slope) * length
    steps = 64  # of its own for every ray, so that they fill it
    out = torch.cat(
        [
            marching.march(
                index, density, color, *(x[k : k + 1] for x in (rays.origins, rays.directions, rays.near, rays.far)),
                float(length[k]) / steps, torch.full((1,), 0.5),
            )
            for k in range(len(rays)) if length[k] > 1e-3
        ]
    )  # fmt: skip
    acc = -torch.expm1(-depth[length > 1e-3])
    # What passes at the end of an opaque ray is left out, by design.
    assert torch.allclose(out[:, 3], acc, atol=1.5 * marching.TRANSPARENT)
    assert torch.allclose(out[acc < 0.99, 3], acc[acc < 0.99], atol=2e-5)
    assert torch.allclose(out[:, :3], 0.25 * out[:, 3:4], atol=1e-5)


def test_distances_are_those_of_a_king():
    index, *_ = some_tree()
    full = (index >= 0).nonzero()
    found = marching.distances(index)
    for place in (index < 0).nonzero():
        assert -int(found[tuple(place)]) == int((full - place).abs().amax(-1).min())
    assert torch.equal(found[index >= 0], index[index >= 0])
    assert int(marching.distances(torch.full((3, 3, 3), -1)).max()) == -64


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_the_kernel_is_the_march(degree, monkeypatch):
    """On two threads."""
    kernel = pytest.importorskip("autoint.scenes.marching_kernel")
    monkeypatch.setattr(kernel, "SHARED", 20)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    index, density, color = some_tree(degree, degree)
    rays = some_rays()
    slow = marched(marching.march, index, density, color, rays)
    fast = marched(kernel.march, marching.distances(index), density, color, rays, carried=0.0)
    assert torch.allclose(fast[:, :4], slow[:, :4], atol=2e-5)
    assert torch.allclose(fast[:, 4], slow[:, 4], atol=2e-3)
    assert (slow[:, 3] > 0.1).sum() > 100
    carried = marched(kernel.march, marching.distances(index), density, 0 * color + color.mean((0, 1)), rays)
    apart = marched(marching.march, index, density, 0 * color + color.mean((0, 1)), rays)
    assert torch.allclose(carried, apart, atol=2e-3)  # whatever is carried, the weights are all there


def looking(origin, forward, size, fov):
    """The rays of a picture, clipped to a box of 20, in no order."""
    camera = Camera.looking_at(
        tuple(o + f for o, f in zip(origin, forward, strict=True)), origin, fov=fov, width=size, height=size
    )
    rays = camera.rays()[torch.randperm(size**2, generator=torch.Generator().manual_seed(5))]
    return dataclasses.replace(rays, far=torch.full_like(rays.far, 1e4)).clipped_to(
        torch.zeros(3), torch.full((3,), 20.0)
    )


@pytest.mark.parametrize(
    ("degree", "origin", "forward", "fov"),
    [
        (0, (50.0, 31.0, -22.0), (-40.0, -20.0, 30.0), 0.4),  # from outside, as most do
        (2, (-30.0, 10.0, 10.0), (1.0, 0.0, 0.0), 0.6),  # along an axis, and along walls of blocks
        (1, (9.3, 8.1, 11.2), (0.3, 1.0, -0.2), 1.2),  # from inside, with blocks all around
        (1, (2000.0, 900.0, 1500.0), (-1990.0, -890.0, -1490.0), 0.008),  # from far away
    ],
)
def test_object_order_is_the_march(degree, origin, forward, fov, monkeypatch):
    """Block by block, on two threads, what the march composites ray by ray."""
    kernel = pytest.importorskip("autoint.scenes.object_order_kernel")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    index, density, color = some_tree(degree, degree)
    rays = looking(origin, forward, size=48, fov=fov)  # four tiles
    assert kernel.from_one_point(rays.origins, rays.directions)
    slow = marched(marching.march, index, density, color, rays)
    fast = marched(kernel.march, (index >= 0).nonzero().int(), density, color, rays, carried=0.0)
    assert torch.allclose(fast[:, :4], slow[:, :4], atol=5e-5)
    assert torch.allclose(fast[:, 4], slow[:, 4], atol=5e-5 * float(rays.far.max()))
    assert (slow[:, 3] > 0.1).sum() > 100
    carried = marched(kernel.march, (index >= 0).nonzero().int(), density, color, rays)
    assert float((carried - fast).square().mean().sqrt()) < 0.01
    assert torch.equal(carried[:, 3], fast[:, 3])


def test_what_object_order_cannot_sort():
    kernel = pytest.importorskip("autoint.scenes.object_order_kernel")
    rays = looking((50.0, 31.0, -22.0), (-40.0, -20.0, 30.0), size=40, fov=0.4)
    assert kernel.from_one_point(rays.origins, rays.directions)
    assert not kernel.from_one_point(rays.origins[:99], rays.directions[:99])  # few
    assert not kernel.from_one_point(rays.origins + torch.rand(1600, 1), rays.directions)  # of several points
    assert not kernel.from_one_point(rays.origins, unit(1600).float())  # all around


@pytest.mark.parametrize("degree", [0, 2])
def test_the_kernel_has_the_gradients_of_the_march(degree):
    kernel = pytest.importorskip("autoint.scenes.marching_kernel")
    index, *values = some_tree(degree, degree)
    rays, found = some_rays(), []
    for march, where in ((marching.march, index), (kernel.march, marching.distances(index))):
        own = [value.clone().requires_grad_() for value in values]
        out = marched(march, where, *own, rays)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(4))
        found.append(torch.autograd.grad((out * weights).sum(), own))
    for slow, fast in zip(*found, strict=True):
        assert torch.allclose(fast, slow, atol=1e-5 * float(slow.abs().max()))
        assert (slow != 0).float().mean() > 0.3


def test_the_march_has_gradients():
    index, density, color = some_tree()
    density, color = density.double().requires_grad_(), color.double().requires_grad_()
    rays = some_rays(8).to(torch.float64)
    out = marched(marching.march, index, density, color, rays, step=1.0)[:, :4].square().sum()
    grads = torch.autograd.grad(out, (density, color))
    for value, grad in zip((density, color), grads, strict=True):
        at = int(grad.abs().flatten().argmax())
        step = torch.zeros_like(value).flatten()
        step[at] = 1e-6
        moved = [value + s * step.view_as(value) for s in (1, -1)]
        pairs = [(m, color) if value is density else (density, m) for m in moved]
        up, down = (marched(marching.march, index, *pair, rays, step=1.0)[:, :4].square().sum() for pair in pairs)
        assert float(grad.flatten()[at]) == pytest.approx((up - down).item() / 2e-6, rel=1e-5)


class Truth(AbstractVolume):
    """The embedded scene itself, which knows its density and colour at every point."""

    width, nets, evaluations = 1, (), 1

    def radiance(self, points, directions, length):
        scene = solids(0, 5)
        parts = scene.densities(points)
        total = parts.sum(-1)
        return total, parts @ scene.colors / total.clamp_min(1e-12)[:, None]

    def render(self, rays, edges, background):
        raise NotImplementedError

    def renderings(self, rays, edges, background, draw, used):
        raise NotImplementedError


def test_a_baked_scene_looks_the_more_like_it_the_finer():
    views, hull = scene()
    truth = Truth(hull)
    found = []
    for resolution in (16, 32, 64):
        tree = tree_of(truth, resolution, 100.0, 0, 4)
        with torch.no_grad():
            rgb = tree.view(views.rays_of(0), torch.zeros(3), 4096)[0]
        found.append(float(metrics.psnr(rgb, views.images[0].reshape(-1, 4)[:, :3])))
    assert found[0] < found[1] < found[2]
    assert found[2] > 40
    blocks = len(tree_of(truth, None, 0.5, 0, 4).density)
    assert 4 * 125 * 4 * blocks <= 0.5e6
    with pytest.raises(ValueError, match=r"at resolution=64 the tree has .* allow more by --megabytes"):
        tree_of(truth, 64, 0.1, 0, 4)
    with pytest.raises(ValueError, match="resolution=30 must be a multiple of 4"):
        tree_of(truth, 30, 1.0, 0, 4)


def test_a_tree_that_is_trained_looks_more_like_the_views_and_forgets_what_none_sees():
    views, hull = scene()
    tree = tree_of(Truth(hull), 16, 100.0, 0, 4)

    def like(tree):
        with torch.no_grad():
            rgb = tree.view(views.rays_of(0), torch.zeros(3), 4096)[0]
        return float(metrics.psnr(rgb, views.images[0].reshape(-1, 4)[:, :3]))

    before = like(tree)
    assert like(fitted(tree, views, 20, seed=0)) > before + 1
    with torch.no_grad():
        tree.density *= 50  # what is inside is never seen
    seen = fitted(tree, views, 1, seed=0)
    assert 0 < len(seen.density) < len(tree.density)
    assert like(seen) == pytest.approx(like(tree), abs=0.3)
    some = torch.rand(len(tree.density), generator=torch.Generator().manual_seed(0)) < 0.5
    part = tree.only(some)
    assert torch.equal(part.density, tree.density[some])
    assert torch.equal((part.index >= 0).nonzero(), (tree.index >= 0).nonzero()[some])


def test_blocks_are_where_the_hull_is():
    hull = torch.zeros(64, 64, 64, dtype=torch.bool)
    hull[40, 3, 63] = True
    occupancy = Occupancy(torch.zeros(3), torch.ones(3), hull)
    cell = torch.tensor([40, 3, 63])
    for resolution in (8, 64, 128, 256):
        per_block = 256 // resolution  # cells of the hull, along an axis
        places = (occupied_blocks(occupancy, resolution) >= 0).nonzero() * per_block
        assert ((places <= cell) & (cell < places + per_block)).all(-1).all()
        assert len(places) == 1


def test_a_run_is_baked_and_evaluated_like_any_other(program, tmp_path, no_lpips, undrawn):
    fit(tiny_config(model="section_means", trainer={"max_steps": 20}), tmp_path / "run")
    status, out, err = program(
        "autoint", "bake", tmp_path / "run", "--resolution", "16", "--directions", "4", "--steps", "3"
    )
    assert status == 0, err
    baked = tmp_path / "run" / "baked"
    assert f"{baked}: " in out
    assert sorted(p.name for p in baked.iterdir()) == ["config.json", "model.safetensors"]
    assert str(tmp_path) not in (baked / "config.json").read_text()
    status, out, err = program("evaluate", f"runs=[{tmp_path / 'run'},{baked}]", "max_images=1", "hydra.run.dir=out")
    assert status == 0, err
    rows = {row["model"]: row for row in json.loads((tmp_path / "out" / "result.json").read_text())["rows"]}
    assert rows["nerf_tree"]["evaluations_per_ray"] == 0
    assert abs(rows["nerf_tree"]["psnr"] - rows["section_means"]["psnr"]) < 3
    status, _, err = program("autoint", "bake", tmp_path / "run", "--resolution", "16")
    assert (status, err) == (2, f"error: {baked} exists; remove it, or give another folder by --to\n")
    weights = load_file(baked / "model.safetensors")
    weights["volume.index"] = weights["volume.index"] + 1
    save_file(weights, tmp_path / "model.safetensors")
    shutil.copy(baked / "config.json", tmp_path)
    with pytest.raises(ValueError, match="its index or its colours are not theirs"):
        restoring.restored(tmp_path / "model.safetensors")
    weights["volume.index"] = (weights["volume.index"] - 1).clamp_max(0)  # a block at many places
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="its index or its colours are not theirs"):
        restoring.restored(tmp_path / "model.safetensors")


def test_what_cannot_be_baked_says_so(program, tmp_path):
    fit(tiny_config(model="light_field", trainer={"max_steps": 2}), tmp_path / "run")
    status, _, err = program("autoint", "bake", tmp_path / "run")
    assert (status, err) == (2, f"error: {tmp_path / 'run'}: LightField has no density at points\n")
    assert not (tmp_path / "run" / "baked").exists()
    status, _, err = program("autoint", "bake", tmp_path / "run", "--degree", "3")
    assert status == 2
    assert "degree='3' is unknown (available: 0, 1, 2)" in err
    status, _, err = program("autoint", "bake", tmp_path / "run", "--steps", "-1")
    assert status == 2
    assert "steps=-1 must be from 0" in err


def test_views_that_are_elsewhere_are_named(program, tmp_path, blender_scene):
    fit(
        tiny_config(
            scene={"name": "blender", "path": "nerf_synthetic/disc"},
            data_dir=str(blender_scene),
            model="section_means",
            image_size=8,
            trainer={"max_steps": 2},
        ),
        tmp_path / "run",
    )
    (blender_scene / "nerf_synthetic").rename(tmp_path / "nerf_synthetic")
    status, _, err = program("autoint", "bake", tmp_path / "run", "--resolution", "8")
    assert status == 2
    assert err.endswith("; give --data-dir, or --steps 0 for a tree that is not trained\n")
    assert err.count("\n") == 1
    for more in (["--steps", "0", "--to", "plain"], ["--steps", "1", "--data-dir", str(tmp_path)]):
        status, _, err = program("autoint", "bake", tmp_path / "run", "--resolution", "8", *more)
        assert status == 0, err


def test_a_tree_without_numba_is_the_same(monkeypatch):
    tree = NerfTree(numbered(torch.ones(4, 4, 4, dtype=torch.bool)), 1, Occupancy(-torch.ones(3), torch.ones(3)))
    rays = Rays(
        torch.tensor([[0.1, 0.2, -3.0]]), torch.tensor([[0.0, 0.0, 1.0]]), torch.zeros(1), torch.full((1,), 9.0)
    )
    with torch.no_grad():
        one = tree.view(rays, torch.ones(3), 9)
        monkeypatch.setattr(machine, "has_numba", lambda: False)
        other = tree.view(rays, torch.ones(3), 9)
    for a, b in zip(one, other, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert float(one[2]) == pytest.approx(1 - 2.718281828 ** (-0.05 * 16), abs=1e-4)  # 16 cells of 0.05
