"""The mesh of a trained scene: a level set of its density, which is found, with the colours of its surface."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoint.reports.meshing import Grid, Mesh, marching_cubes
from autoint.scenes.volume import AbstractVolume

COARSE = 64
"""Cells along the box's longest side, through which rays are followed that find the level."""


@torch.no_grad()
def mesh_of(volume: AbstractVolume, resolution: int, level: float | None = None) -> tuple[Mesh, str]:
    """Return the surface density = level, coloured as seen from outside along its normals, and what the level is.

    The level is half the density at which rays from six sides are half absorbed: what lies between air and what stops
    a ray. Of a model whose surface are the zeros of f it is f = 0. Nothing is outside of the visual hull.

    Args:
        volume: the scene.
        resolution: cells along the box's longest side.
        level: another one, per unit of length.

    Raises:
        ValueError: for a model without a density at points, and for a scene in which no ray is half absorbed.
    """
    lower, upper = (corner.double().cpu().numpy() for corner in (volume.occupancy.lower, volume.occupancy.upper))
    grid = Grid.box(lower, upper, resolution)
    if level is None and (signed := volume.signed) is not None:
        mesh, told = marching_cubes(lambda x: _in_hull(volume, x, signed, 1.0), grid), "f = 0"
    else:
        found = level_of(volume, Grid.box(lower, upper, COARSE)) if level is None else level
        mesh = marching_cubes(lambda x: -_density(volume, x, grid.size), grid, -found)
        told = f"density {found:.3g} per unit of length"
        told += "" if level is not None else ", half of that at which rays are half absorbed"
    normals = mesh.vertex_normals
    colors = _colors(volume, mesh.vertices, -normals, grid.size)
    return Mesh(mesh.vertices, mesh.faces, normals, colors), told


def level_of(volume: AbstractVolume, grid: Grid) -> float:
    """Return half the median density of the cells in which rays along the axes are half absorbed."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.cells), indexing="ij"), axis=-1).reshape(-1, 3)
    x = grid.lower + grid.size * (index + 0.5)
    density = torch.from_numpy(np.concatenate([_density(volume, part, grid.size) for part in np.array_split(x, 16)]))
    found = []
    for axis in range(3):
        for field in (density.reshape(grid.cells), density.reshape(grid.cells).flip(axis)):
            depth = (field * grid.size).cumsum(axis)
            first = ((depth >= math.log(2)).cumsum(axis) == 1) & (depth >= math.log(2))
            found.append(field[first])
    stopped = torch.cat(found)
    if not len(stopped):
        raise ValueError("no ray is half absorbed in this scene, so that it has no surface; train it further")
    return 0.5 * float(stopped.median())


def _density(volume: AbstractVolume, x: np.ndarray, length: float) -> np.ndarray:
    """Return the density (N,) at points (N, 3), 0 outside of the visual hull."""

    def density(points: Tensor) -> Tensor:
        down = torch.tensor([0.0, 0.0, -1.0], device=points.device).expand_as(points)
        return volume.radiance(points, down, length)[0].clamp_min(0)

    return _in_hull(volume, x, density, 0.0)


def _in_hull(volume: AbstractVolume, x: np.ndarray, field: Callable[[Tensor], Any], outside: float) -> np.ndarray:
    """Return a field (N,) at points (N, 3), and ``outside`` beyond the visual hull."""
    points = torch.as_tensor(x, dtype=torch.float32, device=volume.occupancy.lower.device)
    out = torch.full((len(points),), outside, device=points.device)
    inside = volume.occupancy.at(points) > 0
    if inside.any():
        out[inside] = field(points[inside])
    return out.double().cpu().numpy()


def _colors(volume: AbstractVolume, x: np.ndarray, directions: np.ndarray, length: float) -> np.ndarray:
    points, along = (
        torch.as_tensor(v, dtype=torch.float32, device=volume.occupancy.lower.device) for v in (x, directions)
    )
    parts: list[Tensor] = [
        volume.radiance(p, d, length)[1].clamp(0, 1).cpu()
        for p, d in zip(points.split(2**15), along.split(2**15), strict=True)
    ]
    return torch.cat(parts).double().numpy()
