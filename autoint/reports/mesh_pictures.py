"""Pictures of meshes: seen from three sides, by their normals or by a quantity at their corners."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from autoint.reports.meshing import Mesh

SIDES = {
    "from the front, above": (0.6, -1.0, 0.6),
    "from the right": (1.0, 0.25, 0.15),
    "from behind, below": (-0.5, 0.9, -0.7),
}
SAMPLES = 800_000
"""Points of the surface that are drawn, some twenty for every pixel of a picture."""


def seen(mesh: Mesh, values: np.ndarray, direction: tuple[float, float, float], size: int) -> np.ndarray:
    """Return the colours (V, 3) at the corners, seen in parallel projection from a direction, (size, size, 3)."""
    normals = mesh.face_normals
    towards = np.array(direction) / np.linalg.norm(direction)
    area = np.abs(normals @ towards)  # as it is seen
    k = np.arange(SAMPLES) + 0.5  # evenly over the faces, and within each, so that hardly a pixel is missed
    face = np.searchsorted(np.cumsum(area) / area.sum(), k / SAMPLES).clip(0, len(area) - 1)
    u, v = ((k * step % 1).astype(np.float32)[:, None] for step in (0.7548776662466927, 0.5698402909980532))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    weights = (1 - u - v, u, v)
    corners = mesh.faces[face]
    lower, upper = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    points = sum(w * mesh.vertices[corners[:, k]] for k, w in enumerate(weights))
    center = (lower + upper) / 2
    points = (points - center) / (1.05 * np.linalg.norm(mesh.vertices - center, axis=1).max())
    right = np.cross([0.0, 0.0, 1.0], towards)
    right /= np.linalg.norm(right)
    pixel = (size * (0.5 + 0.5 * points @ np.stack([right, -np.cross(towards, right)], axis=1))).astype(int)
    pixel = pixel.clip(0, size - 1)
    place = pixel[:, 1] * size + pixel[:, 0]
    order = np.lexsort((points @ towards, place))  # the last of a pixel is the nearest
    front = order[np.r_[place[order][1:] != place[order][:-1], True]]
    image = np.ones((size * size, 3))
    colors = sum(w[front] * values[corners[front, k]] for k, w in enumerate(weights))
    image[place[front]] = colors
    return image.reshape(size, size, 3)


def from_sides(mesh: Mesh, colors: np.ndarray, size: int = 320) -> dict[str, Tensor]:
    """Return panels of the mesh with these colours (V, 3) at its corners, seen from three sides."""
    return {name: torch.from_numpy(seen(mesh, colors, side, size)).float() for name, side in SIDES.items()}


def normal_colors(normals: np.ndarray) -> np.ndarray:
    """Return normals as colours, each coordinate from −1 to 1 as one of red, green and blue from 0 to 1."""
    return 0.5 + 0.5 * normals
