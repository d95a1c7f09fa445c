"""Meshes of level sets: marching cubes in blocks, and only where the surface may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

Values = Callable[[np.ndarray], np.ndarray]
"""x (N, 3) → (N,), below the level inside."""
BLOCK = 32
"""Cells of a block's side: 33³ values are held at a time."""
POINTS = 2**16
"""Points that are asked for at a time."""


@dataclass(frozen=True)
class Mesh:
    """Triangles with what is known at their corners.

    Attributes:
        vertices: (V, 3).
        faces: (F, 3), counter-clockwise seen from outside.
        normals: at the vertices, (V, 3), or None.
        colors: at the vertices, in [0, 1], (V, 3), or None.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray | None = None
    colors: np.ndarray | None = None

    @property
    def face_normals(self) -> np.ndarray:
        """The normals of the triangles, as long as twice their area, (F, 3)."""
        a, b, c = (self.vertices[self.faces[:, k]] for k in range(3))
        return np.cross(b - a, c - a)

    @property
    def vertex_normals(self) -> np.ndarray:
        """The normals at the vertices, the mean of their triangles' by area, (V, 3)."""
        out = np.zeros_like(self.vertices)
        for k in range(3):
            np.add.at(out, self.faces[:, k], self.face_normals)
        return out / np.linalg.norm(out, axis=1, keepdims=True).clip(1e-30)

    @property
    def watertight(self) -> bool:
        """Whether every edge belongs to two triangles that pass it in opposite directions."""
        edges = np.concatenate([self.faces[:, [i, j]] for i, j in ((0, 1), (1, 2), (2, 0))]).astype(np.int64)
        count = len(self.vertices)
        there, back = np.sort(edges[:, 0] * count + edges[:, 1]), np.sort(edges[:, 1] * count + edges[:, 0])
        return len(edges) > 0 and bool((there[1:] != there[:-1]).all() and (there == back).all())

    def sample(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return points (count, 3), uniform by area, and the normals of their triangles."""
        face, weights = self._drawn(count, rng)
        normals = self.face_normals[face]
        return self._at(self.vertices, face, weights), normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(
            1e-30
        )

    def scattered(self, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Return points (count, 3), uniform by area, with the normals and the colours there, where they are known."""
        face, weights = self._drawn(count, np.random.default_rng(seed))
        normals, colors = (None if v is None else self._at(v, face, weights) for v in (self.normals, self.colors))
        if normals is not None:
            normals = normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-30)
        return self._at(self.vertices, face, weights), normals, colors

    def _drawn(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return triangles (count,), drawn by area, and weights of their second and third corners, (2, count, 1)."""
        area = np.linalg.norm(self.face_normals, axis=1)
        face = rng.choice(len(self.faces), count, p=area / area.sum())
        u, v = rng.random((2, count, 1))
        return face, np.stack([np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)])

    def _at(self, values: np.ndarray, face: np.ndarray, weights: np.ndarray) -> np.ndarray:
        a, b, c = (values[self.faces[face, k]] for k in range(3))
        return a + weights[0] * (b - a) + weights[1] * (c - a)

    def moved(self, scale: float, shift: np.ndarray) -> Mesh:
        """Return the mesh with its vertices at ``scale·x + shift``."""
        return replace(self, vertices=self.vertices * scale + shift)


@dataclass(frozen=True)
class Grid:
    """A lattice of cells over a box: ``cells`` (3,) of one size from ``lower`` (3,)."""

    lower: np.ndarray
    size: float
    cells: tuple[int, int, int]

    @staticmethod
    def cube(center: np.ndarray, half: float, cells: int) -> Grid:
        """Return the grid of a cube."""
        return Grid(np.asarray(center, dtype=float) - half, 2 * half / cells, (cells,) * 3)

    @staticmethod
    def box(lower: np.ndarray, upper: np.ndarray, cells: int) -> Grid:
        """Return the grid of a box whose longest side has so many cells."""
        lower, upper = np.asarray(lower, dtype=float), np.asarray(upper, dtype=float)
        size = float((upper - lower).max()) / cells
        counts = np.ceil((upper - lower) / size - 1e-9).astype(int).clip(1)
        return Grid(lower, size, (int(counts[0]), int(counts[1]), int(counts[2])))


def marching_cubes(values: Values, grid: Grid, level: float = 0.0, slope: float | None = None) -> Mesh:
    """Return the surface values(x) = level by marching cubes, outward normals towards larger values.

    The grid is visited in blocks of 32³ cells, so that memory does not grow with its volume. First corners of coarse
    cells are asked for, 8 to a side of a block, and a block is left out where the surface cannot be: where no sign
    changes among them and their neighbours, and, if a bound ``slope`` of |∇values| is given, where none can.

    Args:
        values: x (N, 3) → (N,), below ``level`` inside.
        grid: where to look.
        level: which level set.
        slope: a bound of the gradient; 1 for distances. None relies on the coarse cells.

    Raises:
        ValueError: where the surface is nowhere in the grid.
    """
    from skimage import measure

    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for start, cells in _blocks(values, grid, level, slope):
        shape = tuple(n + 1 for n in cells)
        index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, 3)
        # Corners are numbered through the whole grid, so that neighbouring blocks ask for the very same points.
        field = _asked(values, grid.lower + grid.size * (index + start)).reshape(shape) - level
        field[field == 0] = 1e-30  # a corner on the surface would give triangles of no area
        if field.min() < 0 < field.max():
            vertices, faces, _, _ = measure.marching_cubes(field, 0.0, gradient_direction="descent")
            parts.append((np.asarray(vertices, dtype=np.float64) + start, faces.astype(np.int64)))
    if not parts:
        raise ValueError(f"there is no surface: nothing crosses {level:g} in the box that was looked at")
    first = np.cumsum([0, *(len(vertices) for vertices, _ in parts[:-1])])
    vertices = np.concatenate([vertices for vertices, _ in parts])
    faces = np.concatenate([faces + k for (_, faces), k in zip(parts, first, strict=True)])
    vertices, faces = _welded(vertices, faces)
    return Mesh(grid.lower + grid.size * vertices, faces)


def _blocks(
    values: Values, grid: Grid, level: float, slope: float | None
) -> Iterator[tuple[np.ndarray, tuple[int, int, int]]]:
    """Yield the first corner and the cells of every block in which the surface may be."""
    count = [-(-n // BLOCK) for n in grid.cells]
    coarse = BLOCK // 8
    for block in np.ndindex(*count):
        start = np.array(block) * BLOCK
        cells = tuple(int(n) for n in np.minimum(np.array(grid.cells) - start, BLOCK))
        if max(count) > 1:
            axes = [np.unique([*range(-coarse, n + coarse + 1, coarse), n]) for n in cells]
            index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
            field = _asked(values, grid.lower + grid.size * (index + start)) - level
            reach = 0.0 if slope is None else slope * grid.size * coarse * 0.5 * 3**0.5
            if field.min() > reach or field.max() < -reach:
                continue
        yield start, (cells[0], cells[1], cells[2])


def _asked(values: Values, x: np.ndarray) -> np.ndarray:
    return np.concatenate([values(x[k : k + POINTS]) for k in range(0, len(x), POINTS)]).astype(np.float64)


def _welded(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Make one of the vertices that blocks share; leave out triangles that collapse by it, and unused vertices.

    Vertices are on edges of cells, one on each, and are told by the edge: where it is on it differs by the rounding of
    values that were asked for with others.
    """
    key = np.round(vertices * 2**12).astype(np.int64)
    between = np.abs(vertices - np.round(vertices)) > 2.0**-12
    on_edge = between & (between.sum(axis=1, keepdims=True) == 1)
    key[on_edge] = np.floor(vertices[on_edge]).astype(np.int64) * 2**12 + 2**11
    _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
    faces = inverse.reshape(-1)[faces]
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])]
    used, faces = np.unique(faces, return_inverse=True)
    return vertices[first][used], faces.reshape(-1, 3)
