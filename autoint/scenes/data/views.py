"""Posed images of one scene: the common form of every volume-rendering data set."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from autoint.scenes.rays import DeviceCoordinates, Intrinsics, Rays, distorted, rays_from_camera, undistorted


def evenly(count: int, at_most: int | None) -> list[int]:
    """Return at most ``at_most`` of the numbers below ``count``, evenly spaced; all of them for None."""
    return torch.linspace(0, count - 1, count if at_most is None else min(at_most, count)).round().long().tolist()


def held_out(count: int, every: int, split: str) -> list[int]:
    """Return which of ``count`` views are in a split: every ``every``-th from the first is in val and test."""
    if every < 2:
        raise ValueError(f"scene.hold_every={every} must be at least 2: every so manyth view is kept for testing")
    if count < 2:
        raise ValueError(f"the scene has {count} images; it needs at least 2, to train with and to test")
    return [i for i in range(count) if (i % every == 0) == (split != "train")]


def names_of(files: Sequence[Path]) -> tuple[str, ...]:
    """Return a name for each image, all different, because results are written by them.

    It is the file's without its suffix; where these repeat, with the folders that lead to it; else with its number.
    """
    base = os.path.commonpath([file.parent for file in files])
    long = ["_".join((*file.relative_to(base).parent.parts, file.stem)) for file in files]
    numbered = [f"{i:05d}_{name}" for i, name in enumerate(long)]
    tries = ([file.stem for file in files], long, numbered)
    # some file systems do not tell a from A
    return next(tuple(names) for names in tries if len({name.casefold() for name in names}) == len(files))


def of_other_shape(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Return whether two sizes (width, height) are in proportion no images of each other: to 1 %, as of rounding."""
    return abs(one[0] * other[1] - one[1] * other[0]) > 0.01 * one[0] * other[1]


@dataclass(frozen=True)
class Views:
    """Posed images of a scene.

    Attributes:
        images: premultiplied RGBA, (V, H, W, 4) in [0, 1]: rgb·alpha and alpha.
        poses: camera-to-world, (V, 4, 4), OpenGL convention.
        intrinsics: the cameras, one for all views or one per view.
        near, far: range of the ray parameter, in the scene's units.
        names: one per view, all different.
        box: lower and upper corner (3,) of the scene where they are known; None leaves them to the visual hull.
        device: the normalised device coordinates that the rays and the box are in; None for the world's. Range and
            length of the rays are then those of the cube, and ``near`` and ``far`` mean nothing.
        mask: which pixels count, (V, H, W) of bool: the others neither train nor are measured; None for all.
    """

    images: Tensor
    poses: Tensor
    intrinsics: Intrinsics
    near: float
    far: float
    names: tuple[str, ...]
    box: tuple[Tensor, Tensor] | None = None
    device: DeviceCoordinates | None = None
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.poses)

    def to(self, device: torch.device | str) -> Views:
        """Return the views with images and cameras on another device."""
        k = self.intrinsics
        lens = None if k.distortion is None else k.distortion.to(device)
        cameras = dataclasses.replace(k, pinhole=k.pinhole.to(device), distortion=lens)
        images, poses = self.images.to(device), self.poses.to(device)
        mask = None if self.mask is None else self.mask.to(device)
        return dataclasses.replace(self, images=images, poses=poses, intrinsics=cameras, mask=mask)

    @property
    def alpha(self) -> Tensor:
        """The opacity of every pixel, (V, H, W): of one that is masked nothing is known, and it is taken as opaque."""
        alpha = self.images[..., 3]
        return alpha if self.mask is None else torch.where(self.mask, alpha, 1.0)

    def rays(self, view: Tensor, row: Tensor, column: Tensor) -> Rays:
        """Return the rays through the centres of pixels (view, row, column), each (R,)."""
        return self.through(view, column.to(self.poses.dtype) + 0.5, row.to(self.poses.dtype) + 0.5)

    def through(self, view: Tensor, x: Tensor, y: Tensor) -> Rays:
        """Return the rays through positions (x, y) of views, in pixels from the upper left corner, each (R,)."""
        rays = rays_from_camera(self.intrinsics[view], self.poses[view], x, y, self.near, self.far)
        return self.device.rays(rays) if self.device else rays

    def rays_of(self, view: int) -> Rays:
        """Return the rays of a whole image, row by row, (H·W,)."""
        k = self.intrinsics
        row, column = torch.meshgrid(torch.arange(k.height), torch.arange(k.width), indexing="ij")
        return self.rays(torch.full_like(row.flatten(), view), row.flatten(), column.flatten())

    def project(self, view: int, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return where a view sees points (P, 3): x and y in pixels, and the depth along its axis, each (P,).

        Points at a depth that is not positive are behind the camera; their x and y mean nothing.
        """
        pose = self.poses[view]
        local = ((self.device.world(points) if self.device else points) - pose[:3, 3]) @ pose[:3, :3]
        depth = -local[:, 2]
        safe = torch.where(depth > 0, depth, 1.0)
        x, y = self.intrinsics[view].pixels(local[:, 0] / safe, -local[:, 1] / safe)
        return x, y, depth

    def frustum_box(self, steps: int = 2) -> tuple[Tensor, Tensor]:
        """Return the box of what lies between near and far on steps × steps rays of every view, corners included.

        The corners alone (``steps=2``) do for views from all around; views from one side need some from the middle.
        """
        k = self.intrinsics
        grid = torch.linspace(0, 1, steps, dtype=self.poses.dtype)
        x, y = torch.cartesian_prod(grid * k.width, grid * k.height).repeat(len(self), 1).unbind(-1)
        rays = self.through(torch.arange(len(self)).repeat_interleave(steps * steps), x, y)
        points = rays.at(torch.stack([rays.near, rays.far], dim=-1)).reshape(-1, 3)
        return points.amin(0), points.amax(0)


def check_lens(intrinsics: Intrinsics, where: str) -> None:
    """Refuse distortion that cannot be inverted all over the image, which would bend rays to nowhere."""
    if intrinsics.distortion is None:
        return
    sides = (torch.linspace(0, side, 9, dtype=torch.float64) for side in (intrinsics.width, intrinsics.height))
    column, row = torch.cartesian_prod(*sides).unbind(-1)
    fx, fy, cx, cy = (k[:, None] for k in intrinsics.pinhole.double().unbind(-1))
    x, y = ((column - cx) / fx).flatten(), ((row - cy) / fy).flatten()
    lens = intrinsics.distortion.double().expand(len(fx), 5).repeat_interleave(len(row), dim=0)
    u, v = undistorted(x, y, lens)
    again = distorted(u, v, lens)
    close = (again[0] - x).abs() + (again[1] - y).abs() < 1e-8
    bad = ~(close & (u * x + v * y >= 0))  # beyond the fold, solutions lie on the other side
    if bad.any():
        at = int(bad.nonzero()[0, 0]) % len(row)
        pixel = f"({float(column[at]):.0f}, {float(row[at]):.0f})"
        raise ValueError(
            f"{where}: the lens distortion folds the image over at {pixel}: no ray belongs to that pixel; check k1, "
            "k2, k3, p1, p2, or undistort the images beforehand"
        )
