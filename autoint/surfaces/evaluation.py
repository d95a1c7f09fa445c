"""Evaluation of surfaces: meshes of trained networks against the truth, tables and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree

from autoint.files.whole_files import write_json
from autoint.networks.grad_nets.gradient import Gradient
from autoint.reports import mesh_pictures, pictures
from autoint.reports.meshing import Grid, Mesh, marching_cubes
from autoint.surfaces.losses import REACH
from autoint.surfaces.shapes import AbstractShape

COLUMNS = {
    "shape": ("shape", ""),
    "loss": ("loss", ""),
    "normals": ("normals", ""),
    "distance": ("mean true distance", ".1e"),
    "farthest": ("largest", ".1e"),
    "normal_consistency": ("normal consistency", ".4f"),
    "chamfer": ("Chamfer", ".1e"),
    "noise_floor": ("its noise floor", ".1e"),
    "iou": ("IoU", ".4f"),
    "eikonal": ("eikonal error", ".3f"),
    "points": ("distance of the points", ".1e"),
    "watertight": ("watertight", ""),
    "vertices": ("vertices", ""),
    "run": ("run", ""),
}
"""Lengths are shares of the side of the shape's cube."""
SAMPLES = 30_000
"""Points on each of two surfaces, for the Chamfer distance."""
DENSE = 100_000
"""Points on each, of whose normals the nearest is taken."""
MOST_VERTICES = 20_000
"""Vertices whose true distance is measured."""


@torch.no_grad()
def values(net: Gradient, x: np.ndarray) -> np.ndarray:
    """Return f (N,) at points (N, 3)."""
    out: np.ndarray = net.net(torch.as_tensor(x, dtype=torch.float32))[..., 0].double().numpy()
    return out


