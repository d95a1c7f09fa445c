"""Rays r(t) = o + t·d, the cameras they come from, and normalised device coordinates."""

from __future__ import annotations

import dataclasses
import math
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
    """Cameras of one image size: one for all views (K = 1), or one per view.

    Attributes:
        pinhole: fx, fy, cx, cy in pixels, (K, 4).
        width, height: of the images, in pixels.
        distortion: k1, k2, k3, p1, p2 of ``distorted``, (K, 5); None where lenses are straight.
    """

    pinhole: Float[Tensor, "k 4"]
    width: int
    height: int
    distortion: Float[Tensor, "k 5"] | None = None

    @staticmethod
    def from_fov(fov_x: float, width: int, height: int) -> Intrinsics:
        """Return the camera with horizontal field of view ``fov_x`` (radians) and a centred principal point."""
        focal = 0.5 * width / math.tan(0.5 * fov_x)
        return Intrinsics(torch.tensor([[focal, focal, width / 2, height / 2]]), width, height)

    def __getitem__(self, view: Tensor | int | list[int]) -> Intrinsics:
        """Return the cameras of these views; one that serves all views serves these."""
        if len(self.pinhole) == 1:
            return self
        chosen = torch.as_tensor(view).reshape(-1)
        distortion = None if self.distortion is None else self.distortion[chosen]
        return Intrinsics(self.pinhole[chosen], self.width, self.height, distortion)

    def resized(self, width: int, height: int) -> Intrinsics:
        """Return the cameras of the same images at another size."""
        factor = torch.tensor([width / self.width, height / self.height]).repeat(2)
        return dataclasses.replace(self, pinhole=self.pinhole * factor, width=width, height=height)

    def local(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return where positions (x, y) in pixels, (R,) each, lie on the plane at depth 1, y down, undistorted."""
        fx, fy, cx, cy = self.pinhole.unbind(-1)
        x, y = (x - cx) / fx, (y - cy) / fy
        return (x, y) if self.distortion is None else undistorted(x, y, self.distortion)

    def pixels(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the positions in pixels of points on the plane at depth 1: the inverse of ``local``."""
        fx, fy, cx, cy = self.pinhole.unbind(-1)
        if self.distortion is not None:
            x, y = distorted(x, y, self.distortion)
        return x * fx + cx, y * fy + cy


def distorted(x: Tensor, y: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Return where a lens puts what a pinhole would put at (x, y), on the plane at depth 1 with y down.

    Brown and Conrady's model as OpenCV, COLMAP and instant-ngp write it, with r² = x² + y²::

        x' = x (1 + k1 r² + k2 r⁴ + k3 r⁶) + 2 p1 x y + p2 (r² + 2x²)
        y' = y (1 + k1 r² + k2 r⁴ + k3 r⁶) + 2 p2 x y + p1 (r² + 2y²)

    Args:
        x, y: (R,) each.
        coefficients: k1, k2, k3, p1, p2: (R, 5) or (1, 5).
    """
    k1, k2, k3, p1, p2 = coefficients.unbind(-1)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    return x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y)


def undistorted(x: Tensor, y: Tensor, coefficients: Tensor, steps: int = 12) -> tuple[Tensor, Tensor]:
    """Return the inverse of ``distorted`` by Newton's method in float64, exact to rounding where it exists.

    A lens so strong that the image folds has no inverse near its corners, which ``views.check_lens`` refuses.
    """
    k1, k2, k3, p1, p2 = coefficients.double().unbind(-1)
    u, v = start = x.double(), y.double()
    for _ in range(steps):
        r2 = u * u + v * v
        radial, slope = 1 + r2 * (k1 + r2 * (k2 + r2 * k3)), 2 * (k1 + r2 * (2 * k2 + r2 * 3 * k3))
        a = radial + slope * u * u + 2 * p1 * v + 6 * p2 * u
        b = slope * u * v + 2 * p1 * u + 2 * p2 * v  # off the diagonal both ways: the Jacobian is symmetric
        d = radial + slope * v * v + 2 * p2 * u + 6 * p1 * v
        error_x, error_y = (p - q for p, q in zip(distorted(u, v, coefficients.double()), start, strict=True))
        determinant = a * d - b * b
        du, dv = (d * error_x - b * error_y) / determinant, (a * error_y - b * error_x) / determinant
        u, v = u - du, v - dv
        if float(torch.maximum(du.abs(), dv.abs()).amax()) < 1e-9:  # the next step would be of the order of 1e-18
            break
    return u.to(x.dtype), v.to(y.dtype)


def rays_from_camera(intrinsics: Intrinsics, pose: Tensor, x: Tensor, y: Tensor, near: float, far: float) -> Rays:
    """Return the rays through image positions (x, y), in pixels; a pixel's centre is at +0.5.

    Args:
        intrinsics: one camera, or one per position.
        pose: camera-to-world, (…, 4, 4) or (…, 3, 4), in OpenGL's convention: +x right, +y up, looking along −z.
        x, y: image positions (R,), x to the right and y down from the upper left corner.
        near, far: the range of t, in the scene's units.
    """
    right, down = intrinsics.local(x, y)
    local = torch.stack([right, -down, -torch.ones_like(right)], dim=-1)
    local = local / local.norm(dim=-1, keepdim=True)
    directions = (pose[..., :3, :3] @ local[..., None])[..., 0]
    origins = pose[..., :3, 3].expand_as(directions)
    return Rays(origins, directions, torch.full_like(x, near), torch.full_like(x, far))


@dataclass(frozen=True)
class DeviceCoordinates:
    """Normalised device coordinates (NeRF, appendix C): all that lies beyond a plane of a frustum, as a cube.

    A camera at the origin that looks along −z sees the depths from n to infinity; (x, y, z) goes to
    (−s_x·x/z, −s_y·y/z, 1 + 2n/z), in [−1, 1]³, and straight lines stay straight.

    Attributes:
        scale_x, scale_y: s = 2·focal length / image size, per axis.
        near: n.
    """

    scale_x: float
    scale_y: float
    near: float = 1.0

    def of(self, points: Tensor) -> Tensor:
        """Map points (…, 3) with z < 0 into the cube."""
        x, y, z = points.unbind(-1)
        return torch.stack([-self.scale_x * x / z, -self.scale_y * y / z, 1 + 2 * self.near / z], dim=-1)

    def world(self, points: Tensor) -> Tensor:
        """Map points (…, 3) of the cube back; those on its far side, z = 1, are put very far away."""
        x, y, z = points.unbind(-1)
        depth = 2 * self.near / (1 - z).clamp_min(1e-6)
        return torch.stack([x * depth / self.scale_x, y * depth / self.scale_y, -depth], dim=-1)

    def rays(self, rays: Rays) -> Rays:
        """Return the rays in the cube, of unit directions again: they start at its side z = −1 and end at z = 1.

        They must look along −z. The parameter t becomes the distance in the cube, from 0.
        """
        start = rays.origins - ((self.near + rays.origins[:, 2]) / rays.directions[:, 2])[:, None] * rays.directions
        d, scale = rays.directions, start.new_tensor([-self.scale_x, -self.scale_y])
        # where they come from on the plane z = −n, and where they go to at infinity
        origins = torch.cat([scale * start[:, :2] / -self.near, -torch.ones_like(start[:, 2:])], dim=-1)
        ends = torch.cat([scale * d[:, :2] / d[:, 2:], torch.ones_like(start[:, 2:])], dim=-1)
        length = (ends - origins).norm(dim=-1)
        return Rays(origins, (ends - origins) / length[:, None], torch.zeros_like(length), length)


def distances(rays: Rays, t: Tensor, position: Tensor, device: DeviceCoordinates | None) -> Tensor:
    """Return how far from a camera the points at t (R,) of its rays are in the world: t, but in device coordinates.

    Args:
        rays: (R,), in device coordinates where they are given.
        t: one parameter for each ray.
        position: of the camera, (3,), in the world.
        device: the device coordinates that the rays are in, if any.
    """
    return t if device is None else (device.world(rays.at(t)) - position.to(t)).norm(dim=-1)
