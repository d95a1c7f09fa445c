"""Shapes from files: clouds of points, and meshes."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from autoint.files import meshes
from autoint.files.reading import at_home, read_npy, read_table
from autoint.registry import SHAPES
from autoint.reports.meshing import Mesh
from autoint.surfaces import cleaning
from autoint.surfaces.shapes import AbstractShape

log = logging.getLogger(__name__)
FEWEST = 16
TABLES = (".npy", ".xyz")
MOST = 10**6
"""Points that are kept of a cloud; so many are seen hardly once each."""


class Cloud(AbstractShape):
    """Points of which nothing more is known.

    Args:
        name: of the file.
        points: (P, 3).
        normals: (P, 3), or None.
    """

    closed = False

    def __init__(self, name: str, points: np.ndarray, normals: np.ndarray | None) -> None:
        self.name, self.points, self.normals = name, points, normals
        self.center, self.half = _cube(name, points)

    def sample(self, count: int | None, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return ``count`` of the points, or all of them."""
        if count is None or count >= len(self.points):
            return self.points, self.normals
        chosen = np.random.default_rng(seed).choice(len(self.points), count, replace=False)
        return self.points[chosen], None if self.normals is None else self.normals[chosen]


class MeshShape(AbstractShape):
    """The surface of a mesh; it has an inside where it is closed.

    Args:
        name: of the file.
        mesh: its triangles.
    """

    def __init__(self, name: str, mesh: Mesh) -> None:
        self.name, self.mesh = name, mesh
        self.center, self.half = _cube(name, mesh.vertices)
        self.closed = bool(self._library.is_watertight)

    @cached_property
    def _library(self) -> Any:
        return meshes.load_trimesh().Trimesh(
            self.mesh.vertices, self.mesh.faces
        )  # merges vertices, as OBJ and GLB need

    def sample(self, count: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return points, uniform by area, and the normals of their triangles."""
        return self.mesh.sample(count or 10_000, np.random.default_rng(seed))

    def distance(self, x: np.ndarray) -> np.ndarray:
        """Return the distance to the nearest triangle, negative inside of a closed mesh."""
        _, away, _ = meshes.load_trimesh().proximity.closest_point(self._library, x)
        inside = self.inside(x)
        return away if inside is None else np.where(inside, -away, away)

    def inside(self, x: np.ndarray) -> np.ndarray | None:
        """Return whether points are inside, by the crossings of a ray; None for an open mesh.

        Parts may overlap, and a part that is inside out is a hole in others: it is the sum of the windings that counts.
        """
        if not self.closed:
            return None
        winding = np.zeros(len(x))
        for part, sense in self._parts:
            near = ((x >= part.bounds[0]) & (x <= part.bounds[1])).all(axis=1)
            if near.any():
                winding[near] += sense * part.contains(x[near])
        return winding != 0

    @cached_property
    def _parts(self) -> list[tuple[Any, float]]:
        """The connected parts of a closed mesh, and whether their triangles face outwards, 1 or −1."""
        parts = self._library.split(only_watertight=False)
        return [(part, float(np.sign(part.volume))) for part in parts]


@SHAPES.register("points")
def points(data_dir: str, *, path: str = "", outliers: float = 10.0) -> AbstractShape:
    """A cloud of points, with normals where the file has them.

    Args:
        data_dir: the folder of data sets, that a relative path is looked for in, too.
        path: a .ply, .obj or .glb, or a .npy or .xyz of (P, 3), or (P, 6) with normals.
        outliers: points so many times as far from their neighbours as half of all are, are left out; 0 keeps them.
    """
    if outliers and not outliers >= 2:
        raise ValueError(f"shape.outliers={outliers} must be 0, which keeps all points, or 2 and more")
    file = _found(data_dir, path, "points")
    if file.suffix.lower() in TABLES:
        cloud, normals = _columns(file)
    else:
        cloud, normals, _ = meshes.read(file)
    _check_finite(file, cloud, "point")
    if normals is not None:
        _check_finite(file, normals, "normal")
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        if (bad := int((length < 1e-9).sum())) == len(normals):
            log.warning("%s: its normals are all zero, as if there were none", file)
            normals = None
        elif bad:
            first = int(np.argmax(length[:, 0] < 1e-9))
            raise ValueError(f"{file}: {bad} of {len(normals)} normals are zero, the first in row {first}; remove them")
        else:
            normals = normals / length
    if (kept := len(cloud)) > MOST:
        log.warning("%s: %d points; %d of them are taken", file, kept, MOST)
        chosen = np.random.default_rng(0).choice(kept, MOST, replace=False)
        cloud, normals = cloud[chosen], None if normals is None else normals[chosen]
    if outliers and len(cloud) >= FEWEST and (far := cleaning.outliers(cloud, outliers)).any():
        log.warning(
            "%s: %d of %d points are far from all others, and left out; shape.outliers=0 keeps them",
            file,
            far.sum(),
            len(cloud),
        )
        cloud, normals = cloud[~far], None if normals is None else normals[~far]
    if (different := len(np.unique(cloud[:100_000], axis=0))) < FEWEST:
        raise ValueError(
            f"{file}: {different} different point{'s' * (different > 1)}; a surface needs {FEWEST} or more"
        )
    return Cloud(file.stem, cloud, normals)


def _columns(file: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the points of a table, and its columns 4 to 6 where they are directions."""
    wanted = "give rows of 3 numbers, or of 6 with normals"
    if file.suffix.lower() == ".npy":
        rows = read_npy(file, wanted)
    else:
        meshes.check_size(file)
        try:
            rows = read_table(file)
        except (OSError, ValueError) as error:
            raise ValueError(f"{file}: {' '.join(str(error).split()):.200}; {wanted}") from error
    if rows.ndim != 2 or rows.shape[1] not in (3, 6) or rows.dtype.kind not in "fiu":
        raise ValueError(f"{file}: shape {rows.shape} of {rows.dtype}; {wanted}")
    rows = rows.astype(np.float64, copy=False)
    if rows.shape[1] == 3:
        return rows, None
    length = np.linalg.norm(rows[:, 3:], axis=1)
    if not (np.abs(length - 1) < 0.05).mean() > 0.5 and np.isfinite(length).all() and length.any():
        log.warning("%s: columns 4 to 6 are no directions of length 1, such as colours; they are not looked at", file)
        return rows[:, :3], None
    return rows[:, :3], rows[:, 3:]


@SHAPES.register("mesh")
def mesh(data_dir: str, *, path: str = "") -> AbstractShape:
    """A mesh, whose surface is sampled.

    Args:
        data_dir: the folder of data sets, that a relative path is looked for in, too.
        path: a .ply, .obj or .glb.
    """
    file = _found(data_dir, path, "mesh")
    vertices, _, faces = meshes.read(file)
    if faces is None:
        raise ValueError(
            f"{file}: a cloud of {len(vertices)} points, without triangles; use shape=points shape.path={path}"
        )
    _check_finite(file, vertices, "vertex")
    found = Mesh(vertices, faces)
    area = np.linalg.norm(found.face_normals, axis=1)
    if not area.sum() > 0:
        raise ValueError(f"{file}: its {len(faces)} triangles have no area")
    return MeshShape(file.stem, found)


def _found(data_dir: str, path: str, kind: str) -> Path:
    if not path:
        raise ValueError(f"shape.path is empty: give the file, as in shape={kind} shape.path=FILE.ply")
    here = at_home(path)
    return here if here.exists() else at_home(data_dir) / here


def _check_finite(file: Path, rows: np.ndarray, what: str) -> None:
    wrong = ~np.isfinite(rows).all(axis=1) | (np.abs(rows) > 1e30).any(axis=1)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(
            f"{file}: {int(wrong.sum())} of {len(rows)} {what}s are not finite, the first in row {first}: "
            f"{' '.join(f'{v:g}' for v in rows[first])}; remove such rows"
        )


def _cube(name: str, points: np.ndarray) -> tuple[np.ndarray, float]:
    lower, upper = points.min(axis=0), points.max(axis=0)
    half = float((upper - lower).max()) / 2
    if not half > 1e-9 * float(np.abs(points).max()):
        raise ValueError(f"{name}: all its points lie at one place, {' '.join(f'{v:g}' for v in points[0])}")
    return (lower + upper) / 2, half
