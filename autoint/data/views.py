"""Posed images of one scene: the common form of every volume-rendering data set."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from autoint.rays import Intrinsics, Rays, rays_from_camera

TRANSPARENT = 0.5 / 255
"""Alpha below this is 0 in an 8-bit image."""


def evenly(count: int, at_most: int | None) -> list[int]:
    """Return at most ``at_most`` of the numbers below ``count``, evenly spaced; all of them for None."""
    return torch.linspace(0, count - 1, count if at_most is None else min(at_most, count)).round().long().tolist()


@dataclass(frozen=True)
class Views:
    """Posed images of a scene.

    Attributes:
        images: premultiplied RGBA, (V, H, W, 4) in [0, 1]: rgb·alpha and alpha.
        poses: camera-to-world, (V, 4, 4), OpenGL convention.
        intrinsics: the camera, one for all views.
        near, far: range of the ray parameter, in the scene's units.
        names: one per view.
    """

    images: Tensor
    poses: Tensor
    intrinsics: Intrinsics
    near: float
    far: float
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.poses)

    def rays(self, view: Tensor, row: Tensor, column: Tensor) -> Rays:
        """Return the rays through the centres of pixels (view, row, column), each (R,)."""
        x, y = column.to(self.poses.dtype) + 0.5, row.to(self.poses.dtype) + 0.5
        return rays_from_camera(self.intrinsics, self.poses[view], x, y, self.near, self.far)

    def rays_of(self, view: int) -> Rays:
        """Return the rays of a whole image, row by row, (H·W,)."""
        k = self.intrinsics
        row, column = torch.meshgrid(torch.arange(k.height), torch.arange(k.width), indexing="ij")
        return self.rays(torch.full_like(row.flatten(), view), row.flatten(), column.flatten())

    def frustum_box(self) -> tuple[Tensor, Tensor]:
        """Return the box of everything that lies between near and far in some view."""
        k = self.intrinsics
        corner = torch.tensor([[x, y] for x in (0.0, k.width) for y in (0.0, k.height)], dtype=self.poses.dtype)
        poses = self.poses.repeat_interleave(4, dim=0)
        x, y = corner.repeat(len(self), 1).unbind(-1)
        rays = rays_from_camera(k, poses, x, y, self.near, self.far)
        points = rays.at(torch.stack([rays.near, rays.far], dim=-1)).reshape(-1, 3)
        return points.amin(0), points.amax(0)


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
    k = views.intrinsics
    seen = torch.zeros(len(points))
    alive = torch.ones(len(points), dtype=torch.bool)
    for image, pose in zip(views.images, views.poses, strict=True):
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        depth = -local[:, 2]
        distance = local.norm(dim=-1)
        ahead = (depth > 0) & (distance > views.near - radius) & (distance < views.far + radius)
        safe = torch.where(ahead, depth, 1.0)
        x = torch.floor(k.fx * local[:, 0] / safe + k.cx).long()
        y = torch.floor(-k.fy * local[:, 1] / safe + k.cy).long()
        inside = ahead & (x >= 0) & (x < k.width) & (y >= 0) & (y < k.height)
        if not inside.any():
            continue
        reach = math.ceil(radius * max(k.fx, k.fy) / float(depth[inside].quantile(0.1)))
        kernel = 2 * min(reach, (min(k.width, k.height) - 1) // 2) + 1
        opaque = F.max_pool2d(image[None, None, ..., 3], kernel, 1, kernel // 2)[0, 0] > TRANSPARENT
        seen += inside
        alive[inside.nonzero()[:, 0][~opaque[y[inside], x[inside]]]] = False
    return alive & (seen >= 0.5 * len(views))
