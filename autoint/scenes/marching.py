"""Rays through a two-level tree of blocks: in torch, and the same in a kernel for a CPU where numba is installed."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from autoint.scenes.spherical_harmonics import basis, colors

SIDE = 4
"""Cells per axis of a block: it has one more corner, so that no other block is asked for what is in it."""
CORNERS = (SIDE + 1) ** 3
STRETCH = 64
"""Samples of a ray that are looked up together."""
TRANSPARENT = 1e-3
"""A ray ends where less than this passes."""


def distances(index: Tensor) -> Tensor:
    """Return ``index`` (C, C, C) with, where nothing is, minus the number of blocks up to the nearest one, at most 64.

    Distances are those of a king on a board: all blocks that are nearer to such a place than its number are empty.
    """
    found, out = (index >= 0)[None].float(), torch.where(index >= 0, index, -64)
    for reach in range(1, 64):
        found = F.max_pool3d(found, 3, stride=1, padding=1)
        new = (found[0] > 0) & (out == -64)
        if not bool((out == -64).any()):
            break
        out = torch.where(new, -reach, out)
    return out


def told(sums: Tensor, directions: Tensor) -> Tensor:
    """Return red, green, blue, Σ w and Σ w·t (R, 5) of Σ w, Σ w·t and Σ w·c (R, 2 + 3·K), told the direction."""
    degree = round(((sums.shape[-1] - 2) / 3) ** 0.5) - 1
    return torch.cat([colors(sums[:, 2:], basis(directions, degree)), sums[:, :2]], dim=-1)


def march(
    index: Tensor, density: Tensor, color: Tensor, origins: Tensor, directions: Tensor, near: Tensor, far: Tensor,
    step: float, shift: Tensor,
) -> Tensor:  # fmt: skip
    """Composite rays through a tree, front to back, in samples that are ``step`` apart, with a gradient.

    A sample has the density σ = max(0, trilinear of the corners') and the weight w = T (1 − e^{−σ·step}). The colour is
    Σ_k Y_k(d) Σ w c_k, with trilinear c_k: the direction is told once per ray. All lengths are counted in cells, from
    the tree's lower corner.

    Args:
        index: the number of the block at each place of the coarse level, −1 where nothing is, (C, C, C) of int32.
        density: at the corners of each block's cells, (B, 125), per cell.
        color: likewise, 3·K coefficients of spherical harmonics, channel by channel, (B, 125, 3·K).
        origins, directions: (R, 3); directions have length 1.
        near, far: (R,).
        step: distance of samples.
        shift: where in its step each ray's samples are, (R,), in [0, 1).

    Returns:
        red, green, blue, Σ w and Σ w·t of each ray, (R, 5).
    """
    length, count = far - near, len(origins)
    most = int(torch.ceil(length.amax() / step).clamp_min(1)) if count else 1
    out, passed = near.new_zeros(count, 2 + color.shape[-1]), near.new_ones(count)
    rays = torch.arange(count, device=near.device)
    for first in range(0, most, STRETCH):  # a stretch at a time, so that rays can end early
        rays = rays[(first * step < length[rays]) & (passed[rays] > TRANSPARENT)]
        if not len(rays):
            break
        k = torch.arange(first, min(first + STRETCH, most), device=near.device)
        t = near[rays, None] + (k + shift[rays, None]) * step
        values = _samples(index, density, color, origins[rays], directions[rays], t, t < far[rays, None])
        depth = values[..., 0] * step
        before = torch.exp(-(depth.cumsum(-1) - depth)) * passed[rays, None]
        weights = before * -torch.expm1(-depth)
        weights = torch.where(before > TRANSPARENT, weights, 0.0)
        sums = torch.cat([weights.sum(-1, keepdim=True), (weights * t).sum(-1, keepdim=True)], dim=-1)
        out = out.index_add(0, rays, torch.cat([sums, (weights[..., None] * values[..., 1:]).sum(1)], dim=-1))
        passed = passed.index_put((rays,), passed[rays] * torch.exp(-depth.sum(-1)))
    return told(out, directions)


def _samples(
    index: Tensor, density: Tensor, color: Tensor, origins: Tensor, directions: Tensor, t: Tensor, mask: Tensor,
) -> Tensor:  # fmt: skip
    """Return density and coefficients (R, S, 1 + 3·K) at t (R, S), where ``mask`` says so and a block is; else 0."""
    places = origins[:, None] + t[..., None] * directions[:, None]
    cells, size = places.floor().long(), index.shape[0]
    blocks = torch.div(cells, SIDE, rounding_mode="floor")
    mask = mask & ((cells >= 0) & (blocks < size)).all(-1)
    blocks = blocks.clamp(0, size - 1)
    number = index[blocks[..., 0], blocks[..., 1], blocks[..., 2]].long()
    wanted = (mask & (number >= 0)).flatten().nonzero()[:, 0]
    cell, place, number = cells.reshape(-1, 3)[wanted], places.reshape(-1, 3)[wanted], number.flatten()[wanted]
    inner, fraction = cell % SIDE, place - cell
    found = place.new_zeros(len(wanted), 1 + color.shape[-1])
    for corner in itertools.product((0, 1), repeat=3):
        weight, at = torch.ones_like(place[:, 0]), number * CORNERS
        for axis, side in enumerate(corner):
            weight = weight * (fraction[:, axis] if side else 1 - fraction[:, axis])
            at = at + (inner[:, axis] + side) * (SIDE + 1) ** (2 - axis)
        corners = torch.cat([density.flatten()[at, None], color.flatten(0, 1)[at]], dim=-1)
        found = found + weight[:, None] * corners
    found = torch.cat([found[:, :1].clamp_min(0), found[:, 1:]], dim=-1)
    return found.new_zeros(t.numel(), found.shape[-1]).index_copy(0, wanted, found).view(*t.shape, -1)
