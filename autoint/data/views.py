"""Posed images of one scene: the common form of every volume-rendering data set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autoint.rays import Intrinsics, Rays, rays_from_camera


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

    def project(self, view: int, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return where a view sees points (P, 3): x and y in pixels, and the depth along its axis, each (P,).

        Points at a depth that is not positive are behind the camera; their x and y mean nothing.
        """
        k, pose = self.intrinsics, self.poses[view]
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        depth = -local[:, 2]
        safe = torch.where(depth > 0, depth, 1.0)
        return k.fx * local[:, 0] / safe + k.cx, -k.fy * local[:, 1] / safe + k.cy, depth

    def frustum_box(self) -> tuple[Tensor, Tensor]:
        """Return the box of everything that lies between near and far in some view."""
        k = self.intrinsics
        corner = torch.tensor([[x, y] for x in (0.0, k.width) for y in (0.0, k.height)], dtype=self.poses.dtype)
        poses = self.poses.repeat_interleave(4, dim=0)
        x, y = corner.repeat(len(self), 1).unbind(-1)
        rays = rays_from_camera(k, poses, x, y, self.near, self.far)
        points = rays.at(torch.stack([rays.near, rays.far], dim=-1)).reshape(-1, 3)
        return points.amin(0), points.amax(0)
