"""``autoint bake RUN``: a trained scene as a tree of voxels, which is rendered without any network."""

from __future__ import annotations

import argparse
import dataclasses
import math
import shlex
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoint.registry import COMMANDS, one_of
from autoint.reports import metrics
from autoint.runs import build, checkpoints, restoring
from autoint.runs.config import RunConfig
from autoint.runs.export import beside, unused, write
from autoint.runs.progress import tracked
from autoint.runs.seeding import generator
from autoint.scenes import marching
from autoint.scenes.data.batches import Pixels
from autoint.scenes.data.views import Views
from autoint.scenes.models.nerf_tree import NerfTree, numbered, occupied_blocks
from autoint.scenes.spherical_harmonics import HIGHEST, basis
from autoint.scenes.task import load_views
from autoint.scenes.volume import AbstractVolume

RESOLUTIONS = (256, 224, 192, 160, 128, 96, 64, 32)
POINTS = 2**15  # at a time
FAINT = 0.003
"""A block in no cell of which more of a ray is absorbed is left out."""
STEPS, RAYS = 600, 8192
RATES = {"density": 0.02, "color": 0.01}
"""Adam's, at the beginning; they fall to a twentieth."""
UNSEEN = 0.1
"""A block that makes less than this of one training pixel, of all together, is left out."""


def bake(
    run: str,
    to: str | None = None,
    *,
    resolution: int | None = None,
    megabytes: float = 100.0,
    degree: int = 2,
    directions: int = 16,
    steps: int = STEPS,
    data_dir: str | None = None,
    code: Collection[str] = (),
) -> Path:
    """Write a run's scene as a :class:`NerfTree` that ``evaluate.py`` takes like a run; return the new folder.

    Density and colour are looked up at the corners of all cells that hold something, the colour along so many
    directions that spread over the sphere, and fitted by spherical harmonics. Then the tree itself is trained on the
    run's training views, as PlenOctrees are (Yu et al. 2021), and blocks that are seen in none are left out.

    Args:
        run: a run's folder, or a checkpoint.
        to: the new folder; by default ``baked`` in the run's folder.
        resolution: cells along the box's longest side, a multiple of 4; None takes the finest that ``megabytes`` allow.
        megabytes: the most that the file may have.
        degree: of the spherical harmonics, at most 2.
        directions: along which the colour is looked up.
        steps: of the training; 0 leaves the tree as it was looked up.
        data_dir: where the training views are; by default where they were when the run was trained.
        code: the run's own function, where it has one.

    Raises:
        ValueError: for what is no scene, a model without a density at points, a tree that is empty or too large, and
            training views that are not there.
    """
    folder = unused(Path(to) if to else beside(run, "baked"))
    one_of("degree", str(degree), [str(k) for k in range(HIGHEST + 1)])
    if not 0 <= steps <= 10**6:
        raise ValueError(f"steps={steps} must be from 0, for a tree that is not trained, to a million")
    file = checkpoints.last(run)
    moved = {} if data_dir is None else {"data_dir": data_dir}
    config, module = restoring.restored(file, code, f"autoint bake {shlex.quote(run)}", **moved)
    if config.task != "volrend":
        raise ValueError(f"{run}: task={config.task} trains no scene; give a run of task=volrend")
    views = _views(config) if steps else None
    volume: Any = module.volume
    try:
        tree = tree_of(volume, resolution, megabytes, degree, directions)
    except ValueError as error:
        raise ValueError(f"{run}: {error}") from error
    if views is not None:
        tree = fitted(tree, views, steps, config.seed)
    # The tree's own resolution comes with its tensors; until they are there, a small one stands in for it.
    options = {**config.options, "model": {"name": "nerf_tree", "resolution": 32, "degree": degree}}
    described = RunConfig.from_plain({**dataclasses.asdict(config), "options": options})
    baked: Any = build.task(described, with_data=False).module
    baked.volume = tree
    return write(folder, baked.state_dict(), described, int(checkpoints.load(file).get("global_step", 0)))


