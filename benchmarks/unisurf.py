"""The surface from images, against that of NeRF trained as long: how far meshes are from the true surface.

``python -m benchmarks.unisurf`` trains ``method=unisurf`` and ``method=nerf`` on ``scene=solid``, 30 views of 64×64,
for ``--minutes`` each, and prints the mean and the largest distance of their meshes' vertices to the true surface, in
percent of the solid's radius; of NeRF at the level that ``autoint export`` takes, and at the best of many.
``--scene FOLDER --meshes FOLDER`` takes a capture of yours instead, and PLY files of its true surface.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import autoint
from autoint.reports.tables import markdown
from autoint.scenes import meshes
from autoint.scenes.data import solid

Distance = Callable[[np.ndarray], np.ndarray]
METHODS = ("unisurf", "nerf")
COLUMNS = {
    "method": ("method", ""),
    "level": ("level", ""),
    "mean": ("mean, % of the radius", ".2f"),
    "largest": ("largest, %", ".1f"),
    "vertices": ("vertices", ""),
}
LEVELS = np.geomspace(0.02, 20, 13)
"""Of NeRF's density, as multiples of the level that is found."""


def to_solid(x: np.ndarray) -> np.ndarray:
    """Return the distance of points (N, 3) to the surface of ``scene=solid``, in units of its radius."""
    return solid.distance(torch.from_numpy(x)).abs().numpy() / solid.RADIUS


def to_meshes(folder: Path) -> Distance:
    """Return the distance to the triangles of all PLY files of a folder, in units of half their box's longest side."""
    from autoint.files.meshes import load_trimesh

    trimesh = load_trimesh()
    whole = trimesh.util.concatenate([trimesh.load(file, force="mesh") for file in sorted(folder.glob("*.ply"))])
    radius = float(np.ptp(whole.bounds, axis=0).max()) / 2
    return lambda x: trimesh.proximity.closest_point(whole, x)[1] / radius


def rows(method: str, volume: Any, distance: Distance, resolution: int) -> list[dict[str, Any]]:
    """Return a row for the mesh of a model, and one for the best level of its density."""
    found = [(None, *meshes.mesh_of(volume, resolution))]
    if volume.signed(volume.occupancy.lower[None]) is None:
        level = float(found[0][2].split()[1])
        for share in LEVELS:
            try:
                found.append((share, *meshes.mesh_of(volume, resolution, level * float(share))))
            except ValueError:  # nothing is as dense
                continue
    out = []
    for share, mesh, told in found:
        part = np.random.default_rng(0).permutation(len(mesh.vertices))[:20_000]
        away = distance(mesh.vertices[part])
        said = told.split(",")[0] if share is None else f"{share:.2g} of it"
        numbers = {"mean": 100 * float(away.mean()), "largest": 100 * float(away.max())}
        out.append({"method": method, "level": said, **numbers, "vertices": len(mesh.vertices)})
    return [out[0], *([min(out[1:], key=lambda row: row["mean"])] if len(out) > 1 else [])]


def main() -> None:
    """Train, or take what was trained before, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unisurf", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0, help="of training, each (15)")
    parser.add_argument("--resolution", type=int, default=160, help="cells of the meshes along the longest side (160)")
    parser.add_argument("--folder", default="outputs/unisurf", help="of the runs; those that are there are taken")
    parser.add_argument("--seed", type=int, default=0, help="of the runs (0)")
    parser.add_argument("--scene", default="solid", help="a capture's folder")
    parser.add_argument("--meshes", type=Path, help="folder of PLY files of its true surface")
    parser.add_argument("--only", choices=METHODS, help="one method")
    given = parser.parse_args()
    distance = to_solid if given.meshes is None else to_meshes(given.meshes)
    table = []
    for method in [given.only] if given.only else METHODS:
        folder = Path(given.folder) / method
        run = (
            autoint.load(folder)
            if (folder / "result.json").is_file()
            else autoint.train(
                given.scene, minutes=given.minutes, folder=folder, method=method, image_size=64, seed=given.seed
            )
        )
        with torch.no_grad():
            table += rows(method, run.module.volume, distance, given.resolution)
        print(markdown(table, COLUMNS, {}), flush=True)


if __name__ == "__main__":
    main()
