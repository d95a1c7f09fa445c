"""Shapes with their true distance: what a surface is learned from, and what it is measured against."""

from __future__ import annotations

import abc
from collections.abc import Callable
from functools import cached_property

import numpy as np

from autoint.registry import SHAPES
from autoint.reports.meshing import Grid, Mesh, marching_cubes
from autoint.surfaces.closest import Intersection

HALF = 0.5
"""Half the side of the unit cube, in which the shapes that ship are."""
STEP = 1e-6


class AbstractShape(abc.ABC):
    """A surface to be learned, in its own units.

    Attributes:
        name: for tables.
        center: of the cube that it is in, (3,).
        half: half of that cube's side.
    """

    name: str
    center: np.ndarray
    half: float
    closed = True
    """Whether it has an inside."""

    @abc.abstractmethod
    def sample(self, count: int | None, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return points on it, (P, 3), uniform by area, and its outward normals there, or None."""

    def distance(self, x: np.ndarray) -> np.ndarray | None:
        """Return the true distance (N,) of points (N, 3), negative inside; None where nobody knows."""
        return None

    def inside(self, x: np.ndarray) -> np.ndarray | None:
        """Return whether points (N, 3) are inside, (N,); None where nobody knows."""
        distance = self.distance(x)
        return None if distance is None else distance < 0


class Analytic(AbstractShape):
    """A shape in the unit cube about the origin, with an exact signed distance near its surface.

    Args:
        name: of the shape.
        distance: x (N, 3) → (N,), negative inside.
    """

    def __init__(self, name: str, distance: Callable[[np.ndarray], np.ndarray]) -> None:
        self.name, self._distance = name, distance
        self.center, self.half = np.zeros(3), HALF

    def distance(self, x: np.ndarray) -> np.ndarray:
        """Return the true distance, (N, 3) → (N,)."""
        return self._distance(x)

    def inside(self, x: np.ndarray) -> np.ndarray:
        """Return whether points are inside, (N, 3) → (N,)."""
        return self._distance(x) < 0

    @cached_property
    def mesh(self) -> Mesh:
        """A mesh whose triangles are sampled, before the samples are moved onto the surface."""
        return marching_cubes(self._value, Grid.cube(self.center, self.half, 96))

    def _value(self, x: np.ndarray) -> np.ndarray:
        return self._distance(x)

    def sample(self, count: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ``count`` points on the surface, uniform by area, and its normals."""
        points, _ = self.mesh.sample(count or 10_000, np.random.default_rng(seed))
        return self.onto(points)

    def onto(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the closest points of the surface, and its outward normals there."""
        for _ in range(3):
            points = points - self._distance(points)[:, None] * self._normals(points)
        return points, self._normals(points)

    def _normals(self, x: np.ndarray) -> np.ndarray:
        steps = STEP * np.eye(3)
        slope = np.stack([self._distance(x + e) - self._distance(x - e) for e in steps], axis=1)
        return slope / np.linalg.norm(slope, axis=1, keepdims=True).clip(1e-30)


class Cut(Analytic):
    """The part of a solid that is inside of another, with its sharp edge: its distance is that to the closest point.

    Args:
        name: of the shape.
        first, second: fields, the values and gradients of both solids, below 0 inside.
    """

    def __init__(self, name: str, first: Callable, second: Callable) -> None:
        super().__init__(name, self._to_closest)
        self._fields = first, second

    @cached_property
    def solid(self) -> Intersection:
        """What finds closest points."""
        seeds, _ = self.mesh.sample(60_000, np.random.default_rng(0))
        return Intersection(*self._fields, seeds)

    def _value(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(self._fields[0](x)[0], self._fields[1](x)[0])

    def inside(self, x: np.ndarray) -> np.ndarray:
        """Return whether points are inside, (N, 3) → (N,)."""
        return self._value(x) < 0

    def onto(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the closest points of the surface, and its outward normals there."""
        return self.solid.closest(points)

    def _to_closest(self, x: np.ndarray) -> np.ndarray:
        away = np.linalg.norm(x - self.solid.closest(x)[0], axis=1)
        return np.where(self._value(x) < 0, -away, away)


@SHAPES.register("sphere")
def sphere(data_dir: str, *, radius: float = 0.4) -> AbstractShape:
    """A sphere about the origin.

    Args:
        data_dir: unused.
        radius: up to 0.5.
    """
    _within("radius", radius)
    return Analytic("sphere", lambda x: np.linalg.norm(x, axis=1) - radius)


@SHAPES.register("torus")
def torus(data_dir: str, *, radius: float = 0.3, tube: float = 0.12) -> AbstractShape:
    """A torus about the z axis.

    Args:
        data_dir: unused.
        radius: from the axis to the middle of the tube.
        tube: radius of the tube.
    """
    _within("radius", radius + tube)
    if not 0 < tube < radius:
        raise ValueError(f"shape.tube={tube} must be above 0 and below shape.radius={radius}")
    return Analytic("torus", lambda x: np.hypot(np.hypot(x[:, 0], x[:, 1]) - radius, x[:, 2]) - tube)


@SHAPES.register("box")
def box(data_dir: str, *, rounding: float = 0.0) -> AbstractShape:
    """A box of 0.8 × 0.6 × 0.5.

    Args:
        data_dir: unused.
        rounding: radius of its edges, below 0.25; 0 leaves them sharp.
    """
    if not 0 <= rounding < 0.25:
        raise ValueError(f"shape.rounding={rounding} must be at least 0 and below 0.25")
    return Analytic("box", lambda x: _box(x, np.array([0.4, 0.3, 0.25]) - rounding) - rounding)


@SHAPES.register("csg")
def csg(data_dir: str, *, rounding: float = 0.04) -> AbstractShape:
    """A box with three rods through it, all edges rounded: exact outside, and inside up to the rounding.

    The distance to a union is the least of its parts' distances outside of it; the surface where it is ``rounding`` is
    therefore known exactly, with all that lies outside of it and so far inside.

    Args:
        data_dir: unused.
        rounding: radius of the edges, 0.005 to 0.1.
    """
    if not 0.005 <= rounding <= 0.1:
        raise ValueError(f"shape.rounding={rounding} must be between 0.005 and 0.1")

    def distance(x: np.ndarray) -> np.ndarray:
        rods = [_rod(x, axis, 0.45 - rounding, 0.14 - rounding) for axis in range(3)]
        return np.minimum.reduce([_box(x, np.full(3, 0.27 - rounding)), *rods]) - rounding

    return Analytic("csg", distance)


@SHAPES.register("gyroid")
def gyroid(data_dir: str, *, period: float = 0.6, radius: float = 0.45) -> AbstractShape:
    """A ball cut by a gyroid, sin x cos y + sin y cos z + sin z cos x ≤ 0; where the two meet it is sharp.

    Args:
        data_dir: unused.
        period: of the gyroid.
        radius: of the ball.
    """
    _within("radius", radius)
    if not 0.1 <= period <= 2:
        raise ValueError(f"shape.period={period} must be between 0.1 and 2")
    k = 2 * np.pi / period

    def field(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        s, c = np.sin(k * x), np.cos(k * x)
        after = np.roll(c, -1, axis=1)
        value = (s * after).sum(1) / k
        return value, c * after - np.roll(s, 1, axis=1) * s

    def ball(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        norm = np.linalg.norm(x, axis=1)
        return norm - radius, x / norm.clip(1e-30)[:, None]

    return Cut("gyroid", field, ball)


def _within(key: str, reach: float) -> None:
    if not 0.01 <= reach <= HALF:
        raise ValueError(f"shape.{key}: the shape reaches {reach:g} from the origin; it must be 0.01 to {HALF}")


def _box(x: np.ndarray, half: np.ndarray) -> np.ndarray:
    q = np.abs(x) - half
    return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(1), 0)


def _rod(x: np.ndarray, axis: int, half: float, radius: float) -> np.ndarray:
    """Return the distance to a cylinder along an axis."""
    others = np.delete(x, axis, axis=1)
    q = np.stack([np.linalg.norm(others, axis=1) - radius, np.abs(x[:, axis]) - half], axis=1)
    return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(1), 0)
