"""Where a scene may be: the visual hull of its training views."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from autoint.data.views import Views

TRANSPARENT = 0.5 / 255
"""Alpha below this is 0 in an 8-bit image."""


def visual_hull_box(views: Views, resolution: int = 64) -> tuple[Tensor, Tensor]:
    """Return the box of the visual hull: of all cells that no view sees as fully transparent.

    Cells that fewer than half of the views have in their image, between near and far, are taken as empty. The result is
    grown by one cell on every side. Where nothing is opaque the frustum box is returned.
    """
    lower, upper = views.frustum_box()
    for _ in range(2):  # once coarsely over all that the cameras see, once within the box found
        cell = (upper - lower) / resolution
        fractions = (torch.arange(resolution) + 0.5) / resolution
        points = torch.cartesian_prod(*(lo + fractions * (up - lo) for lo, up in zip(lower, upper, strict=True)))
        full = points[_carve(views, points, 0.5 * float(cell.norm()))]
        if not len(full):
            break
        lower, upper = full.amin(0) - 1.5 * cell, full.amax(0) + 1.5 * cell
    return lower, upper


def _carve(views: Views, points: Tensor, radius: float) -> Tensor:
    """Return which points (P, 3) no view sees as transparent, looking ``radius`` around each, as (P,) of bool."""
    height, width = views.images.shape[1:3]
    seen = torch.zeros(len(points))
    alive = torch.ones(len(points), dtype=torch.bool)
    for view, image in enumerate(views.images):
        x, y, depth = views.project(view, points)
        distance = (points - views.poses[view, :3, 3]).norm(dim=-1)
        ahead = (depth > 0) & (distance > views.near - radius) & (distance < views.far + radius)
        column, row = torch.floor(x).long(), torch.floor(y).long()
        inside = ahead & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        if not inside.any():
            continue
        # How many pixels a length of 1 covers at unit depth, from a shift by 1 along the image's axes.
        shifted = points[inside] + views.poses[view, :3, 0]
        pixels = float((views.project(view, shifted)[0] - x[inside]).abs().quantile(0.9))
        kernel = 2 * min(math.ceil(radius * pixels), (min(width, height) - 1) // 2) + 1
        opaque = F.max_pool2d(image[None, None, ..., 3], kernel, 1, kernel // 2)[0, 0] > TRANSPARENT
        seen += inside
        alive[inside.nonzero()[:, 0][~opaque[row[inside], column[inside]]]] = False
    return alive & (seen >= 0.5 * len(views))
