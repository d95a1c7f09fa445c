"""NerfTree: density and colour in a two-level tree of voxels, rendered without any network."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from autoint.files.machine import numba_takes
from autoint.registry import MODELS
from autoint.runs.config import RunConfig
from autoint.scenes import marching
from autoint.scenes.occupancy import Occupancy
from autoint.scenes.rays import Rays
from autoint.scenes.rendering import Rendering
from autoint.scenes.spherical_harmonics import HIGHEST
from autoint.scenes.volume import AbstractVolume, Draw

STEP = 1.0  # distance of samples in cells: with half of it the pictures are the same
KERNEL_RAYS = 2**16  # at a time: it keeps nothing of a ray but what it returns


class NerfTree(AbstractVolume):
    """A coarse grid of numbers of blocks of 4³ cells, and density and spherical harmonics at the corners of the cells.

    Blocks are where something is (NerfTree of Hu et al., CVPR 2022). ``autoint bake`` fills a tree from a trained
    model; it can be trained like any other, too, from the visual hull on.

    Args:
        index: the coarse level, as ``marching.march`` takes it.
        degree: of the spherical harmonics.
        occupancy: where the scene is; cells are cubes, ``4·len(index)`` of them along the box's longest side.
    """

    index: Tensor

    def __init__(self, index: Tensor, degree: int, occupancy: Occupancy) -> None:
        super().__init__(occupancy)
        blocks = int(index.max()) + 1
        self.register_buffer("index", index)
        self.density = nn.Parameter(torch.full((blocks, marching.CORNERS), 0.05))
        self.color = nn.Parameter(torch.zeros(blocks, marching.CORNERS, 3 * (degree + 1) ** 2))
        with torch.no_grad():
            self.color[..., :: (degree + 1) ** 2] = 0.5 * math.sqrt(4 * math.pi)  # grey: Y_00 is 1/√4π
        self.width = 1 + self.color.shape[-1]
        self._skip: Tensor | None = None
        self._places: Tensor | None = None
        self.register_load_state_dict_pre_hook(_take_shapes)

    @property
    def nets(self) -> Iterable[nn.Module]:
        return ()

    @property
    def evaluations(self) -> int:
        return 0

    @property
    def look_ups(self) -> int:
        return marching.STRETCH  # at a time; of voxels, where there are some

    @property
    def colors(self) -> int:
        return 1

    @property
    def shares(self) -> bool:
        return numba_takes(self.density.detach())

    def at_once(self, device: torch.device) -> int:
        return KERNEL_RAYS if numba_takes(self.density.detach()) else super().at_once(device)

    @property
    def cell(self) -> Tensor:
        """The length of a cell."""
        return (self.occupancy.upper - self.occupancy.lower).max() / (marching.SIDE * len(self.index))

    def radiance(self, points: Tensor, directions: Tensor, length: float) -> tuple[Tensor, Tensor]:
        near = torch.zeros_like(points[:, 0])
        rays = Rays(points, directions, near, near + self.cell)
        out = self.marched(rays, near)  # one sample, where the ray begins
        acc = out[:, 3]
        rgb = out[:, :3] / torch.where(acc > 0, acc, 1.0)[:, None]
        return -torch.log1p(-acc) / self.cell, rgb

    def render(self, rays: Rays, edges: Tensor, background: Tensor) -> Rendering:
        rays = dataclasses.replace(rays, near=edges[:, 0], far=edges[:, -1])
        return self._rendering(self.marched(rays, torch.full_like(rays.near, 0.5)), rays, background)

    def renderings(
        self, rays: Rays, edges: Tensor, background: Tensor, draw: Draw, used: float
    ) -> tuple[list[Rendering], float]:
        rays = dataclasses.replace(rays, near=edges[:, 0], far=edges[:, -1])
        out = self.marched(rays, draw("samples", len(rays)))
        return [self._rendering(out, rays, background)], 0.0

    def marched(self, rays: Rays, shift: Tensor, color: Tensor | None = None) -> Tensor:
        """Return red, green, blue, Σ w and Σ w·t of rays (R, 5), with samples ``shift`` (R,) of a step from their near.

        ``color`` (B, 125, 3·K) takes the place of the tree's own.
        """
        origins, scale = (rays.origins - self.occupancy.lower) / self.cell, 1 / self.cell
        ray = (origins, rays.directions, rays.near * scale, rays.far * scale, STEP, shift)
        color = self.color if color is None else color
        if not numba_takes(origins, rays.directions, self.density.detach()):
            return marching.march(self.index, self.density, color, *ray)
        from autoint.scenes import marching_kernel, object_order_kernel

        if not torch.is_grad_enabled() and object_order_kernel.from_one_point(rays.origins, rays.directions):
            if self._places is None:
                where = self.index >= 0
                self._places = where.nonzero()[self.index[where].argsort()].int()
            return object_order_kernel.march(self._places, self.density, color, *ray)
        if self._skip is None:
            self._skip = marching.distances(self.index)
        return marching_kernel.march(self._skip, self.density, color, *ray)

    def only(self, wanted: Tensor) -> NerfTree:
        """Return a tree with the blocks that are ``wanted``, (B,) of bool."""
        where = self.index >= 0
        where[where.clone()] = wanted[self.index[where].long()]
        kept = self.index[where].long()  # by their places, as they are numbered
        tree = NerfTree(numbered(where), round((self.color.shape[-1] / 3) ** 0.5) - 1, self.occupancy)
        with torch.no_grad():
            tree.density.copy_(self.density[kept])
            tree.color.copy_(self.color[kept])
        return tree

    def _rendering(self, out: Tensor, rays: Rays, background: Tensor) -> Rendering:
        acc = out[:, 3]
        depth = torch.where(acc > 1e-6, out[:, 4] * self.cell / acc.clamp_min(1e-6), rays.far)
        rgb = out[:, :3] + (1 - acc)[:, None] * background
        # Sums of harmonics may leave the colours there are; in training that would leave them without a gradient.
        return Rendering(rgb if torch.is_grad_enabled() else rgb.clamp(0, 1), depth, acc, acc[:, None])


def _take_shapes(tree: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let a tree have as many blocks as what is loaded; ``ValueError`` where its parts do not belong together."""
    assert isinstance(tree, NerfTree)
    index, density, color = (state.get(f"{prefix}{name}") for name in ("index", "density", "color"))
    if index is None or density is None or color is None:
        return
    blocks, side = len(density), len(index)
    whole = index.shape == (side, side, side) and density.shape == (blocks, marching.CORNERS)
    whole = whole and color.shape == (blocks, marching.CORNERS, tree.color.shape[-1])
    numbers = index[index >= 0].sort().values
    # Each block once: compiled loops count on it, and look at no bounds.
    if not whole or int(index.min()) < -1 or not torch.equal(numbers.long(), torch.arange(blocks)):
        raise ValueError(f"the tree has {blocks} blocks, and its index or its colours are not theirs")
    tree.index = torch.empty_like(index, device=tree.index.device)
    for name, value in (("density", density), ("color", color)):
        own = getattr(tree, name)
        device = tree.index.device if own.is_meta else own.device  # as it is where the configuration asks for more
        setattr(tree, name, nn.Parameter(torch.empty(value.shape, dtype=own.dtype, device=device)))
    tree._skip = tree._places = None


