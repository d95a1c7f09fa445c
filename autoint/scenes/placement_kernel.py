"""Where the sections of rays are: what ``Occupancy.along`` and ``sections.inverse_cdf`` do, as loops for a CPU."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from autoint.files.machine import on_threads
from autoint.networks.grid_kernel import OPTIONS

SHARED = 2**10  # rays that are worth a second thread


def look_up(density: Tensor, start: Tensor, speed: Tensor, t: Tensor) -> Tensor:
    """Return the estimates (R, K) of a grid (G, G, G) in the cells of ``start + t·speed``: (R, 3), (R, 3), (R, K)."""
    out, cells, loop = torch.empty_like(t), density.numpy(), _look_up
    on_threads(lambda *rays: loop(cells, *rays), (start, speed, t, out), SHARED)
    return out


def inverse_cdf(bounds: Tensor, weights: Tensor, count: int) -> Tensor:
    """As ``sections.inverse_cdf``."""
    out, loop = bounds.new_empty(len(bounds), count + 1), _inverse_cdf
    on_threads(loop, (bounds, weights, out), SHARED)
    return out


@numba.njit(**OPTIONS)
def _look_up(cells: np.ndarray, start: np.ndarray, speed: np.ndarray, t: np.ndarray, out: np.ndarray) -> None:
    size = cells.shape[0]
    for r in range(t.shape[0]):
        ox, oy, oz = start[r, 0], start[r, 1], start[r, 2]
        dx, dy, dz = speed[r, 0], speed[r, 1], speed[r, 2]
        for k in range(t.shape[1]):
            x, y, z = int(ox + t[r, k] * dx), int(oy + t[r, k] * dy), int(oz + t[r, k] * dz)
            out[r, k] = cells[min(max(x, 0), size - 1), min(max(y, 0), size - 1), min(max(z, 0), size - 1)]


@numba.njit(**OPTIONS)
def _inverse_cdf(bounds: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Walk along the steps once, since the edges are wanted in their order."""
    steps, count = weights.shape[1], out.shape[1] - 1
    for r in range(len(weights)):
        total, first, last = np.float32(0), 0, 0
        for k in range(steps):
            if weights[r, k] > 0:
                first = first if total > 0 else k
                last = k + 1
                total += weights[r, k]
        if total == 0:
            for n in range(count + 1):
                out[r, n] = bounds[r, 0]
            continue
        low, high = bounds[r, first], bounds[r, last]
        out[r, 0], out[r, count] = low, high
        k, passed = first, np.float32(0)
        for n in range(1, count):
            wanted = total * (np.float32(n) / np.float32(count))
            while k < last - 1 and passed + weights[r, k] < wanted:
                passed += weights[r, k]
                k += 1
            own: Any = weights[r, k]
            share = min(max((wanted - passed) / own, np.float32(0)), np.float32(1)) if own > 0 else np.float32(0)
            edge = bounds[r, k] + share * (bounds[r, k + 1] - bounds[r, k])
            out[r, n] = min(max(edge, low), high)
