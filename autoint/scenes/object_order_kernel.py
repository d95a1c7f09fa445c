"""``marching.march`` of many rays from one point, block by block instead of ray by ray; numba compiles it for a CPU.

Blocks are taken front to back, and each by all rays of a tile of the picture that meet it: what is empty costs nothing,
and a block's numbers come into the caches once for a tile.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from autoint.files.machine import on_threads
from autoint.scenes.marching import CORNERS, SIDE, TRANSPARENT
from autoint.scenes.marching_kernel import CARRIED, ONE, OPTIONS, PLANE, ROW, add_color, trilinear
from autoint.scenes.spherical_harmonics import basis

LEAST = 1024
"""Rays that are worth sorting."""
TILE = 32
"""Bins along the side of a tile; in the mean there is a ray in each."""
AHEAD = 0.05
"""The cosine that all directions have at least to their mean."""
BLOCK = np.float32(SIDE)


@torch.autocast("cpu", enabled=False)
def from_one_point(origins: Tensor, directions: Tensor) -> bool:
    """Whether these rays (R, 3) are many, begin at one point, and look more or less the same way."""
    if len(origins) < LEAST or not bool((origins == origins[0]).all()):
        return False
    return bool((directions @ _axes(directions)[2]).amin() > AHEAD)


@torch.autocast("cpu", enabled=False)
def march(
    places: Tensor, density: Tensor, color: Tensor, origins: Tensor, directions: Tensor, near: Tensor, far: Tensor,
    step: float, shift: Tensor, carried: float = CARRIED,
) -> Tensor:  # fmt: skip
    """As ``marching.march`` of rays ``from_one_point``, without a gradient; float32, on a CPU.

    ``places`` (B, 3) of int32 are where the blocks are. The colours of a ray's successive samples in a block whose
    weights are less than ``carried`` together are taken as that of the last.
    """
    degree = math.isqrt(color.shape[-1] // 3) - 1
    rays = [value.contiguous().numpy() for value in (directions, near, far, shift, basis(directions, degree))]
    axes = _axes(directions)
    seen = directions @ axes.T
    sort: Any = _sorted
    order, starts, corner, scale, across, down = sort((seen[:, :2] / seen[:, 2:]).numpy())
    bins = torch.tensor([across, down]) * TILE
    blocks, where = _in_front(places, origins[0], axes, torch.from_numpy(corner), scale, bins)
    sorted_rays, in_order = (order, starts), (blocks.numpy(), where.numpy())
    out = torch.empty(len(directions), 5)
    tree = places.numpy(), density.flatten().numpy(), color.flatten(0, 1).numpy(), origins[0].numpy()
    tiles: Any = _tiles
    which = torch.arange(across * down).view(down, across).T.flatten()  # columns: none is all sky
    on_threads(
        lambda some: tiles(some, across, *sorted_rays, *in_order, *tree, *rays, step, carried, out.numpy()),
        (which,),
        2,
    )
    return out


def _axes(directions: Tensor) -> Tensor:
    """Return two axes across the mean of ``directions`` (R, 3), and that: the rows of (3, 3)."""
    ahead = torch.nn.functional.normalize(directions.mean(0), dim=0)
    across = torch.nn.functional.normalize(torch.linalg.cross(torch.eye(3)[ahead.abs().argmin()], ahead), dim=0)
    return torch.stack([across, torch.linalg.cross(ahead, across), ahead])


def _in_front(
    places: Tensor, origin: Tensor, axes: Tensor, corner: Tensor, scale: float, bins: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the blocks that may be seen, front to back, and the bins that each may be in: (B, 4) of int32, by block.

    A ray goes from block to block along one axis at a time, away from where it began: those that it meets later are
    more blocks away from there, counted along the axes.
    """
    ends = torch.cartesian_prod(*[torch.arange(2.0)] * 3)
    seen = ((SIDE * places - origin) @ axes.T)[:, None] + SIDE * ends @ axes.T
    depth = seen[..., 2:].clamp_min(1e-3)
    at = (seen[..., :2] / depth - corner) * scale
    beside = (seen[..., 2] < 1e-3).any(-1, keepdim=True)  # around the origin: it may be seen anywhere
    spare = 0.01 + 4e-7 * scale  # for rounding, which is more than a hundredth of a bin where fields of view are tiny
    low = torch.where(beside, 0, at.amin(1) - spare).clamp(-1, 2**20).int()
    high = torch.where(beside, 2**20, at.amax(1) + spare).floor().clamp(-1, 2**20).int()
    away = (places - (origin / SIDE).floor()).abs().sum(-1)
    shown = ((seen[..., 2] >= 1e-3).any(-1) & (high >= 0).all(-1) & (low < bins).all(-1)).nonzero()[:, 0]
    return shown[away[shown].argsort()], torch.stack([low, high], dim=-1).flatten(1)