@torch.no_grad()
def slopes(net: Gradient, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return f (N,) and ∇f (N, 3) at points (N, 3)."""
    parts = [net(part) for part in torch.as_tensor(x, dtype=torch.float32).split(2**15)]
    f, slope = (torch.cat(tensors).double().numpy() for tensors in zip(*parts, strict=True))
    return f[:, 0], slope


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-30)


def mesh_of(net: Gradient, resolution: int, level: float = 0.0) -> Mesh:
    """Return the surface f = level in a cube of side 2, its vertices moved onto it, with normals ∇f/|∇f|."""
    grid = Grid.cube(np.zeros(3), REACH, resolution)
    mesh = marching_cubes(lambda x: values(net, x), grid, level)
    moved = mesh.vertices
    for _ in range(2):
        f, slope = slopes(net, moved)
        step = ((f - level) / (slope**2).sum(1).clip(1e-12))[:, None] * slope
        moved = moved - step * np.minimum(1, 0.5 * grid.size / np.linalg.norm(step, axis=1, keepdims=True).clip(1e-30))
    return Mesh(moved, mesh.faces, _unit(slopes(net, moved)[1]))


def measured(net: Gradient, mesh: Mesh, shape: AbstractShape, level: float, seed: int) -> dict[str, Any]:
    """Return what is known of the mesh, lengths as shares of the side of the shape's cube, which is 2 for the net."""
    rng = np.random.default_rng([seed, 3])
    part = rng.permutation(len(mesh.vertices))[:MOST_VERTICES]
    own = mesh.vertices * shape.half + shape.center
    row: dict[str, Any] = {"vertices": len(own), "watertight": mesh.watertight}
    row["eikonal"] = float(np.abs(1 - np.linalg.norm(slopes(net, mesh.vertices)[1], axis=1)).mean())
    side = 2 * shape.half
    if (away := shape.distance(own[part])) is not None:
        row |= {"distance": float(np.abs(away).mean()) / side, "farthest": float(np.abs(away).max()) / side}
    ours, _ = mesh.sample(SAMPLES, rng)
    given, normals = shape.sample(SAMPLES, seed + 1)
    tree = cKDTree((given - shape.center) / shape.half)
    there, back = tree.query(ours), cKDTree(ours).query(tree.data)
    if away is None:  # a cloud: how far its points are from the mesh is all that can be said
        return row | {"points": float(back[0].mean()) / 2}
    row["chamfer"] = float(there[0].mean() + back[0].mean()) / 4
    again, _ = shape.sample(SAMPLES, seed + 2)
    row["noise_floor"] = float(tree.query((again - shape.center) / shape.half)[0].mean()) / 2
    if normals is not None:  # of many more points: where it bends sharply, the nearest of a few is of another side
        many, theirs = shape.sample(DENSE, seed + 3)
        many_ours, _ = mesh.sample(DENSE, rng)
        slope, slope_near = (_unit(slopes(net, x)[1]) for x in (ours, many_ours))
        at_ours = cKDTree((many - shape.center) / shape.half).query(ours)[1]
        at_theirs = cKDTree(many_ours).query(tree.data)[1]
        assert theirs is not None
        both = (slope * theirs[at_ours]).sum(1).mean(), (slope_near[at_theirs] * normals).sum(1).mean()
        row["normal_consistency"] = float(np.mean(both))
    x = REACH * (2 * rng.random((100_000, 3)) - 1)
    if (truth := shape.inside(x * shape.half + shape.center)) is not None:
        inside = np.concatenate([values(net, p) for p in np.array_split(x, 8)]) < level
        row["iou"] = float((inside & truth).sum() / max(1, (inside | truth).sum()))
    return row


def write_pictures(folder: Path, net: Gradient, mesh: Mesh, shape: AbstractShape, level: float) -> None:
    """Write ``normals.png`` from three sides, ``slice.png`` of f with its zeros, and ``error.png`` on the surface."""
    folder.mkdir(parents=True, exist_ok=True)
    assert mesh.normals is not None
    panels = mesh_pictures.from_sides(mesh, mesh_pictures.normal_colors(mesh.normals))
    pictures.row_of(panels).save(folder / "normals.png")
    away = (
        shape.distance(mesh.vertices * shape.half + shape.center) if len(mesh.vertices) < 10 * MOST_VERTICES else None
    )
    if away is not None:
        error = np.abs(away) / (2 * shape.half)
        most = max(float(np.quantile(error, 0.99)), 1e-9)
        colors = pictures.scale_image(torch.from_numpy(error / most), "inferno").double().numpy()
        panels = mesh_pictures.from_sides(mesh, colors)
        named = {f"{name}; 0 to {most:.1e}": image for name, image in panels.items()}
        pictures.row_of(named).save(folder / "error.png")
    _write_slice(folder / "slice.png", net, shape, level)


def _write_slice(file: Path, net: Gradient, shape: AbstractShape, level: float, size: int = 200) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    t = np.linspace(-REACH, REACH, size)
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    axes = figure.subplots(1, 3)
    plane = np.stack(np.meshgrid(t, t), axis=-1).reshape(-1, 2)
    points = [np.insert(plane, k, 0.0, axis=1) for k in range(3)]
    fields = [values(net, x).reshape(size, size) / 2 for x in points]
    most = float(np.abs(fields).max())
    levels = MaxNLocator(16, symmetric=True).tick_values(-most, most)  # of all three, as the bar beside them
    for place, name, x, f in zip(axes, ("x = 0", "y = 0", "z = 0"), points, fields, strict=True):
        shown = place.contourf(t / 2, t / 2, f, levels, cmap="RdBu")
        place.contour(t / 2, t / 2, f, [level / 2], colors="black", linewidths=1.5)
        truth = shape.inside(x * shape.half + shape.center)
        if truth is not None:
            place.contour(t / 2, t / 2, truth.reshape(size, size), [0.5], colors="tab:orange", linewidths=0.8)
        place.set_title(f"f at {name}; black: f = 0" + ("; orange: the truth" if truth is not None else ""), fontsize=9)
        place.set_aspect("equal")
    figure.colorbar(shown, ax=axes, shrink=0.8, label="f, in sides of the cube")
    pictures.write_figure(file, figure, dpi=90)


def write_row(folder: Path, row: dict[str, Any]) -> None:
    """Write a row of the table as ``errors.json``."""
    write_json(folder / "errors.json", {key: None if value != value else value for key, value in row.items()})
