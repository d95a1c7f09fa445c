"""Rays r(t) = o + t·d and the cameras they come from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Rays:
    """A batch of rays: origins o (…, 3), unit directions d (…, 3), and the range near (…), far (…) of t to integrate.

    Directions have length 1, so t is a distance in the scene's units.
    """

    origins: Float[Tensor, "*r 3"]
    directions: Float[Tensor, "*r 3"]
    near: Float[Tensor, "*r"]
    far: Float[Tensor, "*r"]

    def __len__(self) -> int:
        return self.origins.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Rays:
        return Rays(self.origins[index], self.directions[index], self.near[index], self.far[index])

    def to(self, target: torch.device | torch.dtype) -> Rays:
        """Return the rays on another device or in another precision."""
        return Rays(*(x.to(target) for x in (self.origins, self.directions, self.near, self.far)))

    def at(self, t: Float[Tensor, "r *n"]) -> Float[Tensor, "r *n 3"]:
        """Return the points o + t·d: t (R, …) → (R, …, 3)."""
        shape = (len(self), *(1,) * (t.ndim - 1), 3)
        return self.origins.view(shape) + t[..., None] * self.directions.view(shape)

    def clipped_to(self, lower: Float[Tensor, " 3"], upper: Float[Tensor, " 3"]) -> Rays:
        """Return the rays with [near, far] cut down to the box [lower, upper] (each (3,)).

        A ray that misses the box gets far = near: an empty range, over which every integral is 0.
        """
        # 0/0 cannot occur: a direction component of exactly 0 becomes a tiny one, and the slab test still holds.
        d = torch.where(self.directions.abs() < 1e-12, torch.full_like(self.directions, 1e-12), self.directions)
        a, b = (lower - self.origins) / d, (upper - self.origins) / d
        near = torch.maximum(torch.minimum(a, b).amax(-1), self.near).minimum(self.far)
        far = torch.minimum(torch.maximum(a, b).amin(-1), self.far).maximum(near)
        return Rays(self.origins, self.directions, near, far)

    def span(self, fractions: Tensor) -> Tensor:
        """Return near + (far − near)·fractions: fractions (…, N+1), or (N+1,) for all rays, → (…, N+1)."""
        return self.near[..., None] + (self.far - self.near)[..., None] * fractions

    def even_edges(self, sections: int) -> Tensor:
        """Return the edges of ``sections`` sections of equal length, (…, N+1)."""
        return self.span(torch.linspace(0, 1, sections + 1, dtype=self.near.dtype, device=self.near.device))

    @property
    def hit(self) -> Tensor:
        """Which rays have a range of positive length, (…) of bool."""
        return self.far > self.near


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera: focal lengths and principal point in pixels, image width and height."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    @staticmethod
    def from_fov(fov_x: float, width: int, height: int) -> Intrinsics:
        """Return the camera with horizontal field of view ``fov_x`` (radians) and a centred principal point."""
        focal = 0.5 * width / float(torch.tan(torch.tensor(0.5 * fov_x, dtype=torch.float64)))
        return Intrinsics(focal, focal, width / 2, height / 2, width, height)


def rays_from_camera(intrinsics: Intrinsics, pose: Tensor, x: Tensor, y: Tensor, near: float, far: float) -> Rays:
    """Return the rays through image positions (x, y), in pixels; a pixel's centre is at +0.5.

    Args:
        intrinsics: the camera.
        pose: camera-to-world, (…, 4, 4) or (…, 3, 4), in OpenGL's convention: +x right, +y up, looking along −z.
        x, y: image positions (…), x to the right and y down from the upper left corner.
        near, far: the range of t, in the scene's units.
    """
    k = intrinsics
    local = torch.stack([(x - k.cx) / k.fx, -(y - k.cy) / k.fy, -torch.ones_like(x)], dim=-1)
    local = local / local.norm(dim=-1, keepdim=True)
    directions = (pose[..., :3, :3] @ local[..., None])[..., 0]
    origins = pose[..., :3, 3].expand_as(directions)
    return Rays(origins, directions, torch.full_like(x, near), torch.full_like(x, far))
