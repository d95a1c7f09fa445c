"""Closest points of implicit surfaces: what makes the distance to a shape exact that has no formula for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.spatial import cKDTree

Field = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""x (N, 3) → the value (N,) and the gradient (N, 3)."""
STEPS = 10
TOLERANCE = 1e-9


class Intersection:
    """The solid {x: g_1(x) ≤ 0 and g_2(x) ≤ 0}: its surface are two patches and the edge between them.

    The closest point is that of a patch, or that of the edge, whichever is nearest and lies on the surface: from the
    nearest of many seeds, y moves along the tangents to the foot of x and back onto its fields by Newton's method. That
    converges for points nearer than a radius of curvature; farther out it is the nearest seed's distance, or less.

    Args:
        first, second: g_1 and g_2, smooth near their zeros.
        seeds: points near the surface, (S, 3).
    """

    def __init__(self, first: Field, second: Field, seeds: np.ndarray) -> None:
        self.fields = (first, second)
        self.seeds: list[tuple[Sequence[int], np.ndarray, cKDTree]] = []
        values = np.stack([field(seeds)[0] for field in self.fields], axis=1)
        edge = np.abs(np.diff(values, axis=1)[:, 0]) < 0.5 * np.abs(values).max()
        for which, near in (((0,), values[:, 0] >= values[:, 1]), ((1,), values[:, 1] >= values[:, 0]), ((0, 1), edge)):
            points = self._onto(seeds[near], which)
            points = points[self._holds(points)]
            if len(points):
                self.seeds.append((which, points, cKDTree(points)))

    def value(self, x: np.ndarray) -> np.ndarray:
        """Return max(g_1, g_2): below 0 inside."""
        return np.maximum(self.fields[0](x)[0], self.fields[1](x)[0])

    def closest(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the closest point of the surface to every x (N, 3), and the outward normal there."""
        best, found, normal = np.full(len(x), np.inf), np.empty_like(x), np.empty_like(x)
        for which, points, tree in self.seeds:
            seed = points[tree.query(x)[1]]
            y = seed.copy()
            for _ in range(STEPS):
                y = self._onto(y + self._tangential(x - y, y, which), which, 2)
            y = self._onto(y, which)
            lost = ~self._holds(y) | (np.linalg.norm(x - y, axis=1) > np.linalg.norm(x - seed, axis=1) + TOLERANCE)
            y[lost] = seed[lost]
            away = np.linalg.norm(x - y, axis=1)
            nearer = away < best
            best[nearer], found[nearer] = away[nearer], y[nearer]
            normal[nearer] = self._normals(y[nearer], which[0])
        return found, normal

    def _holds(self, y: np.ndarray) -> np.ndarray:
        return np.isfinite(y).all(1) & (np.abs(self.value(y)) < 1e-7)

    def _normals(self, y: np.ndarray, which: int) -> np.ndarray:
        slope = self.fields[which](y)[1]
        return slope / np.linalg.norm(slope, axis=1, keepdims=True)

    def _onto(self, y: np.ndarray, which: Sequence[int], steps: int = 6) -> np.ndarray:
        """Return y after steps of Newton's method towards the zeros of all ``which`` fields, along their gradients."""
        for _ in range(steps):
            values, slopes = zip(*(self.fields[k](y) for k in which), strict=True)
            jacobian, value = np.stack(slopes, axis=1), np.stack(values, axis=1)
            gram = jacobian @ jacobian.transpose(0, 2, 1) + 1e-12 * np.eye(len(which))
            y = y - (jacobian.transpose(0, 2, 1) @ np.linalg.solve(gram, value[..., None]))[..., 0]
        return y

    def _tangential(self, move: np.ndarray, y: np.ndarray, which: Sequence[int]) -> np.ndarray:
        """Return the part of ``move`` along the tangents of all ``which`` fields."""
        if len(which) == 1:
            n = self._normals(y, which[0])
            return move - (move * n).sum(1, keepdims=True) * n
        along = np.cross(self._normals(y, 0), self._normals(y, 1))
        square = (along**2).sum(1, keepdims=True) + 1e-12
        return (move * along).sum(1, keepdims=True) / square * along
