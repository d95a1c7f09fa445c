"""Normals of a cloud that has none: from its points, and how they join up."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from scipy.spatial import cKDTree

from autoint.surfaces import cleaning

NEIGHBOURS = (12, 24, 48)
"""Of a point, that its normal is estimated from: few where walls are thin, more where the points are noisy."""
CLEAR = 0.001
"""Share of neighbours whose normals disagree at which no other number of them is tried."""
PART = 50_000
"""Points whose neighbours are looked at; others have the normal of the nearest of these."""
MOST_PIECES = 64
"""That may be inside of each other; of more, what is told apart is noise."""
ASKED = 32
"""Points of a piece that are asked for what they are inside of."""


def outward(points: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return normals of length 1, (P, 3), of points (P, 3) on the surfaces of solids, outward.

    The line of a normal is the direction in which a point and its neighbours vary least. Its sign goes from neighbour
    to neighbour along the tree on which lines change least (Hoppe et al., Surface reconstruction from unorganized
    points, SIGGRAPH 1992, Sec. 3.3), at first such that a piece encloses a positive volume; a piece that is inside of
    an odd number of others, by their winding numbers, is the wall of a cavity.

    Args:
        points: of which most have their neighbours on the same sheet.
        seed: of the choice of points where there are very many.

    Examples:
        >>> x = np.random.default_rng(0).standard_normal((1000, 3))
        >>> x /= np.linalg.norm(x, axis=1, keepdims=True)
        >>> bool((outward(x) * x).sum(1).min() > 0.9)
        True
    """
    rng = np.random.default_rng([seed, 3])
    few = len(points) <= PART
    x = points if few else points[rng.choice(len(points), PART, replace=False)]
    tree, found = cKDTree(x), []
    for count in NEIGHBOURS:
        away, other = tree.query(x, min(count, len(x) - 1) + 1)
        n = _oriented(x, away, other, rng)
        found.append((cleaning.disagreement(x, n), n))
        if found[-1][0] < CLEAR:
            break
    n = min(found, key=lambda one: one[0])[1]
    return n if few else n[tree.query(points)[1]]


def _oriented(x: np.ndarray, away: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the normals of points (P, 3) from their neighbours ``other``, (P, K + 1), and these' distances."""
    n = _flattest(x[other])
    path = _spanning_tree(x, n, other)
    pieces, label = connected_components(path, directed=False)
    area = np.pi * away[:, -1] ** 2 / (other.shape[1] - 1)
    for first in np.unique(label, return_index=True)[1]:
        order, before = breadth_first_order(path, first, directed=False)
        for node in order[1:]:
            if n[node] @ n[before[node]] < 0:
                n[node] *= -1
        if (area[order] * ((x[order] - x[order].mean(0)) * n[order]).sum(1)).sum() < 0:
            n[order] *= -1
    if 1 < pieces <= MOST_PIECES:
        depth = [_depth(x, n, area, label != k, rng.permutation(np.flatnonzero(label == k))) for k in range(pieces)]
        n *= np.where(np.asarray(depth) % 2, -1.0, 1.0)[label, None]
    return n


def _flattest(near: np.ndarray) -> np.ndarray:
    """Return the direction (P, 3) in which each set of points (P, K, 3) varies least."""
    near = near - near.mean(1, keepdims=True)
    directions: np.ndarray = np.linalg.eigh(np.einsum("pki,pkj->pij", near, near))[1][:, :, 0]
    return directions


def _spanning_tree(x: np.ndarray, n: np.ndarray, other: np.ndarray) -> coo_matrix:
    """Return the tree over neighbours along which the lines turn least, and lie most beside each other."""
    i, j = np.repeat(np.arange(len(x)), other.shape[1] - 1), other[:, 1:].ravel()
    along = x[j] - x[i]
    along /= np.linalg.norm(along, axis=1, keepdims=True).clip(1e-300)
    rise = np.maximum(np.abs((along * n[i]).sum(1)), np.abs((along * n[j]).sum(1)))
    cost = 1 - np.abs((n[i] * n[j]).sum(1)) + rise + 1e-6  # an edge of no cost were none
    graph = coo_matrix((cost, (i, j)), shape=(len(x), len(x))).tocsr()
    return minimum_spanning_tree(graph.maximum(graph.T))


def _depth(x: np.ndarray, n: np.ndarray, area: np.ndarray, others: np.ndarray, piece: np.ndarray) -> int:
    """Return in how many other pieces a piece is: the median of their winding number at some of its points."""
    to = x[others] - x[piece[:ASKED], None]
    solid = (to * n[others]).sum(-1) / np.linalg.norm(to, axis=-1).clip(1e-300) ** 3
    return round(float(np.median((solid * area[others]).sum(-1) / (4 * np.pi))))