def occupied_blocks(occupancy: Occupancy, resolution: int) -> Tensor:
    """Return the index of a tree of ``resolution`` cells along the longest side, with all blocks within the hull."""
    count = resolution // marching.SIDE
    parts = max(2, -(-2 * len(occupancy.density) // count))  # looks per block and axis: two in a cell of the hull
    side = float((occupancy.upper - occupancy.lower).max()) / count
    within = (torch.arange(count * parts) + 0.5) / parts * side
    found = []
    for slab in within.split(parts):
        points = torch.cartesian_prod(slab, within, within) + occupancy.lower.cpu()
        seen = (occupancy.at(points.to(occupancy.lower.device)) > 0).cpu() & (points < occupancy.upper.cpu()).all(-1)
        found.append(seen.view(parts, count, parts, count, parts).any(4).any(2).any(0))
    return numbered(torch.stack(found))


def numbered(wanted: Tensor) -> Tensor:
    """Return the index whose blocks are at the places ``wanted`` (C, C, C) of bool, in their order."""
    number = torch.cumsum(wanted.flatten(), 0).view(wanted.shape) - 1
    return torch.where(wanted, number, -1).to(torch.int32)


@MODELS.register("nerf_tree")
def nerf_tree(config: RunConfig, occupancy: Occupancy, *, resolution: int = 64, degree: int = 1) -> AbstractVolume:
    """A two-level tree of voxels, without any network (Hu et al. 2022): trained, or made by ``autoint bake``.

    Args:
        config: the run's configuration, whose networks and sections say nothing to this model.
        occupancy: where the scene is.
        resolution: cells along the box's longest side, a multiple of 4; a tree that was baked has its own.
        degree: of the colour's spherical harmonics, at most 2.
    """
    if not 4 <= resolution <= 256 or resolution % marching.SIDE:
        raise ValueError(f"model.resolution={resolution} must be a multiple of 4 from 4 to 256")
    if not 0 <= degree <= HIGHEST:
        raise ValueError(f"model.degree={degree} must be 0, 1 or 2")
    return NerfTree(occupied_blocks(occupancy, resolution), degree, occupancy)