@torch.no_grad()
def tree_of(volume: AbstractVolume, resolution: int | None, megabytes: float, degree: int, directions: int) -> NerfTree:
    """Return a tree of a volume's density and colour; see :func:`bake`."""
    index = _finest(volume, megabytes, degree) if resolution is None else _filled(volume, resolution)
    needed = _megabytes(index, degree)
    if not bool((index >= 0).any()):
        raise ValueError("there is nothing to bake: no density is above that of air")
    if needed > megabytes:
        size = marching.SIDE * len(index)
        raise ValueError(f"at resolution={size} the tree has {needed:.0f} MB; allow more by --megabytes")
    tree = NerfTree(index, degree, volume.occupancy)
    corners, seen = Corners(index, volume), _spread(directions)
    fit = torch.linalg.pinv(basis(seen, degree))  # coefficients of the least squares over the directions

    def looked_up(points: Tensor) -> Tensor:
        density, rgb = _seen(volume, points, seen, corners.cell)
        coefficients = torch.einsum("kd,pdc->pck", fit.to(rgb.device), rgb).flatten(1)
        return torch.cat([density.mean(1, keepdim=True) * corners.cell, coefficients], dim=-1)

    values = corners.each(looked_up)
    tree.density.copy_(values[:, 0][corners.numbers])
    tree.color.copy_(values[:, 1:][corners.numbers])
    return tree


def _views(config: RunConfig) -> Views:
    try:
        return load_views(config, "train")
    except ValueError as error:
        found = "; ".join(str(error).split("\n"))
        raise ValueError(f"{found}; give --data-dir, or --steps 0 for a tree that is not trained") from error


def fitted(tree: NerfTree, views: Views, steps: int, seed: int) -> NerfTree:
    """Train a tree on views by the squared error of their colours before a random background; return what is seen.

    The gradient is that of ``marching.march``. Blocks that make less than ``UNSEEN`` of a pixel are in no other tree.
    """
    pixels = Pixels(views, tree.hit, RAYS, seed)
    groups = [{"params": [getattr(tree, name)], "lr": rate} for name, rate in RATES.items()]
    adam = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-10, fused=True)
    falling = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 0.05 ** (step / steps))
    for step in tracked(range(steps), "tree", "step"):
        batch, g = pixels(step), generator(seed, step, "tree")
        behind = torch.rand(len(batch.rgba), 3, generator=g)

        def draw(_: str, *shape: int, g: torch.Generator = g) -> Tensor:
            return torch.rand(*shape, generator=g)

        (out,), _ = tree.renderings(batch.rays, tree.edges(batch.rays), behind, draw, step / steps)
        adam.zero_grad()
        torch.nn.functional.mse_loss(out.rgb, metrics.over(batch.rgba, behind)).backward()
        adam.step()
        falling.step()
    return tree.only(_seen_in(tree, pixels) > UNSEEN)


def _seen_in(tree: NerfTree, pixels: Pixels) -> Tensor:
    """Return how many pixels each block makes, (B,): Σ w, as the gradient of what is seen of a white tree."""
    white = torch.zeros(*tree.density.shape, 3, requires_grad=True)
    for index in pixels.index.split(POINTS):
        rays = pixels.at(index).rays
        near, far = tree.edges(rays).unbind(-1)
        out = tree.marched(dataclasses.replace(rays, near=near, far=far), torch.full_like(near, 0.5), white)
        out[:, 0].sum().backward()
    assert white.grad is not None
    return white.grad.sum((1, 2)) / float(basis(torch.tensor([0.0, 0.0, 1.0]), 0))


def _finest(volume: AbstractVolume, megabytes: float, degree: int) -> Tensor:
    """Return the index of the finest tree that fits; where none does, of the coarsest there is."""
    index = _filled(volume, RESOLUTIONS[-1])
    for size in RESOLUTIONS[:-1]:
        # What holds something is a surface: at twice the resolution it has four times as many blocks.
        if _megabytes(index, degree) * (size / RESOLUTIONS[-1]) ** 2 <= megabytes:
            finer = _filled(volume, size)
            if _megabytes(finer, degree) <= megabytes:
                return finer
    return index


def _megabytes(index: Tensor, degree: int) -> float:
    numbers = int((index >= 0).sum()) * marching.CORNERS * (1 + 3 * (degree + 1) ** 2) + index.numel()
    return 4e-6 * numbers


