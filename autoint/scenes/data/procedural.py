"""The embedded scene: a few soft coloured solids with exact line integrals, rendered on the spot."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from autoint.registry import DATASETS
from autoint.runs.seeding import generator
from autoint.scenes.data.views import Views, evenly
from autoint.scenes.rays import Intrinsics, Rays
from autoint.scenes.rendering import composite

SIZE = 64
LARGEST = 1024
NUM_VIEWS = {"train": 40, "val": 4, "test": 8}
NEAR, FAR = 2.5, 5.5


@dataclass(frozen=True)
class Solids:
    """K Gaussian ellipsoids: σ(x) = Σ_k a_k exp(−|M_k(x − μ_k)|²/2), and colour Σ_k σ_k c_k / σ.

    Attributes:
        centers: μ_k, (K, 3).
        shapes: M_k, (K, 3, 3), inverse radii times rotation.
        amplitudes: a_k, (K,), density per unit of length.
        colors: c_k, (K, 3).
    """

    centers: Tensor
    shapes: Tensor
    amplitudes: Tensor
    colors: Tensor

    def densities(self, x: Tensor) -> Tensor:
        """Return σ_k(x): x (…, 3) → (…, K)."""
        local = torch.einsum("kij,...kj->...ki", self.shapes, x[..., None, :] - self.centers)
        return self.amplitudes * torch.exp(-0.5 * local.square().sum(-1))

    def line_integrals(self, rays: Rays, edges: Tensor) -> Tensor:
        """Return ∫σ_k dt over every section, in closed form: edges (R, N+1) → (R, N, K).

        Along a ray |M(o + t·d − μ)|² = |u|² (t − t₀)² + r², so the integral is a difference of error functions.
        """
        start = torch.einsum("kij,rkj->rki", self.shapes, rays.origins[:, None] - self.centers)
        u = torch.einsum("kij,rj->rki", self.shapes, rays.directions)
        speed = u.norm(dim=-1)
        middle = -(start * u).sum(-1) / speed**2
        miss = (start + middle[..., None] * u).square().sum(-1)
        peak = self.amplitudes * torch.exp(-0.5 * miss) * math.sqrt(math.pi / 2) / speed
        phase = (edges[:, :, None] - middle[:, None]) * speed[:, None] / math.sqrt(2)
        return peak[:, None] * torch.erf(phase).diff(dim=1)

    def render(self, rays: Rays, background: Tensor, num_sections: int = 64) -> tuple[Tensor, Tensor]:
        """Return opacity (R,), exact to rounding, and colour (R, 3), to 1e-6.

        Sections have exact optical depth and density-weighted colour, which leaves an error of O(N⁻²) in the colour;
        one step of Richardson's extrapolation, from N and 2N sections, removes that term.
        """
        acc, coarse = self._composite(rays, background, num_sections)
        _, fine = self._composite(rays, background, 2 * num_sections)
        return acc, (4 * fine - coarse) / 3

    def _composite(self, rays: Rays, background: Tensor, num_sections: int) -> tuple[Tensor, Tensor]:
        edges = rays.even_edges(num_sections)
        parts = self.line_integrals(rays, edges)
        total = parts.sum(-1)
        color = (parts @ self.colors) / total.clamp_min(torch.finfo(total.dtype).tiny)[..., None]
        out = composite(total / edges.diff(dim=-1), color, edges, background)
        return out.acc, out.rgb


def solids(seed: int, num_solids: int) -> Solids:
    """Return ``num_solids`` ellipsoids around the origin, spread out, opaque in the middle and soft at the rim."""
    g = generator(seed, "solids")
    angle = 2 * math.pi * (torch.arange(num_solids) + torch.rand(num_solids, generator=g) * 0.5) / num_solids
    reach = 0.45 + 0.15 * torch.rand(num_solids, generator=g)
    height = 0.9 * (torch.rand(num_solids, generator=g) - 0.5)
    centers = torch.stack([reach * torch.cos(angle), reach * torch.sin(angle), height], dim=-1)
    radii = 0.12 + 0.14 * torch.rand(num_solids, 3, generator=g)
    rotations = torch.linalg.qr(torch.randn(num_solids, 3, 3, generator=g))[0]
    hue = torch.arange(num_solids) / num_solids + 0.1 * torch.rand(num_solids, generator=g)
    colors = 0.5 + 0.42 * torch.cos(2 * math.pi * (hue[:, None] + torch.tensor([0.0, 1 / 3, 2 / 3])))
    amplitudes = 12 + 12 * torch.rand(num_solids, generator=g)
    return Solids(centers, rotations / radii[..., None], amplitudes, colors)


def orbit(num_views: int, offset: float, lowest: float = -0.2) -> Tensor:
    """Return ``num_views`` poses (V, 4, 4) at distance 4, spread evenly over the sphere above ``lowest``, up to 0.9."""
    k = torch.arange(num_views, dtype=torch.float64)
    z = lowest + (0.9 - lowest) * (k + 0.5) / num_views
    turn = k * math.pi * (3 - math.sqrt(5)) + offset
    back = torch.stack([(1 - z**2).sqrt() * torch.cos(turn), (1 - z**2).sqrt() * torch.sin(turn), z], dim=-1)
    north = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand_as(back)
    right = torch.nn.functional.normalize(torch.cross(north, back, dim=-1), dim=-1)
    up = torch.cross(back, right, dim=-1)
    poses = torch.eye(4).repeat(num_views, 1, 1)
    poses[:, :3] = torch.stack([right, up, back, 4 * back], dim=-1).float()
    return poses


@DATASETS.register("procedural")
def procedural(
    data_dir: str,
    split: str,
    image_size: int | None,
    at_most: int | None = None,
    *,
    scene_seed: int = 0,
    num_solids: int = 5,
) -> Views:
    """Render one split of the embedded scene, or ``at_most`` evenly spaced views of it.

    The same ``scene_seed`` and ``num_solids`` give the same scene on every machine, up to rounding.

    Args:
        data_dir: not used.
        split: train, val or test.
        image_size: 64 unless given.
        at_most: so many views.
        scene_seed: of what stands where.
        num_solids: how many balls, boxes and the like.
    """
    if num_solids < 1:
        raise ValueError(f"scene.num_solids={num_solids} must be at least 1")
    size = image_size or SIZE
    if size > LARGEST:
        raise ValueError(f"image_size={size}: the embedded scene is rendered with at most {LARGEST}x{LARGEST} pixels")
    scene = solids(scene_seed, num_solids)
    intrinsics = Intrinsics.from_fov(0.55, size, size)
    chosen = evenly(NUM_VIEWS[split], at_most)
    poses = orbit(NUM_VIEWS[split], {"train": 0.0, "val": 1.0, "test": 2.0}[split])[chosen]
    names = tuple(f"{split}_{i:03d}" for i in chosen)
    blank = Views(torch.empty(0), poses, intrinsics, NEAR, FAR, names)
    images = []
    for view in range(len(poses)):
        acc, rgb = scene.render(blank.rays_of(view), torch.zeros(3))
        images.append(torch.cat([rgb, acc[:, None]], dim=-1).view(size, size, 4))
    return Views(torch.stack(images), poses, intrinsics, NEAR, FAR, names)
