"""What is wrong with scanned clouds: points far from all others, and normals that point either way."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

NEAREST = 8
PART = 100_000
"""Points among which neighbours are looked for."""
AT_MOST = 0.05
"""Share of the points that may be outliers; where there are more, that is how the cloud is."""
FLAT = 0.5
"""Neighbours lie side by side where the line between them rises from the tangent plane by less than this sine."""


def outliers(points: np.ndarray, factor: float) -> np.ndarray:
    """Return which points (P, 3) are farther from their 8th neighbour than ``factor`` times the median of all, (P,).

    None are where that were more than a twentieth: then the density is uneven.

    Examples:
        >>> line = np.stack([np.arange(100.0), np.zeros(100), np.zeros(100)], axis=1)
        >>> line[7] = 1e4
        >>> outliers(line, 10.0).nonzero()[0].tolist()
        [7]
    """
    part = _part(points)
    away = cKDTree(part).query(points, k=[min(NEAREST, len(part) - 1) + 1])[0][:, 0]
    far = away > factor * np.median(away)
    return far if far.mean() <= AT_MOST else np.zeros_like(far)


def disagreement(points: np.ndarray, normals: np.ndarray) -> float:
    """Return of how many pairs of neighbours, side by side, the normals point to opposite sides, from 0 to 1.

    Args:
        points: (P, 3).
        normals: of length 1, (P, 3).
    """
    chosen = _part(np.arange(len(points)))
    x, n = points[chosen], normals[chosen]
    away, other = cKDTree(x).query(x, k=min(NEAREST, len(x) - 1) + 1)
    along = np.einsum("pkd,pd->pk", x[other] - x[:, None], n)
    agree = np.einsum("pkd,pd->pk", n[other], n)
    beside = (away > 0) & (np.abs(along) < FLAT * away) & (np.abs(agree) > FLAT)
    return float((agree[beside] < 0).mean()) if beside.any() else 0.0


def _part(rows: np.ndarray) -> np.ndarray:
    return rows if len(rows) <= PART else rows[np.random.default_rng(0).choice(len(rows), PART, replace=False)]