def _filled(volume: AbstractVolume, resolution: int) -> Tensor:
    """Return the index of a tree with those blocks that hold something, of this many cells along the longest side."""
    if not marching.SIDE <= resolution <= 512 or resolution % marching.SIDE:
        raise ValueError(f"resolution={resolution} must be a multiple of {marching.SIDE} up to 512")
    index = occupied_blocks(volume.occupancy, resolution)
    corners = Corners(index, volume)
    density = corners.each(lambda points: _seen(volume, points, _spread(1), corners.cell)[0][:, 0])
    wanted = index >= 0
    wanted[wanted.clone()] = density[corners.numbers].amax(-1) * corners.cell > FAINT
    return numbered(wanted)


class Corners:
    """The corners of the cells of a tree's blocks, each once.

    Attributes:
        points: (P, 3), in the scene's units.
        numbers: which of them are each block's, (B, 125).
        cell: the length of a cell.
    """

    def __init__(self, index: Tensor, volume: AbstractVolume) -> None:
        side, cells = marching.SIDE, marching.SIDE * len(index)
        lower, upper = volume.occupancy.lower.cpu(), volume.occupancy.upper.cpu()
        self.cell = float((upper - lower).max()) / cells
        at = torch.cartesian_prod(*[torch.arange(side + 1)] * 3)
        places = (index >= 0).nonzero()[:, None] * side + at
        names = (places[..., 0] * (cells + 1) + places[..., 1]) * (cells + 1) + places[..., 2]
        unique, self.numbers = torch.unique(names, return_inverse=True)
        x, y, z = unique // (cells + 1) ** 2, unique // (cells + 1) % (cells + 1), unique % (cells + 1)
        self.points = lower + torch.stack([x, y, z], dim=-1) * self.cell
        self.device = volume.occupancy.lower.device

    def each(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``function`` of all points, so many at a time on the volume's device, on the CPU."""
        return torch.cat([function(part.to(self.device)).cpu() for part in self.points.split(POINTS)])


def _seen(volume: AbstractVolume, points: Tensor, directions: Tensor, length: float) -> tuple[Tensor, Tensor]:
    """Return density (P, D) and colour (P, D, 3) at points (P, 3) along each of ``directions`` (D, 3)."""
    found = [volume.radiance(points, d.expand_as(points), length) for d in directions.to(points.device)]
    return torch.stack([density for density, _ in found], dim=1), torch.stack([rgb for _, rgb in found], dim=1)


def _spread(count: int) -> Tensor:
    """Return ``count`` directions that spread over the sphere evenly, by the golden angle, (D, 3)."""
    k = torch.arange(count) + 0.5
    z, turn = 1 - 2 * k / count, k * math.pi * (1 + math.sqrt(5))
    across = (1 - z**2).sqrt()
    return torch.stack([across * torch.cos(turn), across * torch.sin(turn), z], dim=-1)


@COMMANDS.register("bake")
def _bake(arguments: list[str]) -> None:
    """A trained scene as a tree of voxels, rendered without any network: autoint bake RUN."""
    parser = argparse.ArgumentParser(prog="autoint bake", description=(_bake.__doc__ or "").partition(":")[0])
    parser.add_argument("run", help="a run's folder, or a checkpoint")
    parser.add_argument("--to", help="the new folder; RUN/baked by default")
    parser.add_argument("--resolution", type=int, help="cells along the longest side; the finest that fits by default")
    parser.add_argument("--megabytes", type=float, default=100.0, help="the most that the file may have")
    parser.add_argument("--degree", type=int, default=2, help="of the spherical harmonics: 0, 1 or 2")
    parser.add_argument("--directions", type=int, default=16, help="along which the colour is looked up")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help=f"of its training on the run's views; 0 for none ({STEPS})"
    )
    parser.add_argument("--data-dir", help="where the run's training views are; where they were by default")
    parser.add_argument("--function", action="append", default=[], help="the run's, where it is code of your own")
    given = parser.parse_args(arguments)
    folder = bake(
        given.run,
        given.to,
        resolution=given.resolution,
        megabytes=given.megabytes,
        degree=given.degree,
        directions=given.directions,
        steps=given.steps,
        data_dir=given.data_dir,
        code=given.function,
    )
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    print(f"{folder}: {size:.1f} MB\nnext: python evaluate.py runs={shlex.quote(str(folder))}")
