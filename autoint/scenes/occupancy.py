"""Where a scene is: its box, and a grid of what may be in it, by the visual hull and the density learned so far."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoint.scenes.data.views import Views
from autoint.scenes.rays import Rays

TRANSPARENT = 0.5 / 255
"""Alpha below this is 0 in an 8-bit image."""
RESOLUTION = 64
RATE = 0.2
"""Share of a cell's mean that is of its latest look."""


class Occupancy(nn.Module):
    """A box of G³ cells, each with two estimates of its density; cells outside the visual hull have exactly 0.

    ``density`` is the largest that was seen lately: it says where something is. ``mean`` is the density that would let
    through what the cell's points let through on average, −ln(mean of e^(−σℓ))/ℓ for a cell's length ℓ: it says where a
    ray ends. The largest would have every ray end in the first cell that a surface touches.

    Args:
        lower, upper: corners (3,) of the box.
        hull: which cells may hold something, (G, G, G) of bool, counted along x, y and z; None for all.
    """

    lower: Tensor
    upper: Tensor
    density: Tensor
    mean: Tensor
    ADDED = ("mean",)
    """What an older checkpoint lacks; its ``density`` stands for it."""

    def __init__(self, lower: Tensor, upper: Tensor, hull: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("lower", lower.float())
        self.register_buffer("upper", upper.float())
        cells = torch.ones(RESOLUTION, RESOLUTION, RESOLUTION) if hull is None else hull.float()
        # Nothing is known yet, and nothing is ruled out.
        self.register_buffer("density", 2 * self.threshold(len(cells)) * cells)
        self.register_buffer("mean", self.density.clone())
        self.register_load_state_dict_post_hook(_check)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        if prefix + "density" in state:
            state.setdefault(prefix + "mean", state[prefix + "density"])
        super()._load_from_state_dict(state, prefix, *args)

    def at(self, points: Tensor) -> Tensor:
        """Return the density (…) of the cells that ``points`` (…, 3) are in; outside the box, of the nearest cell."""
        return self.density.flatten()[self._numbers((points - self.lower) * self.cells_per_length())]

    def along(self, rays: Rays, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the bounds (R, K+1) of K equal steps of each ray, and the density and mean (R, K) at their middles."""
        bounds = rays.even_edges(steps)
        scale, t = self.cells_per_length(), 0.5 * (bounds[:, 1:] + bounds[:, :-1])
        start, speed = (rays.origins - self.lower) * scale, rays.directions * scale
        # Axis by axis, (R, K) each: this is most of what a placement costs.
        axes = [torch.addcmul(start[:, k, None], t, speed[:, k, None]) for k in range(3)]
        cells = self._numbers(torch.stack(axes, dim=0).movedim(0, -1))
        return bounds, self.density.flatten()[cells], self.mean.flatten()[cells]

    def cells_per_length(self) -> Tensor:
        """Return how many cells a unit of length has, along each axis, (3,)."""
        return len(self.density) / (self.upper - self.lower)

    def _numbers(self, places: Tensor) -> Tensor:
        """Return the numbers (…) of the cells at ``places`` (…, 3), counted in cells."""
        size = len(self.density)
        x, y, z = places.clamp(0, size - 1e-3).floor_().unbind(-1)
        return ((x * size + y) * size + z).long()  # exact in float32, up to 2²⁴

    def threshold(self, size: int) -> Tensor:
        """The density at which a cell absorbs a hundredth of a ray."""
        return 0.01 * size / (self.upper - self.lower).max()

    @property
    def cell(self) -> Tensor:
        """The length of a cell, along the box's longest side."""
        return (self.upper - self.lower).max() / len(self.density)

    def occupied(self, density: Tensor) -> Tensor:
        """Return which estimates (…) are those of cells that count as occupied, (…) of bool."""
        return density > self.threshold(len(self.density))

    @torch.no_grad()
    def update(self, density: Callable[[Tensor], Tensor], part: float, g: torch.Generator) -> None:
        """Look anew at a random ``part`` of the hull's cells: at one random point (P, 3) in each, ``density`` → (P,).

        The largest density seen is forgotten at 5 % per look, and what passes on average follows at ``RATE``.
        """
        flat, mean, size, length = self.density.view(-1), self.mean.view(-1), len(self.density), self.cell
        cells = flat.nonzero()[:, 0]
        cells = cells[torch.rand(len(cells), generator=g, device=g.device).to(cells.device) < part]
        corner = torch.stack([cells // size**2, cells // size % size, cells % size], dim=-1)
        inside = torch.rand(len(cells), 3, generator=g, device=g.device).to(cells.device)
        points = self.lower + (corner + inside) * (self.upper - self.lower) / size
        floor = 0.01 * self.threshold(size)  # not 0, which is for cells outside the hull
        found = density(points).to(flat.dtype)  # which is shorter in a training of mixed precision
        flat[cells] = torch.maximum(0.95 * flat[cells], found).maximum(floor)
        passed = torch.lerp(torch.exp(-mean[cells] * length), torch.exp(-found.clamp_min(0) * length), RATE)
        mean[cells] = -torch.log(passed.clamp_min(torch.finfo(passed.dtype).tiny)) / length


def _check(occupancy: nn.Module, _: Any) -> None:
    """Refuse a box without volume, and densities below 0, of a file."""
    assert isinstance(occupancy, Occupancy)
    below = any(bool((estimates < 0).any()) for estimates in (occupancy.density, occupancy.mean))
    if below or not bool((occupancy.lower < occupancy.upper).all()):
        box = f"from {occupancy.lower.tolist()} to {occupancy.upper.tolist()}"
        raise ValueError(f"the scene's box is {box}, or a density in it is negative")


def visual_hull(views: Views) -> Occupancy:
    """Return the occupancy of the visual hull: of all cells that no view sees as fully transparent.

    Cells that fewer than half of the views have in their image, between near and far, are taken as empty. The box is
    the data set's, where it knows one, or else that of the hull, grown by one cell on every side; where nothing is
    opaque, or nothing transparent, it is the frustum box, with every cell occupied. Pixels that are masked rule nothing
    out. A hull that is empty although the images show something is refused: the cameras contradict the images.
    """
    clear = views.alpha <= TRANSPARENT
    if views.box is not None and (views.device is not None or not bool(clear.any())):
        return Occupancy(*views.box)
    lower, upper = views.box or views.frustum_box()
    for resolution in (RESOLUTION // 2, RESOLUTION):  # once coarsely over all that the cameras see, once within that
        if views.box is not None:
            break
        cell = (upper - lower) / resolution
        centres = _centres(lower, upper, resolution)
        left, often = _carve(views, centres, 0.5 * float(cell.norm()))
        full = centres[left[often]]
        if not len(full):
            if bool(clear.all()) or not bool(clear.any()):
                return Occupancy(lower, upper)
            raise ValueError(_contradiction(views, "no point"))
        lower, upper = full.amin(0) - 1.5 * cell, full.amax(0) + 1.5 * cell
    centres = _centres(lower, upper, RESOLUTION)
    left, often = _carve(views, centres, 0.5 * float(((upper - lower) / RESOLUTION).norm()))
    if not len(left) and views.box is not None and not bool(clear.all()):
        raise ValueError(_contradiction(views, "no cell of the box"))
    hull = torch.zeros(len(centres), dtype=torch.bool)
    # What nothing rules out may be seen by few, and fine cells may be missed by all of a coarse one: then all count.
    hull[left[often] if often.any() else left if len(left) else slice(None)] = True
    return Occupancy(lower, upper, hull.view(RESOLUTION, RESOLUTION, RESOLUTION))


def _contradiction(views: Views, what: str) -> str:
    return (
        f"the visual hull is empty: {what} between near={views.near:.4g} and far={views.far:.4g} is opaque in all "
        f"training views ({len(views)}) that see it, half of them at least; check the poses and their axes (+x right, "
        "+y up, looking along −z), scene.near and scene.far; where cameras look outwards, use scene=transforms "
        "scene.bounds=frustum"
    )


def _centres(lower: Tensor, upper: Tensor, resolution: int) -> Tensor:
    fractions = (torch.arange(resolution) + 0.5) / resolution
    return torch.cartesian_prod(*(lo + fractions * (up - lo) for lo, up in zip(lower, upper, strict=True)))


def _carve(views: Views, points: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Return the numbers of those points (P, 3) that no view sees as transparent, and which of them half of all see.

    A view looks ``radius`` around each point. Of what is masked in it, it says nothing.
    """
    height, width = views.images.shape[1:3]
    left, seen, asked = torch.arange(len(points)), torch.zeros(len(points)), torch.full((len(points),), len(views))
    for view, alpha in enumerate(views.alpha):
        x, y, depth = views.project(view, points)
        distance = (points - views.poses[view, :3, 3]).norm(dim=-1)
        ahead = (depth > 0) & (distance > views.near - radius) & (distance < views.far + radius)
        column, row = torch.floor(x).long(), torch.floor(y).long()
        inside = ahead & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        within = inside.nonzero()[:, 0]
        if not len(within):
            continue
        # How many pixels a length of 1 covers, by a step along the image's axis.
        stepped = points[within] + views.poses[view, :3, 0]
        pixels = float((views.project(view, stepped)[0] - x[within]).abs().quantile(0.9))
        kernel = 2 * min(math.ceil(radius * pixels), (min(width, height) - 1) // 2) + 1
        opaque = F.max_pool2d(alpha[None, None], kernel, 1, kernel // 2)[0, 0] > TRANSPARENT
        pixel = row[within] * width + column[within]
        counted = inside
        if views.mask is not None:
            counted = inside.clone()
            counted[within] = views.mask[view].flatten()[pixel]
            asked = asked - (inside & ~counted).long()
        seen = seen + counted
        clear = ~opaque.flatten()[pixel]
        if clear.any():
            alive = torch.ones_like(inside)
            alive[within[clear]] = False
            kept = alive.nonzero()[:, 0]
            left, seen, asked, points = left[kept], seen[kept], asked[kept], points[kept]
    return left, (seen >= 0.5 * asked) & (seen > 0)