@numba.njit(**OPTIONS)
def _sorted(seen: np.ndarray) -> tuple[Any, ...]:
    """Sort rays by where they are ``seen`` in a plane ahead, (R, 2): by tile and, in a tile, by rows of square bins.

    Returns:
        the rays in their order, (R,); where in it each bin begins, (tiles · 32² + 1,); the corner of the first bin;
        bins per length; and the number of tiles across and down.
    """
    count = len(seen)
    corner, most = seen[0].copy(), seen[0].copy()
    for r in range(count):
        for axis in range(2):
            corner[axis], most[axis] = min(corner[axis], seen[r, axis]), max(most[axis], seen[r, axis])
    wide, high = max(most[0] - corner[0], 1e-6), max(most[1] - corner[1], 1e-6)
    scale = np.float32(1 / max(math.sqrt(wide * high / count), max(wide, high) / 4096))
    across, down = int(wide * scale) // TILE + 1, int(high * scale) // TILE + 1
    key, starts = np.empty(count, np.int32), np.zeros(across * down * TILE * TILE + 1, np.int32)
    for r in range(count):
        u = min(int((seen[r, 0] - corner[0]) * scale), across * TILE - 1)
        v = min(int((seen[r, 1] - corner[1]) * scale), down * TILE - 1)
        key[r] = ((v // TILE * across + u // TILE) * TILE + v % TILE) * TILE + u % TILE
        starts[key[r] + 1] += 1
    for k in range(1, len(starts)):
        starts[k] += starts[k - 1]
    order, free = np.empty(count, np.int32), starts.copy()
    for r in range(count):
        order[free[key[r]]] = r
        free[key[r]] += 1
    return order, starts, corner, scale, across, down


@numba.njit(**OPTIONS)
def _tiles(
    which: np.ndarray, across: int, order: np.ndarray, starts: np.ndarray, blocks: np.ndarray, bins: np.ndarray,
    places: np.ndarray, density: np.ndarray, color: np.ndarray, origin: np.ndarray, directions: np.ndarray,
    near: np.ndarray, far: np.ndarray, shift: np.ndarray, harmonics: np.ndarray, step: float, carried: float,
    out: np.ndarray,
) -> None:  # fmt: skip
    """Write what ``marching.march`` returns of the rays of some tiles into ``out`` (R, 5)."""
    pace = np.float32(step)
    for tile in which:
        base, left, top = tile * TILE * TILE, tile % across * TILE, tile // across * TILE
        rays = order[starts[base] : starts[base + TILE * TILE]]
        lines, state = _begun(rays, directions, near, far, shift, pace)
        sums = np.zeros((len(rays), color.shape[1]), np.float32)
        for b in blocks:
            first, last = max(bins[b, 0] - left, 0), min(bins[b, 1] - left, TILE - 1)
            for v in range(max(bins[b, 2] - top, 0), min(bins[b, 3] - top, TILE - 1) + 1 if first <= last else 0):
                row = base + v * TILE
                for i in range(starts[row + first] - starts[base], starts[row + last + 1] - starts[base]):
                    if state[i, 0] > TRANSPARENT:
                        _through(b, places, density, color, origin, lines, state, sums, i, pace, carried)
        terms = harmonics.shape[1]
        for i, r in enumerate(rays):
            for channel in range(3):
                value = np.float32(0)
                for k in range(terms):
                    value += sums[i, channel * terms + k] * harmonics[r, k]
                out[r, channel] = value
            out[r, 3], out[r, 4] = ONE - state[i, 0], state[i, 1]


@numba.njit(**OPTIONS)
def _begun(
    rays: np.ndarray, directions: np.ndarray, near: np.ndarray, far: np.ndarray, shift: np.ndarray, step: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return d, 1/d, the first sample and the end of some rays, (R, 8), and what passes and Σ w·t at first, (R, 2)."""
    lines, state = np.empty((len(rays), 8), np.float32), np.zeros((len(rays), 2), np.float32)
    for i, r in enumerate(rays):
        for axis in range(3):
            d = directions[r, axis]
            d = d if abs(d) > np.float32(1e-12) else np.float32(1e-12)
            lines[i, axis], lines[i, 3 + axis] = d, ONE / d
        lines[i, 6], lines[i, 7], state[i, 0] = near[r] + shift[r] * step, far[r], ONE
    return lines, state


@numba.njit(inline="always", **OPTIONS)
def _through(
    b: int, places: np.ndarray, density: np.ndarray, color: np.ndarray, origin: np.ndarray, lines: np.ndarray,
    state: np.ndarray, sums: np.ndarray, i: int, step: Any, carried: float,
) -> None:  # fmt: skip
    """Add the samples of ray i in block b to what it has: what still passes and Σ w·t in ``state``, Σ w·c in ``sums``.

    Which samples are in the block is told by their cells, so that each is in one; from where it begins and ends by its
    walls, with some slack.
    """
    bx, by, bz, ox, oy, oz = places[b, 0], places[b, 1], places[b, 2], origin[0], origin[1], origin[2]
    dx, dy, dz, over_x, over_y, over_z, start, end = lines[i]
    x, y, z = np.float32(bx * SIDE) - ox, np.float32(by * SIDE) - oy, np.float32(bz * SIDE) - oz
    ax, ay, az = x * over_x, y * over_y, z * over_z
    x, y, z = (x + BLOCK) * over_x, (y + BLOCK) * over_y, (z + BLOCK) * over_z
    enter, leave = max(min(ax, x), min(ay, y), min(az, z)), min(max(ax, x), max(ay, y), max(az, z), end)
    over = ONE / step
    slack = np.float32(1e-3) + np.float32(1e-6) * end * over
    before, after = (enter - start) * over - slack, (leave - start) * over + slack
    if after < before or after < 0:
        return
    passed, depth, pending = state[i, 0], state[i, 1], np.float32(0)
    at: Any = 0
    fx, fy, fz = np.float32(0), np.float32(0), np.float32(0)
    for k in range(int(max(before + np.float32(0.999), np.float32(0))), int(after) + 1):
        t = start + np.float32(k) * step
        if t >= end:
            break
        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
        cx, cy, cz = np.int32(x), np.int32(y), np.int32(z)  # none is below 0 by more than the slack
        if (cx >> 2) != bx or (cy >> 2) != by or (cz >> 2) != bz:
            continue
        gx, gy, gz = x - np.float32(cx), y - np.float32(cy), z - np.float32(cz)
        here = b * CORNERS + (cx & 3) * PLANE + (cy & 3) * ROW + (cz & 3)
        sigma = trilinear(density, here, gx, gy, gz)
        if sigma <= 0:
            continue
        weight = passed * (ONE - np.float32(math.exp(-sigma * step)))
        at, fx, fy, fz = here, gx, gy, gz
        pending += weight
        depth += weight * t
        passed -= weight
        if passed <= TRANSPARENT:
            break
        if pending > carried:
            add_color(color, at, fx, fy, fz, pending, sums[i])
            pending = np.float32(0)
    if pending > 0:
        add_color(color, at, fx, fy, fz, pending, sums[i])
    state[i, 0], state[i, 1] = passed, depth
