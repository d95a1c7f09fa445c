"""Where the sections of rays are: what ``sections.proposed`` and ``sections.inverse_cdf`` do, as loops for a CPU."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from torch import Tensor

from autoint.files.machine import on_threads
from autoint.networks.grid_kernel import OPTIONS
from autoint.scenes.occupancy import Occupancy
from autoint.scenes.rays import Rays

SHARED = 2**10  # rays that are worth a second thread


def proposed(occupancy: Occupancy, rays: Rays, steps: int, floor: float, sections: int) -> Tensor:
    """As ``sections.proposed``."""
    out, loop = rays.near.new_empty(len(rays), sections + 1), _proposed
    scale = occupancy.cells_per_length()
    threshold = occupancy.threshold(len(occupancy.density)).view(1)
    fixed = occupancy.density.numpy(), occupancy.mean.numpy(), threshold.numpy(), steps, floor
    ray = (rays.origins - occupancy.lower) * scale, rays.directions * scale, rays.near, rays.far
    on_threads(lambda *rows: loop(*fixed, *rows), (*(value.detach() for value in ray), out), SHARED)
    return out


def inverse_cdf(bounds: Tensor, weights: Tensor, count: int) -> Tensor:
    """As ``sections.inverse_cdf``."""
    out, loop = bounds.new_empty(len(bounds), count + 1), _inverse_cdf
    on_threads(loop, (bounds, weights, out), SHARED)
    return out


@numba.njit(**OPTIONS)
def _cell(place: Any, most: Any) -> Any:
    """Return the number of the cell that a place is in, the first one for what is no number."""
    inside = place if place > 0 else np.float32(0)
    return np.uint32(inside if inside < most else most)


@numba.njit(**OPTIONS)
def _proposed(
    largest: np.ndarray, mean: np.ndarray, threshold: np.ndarray, steps: int, floor: float,
    start: np.ndarray, speed: np.ndarray, near: np.ndarray, far: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    most = np.float32(largest.shape[0] - 0.001)
    bounds, weights = np.empty(steps + 1, np.float32), np.empty(steps + 2, np.float32)
    occupied, mixed = np.empty(steps, np.float32), np.empty(steps, np.float32)
    weights[0] = weights[steps + 1] = 0
    for r in range(len(near)):
        ox, oy, oz = start[r, 0], start[r, 1], start[r, 2]
        dx, dy, dz = speed[r, 0], speed[r, 1], speed[r, 2]
        length = (far[r] - near[r]) / np.float32(steps)
        for k in range(steps + 1):
            bounds[k] = near[r] + np.float32(k) * length
        passed, even = np.float32(1), np.float32(0)
        for k in range(steps):
            t = np.float32(0.5) * (bounds[k] + bounds[k + 1])
            x, y, z = _cell(ox + t * dx, most), _cell(oy + t * dy, most), _cell(oz + t * dz, most)
            weights[k + 1], occupied[k] = 0, 0
            if largest[x, y, z] > threshold[0]:
                left = passed * np.float32(math.exp(-mean[x, y, z] * length))
                weights[k + 1], passed, occupied[k] = passed - left, left, 1
                even += 1
        rendered = np.float32(0)
        for k in range(steps):
            mixed[k] = max(weights[k], weights[k + 1], weights[k + 2]) * occupied[k]
            rendered += mixed[k]
        scale = (1 - floor) * even / max(rendered, np.float32(1e-30))
        for k in range(steps):
            mixed[k] = scale * mixed[k] + floor * occupied[k]
        _walk(bounds, mixed, out[r])


@numba.njit(**OPTIONS)
def _inverse_cdf(bounds: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    for r in range(len(weights)):
        _walk(bounds[r], weights[r], out[r])


@numba.njit(**OPTIONS)
def _walk(bounds: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Walk along the steps of a ray once, since the edges are wanted in their order."""
    steps, count = len(weights), len(out) - 1
    total, first, last = np.float32(0), 0, 0
    for k in range(steps):
        if weights[k] > 0:
            first = first if total > 0 else k
            last = k + 1
            total += weights[k]
    if total == 0:
        out[:] = bounds[0]
        return
    low, high = bounds[first], bounds[last]
    out[0], out[count] = low, high
    k, passed = first, np.float32(0)
    for n in range(1, count):
        wanted = total * (np.float32(n) / np.float32(count))
        while k < last - 1 and passed + weights[k] < wanted:
            passed += weights[k]
            k += 1
        own: Any = weights[k]
        share = min(max((wanted - passed) / own, np.float32(0)), np.float32(1)) if own > 0 else np.float32(0)
        edge = bounds[k] + share * (bounds[k + 1] - bounds[k])
        out[n] = min(max(edge, low), high)
