"""A hard surface with a known distance, rendered on the spot: what a mesh from images is measured against."""

from __future__ import annotations

import torch
from torch import Tensor

from autoint.registry import DATASETS
from autoint.scenes.data.procedural import FAR, LARGEST, NEAR, SIZE, orbit
from autoint.scenes.data.views import Views, evenly
from autoint.scenes.rays import Intrinsics, Rays

NUM_VIEWS = {"train": 30, "val": 4, "test": 8}
RADIUS = 0.85
"""How far the solid reaches from the origin."""
RING, TUBE, BALL, HEIGHT = 0.62, 0.23, 0.36, 0.15
STEPS, CLOSE, RAYS_OF_A_PIXEL = 64, 1e-4, 3
LIGHTS = ((0.6, 0.3, 0.74), (-0.48, -0.64, 0.6), (0.0, 0.6, -0.8))
WAVES = ((5.0, 1.0, 2.0), (-2.0, 4.0, 5.0), (1.0, -6.0, 3.0))


def distance(x: Tensor) -> Tensor:
    """Return the distance (…,) of points (…, 3) to a ball in a ring, negative inside, and exact near the surface."""
    ring = torch.hypot(torch.hypot(x[..., 0], x[..., 1]) - RING, x[..., 2]) - TUBE
    ball = (x - x.new_tensor([0.0, 0.0, HEIGHT])).norm(dim=-1) - BALL
    return torch.minimum(ring, ball)


def shaded(x: Tensor) -> Tensor:
    """Return the colour (P, 3) of points (P, 3) of the surface: waves of colour under three lights, and matt."""
    steps = 1e-3 * torch.eye(3, dtype=x.dtype)
    normal = torch.stack([distance(x + e) - distance(x - e) for e in steps], dim=-1)
    normal = normal / normal.norm(dim=-1, keepdim=True)
    albedo = 0.55 + 0.35 * torch.sin(x @ x.new_tensor(WAVES).T)
    light = (normal @ x.new_tensor(LIGHTS).T).clamp_min(0) @ x.new_tensor([0.55, 0.35, 0.3])
    return albedo * (0.45 + 0.6 * light[:, None])


def traced(rays: Rays) -> tuple[Tensor, Tensor]:
    """Return where rays meet the surface, (H, 3), by steps of the distance, and which do, (R,)."""
    t, going, hit = rays.near.clone(), torch.arange(len(rays)), torch.zeros(len(rays), dtype=torch.bool)
    for _ in range(STEPS):
        away = distance(rays[going].at(t[going]))
        hit[going[away < CLOSE]] = True
        t[going] += away
        going = going[(away >= CLOSE) & (t[going] < rays.far[going])]
    return rays[hit].at(t[hit]), hit


@DATASETS.register("solid")
def solid(data_dir: str, split: str, image_size: int | None, at_most: int | None = None) -> Views:
    """Render one split of a coloured ball in a ring, of known surface, from all around; at most ``at_most`` views.

    Args:
        data_dir: not used.
        split: train, val or test.
        image_size: 64 unless given.
        at_most: so many views, evenly spaced.
    """
    size = image_size or SIZE
    if size > LARGEST:
        raise ValueError(f"image_size={size}: this scene is rendered with at most {LARGEST}x{LARGEST} pixels")
    chosen = evenly(NUM_VIEWS[split], at_most)
    poses = orbit(NUM_VIEWS[split], {"train": 0.0, "val": 1.0, "test": 2.0}[split], lowest=-0.95)[chosen]
    names = tuple(f"{split}_{i:03d}" for i in chosen)
    views = Views(torch.empty(0), poses, Intrinsics.from_fov(0.55, size, size), NEAR, FAR, names)
    place = (torch.arange(size * RAYS_OF_A_PIXEL) + 0.5) / RAYS_OF_A_PIXEL
    row, column = (v.flatten() for v in torch.meshgrid(place, place, indexing="ij"))
    images = []
    for view in range(len(poses)):
        points, hit = traced(views.through(torch.full(row.shape, view), column, row))
        rgba = torch.zeros(len(row), 4)
        rgba[hit] = torch.cat([shaded(points), torch.ones(len(points), 1)], dim=-1)
        blocks = rgba.view(size, RAYS_OF_A_PIXEL, size, RAYS_OF_A_PIXEL, 4)
        images.append(blocks.mean(dim=(1, 3)))
    return Views(torch.stack(images), poses, views.intrinsics, NEAR, FAR, names)
